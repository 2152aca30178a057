package executor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	gogotypes "github.com/gogo/protobuf/types"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/event"
)

// engine is a container service with containers that do what a test says.
type engine struct {
	bus *event.Bus

	mu     sync.Mutex // guards what follows
	byName map[string]*dockercontainer.InspectResponse
	waits  []chan dockercontainer.WaitResponse
	health bool // new containers have a check
	calls  []string
	busy   bool // somebody else removes
}

func (e *engine) find(name string) (*dockercontainer.InspectResponse, error) {
	for n, c := range e.byName {
		if n == name || c.ID == name {
			return c, nil
		}
	}
	return nil, fault.New(errdefs.ErrNotFound, "No such container: %s", name)
}

func (e *engine) call(s string) { e.calls = append(e.calls, s) }

func (e *engine) Create(_ context.Context, in container.CreateOptions) (dockercontainer.CreateResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.call("create")
	id := "id-" + in.Name
	e.byName[in.Name] = &dockercontainer.InspectResponse{ID: id, Config: in.Config, HostConfig: in.HostConfig, State: &dockercontainer.State{Status: dockercontainer.StateCreated}}
	return dockercontainer.CreateResponse{ID: id}, nil
}

func (e *engine) Start(_ context.Context, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.call("start")
	c, err := e.find(name)
	if err == nil {
		c.State.Status, c.State.Running = dockercontainer.StateRunning, true
		if e.health {
			c.State.Health = &dockercontainer.Health{Status: dockercontainer.Starting}
		}
	}
	return err
}

// becomes changes the health of a container and tells it.
func (e *engine) becomes(name string, h dockercontainer.HealthStatus) {
	e.mu.Lock()
	c, err := e.find(name)
	if err != nil {
		panic(err)
	}
	c.State.Health = &dockercontainer.Health{Status: h}
	id := c.ID
	e.mu.Unlock()
	e.bus.Publish(events.Message{Type: events.ContainerEventType, Action: events.ActionHealthStatus, Actor: events.Actor{ID: id}})
}

func (e *engine) end(name string, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		panic(err)
	}
	c.State.Status, c.State.Running, c.State.ExitCode = dockercontainer.StateExited, false, code
	for _, w := range e.waits {
		w <- dockercontainer.WaitResponse{StatusCode: int64(code)}
	}
	e.waits = nil
}

func (e *engine) Stop(_ context.Context, name, _ string, _ *int) error {
	e.mu.Lock()
	e.call("stop")
	c, err := e.find(name)
	running := err == nil && c.State.Running
	e.mu.Unlock()
	if running {
		e.end(name, 137)
	}
	return err
}

func (e *engine) Kill(ctx context.Context, name, _ string) error { return e.Stop(ctx, name, "", nil) }

func (e *engine) Wait(_ context.Context, name string, cond dockercontainer.WaitCondition) (<-chan dockercontainer.WaitResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		return nil, err
	}
	ch := make(chan dockercontainer.WaitResponse, 1)
	if cond == dockercontainer.WaitConditionNotRunning && !c.State.Running {
		ch <- dockercontainer.WaitResponse{}
		return ch, nil
	}
	e.waits = append(e.waits, ch)
	return ch, nil
}

func (e *engine) Remove(_ context.Context, name string, _ container.RemoveOptions) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.call("remove")
	c, err := e.find(name)
	if err != nil {
		return err
	}
	delete(e.byName, strings.TrimPrefix(c.ID, "id-"))
	if !e.busy {
		return nil
	}
	for _, w := range e.waits {
		w <- dockercontainer.WaitResponse{}
	}
	return fault.New(errdefs.ErrConflict, "removal of container %s is already in progress", name)
}

func (e *engine) Inspect(_ context.Context, name string, _ bool) (dockercontainer.InspectResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		return dockercontainer.InspectResponse{}, err
	}
	out := *c
	state := *c.State
	out.State = &state
	return out, nil
}

func (e *engine) List(context.Context, container.ListOptions) ([]dockercontainer.Summary, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []dockercontainer.Summary
	for _, c := range e.byName {
		out = append(out, dockercontainer.Summary{ID: c.ID, Labels: c.Config.Labels})
	}
	return out, nil
}

func (e *engine) Logs(_ context.Context, _ string, _ container.LogsOptions, stdout, stderr io.Writer) error {
	_, err := io.WriteString(stdout, "2024-05-06T07:08:09.000000010Z out\n")
	_, err2 := io.WriteString(stderr, "2024-05-06T07:08:10.000000000Z err line\n")
	return errors.Join(err, err2)
}

// shelf holds the images of a node.
type shelf struct {
	here   bool
	fails  error
	pulled []string
}

func (s *shelf) Has(context.Context, string) (bool, error) { return s.here, nil }
func (s *shelf) Pull(_ context.Context, ref, auth string) error {
	s.pulled = append(s.pulled, ref+" "+auth)
	return s.fails
}

// wires is a mesh that remembers what it was told of tasks.
type wires struct {
	mu  sync.Mutex // guards log
	log []string
}

func (w *wires) say(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.log); n == 0 || w.log[n-1] != s {
		w.log = append(w.log, s)
	}
}

func (w *wires) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.log, " ")
}

func (w *wires) Hold(context.Context, *api.Task) error    { w.say("hold"); return nil }
func (*wires) Stand(string, map[string][]directory.Front) {}

func (w *wires) Hide(string)                           { w.say("hide") }
func (w *wires) Release(context.Context, string) error { w.say("release"); return nil }

func (w *wires) Show(_ *api.Task, _ []string, healthy bool) error {
	if healthy {
		w.say("healthy")
	} else {
		w.say("there")
	}
	return nil
}

func (*wires) Configure(context.Context, *api.Node) error { return nil }
func (*wires) SetKeys([]*api.EncryptionKey) error         { return nil }
func (*wires) Settle(context.Context) error               { return nil }
func (*wires) Purge(context.Context) error                { return nil }

// attached are the attachments of containers that are no task's: there are none.
type attached struct{}

func (attached) Controller(*api.Task) exec.Controller { return nil }
func (attached) Purge(context.Context) error          { return nil }

func executor(t *testing.T) (*Executor, *engine, *shelf) {
	t.Helper()
	net := &wires{}
	en := &engine{bus: event.NewBus(clock.System{}), byName: map[string]*dockercontainer.InspectResponse{}}
	im := &shelf{here: true}
	return New(Deps{
		Log: slog.New(slog.DiscardHandler), Mesh: net, Attached: attached{}, Containers: en, Images: im, Events: en.bus, SecretsDir: filepath.Join(t.TempDir(), "tasks"),
		Facts: func() Facts {
			return Facts{Hostname: "h", Arch: "x86_64", OS: "linux", CPUs: 2, Memory: 1 << 30, Labels: []string{"zone=a"}, Volume: []string{"local"}, Log: []string{"none", "local"}}
		},
	}), en, im
}

func task() *api.Task {
	return &api.Task{
		ID: "t1", ServiceID: "s1", NodeID: "n1", Slot: 2, ServiceAnnotations: api.Annotations{Name: "db"},
		Spec: api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{Image: "busybox", Env: []string{"SLOT={{.Task.Slot}}"}}}},
	}
}

func control(t *testing.T, e *Executor, tk *api.Task) exec.Controller {
	t.Helper()
	c, err := e.Controller(tk)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const name = "db.2.t1"

// A task gets connections only while it runs and is healthy; before it is stopped it
// gets no new ones.
func TestTheMeshHearsOfATask(t *testing.T) {
	e, _, _ := executor(t)
	mesh, ok := e.d.Mesh.(*wires)
	if !ok {
		t.Fatalf("the mesh is a %T", e.d.Mesh)
	}
	ctx := t.Context()
	for _, step := range []struct {
		name, want string
		do         func(context.Context) error
	}{
		{"prepare", "hold", control(t, e, task()).Prepare},
		{"start", "hold there healthy", control(t, e, task()).Start},
		{"shutdown", "hold there healthy there release", control(t, e, task()).Shutdown},
		{"remove", "hold there healthy there release", control(t, e, task()).Remove},
	} {
		if err := step.do(ctx); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := mesh.said(); got != step.want {
			t.Errorf("after %s the mesh heard %q, want %q", step.name, got, step.want)
		}
	}
}

// Each step may have been done before by a daemon that died since.
func TestStepsMayBeRepeated(t *testing.T) {
	e, en, _ := executor(t)
	ctx := t.Context()
	if err := control(t, e, task()).Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if err := control(t, e, task()).Prepare(ctx); !errors.Is(err, exec.ErrTaskPrepared) {
		t.Errorf("prepared again: %v", err)
	}
	if got := en.byName[name].Config; !slices.Equal(got.Env, []string{"SLOT=2"}) || got.Labels[labelTaskID] != "t1" || got.Labels[labelServiceName] != "db" || got.Labels[labelNodeID] != "n1" {
		t.Errorf("container %+v", got)
	}
	if err := control(t, e, task()).Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := control(t, e, task()).Start(ctx); err != nil {
		t.Errorf("started again: %v", err)
	}
	en.end(name, 3)
	if err := control(t, e, task()).Start(ctx); !errors.Is(err, exec.ErrTaskStarted) {
		t.Errorf("started when it had ended: %v", err)
	}
	err := control(t, e, task()).Wait(ctx)
	var exit exec.ExitCoder
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || err.Error() != "task: non-zero exit (3)" {
		t.Errorf("wait says %v", err)
	}
	for range 2 {
		for what, f := range map[string]func(context.Context) error{
			"shutdown": control(t, e, task()).Shutdown, "terminate": control(t, e, task()).Terminate, "remove": control(t, e, task()).Remove,
		} {
			if err := f(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if len(en.byName) != 0 || strings.Count(strings.Join(en.calls, " "), "create") != 1 {
		t.Errorf("left %v after %v", en.byName, en.calls)
	}
}

func TestHealthComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, en, _ := executor(t)
		en.health = true
		c := control(t, e, task())
		if err := c.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- c.Start(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("started before it was healthy: %v", err)
		default:
		}
		en.becomes(name, dockercontainer.Healthy)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		go func() { done <- c.Wait(t.Context()) }()
		synctest.Wait()
		en.becomes(name, dockercontainer.Unhealthy)
		if err := <-done; err == nil || err.Error() != "task: non-zero exit (137): unhealthy container" {
			t.Errorf("unhealthy: %v", err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := executor(t)
		c := control(t, e, task())
		if err := errors.Join(c.Prepare(t.Context()), c.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Wait(ctx) }()
		synctest.Wait()
		cancel()
		// SwarmKit compares with this very error.
		if err := <-done; err != context.Canceled { //nolint:errorlint // so does SwarmKit
			t.Errorf("got %v", err)
		}
	})
}

// A daemon that goes leaves its tasks as they are, whatever SwarmKit says.
func TestHeldTasksStay(t *testing.T) {
	e, en, _ := executor(t)
	c := control(t, e, task())
	if err := errors.Join(c.Prepare(t.Context()), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	e.Hold()
	for what, f := range map[string]func(context.Context) error{"shutdown": c.Shutdown, "terminate": c.Terminate, "remove": c.Remove, "prepare": c.Prepare, "start": c.Start} {
		if err := f(t.Context()); err != context.Canceled { //nolint:errorlint // SwarmKit compares so
			t.Errorf("%s: %v", what, err)
		}
	}
	if !en.byName[name].State.Running {
		t.Error("the container does not run any more")
	}
}

func TestSweepAndPurge(t *testing.T) {
	e, en, _ := executor(t)
	other := task()
	other.ID, other.Slot = "t2", 3
	for _, tk := range []*api.Task{task(), other} {
		if err := control(t, e, tk).Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// The next daemon: SwarmKit knows the first task only.
	next := New(e.d)
	control(t, next, task())
	if err := next.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(en.byName) != 1 || en.byName[name] == nil {
		t.Errorf("left %v", en.byName)
	}
	// Somebody else is removing it already: that is waited for.
	en.busy = true
	if err := next.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(en.byName) != 0 {
		t.Errorf("left %v", en.byName)
	}
}

type networkError struct{}

func (networkError) Error() string   { return "network is unreachable" }
func (networkError) Temporary() bool { return true }

func TestImages(t *testing.T) {
	e, en, im := executor(t)
	if err := control(t, e, task()).Prepare(t.Context()); err != nil || len(im.pulled) != 0 {
		t.Errorf("an image that is here: %v, pulled %v", err, im.pulled)
	}
	clear(en.byName)
	im.here, im.fails = false, networkError{}
	tk := task()
	tk.Spec.GetContainer().PullOptions = &api.ContainerSpec_PullOptions{RegistryAuth: "auth"}
	err := control(t, e, tk).Prepare(t.Context())
	if err == nil || exec.IsTemporary(err) || !strings.Contains(err.Error(), "pull busybox: network is unreachable") {
		t.Errorf("a pull that fails must reject the task: %v, temporary %v", err, exec.IsTemporary(err))
	}
	if !slices.Equal(im.pulled, []string{"busybox auth"}) {
		t.Errorf("pulled %v", im.pulled)
	}
}

func TestDescriptionIsStable(t *testing.T) {
	e, _, _ := executor(t)
	first, err := e.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // maps have no order of their own
		if again, _ := e.Describe(t.Context()); !reflect.DeepEqual(first, again) {
			t.Fatalf("%v became %v", first, again)
		}
	}
	if first.Resources.NanoCPUs != 2e9 || first.Engine.Labels["zone"] != "a" || len(first.Engine.Plugins) != 3 {
		t.Errorf("description %v", first)
	}
}

func TestFilesAreWrittenAsAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	e, _, _ := executor(t)
	t.Cleanup(func() {
		if err := e.dropSecretsDir(); err != nil {
			t.Error(err)
		}
	})
	fs := []file{{target: secretTarget("password"), data: []byte("x"), uid: "7", gid: "8", mode: 0o440}, {target: configTarget("etc/app"), data: []byte("y"), mode: 0o444}}
	var ms []string
	for range 2 {
		mounts, err := e.writeFiles("t1", fs)
		if err != nil {
			t.Fatal(err)
		}
		ms = nil
		for _, m := range mounts {
			ms = append(ms, m.Target)
			if !m.ReadOnly {
				t.Errorf("%s can be written to", m.Target)
			}
		}
	}
	if !slices.Equal(ms, []string{"/run/secrets/password", "/etc/app"}) {
		t.Errorf("mounts %v", ms)
	}
	st, err := os.Stat(filepath.Join(e.d.SecretsDir, "t1", "0"))
	if err != nil || st.Mode().Perm() != 0o440 {
		t.Errorf("mode %v, %v", st, err)
	}
	if err := e.dropSecrets("t1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(e.d.SecretsDir, "t1")); !os.IsNotExist(err) {
		t.Errorf("the files stay: %v", err)
	}
	if err := e.dropSecrets("../x"); err != nil {
		t.Error(err)
	}
	if _, err := e.writeFiles("t1", []file{{target: "/x", uid: "root"}}); err == nil {
		t.Error("an owner that is no number was taken")
	}
}

func TestContainerOfATask(t *testing.T) {
	tk := task()
	spec := tk.Spec.GetContainer()
	spec.Hosts = []string{"1.2.3.4 db db.local"}
	spec.StopGracePeriod = &gogotypes.Duration{Seconds: 1, Nanos: 5e8}
	spec.PidsLimit = 9
	tk.Spec.Resources = &api.ResourceRequirements{Limits: &api.Resources{MemoryBytes: 100, NanoCPUs: 5}, Reservations: &api.Resources{MemoryBytes: 50}, SwapBytes: &gogotypes.Int64Value{Value: 20}}
	tk.LogDriver = &api.Driver{Name: "local"}
	tk.Endpoint = &api.Endpoint{Spec: &api.EndpointSpec{Ports: []*api.PortConfig{
		{TargetPort: 80, PublishedPort: 8080, PublishMode: api.PublishModeHost}, {TargetPort: 81, PublishMode: api.PublishModeIngress},
	}}}
	got, err := containerFor(tk, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := got.HostConfig
	if got.Name != name || !slices.Equal(h.ExtraHosts, []string{"db:1.2.3.4", "db.local:1.2.3.4"}) || *got.Config.StopTimeout != 2 {
		t.Errorf("%+v %+v", got.Config, h)
	}
	if h.Memory != 100 || h.MemorySwap != 120 || h.MemoryReservation != 50 || h.NanoCPUs != 5 || *h.PidsLimit != 9 || h.LogConfig.Type != "local" {
		t.Errorf("resources %+v", h.Resources)
	}
	p80 := network.MustParsePort("80/tcp")
	if len(h.PortBindings) != 1 || h.PortBindings[p80][0].HostPort != "8080" {
		t.Errorf("ports %v", h.PortBindings)
	}
	st := portStatus(hostPorts(tk), network.PortMap{p80: {{HostPort: "8080"}}})
	if len(st.Ports) != 1 || st.Ports[0].PublishedPort != 8080 || st.Ports[0].TargetPort != 80 {
		t.Errorf("port status %v", st)
	}
}

func TestLogsBecomeMessages(t *testing.T) {
	e, _, _ := executor(t)
	c := control(t, e, task())
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []api.LogMessage
	err := c.(exec.ControllerLogs).Logs(t.Context(), exec.LogPublisherFunc(func(_ context.Context, m api.LogMessage) error {
		got = append(got, m)
		return nil
	}), api.LogSubscriptionOptions{})
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if string(got[0].Data) != "out\n" || got[0].Stream != api.LogStreamStdout || got[0].Context.TaskID != "t1" || got[0].Timestamp.Seconds != time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC).Unix() {
		t.Errorf("message %+v", got[0])
	}
	if string(got[1].Data) != "err line\n" || got[1].Stream != api.LogStreamStderr {
		t.Errorf("message %+v", got[1])
	}
	if tail(0) != -1 || tail(-11) != 10 || tail(-1) != 0 {
		t.Error("tail is read wrongly")
	}
}
