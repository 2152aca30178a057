package container

import (
	"slices"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// moves is every legal change of phase.
//
// Running is not written to disk: the Starting record, written while the
// runtime makes the task, is the intent, and Restore reads the runtime to see
// how far it came. That keeps a start at one write off the critical path.
var moves = map[Phase][]Phase{
	Created:    {Starting, Removing},
	Starting:   {Running, Created, Exited, Restarting},
	Running:    {Paused, Stopping, Exited, Restarting, Removing},
	Paused:     {Running, Stopping, Exited, Restarting, Removing},
	Stopping:   {Running, Paused, Exited, Restarting, Removing},
	Exited:     {Starting, Removing},
	Restarting: {Starting, Exited, Removing},
	Removing:   {Dead},
	Dead:       {Removing},
}

// to is the only way a container changes phase in memory. change edits the
// record in the same step. The caller holds op.
func (s *Service) to(c *Container, p Phase, why string, change func(*Record)) error {
	c.mu.Lock()
	from := c.rec.Phase
	if !slices.Contains(moves[from], p) {
		id := c.rec.ID
		c.mu.Unlock()
		return fault.New(errdefs.ErrFailedPrecondition, "container %s cannot go from %s to %s", id, from, p)
	}
	c.rec.Phase = p
	if change != nil {
		change(&c.rec)
	}
	id := c.rec.ID
	c.mu.Unlock()
	s.d.Log.Debug("phase changed", logkey.Container, id, logkey.From, string(from), logkey.To, string(p), logkey.Why, why)
	return nil
}

// save writes the record as it is in memory.
func (s *Service) save(c *Container) error {
	r := c.record()
	return s.d.Records.Put(r.ID, &r)
}
