package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
)

var errCrashed = errors.New("the daemon is dead")

// machine is the world a Service works on. It outlives the Service: a new one
// on the same machine is a daemon started again.
type machine struct {
	restored func() // called between Restore and Run

	root string

	mu      sync.Mutex // guards everything below
	records map[string][]byte
	layers  map[string]bool // to mounted
	tasks   map[string]*fakeTask
	nets    map[string]bool
	vols    map[string]*fakeVolume
	images  map[string]ImageInfo
	events  []events.Message
	pids    int
	sub     *conn // who gets task events
	// onSignal decides what a signal does; nil: every signal kills.
	onSignal func(id string, sig syscall.Signal) (exit *Exit)
	// onCreate may refuse a task.
	onCreate func(TaskConfig) error
	// onRun is called when a process starts to run.
	onRun func(id string)
}

type fakeTask struct {
	state  TaskState
	cfg    TaskConfig
	out    *io.PipeWriter
	reader *io.PipeReader
}

type fakeVolume struct {
	anonymous bool
	refs      map[string]bool
	mounts    map[string]bool
	filled    string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{
		root: t.TempDir(), records: map[string][]byte{}, layers: map[string]bool{}, tasks: map[string]*fakeTask{},
		nets: map[string]bool{}, vols: map[string]*fakeVolume{}, images: map[string]ImageInfo{},
	}
	m.images["busybox"] = ImageInfo{ID: "sha256:b0", Name: "docker.io/library/busybox:latest", ChainID: "sha256:c0", Config: imageConfig(ocispec.ImageConfig{
		Cmd: []string{"sh"}, Env: []string{"PATH=/bin"},
	})}
	m.images["db"] = ImageInfo{ID: "sha256:d0", ChainID: "sha256:c1", Config: imageConfig(ocispec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Volumes: map[string]struct{}{"/data": {}}, ExposedPorts: map[string]struct{}{"5432/tcp": {}},
		Labels: map[string]string{"from": "image"}, StopSignal: "SIGINT", WorkingDir: "/data",
	})}
	return m
}

func imageConfig(c ocispec.ImageConfig) dockerspec.DockerOCIImageConfig {
	return dockerspec.DockerOCIImageConfig{ImageConfig: c}
}

// conn is one daemon's hold on the machine: all ports at once. Once dead it
// does nothing any more.
type conn struct {
	m     *machine
	n     int // calls so far
	calls []string
	// fault decides about the n-th call (from 0): nil goes on; before fails it
	// without effect, after lets it have its effect and fails it.
	fault func(n int, call string) verdict
	dead  bool
	ch    chan TaskEvent
}

type verdict int

const (
	goOn verdict = iota
	failBefore
	crashBefore
	crashAfter
)

var errInjected = errors.New("injected fault")

// do runs one call with effect f.
func (k *conn) do(call string, f func() error) error {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	if k.dead {
		return errCrashed
	}
	v := goOn
	if k.fault != nil {
		v = k.fault(k.n, call)
	}
	k.n++
	k.calls = append(k.calls, call)
	switch v {
	case failBefore:
		return errInjected
	case crashBefore:
		k.dead = true
		return errCrashed
	case goOn, crashAfter:
	}
	err := f()
	if v == crashAfter {
		k.dead = true
		return errCrashed
	}
	return err
}

// Records.
func (k *conn) Put(id string, r *Record) error {
	return k.do("records.put", func() error {
		b, err := json.Marshal(r)
		k.m.records[id] = b
		return err
	})
}

type recordsPort struct{ *conn }

func (p recordsPort) Delete(id string) error {
	return p.do("records.delete", func() error { delete(p.m.records, id); return nil })
}

func (p recordsPort) All() (out []*Record, err error) {
	err = p.do("records.all", func() error {
		for _, b := range p.m.records {
			r := &Record{}
			if err := json.Unmarshal(b, r); err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// Publisher.
func (k *conn) Publish(e events.Message) {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	if !k.dead {
		k.m.events = append(k.m.events, e)
	}
}

// Images.
func (*conn) Claim(context.Context, string) (func(), error) { return func() {}, nil }

func (k *conn) Family(ctx context.Context, ref string) ([]string, error) {
	img, err := k.Resolve(ctx, ref, nil)
	return []string{img.ID}, err
}

func (k *conn) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (ImageInfo, error) {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	for name, i := range k.m.images {
		if name == ref || i.ID == ref {
			return i, nil
		}
	}
	return ImageInfo{}, fault.New(errdefs.ErrNotFound, "No such image: %s", ref)
}

type rootfsPort struct{ *conn }

func (p rootfsPort) merged(id string) string { return filepath.Join(p.m.root, "merged", id) }

func (p rootfsPort) Prepare(_ context.Context, id, _ string) error {
	return p.do("rootfs.prepare", func() error { p.m.layers[id] = false; return nil })
}

func (p rootfsPort) layer(id string) Layer {
	return Layer{Lower: []string{"/l2", "/l1"}, Upper: "/upper/" + id, Work: "/work/" + id, Merged: p.merged(id)}
}

func (p rootfsPort) Mount(_ context.Context, id string) (l Layer, err error) {
	err = p.do("rootfs.mount", func() error {
		if _, ok := p.m.layers[id]; !ok {
			return fault.New(errdefs.ErrNotFound, "no layer %s", id)
		}
		p.m.layers[id] = true
		l = p.layer(id)
		return os.MkdirAll(filepath.Join(p.merged(id), "data"), 0o755)
	})
	return l, err
}

func (p rootfsPort) Unmount(_ context.Context, id string) error {
	return p.do("rootfs.unmount", func() error {
		if _, ok := p.m.layers[id]; ok {
			p.m.layers[id] = false
		}
		return nil
	})
}

func (p rootfsPort) Layer(_ context.Context, id string) (Layer, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if _, ok := p.m.layers[id]; !ok {
		return Layer{}, errdefs.ErrNotFound
	}
	return p.layer(id), nil
}

func (p rootfsPort) Remove(_ context.Context, id string) error {
	return p.do("rootfs.remove", func() error { delete(p.m.layers, id); return nil })
}

func (p rootfsPort) Changes(context.Context, string) ([]container.FilesystemChange, error) {
	return nil, nil
}
func (p rootfsPort) Usage(context.Context, string) (int64, int64, error) { return 10, 110, nil }
func (p rootfsPort) Driver() string                                      { return "overlayfs" }

func (p rootfsPort) List(context.Context) (out []string, err error) {
	err = p.do("rootfs.list", func() error { out = slices.Collect(maps.Keys(p.m.layers)); return nil })
	return out, err
}

type runtimePort struct{ *conn }

func (p runtimePort) streams(t *fakeTask) Streams {
	t.reader, t.out = io.Pipe()
	return Streams{Stdout: t.reader}
}

func (runtimePort) Ready(context.Context, string) {}

func (p runtimePort) Create(_ context.Context, c TaskConfig) (pid int, s Streams, err error) {
	err = p.do("runtime.create", func() error {
		if p.m.onCreate != nil {
			if err := p.m.onCreate(c); err != nil {
				return err
			}
		}
		p.m.pids++
		t := &fakeTask{cfg: c, state: TaskState{Status: TaskCreated, Pid: p.m.pids}}
		p.m.tasks[c.ID] = t
		pid, s = t.state.Pid, p.streams(t)
		return nil
	})
	return pid, s, err
}

func (p runtimePort) task(id string) (*fakeTask, error) {
	if t := p.m.tasks[id]; t != nil {
		return t, nil
	}
	return nil, fault.New(errdefs.ErrNotFound, "task %s not found", id)
}

func (p runtimePort) Start(_ context.Context, id string) error {
	var run func(string)
	err := p.do("runtime.start", func() error {
		t, err := p.task(id)
		if err == nil {
			t.state.Status = TaskRunning
			run = p.m.onRun
		}
		return err
	})
	if err == nil && run != nil {
		run(id)
	}
	return err
}

// exit ends a task's process, as the kernel would.
func (m *machine) exit(id string, code int) {
	m.mu.Lock()
	t := m.tasks[id]
	if t == nil || t.state.Status == TaskStopped {
		m.mu.Unlock()
		return
	}
	t.state.Status = TaskStopped
	t.state.Exit = Exit{Code: code, At: time.Now()}
	_ = t.out.Close()
	ev := TaskEvent{Container: id, Kind: TaskExited, Pid: t.state.Pid, Exit: t.state.Exit}
	sub := m.sub
	dead := sub == nil || sub.dead
	m.mu.Unlock()
	if !dead {
		sub.ch <- ev
	}
}

// Exec knows only containers that have just stopped.
func (p runtimePort) Exec(_ context.Context, c ExecConfig) (int, Streams, error) {
	p.m.exit(c.Container, 0)
	return 0, Streams{}, errdefs.ErrFailedPrecondition
}

func (p runtimePort) Reattach(_ context.Context, id, _ string, _, _ bool) (s Streams, err error) {
	err = p.do("runtime.reattach", func() error {
		t, err := p.task(id)
		if err != nil {
			return err
		}
		s = p.streams(t)
		if t.state.Status == TaskStopped {
			return t.out.Close()
		}
		return nil
	})
	return s, err
}

func (p runtimePort) List(context.Context) (out map[string]TaskState, err error) {
	out = map[string]TaskState{}
	err = p.do("runtime.list", func() error {
		for id, t := range p.m.tasks {
			out[id] = t.state
		}
		return nil
	})
	return out, err
}

func (p runtimePort) State(_ context.Context, id, _ string) (TaskState, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	t, err := p.task(id)
	if err != nil {
		return TaskState{}, err
	}
	return t.state, nil
}

func (p runtimePort) Wait(context.Context, string, string) (Exit, error) {
	return Exit{}, errdefs.ErrNotImplemented
}

func (p runtimePort) Kill(_ context.Context, id, _ string, sig syscall.Signal) error {
	var die *Exit
	err := p.do(fmt.Sprintf("runtime.kill(%d)", sig), func() error {
		t, err := p.task(id)
		if err != nil {
			return err
		}
		if t.state.Status == TaskStopped {
			return fault.New(errdefs.ErrNotFound, "process is gone")
		}
		die = &Exit{Code: 128 + int(sig)}
		if p.m.onSignal != nil {
			die = p.m.onSignal(id, sig)
		}
		return nil
	})
	if die != nil && !errdefs.IsNotFound(err) {
		p.m.exit(id, die.Code)
	}
	return err
}

func (p runtimePort) Delete(_ context.Context, id string, _ bool) error {
	return p.do("runtime.delete", func() error {
		if t := p.m.tasks[id]; t != nil {
			_ = t.out.Close()
		}
		delete(p.m.tasks, id)
		return nil
	})
}

func (p runtimePort) DeleteExec(context.Context, string, string) error             { return nil }
func (p runtimePort) CloseStdin(context.Context, string, string) error             { return nil }
func (p runtimePort) Resize(context.Context, string, string, uint32, uint32) error { return nil }
func (p runtimePort) Pids(context.Context, string) ([]int, error)                  { return nil, nil }

func (p runtimePort) status(call, id string, to TaskStatus) error {
	return p.do(call, func() error {
		t, err := p.task(id)
		if err == nil && t.state.Status == TaskStopped {
			err = errors.New("OCI runtime failed: container not running")
		}
		if err == nil {
			t.state.Status = to
		}
		return err
	})
}

func (p runtimePort) Pause(_ context.Context, id string) error {
	return p.status("runtime.pause", id, TaskPaused)
}

func (p runtimePort) Resume(_ context.Context, id string) error {
	return p.do("runtime.resume", func() error {
		if t := p.m.tasks[id]; t != nil && t.state.Status == TaskPaused {
			t.state.Status = TaskRunning
		}
		return nil
	})
}

func (p runtimePort) Update(context.Context, string, *specs.LinuxResources) error { return nil }
func (p runtimePort) Stats(context.Context, string) (container.StatsResponse, error) {
	return container.StatsResponse{}, nil
}

func (p runtimePort) Events(context.Context) <-chan TaskEvent {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.ch = make(chan TaskEvent, 100)
	p.m.sub = p.conn
	return p.ch
}

type volumesPort struct{ *conn }

func (p volumesPort) Acquire(_ context.Context, r VolumeRequest) (v VolumeInfo, err error) {
	err = p.do("volumes.acquire", func() error {
		name := r.Name
		if name == "" {
			name = fmt.Sprintf("anon%d", len(p.m.vols))
		}
		vol := p.m.vols[name]
		if vol == nil {
			vol = &fakeVolume{anonymous: r.Name == "", refs: map[string]bool{}, mounts: map[string]bool{}}
			p.m.vols[name] = vol
		}
		vol.refs[r.Container] = true
		v = VolumeInfo{Name: name, Driver: "local", Source: "/vols/" + name, Anonymous: vol.anonymous}
		return nil
	})
	return v, err
}

func (p volumesPort) Reattach(_ context.Context, name, id string, mounted bool) error {
	return p.do("volumes.reattach", func() error {
		v := p.m.vols[name]
		if v == nil {
			return errdefs.ErrNotFound
		}
		v.refs[id] = true
		v.mounts[id] = mounted
		return nil
	})
}

func (p volumesPort) with(call, name string, f func(*fakeVolume)) error {
	return p.do(call, func() error {
		v := p.m.vols[name]
		if v == nil {
			return errdefs.ErrNotFound
		}
		f(v)
		return nil
	})
}

func (p volumesPort) MountAt(_ context.Context, name, id, _ string, _ bool) (string, error) {
	return filepath.Join(p.m.root, "vol", name), p.with("volumes.mount", name, func(v *fakeVolume) { v.mounts[id] = true })
}

func (p volumesPort) Where(string) (driver, source string, ok bool) { return "", "", false }

func (p volumesPort) Unmount(_ context.Context, name, id string) error {
	return p.with("volumes.unmount", name, func(v *fakeVolume) { delete(v.mounts, id) })
}

func (p volumesPort) Populate(_ context.Context, name, _, src, _ string) error {
	return p.with("volumes.populate", name, func(v *fakeVolume) { v.filled = src })
}

func (p volumesPort) Release(_ context.Context, name, id string) error {
	return p.with("volumes.release", name, func(v *fakeVolume) { delete(v.refs, id) })
}

func (p volumesPort) RemoveAnonymous(_ context.Context, name string) error {
	return p.do("volumes.remove", func() error {
		if v := p.m.vols[name]; v != nil && v.anonymous && len(v.refs) == 0 {
			delete(p.m.vols, name)
		}
		return nil
	})
}

type networksPort struct{ *conn }

func (p networksPort) Lookup(_ context.Context, ref string) (NetworkRef, error) {
	switch ref {
	case "host":
		return NetworkRef{ID: "nhost", Name: "host", Driver: "host"}, nil
	case "none":
		return NetworkRef{ID: "nnone", Name: "none", Driver: "null"}, nil
	case "missing":
		return NetworkRef{}, fault.New(errdefs.ErrNotFound, "network missing not found")
	}
	return NetworkRef{ID: "n" + ref, Name: ref, Driver: "bridge"}, nil
}

func (p networksPort) Validate(context.Context, SandboxRequest) error { return nil }

func (p networksPort) Join(_ context.Context, r SandboxRequest) (info SandboxInfo, err error) {
	err = p.do("networks.join", func() error {
		p.m.nets[r.Container] = true
		info = SandboxInfo{
			NetNS: "/netns/" + r.Container, Ports: network.PortMap{}, Endpoints: map[string]*network.EndpointSettings{},
			HostsPath: r.Dir + "/hosts", ResolvConfPath: r.Dir + "/resolv.conf",
		}
		for name := range r.Endpoints {
			info.Endpoints[name] = &network.EndpointSettings{NetworkID: "n" + name}
		}
		for port := range r.Exposed {
			info.Ports[port] = nil
		}
		maps.Copy(info.Ports, r.Ports)
		return nil
	})
	return info, err
}

func (p networksPort) HostFiles(_ context.Context, r SandboxRequest) (SandboxInfo, error) {
	return SandboxInfo{HostsPath: r.Dir + "/hosts", ResolvConfPath: r.Dir + "/resolv.conf"}, nil
}

func (p networksPort) Restore(_ context.Context, r SandboxRequest, _ SandboxInfo) error {
	return p.do("networks.restore", func() error { p.m.nets[r.Container] = true; return nil })
}

func (p networksPort) Leave(_ context.Context, id string) error {
	return p.do("networks.leave", func() error { delete(p.m.nets, id); return nil })
}

func (p networksPort) Connect(_ context.Context, _, name string, _ *network.EndpointSettings) (*network.EndpointSettings, error) {
	return &network.EndpointSettings{NetworkID: "n" + name}, nil
}
func (p networksPort) Disconnect(context.Context, string, string) error { return nil }
func (p networksPort) Rename(context.Context, string, string) error     { return nil }
func (p networksPort) Relink(context.Context, string, []string) error   { return nil }
func (p networksPort) Stats(context.Context, string) (map[string]container.NetworkStats, error) {
	return nil, nil
}

// testHost is a machine with nothing surprising about it.
func testHost() *Host {
	return &Host{
		Hostname: "host", CPUs: 4, CpusetCpus: "0-3", CpusetMems: "0", SwapLimit: true, RecursiveRO: true,
		HardLimits: map[string]uint64{"RLIMIT_NOFILE": 1 << 16},
		Sysctl:     func(string) bool { return true },
		Exists:     func(p string) bool { return p != "/missing" && filepath.Dir(p) != "/sys/devices/system/cpu/cpu0" },
		Devices:    func() ([]specs.LinuxDevice, error) { return nil, nil },
	}
}

// daemon is a running Service on a machine.
type daemon struct {
	*Service
	*conn
	t    *testing.T
	stop func()
}

// start brings a daemon up on the machine and takes it down at the test's end.
func (m *machine) start(t *testing.T, fault func(int, string) verdict) *daemon {
	t.Helper()
	k := &conn{m: m}
	k.fault = fault
	s := New(Deps{
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Records: recordsPort{k}, Events: k, Images: k,
		Rootfs: rootfsPort{k}, Runtime: runtimePort{k}, Volumes: volumesPort{k}, Networks: networksPort{k},
		Random: rand.NewChaCha8([32]byte{byte(len(m.records)), byte(m.pids), byte(len(m.events))}), Host: testHost(),
		Settings: Settings{
			Dir: filepath.Join(m.root, "containers"), RunDir: filepath.Join(m.root, "run"), InitPath: "/usr/libexec/init",
			ShmSize: 64 << 20, CgroupVersion: 1, Capabilities: append(slices.Clone(defaultCaps), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
			DefaultLog: container.LogConfig{Type: "json-file"},
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Restore(ctx); err != nil && !errors.Is(err, errCrashed) {
		t.Fatalf("restore: %v", err)
	}
	if m.restored != nil {
		m.restored()
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	d := &daemon{Service: s, conn: k, t: t}
	d.stop = sync.OnceFunc(func() {
		s.Shutdown(context.Background(), false)
		cancel()
		_ = <-done
	})
	return d
}

// create makes a container or ends the test.
func (d *daemon) create(name string, edit func(*container.Config, *container.HostConfig)) string {
	d.t.Helper()
	c, h := &container.Config{Image: "busybox"}, &container.HostConfig{}
	if edit != nil {
		edit(c, h)
	}
	r, err := d.Create(d.t.Context(), CreateOptions{Name: name, Config: c, HostConfig: h})
	if err != nil {
		d.t.Fatalf("create: %v", err)
	}
	return r.ID
}

func (d *daemon) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) state(ref string) *container.State {
	d.t.Helper()
	i, err := d.Inspect(d.t.Context(), ref, false)
	d.must(err)
	return i.State
}

// actions lists the container events so far, in order.
func (m *machine) actions() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, e := range m.events {
		out = append(out, string(e.Action))
	}
	return out
}

// check holds records, runtime, layers, networks, volumes and folders against
// each other: nothing may lie, nothing may be left over.
func (m *machine) check(s *Service) (lies []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lie := func(format string, args ...any) { lies = append(lies, fmt.Sprintf(format, args...)) }
	known := map[string]bool{}
	for id, b := range m.records {
		known[id] = true
		var r Record
		if err := json.Unmarshal(b, &r); err != nil {
			lie("record %.6s: %v", id, err)
		}
		if _, ok := m.layers[id]; !ok {
			lie("record %.6s has no layer", id)
		}
		if s.byID[id] == nil {
			lie("record %.6s is not known", id)
		}
		for _, mt := range r.Mounts {
			if mt.Name != "" && (m.vols[mt.Name] == nil || !m.vols[mt.Name].refs[id]) {
				lie("record %.6s does not hold its volume %s", id, mt.Name)
			}
		}
	}
	for id, c := range s.byID {
		p := c.record().Phase
		if !known[id] {
			lie("container %.6s has no record", id)
		}
		switch p {
		case Created, Exited, Running, Paused:
		default:
			lie("container %.6s stays %s", id, p)
		}
		t := m.tasks[id]
		if p.alive() != (t != nil && t.state.Status != TaskStopped && t.state.Status != TaskCreated) {
			lie("container %.6s is %s, its task %v", id, p, t)
		}
		if m.layers[id] != p.alive() {
			lie("container %.6s is %s, its layer mounted: %v", id, p, m.layers[id])
		}
		if m.nets[id] != p.alive() {
			lie("container %.6s is %s, its network joined: %v", id, p, m.nets[id])
		}
		if !p.alive() && t != nil {
			lie("container %.6s is %s and has a task", id, p)
		}
	}
	for id := range m.layers {
		if !known[id] {
			lie("layer %.6s is an orphan", id)
		}
	}
	for id := range m.tasks {
		if !known[id] {
			lie("task %.6s is an orphan", id)
		}
	}
	for id := range m.nets {
		if !known[id] {
			lie("network of %.6s is an orphan", id)
		}
	}
	for name, v := range m.vols {
		for id, mounted := range v.mounts {
			if c := s.byID[id]; mounted && (c == nil || !c.record().Phase.alive()) {
				lie("volume %s is mounted for %.6s", name, id)
			}
		}
	}
	dirs, err := os.ReadDir(filepath.Join(m.root, "containers"))
	if err != nil && !os.IsNotExist(err) {
		lie("folders: %v", err)
	}
	for _, e := range dirs {
		if !known[e.Name()] {
			lie("folder %.6s is an orphan", e.Name())
		}
	}
	return lies
}
