package plugin

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fake is a plugin that keeps volumes as directories and counts mounts, as the
// protocol has it.
type fake struct {
	t    testing.TB
	dir  string // of its volumes
	sock string

	mu     sync.Mutex // guards what follows
	calls  map[string]int
	mounts map[string]int // by volume
	scope  string
	// hook, if set, answers instead. It returns false to go on as usual.
	hook func(w http.ResponseWriter, r *http.Request, method string) bool
	srv  *http.Server
	done chan struct{}
}

// newFake makes a plugin; it listens in dir under the name.
func newFake(t testing.TB, dir, name string) *fake {
	f := &fake{t: t, dir: filepath.Join(dir, name+".volumes"), sock: filepath.Join(dir, name+".sock"), calls: map[string]int{}, mounts: map[string]int{}}
	must(t, os.MkdirAll(f.dir, 0o755))
	f.start()
	t.Cleanup(f.stop)
	return f
}

// start is also what a restart does: it knows nothing of mounts then.
func (f *fake) start() {
	l, err := net.Listen("unix", f.sock)
	must(f.t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounts = map[string]int{}
	f.srv = &http.Server{Handler: f} //nolint:gosec // a test's own
	f.done = make(chan struct{})
	go func(s *http.Server, done chan struct{}) {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			f.t.Errorf("fake plugin: %v", err)
		}
	}(f.srv, f.done)
}

func (f *fake) stop() {
	f.mu.Lock()
	srv, done := f.srv, f.done
	f.srv = nil
	f.mu.Unlock()
	if srv == nil {
		return
	}
	if err := srv.Close(); err != nil {
		f.t.Errorf("stop fake plugin: %v", err)
	}
	<-done
}

func (f *fake) set(hook func(w http.ResponseWriter, r *http.Request, method string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *fake) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func (f *fake) mounted(volume string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mounts[volume]
}

// ServeHTTP implements http.Handler.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := filepath.Base(r.URL.Path)
	f.mu.Lock()
	f.calls[method]++
	hook := f.hook
	f.mu.Unlock()
	if hook != nil && hook(w, r, method) {
		return
	}
	var in struct {
		Name, ID string
		Opts     map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply := func(v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			f.t.Logf("fake plugin: %v", err)
		}
	}
	fail := func(text string) {
		w.WriteHeader(http.StatusInternalServerError)
		reply(map[string]string{"Err": text})
	}
	dir := filepath.Join(f.dir, in.Name)
	_, err := os.Stat(dir)
	there := err == nil
	f.mu.Lock()
	defer f.mu.Unlock()
	switch method {
	case "Plugin.Activate":
		reply(map[string]any{"Implements": []string{"VolumeDriver"}})
	case "VolumeDriver.Capabilities":
		reply(map[string]any{"Capabilities": map[string]string{"Scope": f.scope}})
	case "VolumeDriver.Create":
		if in.Opts["bad"] != "" {
			fail("no option bad")
			return
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			fail(err.Error())
			return
		}
		reply(struct{}{})
	case "VolumeDriver.Get":
		if !there {
			fail("no such volume")
			return
		}
		reply(map[string]any{"Volume": map[string]string{"Name": in.Name, "Mountpoint": dir}})
	case "VolumeDriver.Path":
		reply(map[string]string{"Mountpoint": dir})
	case "VolumeDriver.Remove":
		switch {
		case !there:
			fail("no such volume")
		case f.mounts[in.Name] > 0:
			fail("volume is busy")
		default:
			if err := os.RemoveAll(dir); err != nil {
				fail(err.Error())
				return
			}
			reply(struct{}{})
		}
	case "VolumeDriver.Mount":
		if !there {
			fail("no such volume")
			return
		}
		f.mounts[in.Name]++
		reply(map[string]string{"Mountpoint": dir})
	case "VolumeDriver.Unmount":
		if f.mounts[in.Name] == 0 {
			fail("not mounted")
			return
		}
		f.mounts[in.Name]--
		reply(struct{}{})
	default:
		http.NotFound(w, r)
	}
}
