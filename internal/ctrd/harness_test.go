package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/container"
)

// patience bounds every wait for a condition.
const patience = 20 * time.Second

// program finds shim or runc: in HF_BIN, else where make puts them.
func program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("HF_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	p, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Skipf("needs %s: run make build", name)
	}
	return p
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs " + busybox + " (package busybox-static)")
	}
}

const busybox = "/usr/bin/busybox"

// machine is an engine on directories of its own and a root file system.
type machine struct {
	t      testing.TB
	cfg    Config
	engine *Server
	root   string // a busybox tree
	state  string
	n      int
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	needsRoot(t)
	// Not t.TempDir: its names are too long for sockets.
	dir, err := os.MkdirTemp("", "hf-ctrd-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: filepath.Join(dir, "bb"), state: filepath.Join(dir, "run"), cfg: Config{
		Root:     filepath.Join(dir, "root"),
		State:    filepath.Join(dir, "run"),
		ShimPath: program(t, "containerd-shim-runc-v2"),
		RuncPath: program(t, "runc"),
		Log:      slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}}
	makeTree(t, m.root)
	t.Cleanup(func() { m.clear(dir) })
	m.start()
	return m
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	if testing.Verbose() {
		_, _ = os.Stderr.Write(p)
	}
	return len(p), nil
}

func makeTree(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("busybox", filepath.Join(dir, "bin/sh")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

func (m *machine) start() {
	m.t.Helper()
	e, err := Start(m.t.Context(), m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.engine = e
}

// restart ends the engine and starts another on the same directories.
func (m *machine) restart() {
	m.t.Helper()
	if err := m.engine.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.start()
}

// secondConfig is for an engine beside the first, as after a kill -9 that the
// first has only just not noticed: the run-time state is shared, the stores,
// which only one can open, are not.
func (m *machine) secondConfig(t testing.TB) Config {
	cfg := m.cfg
	cfg.Root = t.TempDir()
	return cfg
}

func (m *machine) rt() *Runtime { return m.engine.Runtime() }

// clear ends what runs and looks for leftovers.
func (m *machine) clear(dir string) {
	ctx := context.Background()
	if m.engine != nil {
		ids, err := m.rt().List(ctx)
		if err != nil {
			m.t.Error(err)
		}
		for id := range ids {
			if err := m.rt().Delete(ctx, id, true); err != nil {
				m.t.Error(err)
			}
		}
		layers, err := m.engine.Rootfs().List(ctx)
		if err != nil {
			m.t.Error(err)
		}
		for _, id := range layers {
			if err := m.engine.Rootfs().Remove(ctx, id); err != nil {
				m.t.Error(err)
			}
		}
		if err := m.engine.Close(); err != nil {
			m.t.Error(err)
		}
	}
	m.expectNothingLeft(dir)
	if err := os.RemoveAll(dir); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) expectNothingLeft(dir string) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		m.t.Error(err)
	}
	for _, mi := range mounts {
		m.t.Errorf("left behind: mount %s", mi.Mountpoint)
		if err := syscall.Unmount(mi.Mountpoint, syscall.MNT_DETACH); err != nil {
			m.t.Error(err)
		}
	}
	m.eventually("no shim is left", func() error {
		if pids := shimsOf(m.state); len(pids) > 0 {
			return fmt.Errorf("shims %v", pids)
		}
		return nil
	})
	for _, sub := range []string{"io", "tasks/" + Namespace, "s", "runc/" + Namespace} {
		entries, err := os.ReadDir(filepath.Join(m.state, sub))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			m.t.Error(err)
		}
		for _, e := range entries {
			m.t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

// shimsOf lists the shims that work in the state directory.
func shimsOf(state string) []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cwd, err := os.Readlink(d + "/cwd")
		if err != nil || !strings.HasPrefix(cwd, state+"/") {
			continue
		}
		exe, err := os.Readlink(d + "/exe")
		if err != nil || !strings.Contains(filepath.Base(exe), "shim") {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(d), &pid); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// shimOf finds the shim of a task.
func (m *machine) shimOf(id string) int {
	m.t.Helper()
	for _, pid := range shimsOf(m.state) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), id) {
			return pid
		}
	}
	m.t.Fatalf("no shim of %s", id)
	return 0
}

func (m *machine) eventually(what string, cond func() error) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (m *machine) id() string {
	m.n++
	return fmt.Sprintf("%032x%032x", time.Now().UnixNano(), m.n)
}

// spec is a small OCI spec for a shell script.
func (m *machine) spec(id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: m.root},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/hf-ctrd-test/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

// output reads a stream in the background.
type output struct {
	done chan struct{}
	text string
	err  error
}

func collect(r io.Reader) *output {
	o := &output{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		b, err := io.ReadAll(r)
		o.text, o.err = string(b), err
	}()
	return o
}

func (o *output) wait(t testing.TB) string {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(patience):
		t.Fatal("output did not end")
	}
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.text
}

// create makes a task or fails the test.
func (m *machine) create(c container.TaskConfig) (int, container.Streams) {
	m.t.Helper()
	pid, s, err := m.rt().Create(m.t.Context(), c)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.Close)
	return pid, s
}

// launch makes and starts a shell script.
func (m *machine) launch(script string) (id string, s container.Streams) {
	m.t.Helper()
	id = m.id()
	_, s = m.create(container.TaskConfig{ID: id, Spec: m.spec(id, sh(script)...)})
	if err := m.rt().Start(m.t.Context(), id); err != nil {
		m.t.Fatal(err)
	}
	return id, s
}

func (m *machine) wait(id, exec string) int {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	e, err := m.rt().Wait(ctx, id, exec)
	if err != nil {
		m.t.Fatalf("wait for %s %s: %v", id, exec, err)
	}
	if e.At.IsZero() {
		m.t.Error("exit without a time")
	}
	return e.Code
}

func (m *machine) delete(id string) {
	m.t.Helper()
	if err := m.rt().Delete(m.t.Context(), id, false); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.rt().State(m.t.Context(), id, ""); !errdefs.IsNotFound(err) {
		m.t.Errorf("state of a deleted task: %v", err)
	}
}
