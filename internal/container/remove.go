package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// Remove deletes a container that does not run, or, with Force, any.
func (s *Service) Remove(ctx context.Context, name string, o RemoveOptions) error {
	if o.Link {
		return s.removeLink(ctx, name)
	}
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	r := c.record()
	if r.Phase == Removing {
		return conflict("removal of container %s is already in progress", name)
	}
	if r.Phase.running() && !o.Force {
		return fmt.Errorf("cannot remove container %q: %w", name, errStillRuns(&r))
	}
	for try := 0; ; try++ {
		if o.Force {
			if err := s.kill(ctx, c); err != nil {
				return fmt.Errorf("cannot remove container %q: could not kill container: %w", name, err)
			}
		}
		err := s.removeStopped(ctx, c, o.Volumes, nil)
		// With force, one that was on its way up, or that somebody started
		// meanwhile, is ended like any other.
		if errors.As(err, new(stillRuns)) && o.Force && try < forcedRemovals {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot remove container %q: %w", name, err)
		}
		return nil
	}
}

// forcedRemovals is how often a forced removal kills again what was started
// under its hands.
const forcedRemovals = 5

// stillRuns says that a container cannot be removed because it runs.
type stillRuns struct{ error }

func (e stillRuns) Unwrap() error { return e.error }

// removeStopped removes the container if it does not run and, asked with its op
// held, may still go; may is nil where nobody asks.
func (s *Service) removeStopped(ctx context.Context, c *Container, volumes bool, may func(*Record) bool) error {
	c.op.Lock()
	defer c.op.Unlock()
	if c.gone() { // by --rm, or by somebody else: as was asked
		return nil
	}
	if r := c.record(); may != nil && !may(&r) {
		return errChanged
	}
	if r := c.record(); r.Phase.running() {
		return stillRuns{errStillRuns(&r)}
	}
	return s.remove(ctx, c, volumes)
}

func errStillRuns(r *Record) error {
	if r.Phase == Paused {
		return conflict("container is paused and must be unpaused first")
	}
	return conflict("container is %s: stop the container before removing or force remove", r.state())
}

// remove deletes a container that does not run. The caller holds op.
func (s *Service) remove(ctx context.Context, c *Container, volumes bool) error {
	if err := s.to(c, Removing, "remove", func(r *Record) { r.RemoveVolumes = volumes }); err != nil {
		return err
	}
	r := c.record()
	// One with --rm that is found without a process is removed anyway. The intent
	// of others must be on disk before anything of them goes; where it cannot be,
	// because the disk is full, removing goes on all the same: it makes room, and
	// what a crash would leave of it can be removed again.
	if !r.HostConfig.AutoRemove {
		if err := s.save(c); err != nil {
			s.d.Log.Warn("removal not recorded", logkey.Container, r.ID, logkey.Err, err)
		}
	}
	s.closeStreams(c)
	if err := s.dismantle(ctx, &r, volumes); err != nil {
		if merr := s.to(c, Dead, "removal failed", func(r *Record) { r.Error = err.Error() }); merr == nil {
			merr = s.save(c)
			if merr != nil {
				s.d.Log.Error("failed removal not recorded", logkey.Container, r.ID, logkey.Err, merr)
			}
		}
		c.notifyRemoval(err) // else docker run --rm waits for ever
		return err
	}
	s.mu.Lock()
	delete(s.byID, r.ID)
	if s.byName[r.Name] == r.ID {
		delete(s.byName, r.Name)
	}
	maps.DeleteFunc(s.byName, func(key, id string) bool { return id == r.ID || strings.HasPrefix(key, r.Name+"/") })
	s.mu.Unlock()
	c.mu.Lock()
	c.removed = true
	c.rec.Error = "" // of its last start; the removal went well
	c.mu.Unlock()
	s.emit(r, events.ActionDestroy, nil)
	c.notifyRemoval(nil)
	return nil
}
