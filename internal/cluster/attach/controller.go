package attach

import (
	"context"

	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
)

// controller is an attachment as SwarmKit drives it.
type controller struct {
	a *Attacher
	t *api.Task
}

var _ exec.Controller = controller{}

// Controller is what SwarmKit drives an attachment by.
func (a *Attacher) Controller(t *api.Task) exec.Controller { return controller{a, t} }

// Update implements exec.Controller: nothing of an attachment changes.
func (controller) Update(context.Context, *api.Task) error { return nil }

// Prepare implements exec.Controller.
func (c controller) Prepare(ctx context.Context) error { return c.a.assigned(ctx, c.t) }

// Start implements exec.Controller.
func (controller) Start(context.Context) error { return nil }

// Wait implements exec.Controller. After a restart of the daemon it is what is
// called first.
func (c controller) Wait(ctx context.Context) error {
	if err := c.a.assigned(ctx, c.t); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// Shutdown implements exec.Controller: a manager takes it back.
func (c controller) Shutdown(ctx context.Context) error { return c.off(ctx) }

// Terminate implements exec.Controller.
func (c controller) Terminate(ctx context.Context) error { return c.off(ctx) }

// Remove implements exec.Controller.
func (c controller) Remove(ctx context.Context) error { return c.off(ctx) }

func (c controller) off(ctx context.Context) error {
	c.a.mu.Lock()
	at := c.a.all[c.t.ID]
	c.a.mu.Unlock()
	if at == nil {
		return nil
	}
	return c.a.evict(ctx, at)
}

// Close implements exec.Controller.
func (controller) Close() error { return nil }
