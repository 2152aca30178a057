package api

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// pluginProcess is a volume plugin made with Docker's own library, beside the daemon.
type pluginProcess struct {
	t          *testing.T
	d          *testkit.Daemon
	program    string
	sock, data string
	log        string
	cmd        *exec.Cmd
}

func newPluginProcess(t *testing.T, d *testkit.Daemon, name string) *pluginProcess {
	t.Helper()
	p := &pluginProcess{
		t: t, d: d, program: filepath.Join(t.TempDir(), "volplugin"), sock: filepath.Join(d.Dir(), "plugins", name+".sock"),
		data: filepath.Join(d.Dir(), name+".data"), log: filepath.Join(t.TempDir(), "log"),
	}
	build := exec.Command(testkit.RequireProgram(t, "go"), "build", "-o", p.program, "./internal/testkit/volplugin")
	build.Dir = testkit.RepoRoot()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	for _, dir := range []string{filepath.Dir(p.sock), p.data} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	t.Cleanup(p.kill)
	return p
}

func (p *pluginProcess) start() {
	p.t.Helper()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(p.program, p.sock, p.data)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.d.Eventually(settle, "the plugin listens", func() (bool, string) {
		c, err := net.Dial("unix", p.sock)
		if err != nil {
			return false, err.Error()
		}
		return c.Close() == nil, "connected"
	})
}

func (p *pluginProcess) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	_ = p.cmd.Wait() // killed
}

// said is what the plugin was asked since it was started.
func (p *pluginProcess) said() string {
	p.t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestVolumePlugin(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its plugins are the machine's")
	d := own(t, testkit.Options{})
	p := newPluginProcess(t, d, "filer")
	// It is there at once for whoever names it.
	d.Docker("volume", "create", "-d", "filer", "-o", "file=hello", "--label", "a=b", "shared")
	equal(t, "volume", d.Docker("volume", "inspect", "-f", "{{.Driver}} {{.Scope}} {{.Labels}} {{.Options}} [{{.Mountpoint}}]", "shared"), "filer global map[a:b] map[file:hello] []")
	contains(t, "volumes", d.Docker("volume", "ls", "--filter", "driver=filer"), "shared")
	contains(t, "info", d.Docker("info", "-f", "{{.Plugins.Volume}}"), "filer")
	equal(t, "managed plugins", d.Docker("plugin", "ls", "-q"), "")
	d.DockerFails(`unknown option "bad"`, "volume", "create", "-d", "filer", "-o", "bad=1", "other")
	d.DockerFails(`plugin "nosuch" not found`, "volume", "create", "-d", "nosuch", "x1")
	d.DockerFails(`plugin "../filer" not found`, "volume", "create", "-d", "../filer", "x1")

	equal(t, "content", d.Docker("run", "--rm", "-v", "shared:/data", "busybox", "cat", "/data/hello"), "from the plugin")
	d.Docker("run", "--rm", "--volume-driver", "filer", "-v", "made:/data", "busybox", "sh", "-c", "echo kept > /data/f")
	equal(t, "kept", d.Docker("run", "--rm", "--mount", "type=volume,src=made,dst=/data,volume-driver=filer,ro", "busybox", "cat", "/data/f"), "kept")
	equal(t, "asked", p.said(), strings.Join([]string{
		"create shared map[file:hello]", "create other map[bad:1]",
		"mount shared 1", "unmount shared 0",
		"create made map[]", "mount made 1", "unmount made 0", "mount made 1", "unmount made 0",
	}, "\n"))

	// What was made elsewhere is taken as it is; removing is the plugin's to refuse.
	if err := os.Mkdir(filepath.Join(p.data, "elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.data, "elsewhere", "f"), []byte("precious\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	equal(t, "adopted", d.Docker("run", "--rm", "--volume-driver", "filer", "-v", "elsewhere:/data", "busybox", "cat", "/data/f"), "precious")

	// Two containers, one daemon that is killed, one container that ends meanwhile.
	one := up(d, "-v", "shared:/data", "busybox", "sh", "-c", "while [ ! -e /data/stop ]; do sleep 0.1; done")
	up(d, "--name", "two", "-v", "shared:/data", "busybox", "sleep", "1000")
	equal(t, "mountpoint", d.Docker("volume", "inspect", "-f", "{{.Mountpoint}}", "shared"), filepath.Join(p.data, "shared"))
	d.DockerFails("volume is in use", "volume", "rm", "shared")
	d.Kill()
	if err := os.WriteFile(filepath.Join(p.data, "shared", "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Start()
	d.WaitState(one, "exited")
	equal(t, "exec", d.Docker("exec", "two", "cat", "/data/hello"), "from the plugin")
	equal(t, "path is kept", d.Docker("volume", "inspect", "-f", "{{.Mountpoint}}", "shared"), filepath.Join(p.data, "shared"))
	if s := p.said(); !strings.HasSuffix(s, "mount shared 1") {
		t.Errorf("after the restart: %s", s)
	}
	d.Docker("rm", "-f", "two", one)
	d.Eventually(settle, "the plugin is told to unmount", func() (bool, string) {
		return strings.HasSuffix(p.said(), "mount shared 1\nunmount shared 0"), p.said()
	})

	// The last container ends while no daemon is there.
	last := up(d, "-v", "made:/data", "busybox", "sh", "-c", "while [ ! -e /data/stop ]; do sleep 0.1; done")
	d.Kill()
	if err := os.WriteFile(filepath.Join(p.data, "made", "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Start()
	d.WaitState(last, "exited")
	d.Eventually(settle, "the plugin is told to unmount", func() (bool, string) {
		return strings.HasSuffix(p.said(), "mount made 1\nunmount made 0"), p.said()
	})

	// The plugin dies under a container, and comes back.
	up(d, "--name", "three", "-v", "shared:/data", "busybox", "sleep", "1000")
	p.kill()
	d.DockerFails("plugin filer: ", "run", "--rm", "--volume-driver", "filer", "-v", "new:/data", "busybox", "true")
	equal(t, "other volumes", d.Docker("run", "--rm", "-v", "local1:/data", "busybox", "echo", "yes"), "yes")
	if err := os.Remove(p.sock); err != nil {
		t.Fatal(err)
	}
	d.DockerFails(`plugin "filer" not found`, "run", "--rm", "-v", "shared:/data", "busybox", "true")
	p.start()
	equal(t, "back", d.Docker("run", "--rm", "-v", "shared:/data", "busybox", "cat", "/data/hello"), "from the plugin")
	d.Docker("rm", "-f", "three", last)
	d.Eventually(settle, "the plugin is told to unmount", func() (bool, string) {
		return strings.HasSuffix(p.said(), "mount shared 1\nunmount shared 0"), p.said()
	})
	d.Docker("volume", "rm", "shared", "made", "elsewhere")
	es, err := os.ReadDir(p.data)
	if err != nil || len(es) != 0 {
		t.Errorf("left in the plugin: %v, %v", es, err)
	}
}

// hungPlugin is a plugin that is asked and does not answer, from the moment that
// hang is closed.
func hungPlugin(t *testing.T, d *testkit.Daemon, name string, hang <-chan struct{}) (asked <-chan string) {
	t.Helper()
	dir := filepath.Join(d.Dir(), "plugins")
	data := filepath.Join(d.Dir(), name+".data")
	for _, p := range []string{dir, data} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	calls := make(chan string, 1000)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // a test's own
		calls <- filepath.Base(r.URL.Path)
		select {
		case <-hang:
			<-r.Context().Done()
			return
		default:
		}
		var reply any = struct{}{}
		switch filepath.Base(r.URL.Path) {
		case "Plugin.Activate":
			reply = map[string]any{"Implements": []string{"VolumeDriver"}}
		case "VolumeDriver.Get":
			reply = map[string]string{"Err": "no such volume"}
		case "VolumeDriver.Mount", "VolumeDriver.Path":
			reply = map[string]string{"Mountpoint": data}
		}
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			t.Logf("hung plugin: %v", err)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return calls
}

func TestHungPluginHangsNothingElse(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its plugins are the machine's")
	d := own(t, testkit.Options{})
	hang := make(chan struct{})
	asked := hungPlugin(t, d, "stuck", hang)
	d.Docker("run", "-d", "--name", "user", "--volume-driver", "stuck", "-v", "mine:/data", "busybox", "sleep", "1000")
	close(hang)
	for len(asked) > 0 {
		<-asked
	}
	ended := make(chan testkit.Result, 1)
	go func() { ended <- d.DockerResult("volume", "create", "-d", "stuck", "other") }()
	select {
	case <-asked:
	case <-time.After(settle):
		t.Fatal("the plugin was not asked")
	}
	begin := time.Now()
	equal(t, "another volume", d.Docker("run", "--rm", "-v", "fine:/data", "busybox", "echo", "yes"), "yes")
	contains(t, "volumes", d.Docker("volume", "ls", "-q"), "mine")
	contains(t, "volume", d.Docker("volume", "inspect", "mine"), `"Driver": "stuck"`)
	contains(t, "info", d.Docker("info"), "stuck")
	d.Docker("system", "df", "-v")
	d.Docker("exec", "user", "true")
	d.Docker("volume", "prune", "-af")
	d.Docker("inspect", "user")
	// A daemon that starts does not wait for it either.
	d.KillAndStart()
	equal(t, "state", format(d, "user", "{{.State.Status}}"), "running")
	equal(t, "another volume", d.Docker("run", "--rm", "-v", "fine:/data", "busybox", "echo", "yes"), "yes")
	// The plugin's own limit is longer than all of this may take, if it waited once.
	if took := time.Since(begin); took > 90*time.Second {
		t.Errorf("all this took %s", took)
	}
	if r := <-ended; r.Code == 0 {
		t.Errorf("created by a plugin that does not answer: %s", r)
	}
}
