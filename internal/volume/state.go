package volume

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// passing marks snapshots that were made to be read once. What a daemon that was
// killed left of them goes with the next start.
const passing = "holdfast.for"

// Reading is a state of a volume that stays as it is while it is read, unless its
// consistency says otherwise.
type Reading struct {
	Dir         string
	Driver      string
	Options     map[string]string
	Labels      map[string]string
	Consistency Consistency
	Snapshot    string    // what was made for it; empty: it is the volume itself
	Moment      time.Time // whose state it is
	Stable      bool      // inode numbers are the volume's own, not a copy's
	Hook        string    // what was done to those who write to it
	Paused      time.Duration
	Why         string // what went wrong with that
}

// ReadState hands a state of a volume to read, for the purpose given: a snapshot made
// for it where containers write and one moment is to be had, by having them hold still
// where that is asked for, else the volume itself. Nobody removes it meanwhile.
func (s *Service) ReadState(ctx context.Context, name, purpose string, quiesce QuiesceMode, read func(Reading) error) (err error) {
	h, end, err := s.beginShared(ctx, name, purpose)
	if err != nil {
		return err
	}
	defer end(&err)
	st := Reading{
		Dir: h.dr.Path(h.rec.spec()), Driver: h.rec.Driver, Options: h.rec.Options, Labels: h.rec.Labels,
		Consistency: Clean, Moment: s.d.Clock.Now().UTC(), Stable: true,
	}
	if can := h.dr.Capabilities(); len(h.users) > 0 && can.Snapshot && (can.PointInTime || quiesce != QuiesceOff) {
		snap, made, serr := s.Snapshot(ctx, SnapshotOptions{Volume: name, Labels: map[string]string{passing: purpose}, Quiesce: quiesce})
		if serr != nil {
			return serr
		}
		st.Snapshot, st.Consistency, st.Moment = snap.Name, snap.Consistency, snap.Created
		st.Stable = made.Method == MethodSubvolume
		st.Hook, st.Paused, st.Why = snap.Hook, snap.Paused, snap.Why
		i, aerr := s.Acquire(ctx, Request{Name: name + SnapshotSeparator + snap.Name, Container: h.as})
		if aerr != nil {
			return aerr
		}
		st.Dir = i.Source
		defer func() {
			ctx := context.WithoutCancel(ctx)
			err = errors.Join(err, s.Release(ctx, i.Name, h.as), s.RemoveSnapshot(ctx, name, snap.Name))
		}()
	} else if len(h.users) > 0 {
		st.Consistency = Live
	}
	if err := read(st); err != nil {
		return err
	}
	if st.Snapshot == "" && st.Consistency == Clean {
		return s.still(h, Clean, false)
	}
	return nil
}

// DropPassing removes snapshots that were made to be read once by a daemon that has
// ended since.
func (s *Service) DropPassing(ctx context.Context) {
	for _, e := range s.entries() {
		s.mu.Lock()
		snaps := slices.Clone(e.rec.Snapshots)
		name := e.rec.Name
		s.mu.Unlock()
		for _, snap := range snaps {
			if snap.Labels[passing] == "" {
				continue
			}
			if err := s.RemoveSnapshot(ctx, name, snap.Name); err != nil {
				s.d.Log.Warn("snapshot of an earlier daemon's work stays", logkey.Volume, name, logkey.Name, snap.Name, logkey.Err, err)
			}
		}
	}
}

// Fill makes a volume that fill gives its content, as Import does; origin says where
// it comes from.
func (s *Service) Fill(ctx context.Context, o CreateOptions, origin string, fill func(dir string) error) (volume.Volume, error) {
	return s.filled(ctx, o, origin, fill)
}

// errPassed undoes a volume that was there for a while only.
var errPassed = errors.New("it was wanted for a while only")

// Scratch hands an empty volume, which nobody else sees and which is gone afterwards.
func (s *Service) Scratch(ctx context.Context, o CreateOptions, use func(dir string) error) error {
	done := false
	_, err := s.filled(ctx, o, "scratch", func(dir string) error {
		if err := use(dir); err != nil {
			return err
		}
		done = true
		return errPassed
	})
	if done && onlyPassed(err) {
		return nil
	}
	return err
}

// onlyPassed tells whether nothing went wrong but what was to.
func onlyPassed(err error) bool {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(j.Unwrap(), func(e error) bool { return e != nil && !onlyPassed(e) })
	}
	return errors.Is(err, errPassed)
}

// Discard removes a volume for good, without the trash. One that is not there is no
// error; one that somebody uses is refused.
func (s *Service) Discard(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := s.get(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if refs := s.refs(e); len(refs) > 0 {
		return fault.New(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", name, strings.Join(refs, ", "))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	dr, err := s.driverOf(e)
	if err != nil {
		return err
	}
	if err := s.removeData(ctx, dr, e); err != nil {
		return err
	}
	if err := s.d.Records.Delete(name); err != nil {
		return err
	}
	s.drop(name)
	return nil
}

// Facts are what others need to know of a volume to make one like it.
type Facts struct {
	Name      string
	Driver    string
	Options   map[string]string
	Labels    map[string]string
	Anonymous bool
}

// AllFacts tells of every volume.
func (s *Service) AllFacts() []Facts {
	var out []Facts
	for _, e := range s.entries() {
		s.mu.Lock()
		r := e.rec.clone()
		s.mu.Unlock()
		out = append(out, Facts{Name: r.Name, Driver: r.Driver, Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels), Anonymous: r.Anonymous})
	}
	return out
}
