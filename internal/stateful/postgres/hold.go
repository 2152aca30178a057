package postgres

import (
	"context"
	"fmt"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful"
)

// holdMost is the longest that a member holds still at one request, and how long one
// that starts again takes itself to be held.
const holdMost = 10 * time.Second

// Hold implements stateful.Helper. That it may hold still is on disk before it says so;
// until when is not: one that starts again waits for the longest time.
func (s *Server) Hold(_ context.Context, h stateful.Hold) error {
	if !s.do.TryLock() {
		return fmt.Errorf("%s is busy", s.c.Member)
	}
	defer s.do.Unlock()
	s.mu.Lock()
	follows := s.st.Phase == stateful.Following && s.st.Epoch == h.Epoch
	s.mu.Unlock()
	switch {
	case h.Member != s.identity():
		return fmt.Errorf("%s is %s", s.c.Member, s.identity())
	case !follows || s.kept.Promised > h.Epoch:
		return fmt.Errorf("%s does not follow in epoch %d", s.c.Member, h.Epoch)
	case h.For <= 0:
		s.holdUntil = time.Time{}
		return nil
	}
	if s.kept.Held != h.Epoch {
		s.kept.Held = h.Epoch
		if err := s.save(); err != nil {
			return err
		}
		s.c.Log.Info("holding still for a leader without a lease", logkey.Epoch, h.Epoch)
	}
	if until := s.c.Now().Add(min(h.For, holdMost)); until.After(s.holdUntil) {
		s.holdUntil = until
	}
	return nil
}

// held refuses an epoch that a leader was told not to fear. Called with do held.
func (s *Server) held(epoch uint64) error {
	if left := s.holdUntil.Sub(s.c.Now()); left > 0 && epoch > s.kept.Held {
		return fmt.Errorf("%s holds still for the leader of epoch %d for another %v", s.c.Member, s.kept.Held, left.Round(time.Millisecond))
	}
	return nil
}
