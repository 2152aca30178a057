package plugin

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/drivertest"
)

func open(t testing.TB, dir string, l Limits) *Registry {
	t.Helper()
	r, err := New(Config{
		Dirs: []string{dir}, State: filepath.Join(dir, "state.json"), Limits: l, Log: slog.New(slog.DiscardHandler),
		Keep: []string{"/var/lib/engine", "/run/engine"},
	})
	must(t, err)
	return r
}

func driver(t testing.TB, r *Registry, name string) volume.Driver {
	t.Helper()
	d, err := r.Driver(t.Context(), name)
	must(t, err)
	return d
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T, dir string) volume.Driver {
		if _, err := os.Stat(filepath.Join(dir, "fake.sock")); err != nil {
			newFake(t, dir, "fake")
		}
		return driver(t, open(t, dir, Limits{}), "fake")
	}, drivertest.Caps{Posix: true, AnyOption: true})
}

func TestFind(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	file := func(dir, name, body string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	newFake(t, b, "sock")
	file(a, "sock.spec", "tcp://elsewhere:1")
	must(t, os.Mkdir(filepath.Join(a, "sub"), 0o755))
	newFake(t, filepath.Join(a, "sub"), "sub")
	file(a, "spec.spec", " unix:///run/x.sock\n")
	file(b, "spec.spec", "tcp://second:1")
	file(a, "both.json", `{"Addr":"tcp://json:1"}`)
	file(a, "both.spec", "tcp://spec:1")
	file(a, "tls.json", `{"Name":"tls","Addr":"https://host:9000/x","TLSConfig":{"InsecureSkipVerify":true,"CAFile":"/ca"}}`)
	file(a, "secure.spec", "https://host:9000")
	file(b, "deep/deep.spec", "tcp://deep:1")
	file(a, "relative.spec", "unix://run/x.sock")
	file(a, "noport.spec", "tcp://host")
	file(a, "broken.json", `{"Addr":`)
	file(a, "empty.spec", "")
	file(a, "huge.spec", strings.Repeat("x", maxSpec+1))
	file(a, "fake.sock", "no socket")
	must(t, os.Mkdir(filepath.Join(a, "dir.spec"), 0o755))
	for _, c := range []struct{ name, want, err string }{
		{"sock", "unix " + filepath.Join(b, "sock.sock"), ""}, // a socket anywhere comes first
		{"sub", "unix " + filepath.Join(a, "sub/sub.sock"), ""},
		{"spec", "unix /run/x.sock", ""},
		{"both", "tcp spec:1", ""},
		{"tls", "tcp host:9000 tls true /ca", ""},
		{"secure", "tcp host:9000 tls false ", ""},
		{"deep", "tcp deep:1", ""},
		{"relative", "", "neither unix:///path nor tcp://host:port"},
		{"noport", "", "neither unix:///path nor tcp://host:port"},
		{"broken", "", "unexpected end of JSON input"},
		{"empty", "", "neither"},
		{"huge", "", "is longer than 65536 bytes"},
		{"fake", "", "is not a socket"},
		{"dir", "", "is not a regular file"},
		{"nosuch", "", `plugin "nosuch" not found`},
		{"../sock", "", `plugin "../sock" not found`},
		{"a/b", "", "not found"},
		{"", "", "not found"},
		{strings.Repeat("x", 200), "", "not found"},
	} {
		e, err := find([]string{a, b, "/nosuch"}, c.name)
		got := e.network + " " + e.addr
		if e.tls != nil {
			got += fmt.Sprintf(" tls %v %s", e.tls.InsecureSkipVerify, e.tls.CAFile)
		}
		if c.err == "" && (err != nil || got != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: %s, %v", c.name, got, err)
		}
	}
	names, err := scan([]string{a, b, "/nosuch"})
	must(t, err)
	for _, want := range []string{"sock", "sub", "spec", "both", "tls", "deep"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %q", want, names)
		}
	}
}

// What a plugin can do wrong, and what comes of it. The volume is not mounted
// then, the plugin is usable afterwards, and nothing waits longer than it may.
func TestMisbehaviour(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	text := func(s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		want   string
		class  func(error) bool
	}{
		{"hangs", hang, "plugin fake: VolumeDriver.Mount: no answer within 200ms", errdefs.IsUnavailable},
		{"begins an answer and hangs", func(w http.ResponseWriter, r *http.Request) {
			text(`{"Mountpoint":`)(w, r)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, "no answer within 200ms", errdefs.IsUnavailable},
		{"an answer drop by drop", func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				text(" ")(w, r)
				_ = http.NewResponseController(w).Flush()
				<-tick.C
			}
		}, "no answer within 200ms", errdefs.IsUnavailable},
		{"dies", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "plugin fake: VolumeDriver.Mount: ", errdefs.IsUnavailable},
		{"nonsense", text("<html>"), "an answer that is not the protocol's", errdefs.IsUnavailable},
		{"another type", text(`{"Mountpoint":[1]}`), "an answer that is not the protocol's", errdefs.IsUnavailable},
		{"nothing", text(""), "an answer that is not the protocol's", errdefs.IsUnavailable},
		{"without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				text(strings.Repeat("x", 64<<10))(w, r)
			}
		}, "an answer of more than 1048576 bytes", errdefs.IsUnavailable},
		{"headers without end", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			text("{}")(w, r)
		}, "plugin fake: VolumeDriver.Mount: ", errdefs.IsUnavailable},
		{"sends elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusTemporaryRedirect)
		}, "it sends us elsewhere", errdefs.IsUnavailable},
		{"refuses", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			text(`{"Err":"the array is \u001b[31mdown\n"}`)(w, r)
		}, "VolumeDriver.Mount: the array is  [31mdown", refused},
		{"refuses with 200", text(`{"Err":"no"}`), "VolumeDriver.Mount: no", refused},
		{"refuses in its own words", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "gone fishing", http.StatusServiceUnavailable)
		}, "VolumeDriver.Mount: gone fishing", refused},
		{"refuses without a word", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "VolumeDriver.Mount: 404 Not Found", refused},
		{"refuses at length", text(`{"Err":"` + strings.Repeat("e", 100000) + `"}`), strings.Repeat("e", maxErr) + "…", refused},
		{"no mountpoint", text(`{}`), "which is no absolute path", errdefs.IsUnavailable},
		{"a relative mountpoint", text(`{"Mountpoint":"x"}`), "which is no absolute path", errdefs.IsUnavailable},
		{"a mountpoint with a zero byte", text(`{"Mountpoint":"/x\u0000"}`), "which is no absolute path", errdefs.IsUnavailable},
		{"an endless mountpoint", text(`{"Mountpoint":"/` + strings.Repeat("x", 5000) + `"}`), "which is no absolute path", errdefs.IsUnavailable},
		{"the root", text(`{"Mountpoint":"/x/../"}`), "the machine's own root", errdefs.IsUnavailable},
		{"the engine's data", text(`{"Mountpoint":"/var/lib/engine/volumes/precious"}`), "where the engine's own data is", errdefs.IsUnavailable},
		{"above the engine's data", text(`{"Mountpoint":"/var/lib"}`), "where the engine's own data is", errdefs.IsUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := newFake(t, dir, "fake")
			r := open(t, dir, Limits{Slow: 200 * time.Millisecond, Answer: 1 << 20})
			d, v := driver(t, r, "fake"), volume.Spec{Name: "vol"}
			must(t, d.Create(t.Context(), v))
			f.set(func(w http.ResponseWriter, r *http.Request, method string) bool {
				if method == "VolumeDriver.Mount" {
					c.answer(w, r)
					return true
				}
				return false
			})
			err := d.Mount(t.Context(), v)
			if err == nil || !strings.Contains(err.Error(), c.want) || !c.class(err) || strings.ContainsAny(err.Error(), "\x1b\n\x00") {
				t.Fatalf("%v", err)
			}
			if p := d.Path(v); p != "" {
				t.Errorf("it is at %s", p)
			}
			f.set(nil)
			must(t, d.Mount(t.Context(), v))
			must(t, d.Unmount(t.Context(), v))
			if n := f.mounted("vol"); n != 0 {
				t.Errorf("mounted %d times", n)
			}
			must(t, d.Remove(t.Context(), v))
		})
	}
}

// One that hangs costs whom it serves, nobody else.
func TestHungPluginHindersNoOther(t *testing.T) {
	dir := t.TempDir()
	hung, good := newFake(t, dir, "hung"), newFake(t, dir, "good")
	began := make(chan struct{}, 100)
	hung.set(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		began <- struct{}{}
		<-r.Context().Done()
		return true
	})
	r := open(t, dir, Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { _, err := r.Driver(ctx, "hung"); failed <- err }()
	<-began
	d, v := driver(t, r, "good"), volume.Spec{Name: "vol"}
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	if k := r.Known("hung"); k.Capabilities().Scope != "local" || k.Path(v) != "" {
		t.Errorf("%+v", k.Capabilities())
	}
	if n := r.Names(); !slices.Equal(n, []string{"good"}) {
		t.Errorf("names %q", n)
	}
	must(t, d.Unmount(t.Context(), v))
	if good.mounted("vol") != 0 {
		t.Error("still mounted")
	}
	cancel() // and its own caller can go
	if err := <-failed; !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
}

// Mounts are counted right over restarts of the daemon and of the plugin.
func TestCounting(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "fake")
	v := volume.Spec{Name: "vol"}
	d := driver(t, open(t, dir, Limits{}), "fake")
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	must(t, d.Mount(t.Context(), v)) // a second container
	if n := f.mounted("vol"); n != 1 {
		t.Fatalf("mounted %d times", n)
	}
	d = driver(t, open(t, dir, Limits{}), "fake") // the next daemon
	if want := filepath.Join(f.dir, "vol"); d.Path(v) != want {
		t.Errorf("path %s", d.Path(v))
	}
	must(t, d.Mount(t.Context(), v))
	if n := f.mounted("vol"); n != 1 {
		t.Fatalf("mounted %d times after the next daemon's start", n)
	}
	// The plugin restarts and has forgotten.
	f.stop()
	f.start()
	was := f.count("Plugin.Activate")
	must(t, d.Mount(t.Context(), v))
	if n := f.mounted("vol"); n != 1 || f.count("Plugin.Activate") != was+1 {
		t.Fatalf("after the plugin's restart mounted %d times, activated %d times more", n, f.count("Plugin.Activate")-was)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Unmount(t.Context(), v))
	if n := f.mounted("vol"); n != 0 || f.count("VolumeDriver.Unmount") != 1 {
		t.Errorf("mounted %d times after %d unmounts", n, f.count("VolumeDriver.Unmount"))
	}
	// It restarts again: what it does not know of is unmounted.
	must(t, d.Mount(t.Context(), v))
	f.stop()
	f.start()
	must(t, d.Unmount(t.Context(), v))
	if d.Path(v) != "" {
		t.Errorf("still at %s", d.Path(v))
	}
	// One that will not, and was told, is believed.
	must(t, d.Mount(t.Context(), v))
	f.set(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "VolumeDriver.Unmount" {
			_, _ = w.Write([]byte(`{"Err":"busy"}`))
			return true
		}
		return false
	})
	if err := d.Unmount(t.Context(), v); err == nil || err.Error() != "VolumeDriver.Unmount: busy" || d.Path(v) == "" {
		t.Errorf("%v, at %q", err, d.Path(v))
	}
	f.set(nil)
	must(t, d.Unmount(t.Context(), v))
}

// The daemon died between telling the plugin and noting what it said.
func TestCutOff(t *testing.T) {
	for _, c := range []struct {
		name  string
		phase phase
		count int // in the plugin
	}{
		{"before the mount", mounting, 0},
		{"after the mount", mounting, 1},
		{"before the unmount", unmounting, 1},
		{"after the unmount", unmounting, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, next := range []string{"mount", "unmount"} {
				dir := t.TempDir()
				f := newFake(t, dir, "fake")
				v := volume.Spec{Name: "vol"}
				r := open(t, dir, Limits{})
				d := driver(t, r, "fake")
				must(t, d.Create(t.Context(), v))
				f.mu.Lock()
				f.mounts["vol"] = c.count
				f.mu.Unlock()
				must(t, r.state.set("fake", "vol", mount{Phase: c.phase}))
				d = driver(t, open(t, dir, Limits{}), "fake")
				want := 0
				if next == "mount" {
					must(t, d.Mount(t.Context(), v))
					want = 1
				} else {
					must(t, d.Unmount(t.Context(), v))
				}
				if n := f.mounted("vol"); n != want {
					t.Errorf("%s: mounted %d times, want %d", next, n, want)
				}
			}
		})
	}
}

// After a reboot nothing is mounted, and the plugin is not told to unmount.
func TestReboot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	s, err := openState(path, "one")
	must(t, err)
	must(t, s.set("p", "v", mount{Phase: mounted, Path: "/x"}))
	for boot, want := range map[string]bool{"one": true, "two": false} {
		s, err := openState(path, boot)
		must(t, err)
		if _, ok := s.get("p", "v"); ok != want {
			t.Errorf("boot %s: %v", boot, ok)
		}
	}
	must(t, os.WriteFile(path, []byte("{"), 0o600))
	if _, err := openState(path, "one"); err == nil {
		t.Error("a broken file was read")
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "fake")
	d, v := driver(t, open(t, dir, Limits{}), "fake"), volume.Spec{Name: "vol"}
	must(t, d.Create(t.Context(), v))
	f.mu.Lock()
	f.mounts["vol"] = 1 // by another engine
	f.mu.Unlock()
	if err := d.Remove(t.Context(), v); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "volume is busy") {
		t.Errorf("a busy one: %v", err)
	}
	if err := d.Create(t.Context(), volume.Spec{Name: "x", Options: map[string]string{"bad": "1"}}); err == nil || err.Error() != "VolumeDriver.Create: no option bad" {
		t.Errorf("an option it does not know: %v", err)
	}
	f.set(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		_, _ = w.Write([]byte(`{"Volume":{"Name":"other"}}`))
		return method == "VolumeDriver.Get"
	})
	if err := d.Create(t.Context(), v); err == nil || !strings.Contains(err.Error(), `asked for volume "vol" it tells of "other"`) {
		t.Errorf("a liar: %v", err)
	}
}

func TestActivation(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "fake")
	f.scope = "Global"
	r := open(t, dir, Limits{Dial: 100 * time.Millisecond, Quick: time.Second})
	if len(r.Names()) != 0 || f.count("Plugin.Activate") != 0 {
		t.Error("asked before it was needed")
	}
	d := driver(t, r, "fake")
	driver(t, r, "fake")
	if n := f.count("Plugin.Activate"); n != 1 || d.Capabilities().Scope != "global" {
		t.Errorf("activated %d times, scope %q", n, d.Capabilities().Scope)
	}
	// What is no volume plugin.
	other := newFake(t, dir, "net")
	other.set(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		_, _ = w.Write([]byte(`{"Implements":["NetworkDriver"]}`))
		return true
	})
	if _, err := r.Driver(t.Context(), "net"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `plugin "net" is no volume plugin`) {
		t.Errorf("%v", err)
	}
	// A lie about the scope makes it local; the question may be unknown.
	for i, answer := range []string{`{"Capabilities":{"Scope":"galactic"}}`, `{"Err":"what?"}`, `{}`} {
		p := newFake(t, dir, fmt.Sprint("scope", i))
		p.set(func(w http.ResponseWriter, _ *http.Request, method string) bool {
			if method == "VolumeDriver.Capabilities" {
				_, _ = w.Write([]byte(answer))
				return true
			}
			return false
		})
		if s := driver(t, r, fmt.Sprint("scope", i)).Capabilities().Scope; s != "local" {
			t.Errorf("%s: scope %q", answer, s)
		}
	}
	// Gone, its socket still there or not.
	v := volume.Spec{Name: "vol"}
	f.stop()
	must(t, os.WriteFile(filepath.Join(dir, "fake.spec"), []byte("unix://"+f.sock), 0o600))
	if err := d.Create(t.Context(), v); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "fake.spec")))
	if err := d.Create(t.Context(), v); !errdefs.IsNotFound(err) || err.Error() != `plugin "fake" not found` {
		t.Errorf("gone: %v", err)
	}
	if slices.Contains(r.Names(), "fake") {
		t.Errorf("names %q", r.Names())
	}
	f.start()
	must(t, d.Create(t.Context(), v))
}

// A plugin that is just starting is waited for, and asked once.
func TestStartingPlugin(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "fake")
	f.stop()
	must(t, os.WriteFile(filepath.Join(dir, "late.spec"), []byte("unix://"+f.sock), 0o600))
	r := open(t, dir, Limits{Dial: 30 * time.Second})
	got := make(chan error, 1)
	go func() { _, err := r.Driver(t.Context(), "late"); got <- err }()
	f.start()
	must(t, <-got)
	if n := f.count("Plugin.Activate"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestRunFindsAndForgets(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "one")
	hung := newFake(t, dir, "hung")
	hung.set(func(_ http.ResponseWriter, r *http.Request, _ string) bool { <-r.Context().Done(); return true })
	r := open(t, dir, Limits{Quick: 50 * time.Millisecond})
	r.look(t.Context())
	if n := r.Names(); !slices.Equal(n, []string{"one"}) {
		t.Errorf("names %q", n)
	}
	f.stop()
	newFake(t, dir, "two")
	r.look(t.Context())
	if n := r.Names(); !slices.Equal(n, []string{"two"}) {
		t.Errorf("names %q", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, r.Run(ctx, time.Hour))
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "local")
	srv := httptest.NewTLSServer(f)
	defer srv.Close()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	ca := filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	addr := strings.Replace(srv.URL, "https://", "tcp://", 1)
	for name, c := range map[string]struct{ tls, err string }{
		"with-ca":  {`{"CAFile":"` + ca + `"}`, ""},
		"skip":     {`{"InsecureSkipVerify":true}`, ""},
		"unknown":  {`{}`, "certificate"},
		"no-ca":    {`{"CAFile":"/nosuch"}`, "read CAFile"},
		"no-cert":  {`{"CAFile":"` + ca + `","CertFile":"/nosuch"}`, "read CertFile and KeyFile"},
		"plain":    {`null`, ""},
		"empty-ca": {`{"CAFile":"/dev/null"}`, "is not a regular file"},
	} {
		must(t, os.WriteFile(filepath.Join(dir, name+".json"), fmt.Appendf(nil, `{"Addr":%q,"TLSConfig":%s}`, addr, c.tls), 0o600))
		_, err := open(t, dir, Limits{}).Driver(t.Context(), name)
		if name == "plain" { // a server of TLS tells a client without so
			if !refused(err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{" a\nb\x1b[0m ": "a b [0m", "\xff\xfe": "?", "": ""} {
		if got := words(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestStateOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir, "fake")
	r := open(t, dir, Limits{})
	d, v := driver(t, r, "fake"), volume.Spec{Name: "vol"}
	must(t, d.Create(t.Context(), v))
	r.state.path = filepath.Join(dir, "nosuch", "state.json") // as good as full
	if err := d.Mount(t.Context(), v); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if n := f.count("VolumeDriver.Mount"); n != 0 {
		t.Errorf("the plugin was told %d times what we could not note", n)
	}
}

// fakeManaged is a plugin that the engine runs.
type fakeManaged struct{ p ManagedPlugin }

func (f *fakeManaged) Find(name string) (ManagedPlugin, bool) {
	return f.p, name == f.p.Name || name+":latest" == f.p.Name
}
func (f *fakeManaged) Names() []string { return []string{f.p.Name} }

// A managed plugin's paths are its own: they are found on the machine, and no link
// in them leads out.
func TestPathsOfManagedPlugins(t *testing.T) {
	top := t.TempDir()
	for _, d := range []string{"root/own/vol", "root/data", "shared/vol", "secret"} {
		must(t, os.MkdirAll(filepath.Join(top, d), 0o755))
	}
	must(t, os.Symlink("/secret", filepath.Join(top, "shared/absolute")))
	must(t, os.Symlink("../secret", filepath.Join(top, "shared/dots")))
	must(t, os.Symlink("vol", filepath.Join(top, "shared/link")))
	m := &ManagedPlugin{Inside: "/data", Outside: filepath.Join(top, "shared"), Root: filepath.Join(top, "root")}
	for _, c := range []struct{ inside, want string }{
		{"/data/vol", "shared/vol"},
		{"/data/link", "shared/vol"},
		{"/data", "shared"},
		{"/own/vol", "root/own/vol"},
		{"/data/../own/vol", "root/own/vol"},
		{"/database", ""},
		{"/data/absolute", ""},
		{"/data/dots", ""},
		{"/data/none", ""},
	} {
		got, err := (&Driver{r: &Registry{}}).place(m, c.inside)
		if c.want != "" && (err != nil || got != filepath.Join(top, c.want)) || c.want == "" && err == nil {
			t.Errorf("%s: %s, %v; want %s", c.inside, got, err, c.want)
		}
	}
}

func TestManagedPluginsComeFirst(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir, "one")
	newFake(t, dir, "two")
	f := &fakeManaged{ManagedPlugin{Name: "team/vols:latest", Enabled: true, Socket: filepath.Join(dir, "two.sock")}}
	r, err := New(Config{
		Dirs: []string{dir}, State: filepath.Join(dir, "state.json"), Log: slog.New(slog.DiscardHandler), Managed: f,
		Limits: Limits{Dial: 10 * time.Millisecond},
	})
	must(t, err)
	if d := driver(t, r, "team/vols"); d.Name() != "team/vols:latest" {
		t.Errorf("the driver is called %s", d.Name())
	}
	if d := driver(t, r, "one"); d.Name() != "one" {
		t.Errorf("the driver is called %s", d.Name())
	}
	if n := r.Names(); !slices.Equal(n, []string{"one", "team/vols:latest"}) {
		t.Errorf("names: %q", n)
	}
	f.p.Enabled = false
	if _, err := r.Driver(t.Context(), "team/vols"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "found but disabled") {
		t.Errorf("a disabled one: %v", err)
	}
	if r.Known("team/vols:latest") == nil || r.Known("../x") != nil {
		t.Error("known are names that can be a plugin's")
	}
	f.p.Enabled, f.p.Socket = true, filepath.Join(dir, "starting.sock")
	if _, err := r.Driver(t.Context(), "team/vols"); !errdefs.IsUnavailable(err) {
		t.Errorf("one that does not listen yet: %v", err)
	}
}
