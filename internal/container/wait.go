package container

import (
	"context"

	"github.com/moby/moby/api/types/container"
)

// waiter is one request to be told of an end.
type waiter struct {
	cond container.WaitCondition
	to   chan container.WaitResponse // buffered
}

// Wait registers for the condition; the channel gives one response.
func (s *Service) Wait(ctx context.Context, name string, cond container.WaitCondition) (<-chan container.WaitResponse, error) {
	c, err := s.lookup(name)
	if err != nil {
		return nil, err
	}
	switch cond {
	case "":
		cond = container.WaitConditionNotRunning
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, invalid("invalid condition: %q", string(cond))
	}
	to := make(chan container.WaitResponse, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.met(cond) {
		to <- c.waitResponse()
		return to, nil
	}
	c.waiters = append(c.waiters, waiter{cond: cond, to: to})
	if ctx.Done() != nil {
		context.AfterFunc(ctx, func() { c.dropWaiter(to) })
	}
	return to, nil
}

// met is called with c.mu held. A removal that failed is over too: nobody goes on
// with it before somebody asks for it again.
func (c *Container) met(cond container.WaitCondition) bool {
	switch {
	case c.removed:
		return true
	case cond == container.WaitConditionRemoved:
		return c.rec.Phase == Dead
	case cond == container.WaitConditionNotRunning:
		return !c.rec.shown().running()
	}
	return false
}

// waitResponse is called with c.mu held.
func (c *Container) waitResponse() container.WaitResponse {
	r := container.WaitResponse{StatusCode: int64(c.rec.ExitCode)}
	if c.rec.Error != "" {
		r.Error = &container.WaitExitError{Message: c.rec.Error}
	}
	return r
}

func (c *Container) dropWaiter(to chan container.WaitResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.waiters {
		if w.to == to {
			c.waiters = append(c.waiters[:i:i], c.waiters[i+1:]...)
			return
		}
	}
}

// notifyExit tells those who wait for an end, not those who wait for the removal.
func (s *Service) notifyExit(c *Container) { c.notify(false, nil) }

// notifyRemoval tells everybody how a removal ended.
func (c *Container) notifyRemoval(err error) { c.notify(true, err) }

func (c *Container) notify(removal bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.waitResponse()
	if err != nil { // which the record has only where it could be changed
		r.Error = &container.WaitExitError{Message: err.Error()}
	}
	var rest []waiter
	for _, w := range c.waiters {
		if w.cond == container.WaitConditionRemoved && !removal {
			rest = append(rest, w)
			continue
		}
		w.to <- r
	}
	c.waiters = rest
}
