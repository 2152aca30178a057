package ctrd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
)

// forceLimit bounds the wait for a killed process.
const forceLimit = 10 * time.Second

// Runtime runs processes through shims. It implements container.Runtime.
type Runtime struct {
	shims   shims
	options *anypb.Any
	fifos   fifos
	queue   *queue
	log     *slog.Logger
	follows sync.WaitGroup
	reports *eventServer // nil before start

	mu    sync.Mutex // guards tasks
	tasks map[string]*task
}

var _ container.Runtime = (*Runtime)(nil)

// newRuntime returns a Runtime that has all it keeps below dir.
func newRuntime(cfg *Config, dir string) (*Runtime, error) {
	opts, err := typeurl.MarshalAnyToProto(&options.Options{
		BinaryName:    cfg.RuncPath,
		Root:          filepath.Join(dir, "runc"),
		SystemdCgroup: cfg.SystemdCgroup,
	})
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	r := &Runtime{
		shims: shims{
			program: cfg.ShimPath,
			mark:    filepath.Join(dir, "none.sock"),
			events:  filepath.Join(dir, "events.sock"),
			bundles: filepath.Join(dir, "tasks", Namespace),
			sockets: filepath.Join(dir, "s"),
			log:     cfg.Log,
		},
		options: opts,
		fifos:   fifos{dir: filepath.Join(dir, "io")},
		queue:   newQueue(),
		log:     cfg.Log,
		tasks:   map[string]*task{},
	}
	for path, mode := range map[string]os.FileMode{dir: 0o711, filepath.Join(dir, "tasks"): 0o711, r.fifos.dir: 0o700, r.shims.sockets: 0o711} {
		if err := makeDir(path, mode); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.shims.bundles, 0o711); err != nil {
		return nil, fmt.Errorf("make directory for bundles: %w", err)
	}
	return r, r.shims.open()
}

// start adopts what an earlier engine left, and listens to its shims.
func (r *Runtime) start(ctx context.Context) error {
	var err error
	if r.reports, err = serveEvents(ctx, r.shims.events, r.oomOf, r.log); err != nil {
		return err
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	return r.sweepShims()
}

// close lets go of the shims; they and their containers go on.
func (r *Runtime) close() error {
	r.mu.Lock()
	var errs []error
	for _, t := range r.tasks {
		t.leave()
		if t.shim != nil {
			errs = append(errs, t.shim.conn.Close())
		}
	}
	r.mu.Unlock()
	r.follows.Wait()
	r.queue.close()
	errs = append(errs, r.shims.close())
	if r.reports != nil {
		errs = append(errs, r.reports.close())
	}
	return errors.Join(errs...)
}

func in(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, Namespace) }

// Create implements container.Runtime.
func (r *Runtime) Create(ctx context.Context, c container.TaskConfig) (_ int, _ container.Streams, err error) {
	if c.Runtime != "" && c.Runtime != "runc" && c.Runtime != "io.containerd.runc.v2" {
		return 0, container.Streams{}, fmt.Errorf("unknown runtime %q: %w", c.Runtime, errdefs.ErrInvalidArgument)
	}
	t := r.ready(ctx, c.ID)
	r.mu.Lock()
	claimed := t.claimed
	t.claimed = true
	r.mu.Unlock()
	if claimed {
		return 0, container.Streams{}, fmt.Errorf("task %s: %w", c.ID, errdefs.ErrAlreadyExists)
	}
	p, err := r.fifos.prepare(c.ID, "", c.OpenStdin, c.Terminal)
	if err != nil {
		return 0, container.Streams{}, errors.Join(err, r.drop(ctx, t))
	}
	pid, err := r.create(ctx, t, c.Spec, p)
	if err != nil {
		p.close()
		r.forget(t)
		return 0, container.Streams{}, errors.Join(err, r.fifos.remove(c.ID))
	}
	return pid, p.streams, nil
}

// Ready implements container.Runtime.
func (r *Runtime) Ready(ctx context.Context, id string) { r.ready(ctx, id) }

// ready starts the shim of a task in the background, unless there is one.
func (r *Runtime) ready(ctx context.Context, id string) *task {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tasks[id]; ok {
		return t
	}
	t := newTask(id)
	r.tasks[id] = t
	r.follows.Go(func() {
		defer close(t.begun)
		t.beginErr = r.shims.begin(context.WithoutCancel(ctx), id)
	})
	return t
}

// drop gives up a task that was readied and did not come to be.
func (r *Runtime) drop(ctx context.Context, t *task) error {
	<-t.begun
	var err error
	if t.beginErr == nil {
		err = r.shims.giveUp(context.WithoutCancel(ctx), t.id)
	}
	r.forget(t)
	return err
}

// create has the shim make the task; what it made it undoes.
func (r *Runtime) create(ctx context.Context, t *task, spec *specs.Spec, p *pipes) (_ int, err error) {
	<-t.begun
	if t.beginErr != nil {
		return 0, t.beginErr
	}
	h, err := r.shims.join(ctx, t.id, spec)
	if err != nil {
		return 0, errors.Join(err, r.shims.giveUp(context.WithoutCancel(ctx), t.id))
	}
	resp, err := h.api.Create(in(ctx), &taskapi.CreateTaskRequest{
		ID: t.id, Bundle: r.shims.bundle(t.id), Options: r.options,
		Stdin: p.io.Stdin, Stdout: p.io.Stdout, Stderr: p.io.Stderr, Terminal: p.io.Terminal,
	})
	if err != nil {
		err = r.shims.quoteLog(t.id, fromShim(err))
		return 0, errors.Join(err, r.shims.shutdown(ctx, t.id, h), r.shims.discard(t.id))
	}
	pid := int(resp.GetPid())
	t.shim = h
	main, _ := t.add("", pid)
	t.aim(main)
	t.cgroup, err = saveCgroup(pid, r.shims.bundle(t.id))
	if err == nil {
		err = p.openStdin(ctx)
	}
	r.follow(ctx, t, main)
	if err != nil {
		return 0, errors.Join(err, r.Delete(context.WithoutCancel(ctx), t.id, true))
	}
	return pid, nil
}

// exitKilled is the code of a process that SIGKILL ended.
const exitKilled = 128 + int(syscall.SIGKILL)

// follow waits for the end of a process and tells it. A shim answers each of
// these calls once; if its connection ends instead, it is dead, and so are the
// processes it held.
func (r *Runtime) follow(ctx context.Context, t *task, p *process) {
	ctx = in(context.WithoutCancel(ctx))
	r.follows.Go(func() {
		resp, err := t.shim.api.Wait(ctx, &taskapi.WaitRequest{ID: t.id, ExecID: p.exec})
		if err = fromShim(err); err == nil {
			r.ended(t, p, container.Exit{Code: int(resp.GetExitStatus()), At: resp.GetExitedAt().AsTime()})
			return
		}
		switch {
		case p.ended():
			return
		case t.left() && t.over():
			// The task was deleted while it was asked: with its main process the
			// kernel killed every other one.
			r.ended(t, p, container.Exit{Code: exitKilled, At: time.Now()})
			return
		case t.left(): // we go, the process stays
			return
		}
		if !lost(ctx, t.shim) {
			// Deleted, so it had ended: whoever deleted it knew how.
			t.finish(p, container.Exit{At: time.Now()})
			return
		}
		r.ended(t, p, r.bury(ctx, t))
	})
}

// lost tells whether the connection to a shim has ended.
func lost(ctx context.Context, h *shim) bool {
	ctx, cancel := context.WithTimeout(ctx, shimLimit)
	defer cancel()
	_, err := h.api.Connect(ctx, &taskapi.ConnectRequest{})
	return err != nil
}

// ended notes how a process ended and tells it, once.
func (r *Runtime) ended(t *task, p *process, e container.Exit) {
	if p.exec == "" && t.cgroup.oomKilled() {
		r.sawOOM(t) // its own report may be late
	}
	if t.finish(p, e) {
		r.queue.put(container.TaskEvent{Container: t.id, Exec: p.exec, Kind: container.TaskExited, Pid: p.pid, Exit: e})
	}
}

// oomOf is called where a shim reports that the kernel killed for memory.
func (r *Runtime) oomOf(id string) {
	if t, err := r.task(id); err == nil {
		r.sawOOM(t)
	}
}

func (r *Runtime) sawOOM(t *task) {
	if t.sawOOM() {
		r.queue.put(container.TaskEvent{Container: t.id, Kind: container.TaskOOM})
	}
}

// Start implements container.Runtime.
func (r *Runtime) Start(ctx context.Context, id string) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	_, err = t.shim.api.Start(in(ctx), &taskapi.StartRequest{ID: id})
	return r.shims.quoteLog(id, fromShim(err))
}

// Exec implements container.Runtime.
func (r *Runtime) Exec(ctx context.Context, c container.ExecConfig) (_ int, _ container.Streams, err error) {
	t, err := r.live(c.Container)
	if err != nil {
		return 0, container.Streams{}, err
	}
	spec, err := typeurl.MarshalAnyToProto(c.Process)
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
	_, err = t.shim.api.Exec(in(ctx), &taskapi.ExecProcessRequest{
		ID: c.Container, ExecID: c.ID, Spec: spec,
		Stdin: p.io.Stdin, Stdout: p.io.Stdout, Stderr: p.io.Stderr, Terminal: p.io.Terminal,
	})
	if err != nil {
		return 0, container.Streams{}, fromExec(err)
	}
	undo = append(undo, func() error { return r.deleteExec(context.WithoutCancel(ctx), t, c.ID) })
	resp, err := t.shim.api.Start(in(ctx), &taskapi.StartRequest{ID: c.Container, ExecID: c.ID})
	if err == nil {
		err = p.openStdin(ctx)
	}
	if err != nil {
		return 0, container.Streams{}, fromExec(err)
	}
	pid := int(resp.GetPid())
	if proc, fresh := t.add(c.ID, pid); fresh {
		t.aim(proc)
		r.follow(ctx, t, proc)
	}
	return pid, p.streams, nil
}

// Reattach implements container.Runtime.
func (r *Runtime) Reattach(ctx context.Context, id, exec string, openStdin, terminal bool) (container.Streams, error) {
	if _, _, err := r.process(ctx, id, exec); err != nil {
		return container.Streams{}, err
	}
	p, err := r.fifos.prepare(id, exec, openStdin, terminal)
	if err != nil {
		return container.Streams{}, err
	}
	if err := p.reopenStdin(); err != nil {
		p.close()
		return container.Streams{}, err
	}
	return p.streams, nil
}

// Wait implements container.Runtime.
func (r *Runtime) Wait(ctx context.Context, id, exec string) (container.Exit, error) {
	_, p, err := r.process(ctx, id, exec)
	if err != nil {
		return container.Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return container.Exit{}, ctx.Err()
	}
}

// Kill implements container.Runtime.
func (r *Runtime) Kill(ctx context.Context, id, exec string, sig syscall.Signal) error {
	t, p, err := r.process(ctx, id, exec)
	if err != nil {
		return err
	}
	handled, err := t.signal(p, sig)
	if handled || err != nil {
		return err
	}
	_, err = t.shim.api.Kill(in(ctx), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: uint32(sig)}) //nolint:gosec // signals are small and positive
	return fromShim(err)
}

// Delete implements container.Runtime.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	t, err := r.task(id)
	if err != nil {
		return r.fifos.remove(id) // of a task that was never made
	}
	r.mu.Lock()
	claimed := t.claimed
	t.claimed = true
	r.mu.Unlock()
	if !claimed { // readied only
		return errors.Join(r.drop(ctx, t), r.fifos.remove(id))
	}
	if main, ok := t.known(""); force && ok && !main.ended() {
		if err := r.kill(ctx, t, main); err != nil {
			return err
		}
	}
	if t.shim != nil && !t.isDead() {
		_, err := t.shim.api.Delete(in(ctx), &taskapi.DeleteRequest{ID: id})
		err = fromShim(err)
		switch {
		case err == nil:
		case !errdefs.IsNotFound(err):
			return fmt.Errorf("delete task %s: %w", id, err)
		case lost(in(ctx), t.shim):
			r.bury(ctx, t)
		}
		t.leave()
		if err := r.shims.shutdown(ctx, id, t.shim); err != nil {
			r.log.Warn("shim not ended", logkey.Container, id, logkey.Err, err)
		}
	}
	err = errors.Join(r.shims.discard(id), r.fifos.remove(id))
	r.forget(t) // files that are left go when they are in the way
	if err != nil {
		return fmt.Errorf("remove files of task %s: %w", id, err)
	}
	return nil
}

// bury clears away what a dead shim left, once, and tells how its task ended.
func (r *Runtime) bury(ctx context.Context, t *task) container.Exit {
	t.burial.Do(func() {
		t.end = r.shims.bury(ctx, t.id)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dead = true
	})
	return t.end
}

// kill ends the main process and everything beside it, and waits.
func (r *Runtime) kill(ctx context.Context, t *task, main *process) error {
	_, err := t.shim.api.Kill(in(ctx), &taskapi.KillRequest{ID: t.id, Signal: uint32(syscall.SIGKILL), All: true})
	if err = fromShim(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill task %s: %w", t.id, err)
	}
	limit := time.NewTimer(forceLimit)
	defer limit.Stop()
	select {
	case <-main.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("the killed process %d of task %s does not end: %w", main.pid, t.id, errdefs.ErrUnavailable)
	}
}

// DeleteExec implements container.Runtime.
func (r *Runtime) DeleteExec(ctx context.Context, id, exec string) error {
	if t, err := r.live(id); err == nil {
		if err := r.deleteExec(ctx, t, exec); err != nil {
			return err
		}
		t.forget(exec)
	}
	return r.fifos.removeExec(id, exec)
}

func (r *Runtime) deleteExec(ctx context.Context, t *task, exec string) error {
	_, err := t.shim.api.Delete(in(ctx), &taskapi.DeleteRequest{ID: t.id, ExecID: exec})
	if err = fromShim(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete exec %s: %w", exec, err)
	}
	return nil
}

// CloseStdin implements container.Runtime.
func (r *Runtime) CloseStdin(ctx context.Context, id, exec string) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	_, err = t.shim.api.CloseIO(in(ctx), &taskapi.CloseIORequest{ID: id, ExecID: exec, Stdin: true})
	return fromShim(err)
}

// Resize implements container.Runtime.
func (r *Runtime) Resize(ctx context.Context, id, exec string, width, height uint32) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	_, err = t.shim.api.ResizePty(in(ctx), &taskapi.ResizePtyRequest{ID: id, ExecID: exec, Width: width, Height: height})
	return fromShim(err)
}

// Pause implements container.Runtime.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	t.setPaused(true)
	_, err = t.shim.api.Pause(in(ctx), &taskapi.PauseRequest{ID: id})
	if err != nil {
		t.setPaused(false)
	}
	if err = fromShim(err); err != nil && strings.Contains(err.Error(), "container not running") {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound) // runc sees the end before its shim
	}
	return err
}

// Resume implements container.Runtime.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	_, err = t.shim.api.Resume(in(ctx), &taskapi.ResumeRequest{ID: id})
	if err == nil {
		t.setPaused(false)
	}
	return fromShim(err)
}

// Update implements container.Runtime.
func (r *Runtime) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	t, err := r.live(id)
	if err != nil {
		return err
	}
	a, err := typeurl.MarshalAnyToProto(res)
	if err != nil {
		return fmt.Errorf("encode resources of task %s: %w", id, err)
	}
	_, err = t.shim.api.Update(in(ctx), &taskapi.UpdateTaskRequest{ID: id, Resources: a})
	return fromShim(err)
}

// Pids implements container.Runtime.
func (r *Runtime) Pids(_ context.Context, id string) ([]int, error) {
	t, err := r.live(id)
	if err != nil {
		return nil, err
	}
	pids, err := t.cgroup.pids()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound) // it has ended
	}
	return pids, err
}

// Events implements container.Runtime.
func (r *Runtime) Events(ctx context.Context) <-chan container.TaskEvent { return r.queue.events(ctx) }

func (r *Runtime) task(id string) (*task, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tasks[id]; ok {
		return t, nil
	}
	return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

// live is a task whose shim can be called.
func (r *Runtime) live(id string) (*task, error) {
	t, err := r.task(id)
	if err == nil && t.shim == nil {
		err = fmt.Errorf("shim of task %s: %w", id, errdefs.ErrNotFound)
	}
	return t, err
}

// process finds a process, also one that an earlier daemon started.
func (r *Runtime) process(ctx context.Context, id, exec string) (*task, *process, error) {
	t, err := r.task(id)
	if err != nil {
		return nil, nil, err
	}
	if p, ok := t.known(exec); ok {
		return t, p, nil
	}
	if t.shim == nil || exec == "" {
		return nil, nil, fmt.Errorf("process %q of task %s: %w", exec, id, errdefs.ErrNotFound)
	}
	st, err := t.shim.api.State(in(ctx), &taskapi.StateRequest{ID: id, ExecID: exec})
	if err != nil {
		return nil, nil, fromShim(err)
	}
	p, fresh := t.add(exec, int(st.GetPid()))
	if fresh {
		r.follow(ctx, t, p)
	}
	return t, p, nil
}

func (r *Runtime) forget(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks[t.id] == t {
		delete(r.tasks, t.id)
	}
	t.forget("")
}
