package plugin

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/plugin"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const whole = `{
  "entrypoint": ["/run-it", "--fast"],
  "interface": {"types": ["docker.volumedriver/1.0"], "socket": "vol.sock"},
  "args": {"name": "args", "settable": ["value"], "value": ["a", "b"]},
  "env": [{"name": "DEBUG", "settable": ["value"], "value": "0"}, {"name": "FIXED", "value": "1"}, {"name": "UNSET", "settable": ["value"]}],
  "mounts": [{"name": "state", "source": "/var/lib/x", "destination": "/mnt/state", "type": "bind", "options": ["rbind"], "settable": ["source"]},
             {"name": "fixed", "source": "/etc", "destination": "/mnt/etc", "type": "bind", "options": ["rbind", "ro"]}],
  "network": {"type": "host"}, "ipchost": true, "pidhost": true,
  "linux": {"capabilities": ["CAP_SYS_ADMIN", "net_admin"], "devices": [{"name": "fuse", "path": "/dev/fuse", "settable": ["path"]}]},
  "propagatedMount": "/mnt/volumes", "workdir": "/work", "user": {"UID": 7, "GID": 8}
}`

func config(t *testing.T, text string) plugin.Config {
	t.Helper()
	c, err := parseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSettings(t *testing.T) {
	c := config(t, whole)
	for _, tt := range []struct {
		args []string
		want string // of the settings, as JSON, or of the error
	}{
		{nil, `"Args":["a","b"]`},
		{nil, `"Env":["DEBUG=0","FIXED=1"]`},
		{[]string{"DEBUG=1=2"}, `"Env":["FIXED=1","DEBUG=1=2"]`},
		{[]string{"DEBUG.value=x", "DEBUG=y"}, `"Env":["FIXED=1","DEBUG=y"]`},
		{[]string{"DEBUG"}, `"Env":["FIXED=1"]`},
		{[]string{"UNSET=z"}, `"Env":["DEBUG=0","FIXED=1","UNSET=z"]`},
		{[]string{"args=x  y"}, `"Args":["x","y"]`},
		{[]string{"state=/a"}, `"Source":"/a"`},
		{[]string{"state.source=/b"}, `"Source":"/b"`},
		{[]string{"fuse.path=/dev/x"}, `"Path":"/dev/x"`},
		{[]string{"FIXED=2"}, `"FIXED" is not settable`},
		{[]string{"fixed=/b"}, `"fixed" is not settable`},
		{[]string{"state.destination=/b"}, `"state.destination" is not settable`},
		{[]string{"DEBUG=1", "nope=2"}, `setting "nope" not found in the plugin configuration`},
		{[]string{"=2"}, `invalid plugin setting "=2"`},
		{[]string{"state.source"}, `invalid plugin setting "state.source"`},
	} {
		s, err := set(&c, settingsOf(&c), tt.args)
		got := ""
		if err != nil {
			if got = err.Error(); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: class of %v", tt.args, err)
			}
		} else {
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%q: %s, want %s", tt.args, got, tt.want)
		}
	}
	if again := config(t, whole); *c.Mounts[0].Source != *again.Mounts[0].Source || *c.Linux.Devices[0].Path != *again.Linux.Devices[0].Path {
		t.Error("settings changed the config")
	}
}

func TestPrivileges(t *testing.T) {
	c := config(t, whole)
	want := privileges(&c)
	var text []string
	for _, p := range want {
		text = append(text, p.Name+" "+strings.Join(p.Value, ","))
	}
	if got := strings.Join(text, "; "); got != "network host; host ipc namespace true; host pid namespace true; mount /var/lib/x; mount /etc; device /dev/fuse; capabilities CAP_SYS_ADMIN,net_admin" {
		t.Errorf("privileges: %s", got)
	}
	turned := slices.Clone(want)
	slices.Reverse(turned)
	turned[0].Value = []string{"net_admin", "CAP_SYS_ADMIN"}
	for name, tt := range map[string]struct {
		granted plugin.Privileges
		ok      bool
	}{
		"in another order": {turned, true},
		"fewer":            {want[1:], false},
		"more":             {append(slices.Clone(want), want[0]), false},
		"none":             {nil, false},
	} {
		if samePrivileges(want, tt.granted) != tt.ok {
			t.Errorf("%s: want %v", name, tt.ok)
		}
	}
	quiet := config(t, `{"entrypoint":["/x"],"interface":{"socket":"s"},"network":{"type":"bridge"}}`)
	if p := privileges(&quiet); len(p) != 0 {
		t.Errorf("privileges of one that wants none: %v", p)
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{`: "unexpected EOF",
		`{"entrypoint":["/x"],"interface":{"socket":"s"}} {}`:                                          "after its end",
		`{"interface":{"socket":"s"}}`:                                                                 "names no entrypoint",
		`{"entrypoint":["/x"]}`:                                                                        "plain name of a socket",
		`{"entrypoint":["/x"],"interface":{"socket":"../s"}}`:                                          "plain name of a socket",
		`{"entrypoint":["/x"],"interface":{"socket":".."}}`:                                            "plain name of a socket",
		`{"entrypoint":["/x"],"interface":{"socket":"s"},"propagatedMount":"/.."}`:                     "below /",
		`{"entrypoint":["/x"],"interface":{"socket":"s"},"propagatedMount":"a"}`:                       "below /",
		`{"entrypoint":["/x"],"interface":{"socket":"s"},"mounts":[{"destination":"a","source":"/"}]}`: "must be an absolute path",
		strings.Repeat(" ", maxConfig+1):                                                               "longer than 1 MiB",
	} {
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
	c := config(t, `{"entrypoint":["/x"],"interface":{"socket":"s","types":["docker.volumedriver/1.0","docker.networkdriver/1.0"]}}`)
	if u := unserved(&c); u != "docker.networkdriver/1.0" {
		t.Errorf("not served: %q", u)
	}
}

func TestSpec(t *testing.T) {
	c := config(t, whole)
	in := func(c plugin.Config) *specInput {
		return &specInput{
			base: &specs.Spec{
				Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_MKNOD"}}},
				Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "network"}, {Type: "ipc"}, {Type: "pid"}, {Type: "mount"}}},
				Mounts:  []specs.Mount{{Destination: "/proc"}, {Destination: "/mnt/state"}},
			},
			rec: &Record{Name: "p:1", Config: c, Settings: settingsOf(&c)}, at: places{rootfs: "/r", propagated: "/pm", run: "/run-here"},
			cgroup: "/c", have: []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"},
			devices: []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}},
		}
	}
	s, err := buildSpec(in(c))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Process.Args, " "); got != "/run-it --fast a b" {
		t.Errorf("args: %s", got)
	}
	if got := strings.Join(s.Process.Capabilities.Bounding, " "); got != "CAP_CHOWN CAP_SYS_ADMIN CAP_NET_ADMIN" {
		t.Errorf("capabilities: %s", got)
	}
	if len(s.Linux.Namespaces) != 1 || s.Process.User.UID != 7 || s.Process.Cwd != "/work" || s.Linux.RootfsPropagation != "rshared" {
		t.Errorf("namespaces %v, user %v, directory %s, propagation %s", s.Linux.Namespaces, s.Process.User, s.Process.Cwd, s.Linux.RootfsPropagation)
	}
	var mounts []string
	for _, m := range s.Mounts {
		mounts = append(mounts, m.Source+">"+m.Destination)
	}
	if got := strings.Join(mounts, " "); got != ">/proc /pm>/mnt/volumes /var/lib/x>/mnt/state /etc>/mnt/etc /run-here>/run/docker/plugins /etc/hosts>/etc/hosts /etc/resolv.conf>/etc/resolv.conf" {
		t.Errorf("mounts: %s", got)
	}
	if d := s.Linux.Resources.Devices; len(d) != 1 || *d[0].Major != 10 {
		t.Errorf("devices: %v", d)
	}
	lacking := in(c)
	lacking.have = []string{"CAP_CHOWN"}
	if _, err := buildSpec(lacking); err == nil || !strings.Contains(err.Error(), "asks for CAP_SYS_ADMIN, which the daemon itself does not have") {
		t.Errorf("a capability that is not there: %v", err)
	}
	unset := in(c)
	unset.rec.Settings.Mounts[0].Source = nil
	if _, err := buildSpec(unset); err == nil || !strings.Contains(err.Error(), `the source of mount "state" is not set`) {
		t.Errorf("a mount without a source: %v", err)
	}
}

var tarConfig = tar.Header{Name: "config.json"}

func archiveOf(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if strings.HasSuffix(h.Name, "config.json") {
			body = whole
		}
		h.Size, h.Mode = int64(len(body)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchives(t *testing.T) {
	var out bytes.Buffer
	c, err := splitArchive(bytes.NewReader(archiveOf(t,
		tar.Header{Name: "./rootfs/", Typeflag: tar.TypeDir}, tar.Header{Name: "./rootfs/bin/", Typeflag: tar.TypeDir},
		tar.Header{Name: "rootfs/bin/a"}, tar.Header{Name: "./config.json"},
		tar.Header{Name: "rootfs/b", Typeflag: tar.TypeLink, Linkname: "rootfs/bin/a"}, tar.Header{Name: "rootfs/c", Typeflag: tar.TypeSymlink, Linkname: "/bin/a"},
	)), &out)
	if err != nil || string(c) != whole {
		t.Fatalf("config %.20s, %v", c, err)
	}
	var names []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name+">"+h.Linkname)
	}
	if got := strings.Join(names, " "); got != "bin/> bin/a> b>bin/a c>/bin/a" {
		t.Errorf("the root file system: %s", got)
	}
	for want, b := range map[string][]byte{
		"it has no config.json":                           archiveOf(t, tar.Header{Name: "rootfs/a"}),
		`"etc/passwd" is neither`:                         archiveOf(t, tar.Header{Name: "config.json"}, tar.Header{Name: "etc/passwd"}),
		`"rootfs/../../x" is neither`:                     archiveOf(t, tar.Header{Name: "rootfs/../../x"}),
		`the link "l" leads out`:                          archiveOf(t, tar.Header{Name: "rootfs/l", Typeflag: tar.TypeLink, Linkname: "config.json"}),
		"read the plugin's archive: archive/tar: invalid": []byte(strings.Repeat("no tar ", 200)),
	} {
		if _, err := splitArchive(bytes.NewReader(b), io.Discard); err == nil || !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Whatever a plugin's archive and config are, nothing of them breaks the daemon.
func FuzzArchive(f *testing.F) {
	f.Add(archiveOf(f, tar.Header{Name: "config.json"}, tar.Header{Name: "rootfs/a"}))
	f.Add(archiveOf(f, tar.Header{Name: "rootfs/l", Typeflag: tar.TypeLink, Linkname: "../x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		c, err := splitArchive(bytes.NewReader(b), &out)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		if v, err := parseConfig(c); err == nil {
			if strings.ContainsAny(v.Interface.Socket, "/") {
				t.Errorf("socket %q", v.Interface.Socket)
			}
			_ = settingsOf(&v)
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if strings.HasPrefix(h.Name, "/") || strings.HasPrefix(h.Name, "../") {
				t.Errorf("the name %q leads out", h.Name)
			}
		}
	})
}
