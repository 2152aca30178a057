package ctrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	ctdruntime "github.com/containerd/containerd/v2/core/runtime"
	runtimev2 "github.com/containerd/containerd/v2/core/runtime/v2"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/container"
)

// forceLimit bounds the wait for a killed process.
const forceLimit = 10 * time.Second

// Runtime runs processes through shims. It implements container.Runtime.
type Runtime struct {
	tasks   *runtimev2.TaskManager
	shim    string
	options typeurl.Any
	fifos   fifos
	watch   *watcher

	mu    sync.Mutex          // guards exits
	exits map[procKey]exitRec // ended processes that nobody deleted yet
}

type procKey struct{ container, exec string }

type exitRec struct {
	pid  int
	exit container.Exit
}

var _ container.Runtime = (*Runtime)(nil)

func newRuntime(ctx context.Context, s *Server) (*Runtime, error) {
	opts, err := typeurl.MarshalAny(&options.Options{
		BinaryName:    s.cfg.RuncPath,
		Root:          s.stateDir("runc"),
		SystemdCgroup: s.cfg.SystemdCgroup,
	})
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	r := &Runtime{
		tasks:   s.tasks,
		shim:    s.cfg.ShimPath,
		options: opts,
		fifos:   fifos{dir: s.stateDir("io")},
		exits:   map[procKey]exitRec{},
	}
	r.watch = newWatcher(ctx, s.events, r.sawExit, s.cfg.Log)
	return r, r.sweepFifos(ctx)
}

func (r *Runtime) close() { r.watch.close() }

func in(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, Namespace) }

// sweepFifos removes the fifos of containers that have no task.
func (r *Runtime) sweepFifos(ctx context.Context) error {
	ids, err := r.fifos.containers()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := r.tasks.Get(in(ctx), id); errdefs.IsNotFound(err) {
			if err := r.fifos.remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Create implements container.Runtime.
func (r *Runtime) Create(ctx context.Context, c container.TaskConfig) (_ int, _ container.Streams, err error) {
	if c.Runtime != "" && c.Runtime != "runc" && c.Runtime != "io.containerd.runc.v2" {
		return 0, container.Streams{}, fmt.Errorf("unknown runtime %q: %w", c.Runtime, errdefs.ErrInvalidArgument)
	}
	spec, err := typeurl.MarshalAny(c.Spec)
	if err != nil {
		return 0, container.Streams{}, fmt.Errorf("encode spec of container %s: %w", c.ID, err)
	}
	r.forget(procKey{container: c.ID})
	p, err := r.fifos.prepare(c.ID, "", c.OpenStdin, c.Terminal)
	if err != nil {
		return 0, container.Streams{}, err
	}
	defer func() {
		if err != nil {
			p.close()
			err = errors.Join(err, r.fifos.remove(c.ID))
		}
	}()
	task, err := r.tasks.Create(in(ctx), c.ID, ctdruntime.CreateOpts{
		Spec:           spec,
		IO:             p.io,
		RuntimeOptions: r.options,
		TaskOptions:    r.options,
		Runtime:        r.shim,
	})
	if err != nil {
		return 0, container.Streams{}, err
	}
	pid, err := task.PID(in(ctx))
	if err == nil {
		err = p.openStdin()
	}
	if err != nil {
		return 0, container.Streams{}, errors.Join(err, r.Delete(context.WithoutCancel(ctx), c.ID, true))
	}
	return int(pid), p.streams, nil
}

// Start implements container.Runtime.
func (r *Runtime) Start(ctx context.Context, id string) error {
	t, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	return gone(t.Start(in(ctx)))
}

// Exec implements container.Runtime.
func (r *Runtime) Exec(ctx context.Context, c container.ExecConfig) (_ int, _ container.Streams, err error) {
	t, err := r.task(ctx, c.Container)
	if err != nil {
		return 0, container.Streams{}, err
	}
	spec, err := typeurl.MarshalAny(c.Process)
	if err != nil {
		return 0, container.Streams{}, fmt.Errorf("encode process of exec %s: %w", c.ID, err)
	}
	p, err := r.fifos.prepare(c.Container, c.ID, c.OpenStdin, c.Terminal)
	if err != nil {
		return 0, container.Streams{}, err
	}
	undo := []func() error{func() error { p.close(); return r.fifos.removeExec(c.Container, c.ID) }}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	proc, err := t.Exec(in(ctx), c.ID, ctdruntime.ExecOpts{Spec: typeurl.MarshalProto(spec), IO: p.io})
	if err != nil {
		return 0, container.Streams{}, gone(err)
	}
	undo = append(undo, func() error {
		if _, err := proc.Delete(in(context.WithoutCancel(ctx))); err != nil && !errdefs.IsNotFound(gone(err)) {
			return err
		}
		return nil
	})
	if err := proc.Start(in(ctx)); err != nil {
		return 0, container.Streams{}, gone(err)
	}
	st, err := proc.State(in(ctx))
	if err == nil {
		err = p.openStdin()
	}
	if err != nil {
		return 0, container.Streams{}, gone(err)
	}
	return int(st.Pid), p.streams, nil
}

// Reattach implements container.Runtime.
func (r *Runtime) Reattach(ctx context.Context, id, exec string, openStdin, terminal bool) (container.Streams, error) {
	if _, err := r.process(ctx, id, exec); err != nil {
		return container.Streams{}, err
	}
	p, err := r.fifos.prepare(id, exec, openStdin, terminal)
	if err != nil {
		return container.Streams{}, err
	}
	if err := p.openStdin(); err != nil {
		p.close()
		return container.Streams{}, err
	}
	return p.streams, nil
}

// List implements container.Runtime.
func (r *Runtime) List(ctx context.Context) (map[string]container.TaskState, error) {
	tasks, err := r.tasks.Tasks(in(ctx), false)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	out := make(map[string]container.TaskState, len(tasks))
	for _, t := range tasks {
		st, err := r.State(ctx, t.ID(), "")
		if errdefs.IsNotFound(err) {
			// Deleted meanwhile, or a shim whose task was never made because the
			// daemon ended in between.
			if err := r.Delete(ctx, t.ID(), false); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for the state of task %s: %w", t.ID(), err)
		}
		out[t.ID()] = st
	}
	return out, nil
}

// State implements container.Runtime.
func (r *Runtime) State(ctx context.Context, id, exec string) (container.TaskState, error) {
	p, err := r.process(ctx, id, exec)
	if err == nil {
		var st ctdruntime.State
		if st, err = p.State(in(ctx)); err == nil {
			return stateOf(st), nil
		}
	}
	if err = gone(err); errdefs.IsNotFound(err) {
		if e, ok := r.exit(procKey{id, exec}); ok { // the shim died
			return container.TaskState{Status: container.TaskStopped, Pid: e.pid, Exit: e.exit}, nil
		}
	}
	return container.TaskState{}, err
}

func stateOf(st ctdruntime.State) container.TaskState {
	out := container.TaskState{Pid: int(st.Pid)}
	switch st.Status {
	case ctdruntime.CreatedStatus:
		out.Status = container.TaskCreated
	case ctdruntime.RunningStatus:
		out.Status = container.TaskRunning
	case ctdruntime.PausedStatus, ctdruntime.PausingStatus:
		out.Status = container.TaskPaused
	case ctdruntime.StoppedStatus, ctdruntime.DeletedStatus:
		out.Status = container.TaskStopped
		out.Exit = container.Exit{Code: int(st.ExitStatus), At: st.ExitedAt}
	}
	return out
}

// Wait implements container.Runtime.
func (r *Runtime) Wait(ctx context.Context, id, exec string) (container.Exit, error) {
	p, err := r.process(ctx, id, exec)
	if err == nil {
		var e *ctdruntime.Exit
		if e, err = p.Wait(in(ctx)); err == nil {
			return container.Exit{Code: int(e.Status), At: e.Timestamp}, nil
		}
	}
	if err = gone(err); !errdefs.IsNotFound(err) {
		return container.Exit{}, err
	}
	// The shim is gone: its end is announced by an event, or it was.
	return r.awaitExit(ctx, procKey{id, exec}, err)
}

// Kill implements container.Runtime.
func (r *Runtime) Kill(ctx context.Context, id, exec string, sig syscall.Signal) error {
	p, err := r.process(ctx, id, exec)
	if err != nil {
		return err
	}
	return gone(p.Kill(in(ctx), uint32(sig), false)) //nolint:gosec // signals are small and positive
}

// Delete implements container.Runtime.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	if force {
		if err := r.end(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	_, err := r.tasks.Delete(in(ctx), id)
	if err = gone(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete task %s: %w", id, err)
	}
	r.forgetAll(id)
	return r.fifos.remove(id)
}

// end kills the main process and everything beside it, and waits.
func (r *Runtime) end(ctx context.Context, id string) error {
	t, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	if err := gone(t.Kill(in(ctx), uint32(syscall.SIGKILL), true)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forceLimit)
	defer cancel()
	_, err = r.Wait(ctx, id, "")
	return err
}

// DeleteExec implements container.Runtime.
func (r *Runtime) DeleteExec(ctx context.Context, id, exec string) error {
	p, err := r.execProcess(ctx, id, exec)
	if err == nil {
		_, err = p.Delete(in(ctx))
	}
	if err = gone(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete exec %s: %w", exec, err)
	}
	r.forget(procKey{id, exec})
	return r.fifos.removeExec(id, exec)
}

// CloseStdin implements container.Runtime.
func (r *Runtime) CloseStdin(ctx context.Context, id, exec string) error {
	p, err := r.process(ctx, id, exec)
	if err != nil {
		return err
	}
	return gone(p.CloseIO(in(ctx)))
}

// Resize implements container.Runtime.
func (r *Runtime) Resize(ctx context.Context, id, exec string, width, height uint32) error {
	p, err := r.process(ctx, id, exec)
	if err != nil {
		return err
	}
	return gone(p.ResizePty(in(ctx), ctdruntime.ConsoleSize{Width: width, Height: height}))
}

// Pause implements container.Runtime.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	t, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	return gone(t.Pause(in(ctx)))
}

// Resume implements container.Runtime.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	t, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	return gone(t.Resume(in(ctx)))
}

// Update implements container.Runtime.
func (r *Runtime) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	t, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	a, err := typeurl.MarshalAny(res)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	return gone(t.Update(in(ctx), &types.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()}, nil))
}

// Pids implements container.Runtime.
func (r *Runtime) Pids(ctx context.Context, id string) ([]int, error) {
	t, err := r.task(ctx, id)
	if err != nil {
		return nil, err
	}
	infos, err := t.Pids(in(ctx))
	if err != nil {
		return nil, gone(err)
	}
	out := make([]int, len(infos))
	for i, p := range infos {
		out[i] = int(p.Pid)
	}
	return out, nil
}

// Events implements container.Runtime.
func (r *Runtime) Events(ctx context.Context) <-chan container.TaskEvent { return r.watch.events(ctx) }

func (r *Runtime) task(ctx context.Context, id string) (ctdruntime.Task, error) {
	t, err := r.tasks.Get(in(ctx), id)
	return t, gone(err)
}

func (r *Runtime) process(ctx context.Context, id, exec string) (ctdruntime.Process, error) {
	if exec == "" {
		return r.task(ctx, id)
	}
	return r.execProcess(ctx, id, exec)
}

func (r *Runtime) execProcess(ctx context.Context, id, exec string) (ctdruntime.ExecProcess, error) {
	t, err := r.task(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := t.Process(in(ctx), exec)
	return p, gone(err)
}

// gone gives the errors that mean "there is no such process" their class: a
// closed connection is a shim that died, and its processes with it. Containerd
// keeps only the text of that error in most calls.
func gone(err error) error {
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return err
	case errors.Is(err, ttrpc.ErrClosed), strings.HasSuffix(err.Error(), ttrpc.ErrClosed.Error()),
		errors.Is(err, syscall.ESRCH), errors.Is(err, os.ErrProcessDone):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// sawExit keeps how a process ended until it is deleted. It reports false for
// an end that is known already: shims and their overseer may both tell.
func (r *Runtime) sawExit(k procKey, pid int, e container.Exit) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.exits[k]; known {
		return false
	}
	r.exits[k] = exitRec{pid: pid, exit: e}
	return true
}

func (r *Runtime) exit(k procKey) (exitRec, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.exits[k]
	return e, ok
}

func (r *Runtime) forget(k procKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.exits, k)
}

func (r *Runtime) forgetAll(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.exits {
		if k.container == id {
			delete(r.exits, k)
		}
	}
}

// awaitExit waits a moment for the announcement of an end whose shim is gone.
func (r *Runtime) awaitExit(ctx context.Context, k procKey, notFound error) (container.Exit, error) {
	deadline := time.NewTimer(forceLimit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if e, ok := r.exit(k); ok {
			return e.exit, nil
		}
		if _, err := r.tasks.Get(in(ctx), k.container); errdefs.IsNotFound(err) {
			if e, ok := r.exit(k); ok {
				return e.exit, nil
			}
			return container.Exit{}, notFound
		}
		select {
		case <-ctx.Done():
			return container.Exit{}, ctx.Err()
		case <-deadline.C:
			return container.Exit{}, notFound
		case <-tick.C:
		}
	}
}
