package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// change rewrites a volume's record, on disk and then in memory. The caller has
// the volume's lock.
func (s *Service) change(e *entry, do func(*Record)) error {
	r := e.rec.clone()
	do(&r)
	if err := s.d.Records.Put(r.Name, &r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.rec = r
	return nil
}

// changeNow is change for one who has not the lock. It is done whatever becomes
// of the request.
func (s *Service) changeNow(ctx context.Context, e *entry, do func(*Record)) error {
	unlock, err := s.locks.Lock(context.WithoutCancel(ctx), s.nameOf(e))
	if err != nil {
		return err
	}
	defer unlock()
	return s.change(e, do)
}

func (s *Service) nameOf(e *entry) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.rec.Name
}

// held is a volume that a long verb works with. Nobody removes or renames it,
// and it is mounted.
type held struct {
	e       *entry
	rec     Record // as it was then
	dr      Driver
	as      string   // who it is among the users
	users   []string // who had it mounted before and may write
	release func() error
}

// hold has the verb as a user of the volume until release. alone says that the
// caller has the volume's ops lock.
func (s *Service) hold(ctx context.Context, name, as string, alone bool) (held, error) {
	var h held
	err := s.with(ctx, name, func(e *entry, dr Driver) error {
		if alone {
			if err := s.mend(ctx, e, dr); err != nil {
				return err
			}
		}
		if err := errors.Join(whole(e), s.atRest(e)); err != nil {
			return err
		}
		h = held{e: e, rec: e.rec, dr: dr, as: as, users: s.writers(e)}
		if err := mount(ctx, dr, e.rec.spec()); err != nil {
			return err
		}
		s.setIn(e.refs, as)
		s.setIn(e.mounts, as)
		return nil
	})
	h.release = func() error {
		ctx := context.WithoutCancel(ctx)
		return s.with(ctx, name, func(e *entry, dr Driver) error {
			s.unset(e.refs, as)
			s.unset(e.mounts, as)
			if s.inUse(e) {
				return nil
			}
			return dr.Unmount(ctx, e.rec.spec())
		})
	}
	return h, err
}

// whole refuses volumes that are not.
func whole(e *entry) error {
	if e.rec.State != Ready {
		return fault.New(errdefs.ErrConflict, "volume '%s' is half removed: remove it first", e.rec.Name)
	}
	if do := e.rec.Doing; do != nil && do.Verb == DoRename {
		return fault.New(errdefs.ErrConflict, "volume '%s' is on its way to another name: the next start of the daemon will finish it", e.rec.Name)
	}
	if do := e.rec.Doing; do != nil && do.Verb == DoReplace {
		return fault.New(errdefs.ErrConflict, "volume '%s' is being replaced: the next start of the daemon will finish it", e.rec.Name)
	}
	return nil
}

// atRest refuses volumes that are being moved: what is written to them now would
// stay behind. One whose move an earlier daemon began can be used, also where
// what that left cannot be removed.
func (s *Service) atRest(e *entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, moving := e.refs[asMove]; moving {
		return fault.New(errdefs.ErrConflict, "volume '%s' is being moved", e.rec.Name)
	}
	return nil
}

// mend ends a change that could not be ended when it was made, because its
// result could not be written. The caller knows that nobody is at work on it.
func (s *Service) mend(ctx context.Context, e *entry, dr Driver) error {
	if e.rec.State != Ready || e.rec.Doing == nil || e.rec.Doing.Verb == DoRename || e.rec.Doing.Verb == DoReplace {
		return nil // whole tells
	}
	r, err := s.settleIntent(ctx, dr, &e.rec)
	if err != nil {
		return fmt.Errorf("volume %s has an unfinished change: %w", e.rec.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.rec = *r
	return nil
}

// begin takes the volume's ops lock and holds the volume.
func (s *Service) begin(ctx context.Context, name, as string) (held, func(*error), error) {
	unlock, err := s.ops.Lock(ctx, name)
	if err != nil {
		return held{}, nil, err
	}
	h, err := s.hold(ctx, name, as, true)
	if err != nil {
		unlock()
		return held{}, nil, err
	}
	return h, func(err *error) {
		*err = errors.Join(*err, h.release())
		unlock()
	}, nil
}

// beginShared holds the volume beside whatever long verb is at work.
func (s *Service) beginShared(ctx context.Context, name, as string) (held, func(*error), error) {
	h, err := s.hold(ctx, name, fmt.Sprintf("%s %d", as, s.serial.Add(1)), false)
	if err != nil {
		return held{}, nil, err
	}
	return h, func(err *error) { *err = errors.Join(*err, h.release()) }, nil
}

// moment says what a copy of the volume's present state will be, and refuses
// one that nobody should take for a state of the volume.
func (h held) moment(live bool, capable Capabilities) (Consistency, error) {
	switch {
	case len(h.users) == 0:
		return Clean, nil
	case capable.PointInTime:
		return Crash, nil
	case live:
		return Live, nil
	}
	return "", fault.New(errdefs.ErrConflict, "volume %s is in use by running containers [%s], and here it cannot be copied as of one moment: stop them, or ask for a live copy", h.rec.Name, strings.Join(h.users, ", "))
}

// still refuses a copy that was to be one moment and during which somebody came.
func (s *Service) still(h held, c Consistency, pointInTime bool) error {
	if c == Live || pointInTime {
		return nil
	}
	for _, u := range s.writers(h.e) {
		if !slices.Contains(h.users, u) {
			return fault.New(errdefs.ErrConflict, "container %s started on volume %s while it was copied: nothing was kept", u, h.rec.Name)
		}
	}
	return nil
}

// writers are those who have the volume mounted and may write. Verbs that only
// read are among the users too; no container is named like them.
func (s *Service) writers(e *entry) []string {
	return slices.DeleteFunc(s.mounted(e), func(u string) bool { return strings.Contains(u, " ") })
}

func snapshotter(dr Driver) (Snapshotter, error) {
	if sn, ok := dr.(Snapshotter); ok && dr.Capabilities().Snapshot {
		return sn, nil
	}
	return nil, lacks(dr, "snapshots")
}

func lacks(dr Driver, what string) error {
	return fault.New(errdefs.ErrNotImplemented, "volume driver %s has no %s here", dr.Name(), what)
}
