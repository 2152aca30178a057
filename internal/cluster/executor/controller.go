package executor

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/api/naming"
	"github.com/moby/swarmkit/v2/template"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// controller drives the container of one task.
type controller struct {
	e    *Executor
	task *api.Task
	name string // of the container
}

var (
	_ exec.Controller        = (*controller)(nil)
	_ exec.ControllerLogs    = (*controller)(nil)
	_ exec.ContainerStatuser = (*controller)(nil)
	_ exec.PortStatuser      = (*controller)(nil)
)

func newController(e *Executor, t *api.Task) *controller {
	return &controller{e: e, task: t, name: naming.Task(t)}
}

// errUnhealthy is why a task fails whose container does not get or stay healthy.
var errUnhealthy = errors.New("unhealthy container")

// exitError is a container that ended badly.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("task: non-zero exit (%d): %v", e.code, e.cause)
	}
	return fmt.Sprintf("task: non-zero exit (%d)", e.code)
}

// ExitCode implements exec.ExitCoder.
func (e *exitError) ExitCode() int { return e.code }

func (e *exitError) Unwrap() error { return e.cause }

// held gives the error that has SwarmKit ask again later, once the daemon goes.
// SwarmKit looks for these two errors themselves, not for what wraps them.
func (c *controller) held() error {
	if c.e.isHeld() {
		return context.Canceled
	}
	return nil
}

// settled prefers a context's end over what it caused.
func settled(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Update implements exec.Controller: what changes in a task that runs is for
// the manager only.
func (c *controller) Update(context.Context, *api.Task) error { return nil }

// Close implements exec.Controller.
func (c *controller) Close() error { return nil }

// Prepare implements exec.Controller.
func (c *controller) Prepare(ctx context.Context) error {
	if err := c.held(); err != nil {
		return err
	}
	return settled(ctx, c.prepare(ctx))
}

func (c *controller) prepare(ctx context.Context) error {
	switch _, err := c.inspect(ctx); {
	case err == nil:
		return exec.ErrTaskPrepared
	case !errdefs.IsNotFound(err):
		return err
	}
	if err := c.e.d.Mesh.Hold(ctx, c.task); err != nil {
		return err
	}
	node := describe(c.e.d.Facts())
	spec, err := template.ExpandContainerSpec(node, c.task)
	if err != nil {
		return err
	}
	if err := c.image(ctx, spec); err != nil {
		return err
	}
	fs, err := c.e.files(c.task, node)
	if err != nil {
		return err
	}
	mounts, err := c.e.writeFiles(c.task.ID, fs)
	if err != nil {
		return err
	}
	own, err := c.e.memberMounts(c.task, spec)
	if err != nil {
		return err
	}
	mounts = append(mounts, own...)
	req, err := containerFor(c.task, spec, mounts)
	if err != nil {
		return err
	}
	_, err = c.e.d.Containers.Create(ctx, req)
	if errdefs.IsConflict(err) || errdefs.IsAlreadyExists(err) {
		if _, ierr := c.inspect(ctx); ierr == nil {
			return exec.ErrTaskPrepared
		}
	}
	return err
}

// image sees to it that the image is here. One that is here is taken as it is:
// clients name the digest where a registry told them.
func (c *controller) image(ctx context.Context, spec *api.ContainerSpec) error {
	has, err := c.e.d.Images.Has(ctx, spec.Image)
	if err != nil || has {
		return err
	}
	auth := ""
	if spec.PullOptions != nil {
		auth = spec.PullOptions.RegistryAuth
	}
	if err := c.e.d.Images.Pull(ctx, spec.Image, auth); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Only its text: errors of the network say of themselves that they are
		// temporary, and SwarmKit would try here for ever instead of elsewhere.
		return fmt.Errorf("pull %s: %s", spec.Image, err.Error())
	}
	return nil
}

// inspect finds the task's container. One that only has its name is not it.
func (c *controller) inspect(ctx context.Context) (dockercontainer.InspectResponse, error) {
	in, err := c.e.d.Containers.Inspect(ctx, c.name, false)
	if err != nil {
		return in, err
	}
	if in.Config == nil || in.Config.Labels[labelTaskID] != c.task.ID {
		return in, fmt.Errorf("the name %s is taken by container %s", c.name, in.ID)
	}
	return in, nil
}

// ended tells a container that was started and does not run any more.
func ended(in dockercontainer.InspectResponse) bool {
	switch in.State.Status {
	case dockercontainer.StateExited, dockercontainer.StateDead, dockercontainer.StateRemoving:
		return true
	default:
		return false
	}
}

// Start implements exec.Controller. It returns once the container is healthy.
func (c *controller) Start(ctx context.Context) error {
	if err := c.held(); err != nil {
		return err
	}
	return settled(ctx, c.start(ctx))
}

func (c *controller) start(ctx context.Context) error {
	in, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	if ended(in) {
		return exec.ErrTaskStarted // Wait tells how it ended
	}
	if err := c.e.d.Mesh.Hold(ctx, c.task); err != nil {
		return err
	}
	if !in.State.Running {
		if err := c.show(in, false); err != nil {
			return err
		}
		if err := c.e.d.Containers.Start(ctx, in.ID); err != nil && !errdefs.IsNotModified(err) {
			return err
		}
	}
	if err := c.waitHealthy(ctx, in.ID); err != nil {
		c.e.d.Mesh.Hide(c.task.ID)
		return err
	}
	return c.show(in, true)
}

// show tells other nodes of the container.
func (c *controller) show(in dockercontainer.InspectResponse, healthy bool) error {
	own := []string{c.name}
	if in.Config.Hostname != "" {
		own = append(own, in.Config.Hostname)
	}
	return c.e.d.Mesh.Show(c.task, own, healthy)
}

// leave takes the task's names and networks back. What it cannot take down now
// goes when the node settles.
func (c *controller) leave(ctx context.Context) {
	if err := c.e.d.Mesh.Release(ctx, c.task.ID); err != nil {
		c.e.d.Log.Warn("networks of a task not taken down", logkey.Name, c.name, logkey.Err, err)
	}
}

// waitHealthy returns when the container is healthy, or has no health check.
func (c *controller) waitHealthy(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		_, changes := c.e.d.Events.Subscribe(ctx, 0, healthEvents(id))
		for open := true; open; {
			in, err := c.inspect(ctx)
			if err != nil {
				return err
			}
			switch h := in.State.Health; {
			case !in.State.Running:
				return exit(in, nil)
			case h == nil || h.Status == dockercontainer.NoHealthcheck || h.Status == dockercontainer.Healthy:
				return nil
			case h.Status == dockercontainer.Unhealthy:
				return c.unhealthy(ctx, id)
			}
			select {
			case _, open = <-changes: // closed: too many at once, subscribe again
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// unhealthy stops a container whose health check failed.
func (c *controller) unhealthy(ctx context.Context, id string) error {
	c.hide()
	if err := c.stop(ctx, id); err != nil {
		return err
	}
	in, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	return &exitError{code: in.State.ExitCode, cause: errUnhealthy}
}

// healthEvents keeps what changes a container's health or ends it.
func healthEvents(id string) func(events.Message) bool {
	return func(m events.Message) bool {
		if m.Type != events.ContainerEventType || m.Actor.ID != id {
			return false
		}
		switch m.Action {
		case events.ActionDie, events.ActionDestroy, events.ActionHealthStatus, events.ActionHealthStatusHealthy, events.ActionHealthStatusUnhealthy:
			return true
		default:
			return false
		}
	}
}

// exit is how a container ended: nil for well.
func exit(in dockercontainer.InspectResponse, cause error) error {
	if cause == nil && in.State.Error != "" {
		cause = errors.New(in.State.Error)
	}
	if in.State.ExitCode == 0 && cause == nil {
		return nil
	}
	return &exitError{code: in.State.ExitCode, cause: cause}
}

// Wait implements exec.Controller: until the container ends or gets unhealthy.
func (c *controller) Wait(ctx context.Context) error { return settled(ctx, c.wait(ctx)) }

func (c *controller) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	end, err := c.e.d.Containers.Wait(ctx, in.ID, dockercontainer.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	for {
		_, changes := c.e.d.Events.Subscribe(ctx, 0, healthEvents(in.ID))
		for open := true; open; {
			if in, err = c.inspect(ctx); err != nil {
				return err
			}
			if h := in.State.Health; in.State.Running && h != nil && h.Status == dockercontainer.Unhealthy {
				return c.unhealthy(ctx, in.ID)
			}
			select {
			case <-end:
				if c.e.isHeld() {
					return context.Canceled // the daemon stops its containers: the next one looks at it
				}
				c.leave(ctx)
				if in, err = c.inspect(ctx); err != nil {
					return err
				}
				return exit(in, nil)
			case _, open = <-changes:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// Shutdown implements exec.Controller.
func (c *controller) Shutdown(ctx context.Context) error {
	if err := c.held(); err != nil {
		return err
	}
	c.hide()
	in, err := c.inspect(ctx)
	if errdefs.IsNotFound(err) {
		c.leave(ctx)
		return nil
	}
	if err != nil {
		return settled(ctx, err)
	}
	if err := c.stop(ctx, in.ID); err != nil {
		return settled(ctx, err)
	}
	c.leave(ctx)
	return nil
}

// hide takes the container out of names and services. It can still be reached by
// those who are at it.
func (c *controller) hide() {
	if err := c.e.d.Mesh.Show(c.task, nil, false); err != nil {
		c.e.d.Mesh.Hide(c.task.ID)
	}
}

// stop stops the container with the task's grace period, which is its own.
func (c *controller) stop(ctx context.Context, id string) error {
	err := c.e.d.Containers.Stop(ctx, id, "", nil)
	if errdefs.IsNotFound(err) || errdefs.IsNotModified(err) {
		return nil
	}
	return err
}

// Terminate implements exec.Controller.
func (c *controller) Terminate(ctx context.Context) error {
	if err := c.held(); err != nil {
		return err
	}
	c.hide()
	in, err := c.inspect(ctx)
	if err == nil {
		err = c.e.d.Containers.Kill(ctx, in.ID, "")
	}
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) { // gone, or does not run
		return nil
	}
	return settled(ctx, err)
}

// Remove implements exec.Controller.
func (c *controller) Remove(ctx context.Context) error {
	if err := c.held(); err != nil {
		return err
	}
	in, err := c.inspect(ctx)
	if err == nil {
		if err = c.stop(ctx, in.ID); err == nil {
			err = c.e.removeContainer(ctx, in.ID)
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return settled(ctx, err)
	}
	c.leave(ctx)
	if err := errors.Join(c.e.dropSecrets(c.task.ID), c.e.dropMember(c.task.ID)); err != nil {
		return err
	}
	c.e.forget(c.task.ID)
	return nil
}

// ContainerStatus implements exec.ContainerStatuser.
func (c *controller) ContainerStatus(ctx context.Context) (*api.ContainerStatus, error) {
	in, err := c.inspect(ctx)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.ContainerStatus{ContainerID: in.ID, PID: int32(in.State.Pid), ExitCode: int32(in.State.ExitCode)}, nil
}

// PortStatus implements exec.PortStatuser: the ports of the node that lead to
// the task.
func (c *controller) PortStatus(ctx context.Context) (*api.PortStatus, error) {
	wanted := hostPorts(c.task)
	if len(wanted) == 0 {
		return nil, nil
	}
	in, err := c.inspect(ctx)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil || in.NetworkSettings == nil {
		return nil, err
	}
	return portStatus(wanted, in.NetworkSettings.Ports), nil
}
