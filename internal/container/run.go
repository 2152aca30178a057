package container

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Run supervises the containers until ctx ends: it is the one consumer of the
// runtime's events. It starts what Restore found to be started. It returns
// after every exit it took on has been handled.
func (s *Service) Run(ctx context.Context) error {
	s.openEvents()
	var exits sync.WaitGroup
	defer exits.Wait()
	close(s.serving)
	s.spawn(s.boot)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-s.events:
			if !ok {
				if ctx.Err() != nil || s.life.Err() != nil {
					return nil
				}
				return fault.New(errdefs.ErrUnavailable, "the runtime's event stream ended")
			}
			switch {
			case ev.Exec != "":
				// Whoever started it waits for it: see watchExec.
			case ev.Kind == TaskOOM:
				s.oomSeen(ev)
			case ev.Kind == TaskExited:
				// One slow exit must not hold up the others. A container's next exit
				// can only come after this one was handled: it must be started first.
				exits.Go(func() { s.exitSeen(context.WithoutCancel(ctx), ev) })
			}
		}
	}
}

// openEvents subscribes once; before anything is read from the runtime, so
// that no exit falls between reading and listening.
func (s *Service) openEvents() {
	s.subscribe.Do(func() { s.events = s.d.Runtime.Events(s.life) })
}

// spawn runs f in the background, unless the service goes down. Shutdown waits for it.
func (s *Service) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.background.Go(f)
}

// Shutdown ends the service: nothing is started any more, and, where
// stopContainers is set, every container is stopped with its own signal and
// patience; else they run on and the next daemon finds them. Run must still
// be running; end it afterwards.
func (s *Service) Shutdown(ctx context.Context, stopContainers bool) {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	if stopContainers {
		var g errgroup.Group
		for _, c := range s.all() {
			g.Go(func() error {
				r := c.record()
				if !r.Phase.running() {
					return nil
				}
				sig, limit, err := s.stopWish(r, "", nil)
				if err == nil {
					err = s.stop(ctx, c, sig, limit)
				}
				if err != nil {
					s.d.Log.Error("container not stopped", logkey.Container, r.ID, logkey.Err, err)
				}
				return nil
			})
		}
		_ = g.Wait() // its functions return no errors: they are logged above
	}
	s.endLife()
	s.background.Wait()
	for _, c := range s.all() {
		s.closeStreams(c)
	}
}
