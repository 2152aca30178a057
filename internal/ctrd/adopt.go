package ctrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
)

// adoptWidth bounds how many shims are talked to at once.
const adoptWidth = 16

// pidFile is what runc leaves in a bundle once it has made the container.
const pidFile = "init.pid"

// adopt finds the tasks that an earlier daemon left, whatever became of them.
func (r *Runtime) adopt(ctx context.Context) error {
	ids, err := r.shims.known()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(adoptWidth)
	for _, id := range ids {
		g.Go(func() error {
			if err := r.adoptOne(ctx, id); err != nil {
				return fmt.Errorf("adopt task %s: %w", id, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(r.sweepFifos(), r.sweepSockets())
}

func (r *Runtime) adoptOne(ctx context.Context, id string) error {
	t := newTask(id)
	t.cgroup = savedCgroup(r.shims.bundle(id))
	ctx, cancel := context.WithTimeout(ctx, shimLimit)
	defer cancel()
	h, err := r.shims.connect(ctx, id)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return r.adoptDead(ctx, t) // nobody listens there
	case err != nil:
		return err // whether it lives is not known, and who lives must not be buried
	}
	st, err := h.api.State(in(ctx), &taskapi.StateRequest{ID: id})
	err = fromShim(err)
	switch {
	case errdefs.IsNotFound(err):
		r.log.Info("shim without a task ended", logkey.Container, id, logkey.Err, err)
		return errors.Join(r.shims.shutdown(ctx, id, h), r.adoptDead(ctx, t))
	case err != nil:
		t.shim = h
		r.adoptSilent(ctx, t, err)
		return nil
	}
	t.shim = h
	state := stateOf(st)
	main, _ := t.add("", state.Pid)
	if state.Status == container.TaskStopped {
		t.finish(main, state.Exit)
	} else {
		t.setPaused(state.Status == container.TaskPaused)
		t.aim(main)
		r.follow(ctx, t, main)
	}
	r.keep(t)
	return nil
}

// adoptSilent takes over a task whose shim is there and says nothing of use: it
// hangs, or the machine is too busy. The task counts as running until its shim
// says otherwise: taken for ended it would be started a second time, on the same
// data.
func (r *Runtime) adoptSilent(ctx context.Context, t *task, cause error) {
	r.log.Error("shim does not answer: its container is left as it is", logkey.Container, t.id, logkey.Err, cause)
	t.silent = true
	main, _ := t.add("", r.pidOf(t))
	if main.pid != 0 {
		t.aim(main)
	}
	r.follow(ctx, t, main)
	r.keep(t)
}

// pidOf reads which process runc made first, where that is still one of the
// task's: the number may be another's by now. Else it is 0.
func (r *Runtime) pidOf(t *task) int {
	b, err := os.ReadFile(filepath.Join(r.shims.bundle(t.id), pidFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	if pids, err := t.cgroup.pids(); err != nil || !slices.Contains(pids, pid) {
		return 0
	}
	return pid
}

// adoptDead takes over a task without a shim: it was never made, or has ended.
func (r *Runtime) adoptDead(ctx context.Context, t *task) error {
	bundle := r.shims.bundle(t.id)
	if err := endMakers(context.WithoutCancel(ctx), bundle); err != nil {
		return err
	}
	t.burial.Do(func() { t.end = r.shims.bury(ctx, t.id) })
	if _, err := os.Stat(filepath.Join(bundle, pidFile)); err != nil {
		if err := removeHalfMadeCgroup(context.WithoutCancel(ctx), bundle); err != nil {
			r.log.Warn("half-made container not cleared away", logkey.Container, t.id, logkey.Err, err)
		}
		return errors.Join(r.shims.discard(t.id), r.fifos.remove(t.id))
	}
	main, _ := t.add("", 0)
	t.finish(main, t.end)
	r.keep(t)
	return nil
}

func (r *Runtime) keep(t *task) {
	close(t.begun)
	r.mu.Lock()
	defer r.mu.Unlock()
	t.claimed = true
	r.tasks[t.id] = t
}

// sweepFifos removes the fifos of containers that have no task.
func (r *Runtime) sweepFifos() error {
	ids, err := r.fifos.containers()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := r.task(id); errdefs.IsNotFound(err) {
			if err := r.fifos.remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepSockets removes the sockets of shims that have no task.
func (r *Runtime) sweepSockets() error {
	entries, err := os.ReadDir(r.shims.sockets)
	if err != nil {
		return fmt.Errorf("look for sockets of ended shims: %w", err)
	}
	ours := map[string]bool{}
	r.mu.Lock()
	for id := range r.tasks {
		ours[r.shims.socket(id)] = true
	}
	r.mu.Unlock()
	for _, e := range entries {
		path := filepath.Join(r.shims.sockets, e.Name())
		if ours[path] {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove socket of an ended shim: %w", err)
		}
	}
	return nil
}

// List implements container.Runtime.
func (r *Runtime) List(ctx context.Context) (map[string]container.TaskState, error) {
	r.mu.Lock()
	ids := make([]string, 0, len(r.tasks))
	for id := range r.tasks {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	out := make(map[string]container.TaskState, len(ids))
	for _, id := range ids {
		t, err := r.task(id)
		if err == nil && t.silent {
			if main, ok := t.known(""); ok && !main.ended() {
				out[id] = container.TaskState{Status: container.TaskRunning, Pid: main.pid}
				continue
			}
		}
		st, err := r.State(ctx, id, "")
		if errdefs.IsNotFound(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("ask for the state of task %s: %w", id, err)
		}
		out[id] = st
	}
	return out, nil
}

// State implements container.Runtime. One that ended is remembered; others the
// shim knows.
func (r *Runtime) State(ctx context.Context, id, exec string) (container.TaskState, error) {
	t, p, err := r.process(ctx, id, exec)
	if err != nil {
		return container.TaskState{}, err
	}
	if !p.ended() {
		asked, cancel := context.WithTimeout(ctx, shimLimit)
		defer cancel()
		st, err := t.shim.api.State(in(asked), &taskapi.StateRequest{ID: id, ExecID: exec})
		if err == nil {
			return stateOf(st), nil
		}
		if err = fromShim(err); !errdefs.IsNotFound(err) {
			return container.TaskState{}, err
		}
		// Its shim died or is just being deleted: how it ended will be known.
		ctx, cancel := context.WithTimeout(ctx, forceLimit)
		defer cancel()
		select {
		case <-p.done:
		case <-ctx.Done():
			return container.TaskState{}, err
		}
	}
	return container.TaskState{Status: container.TaskStopped, Pid: p.pid, Exit: p.exit}, nil
}

func stateOf(st *taskapi.StateResponse) container.TaskState {
	out := container.TaskState{Pid: int(st.GetPid())}
	switch st.GetStatus() {
	case tasktypes.Status_CREATED:
		out.Status = container.TaskCreated
	case tasktypes.Status_RUNNING:
		out.Status = container.TaskRunning
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		out.Status = container.TaskPaused
	case tasktypes.Status_STOPPED:
		out.Status = container.TaskStopped
		out.Exit = container.Exit{Code: int(st.GetExitStatus()), At: st.GetExitedAt().AsTime()}
	case tasktypes.Status_UNKNOWN:
	}
	return out
}
