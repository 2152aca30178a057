package volume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// ActionReplace is the event of a volume whose data was replaced.
const ActionReplace events.Action = "replace"

// DoReplace is the change of Replace. Its intent goes through two steps: first the
// volume's own data leaves (To), then that of the other (With) comes. What is written
// between them tells a start which renames are done.
const DoReplace Verb = "replace"

// MayReplace refuses what Replace of the volume would, as things are now.
func (s *Service) MayReplace(ctx context.Context, name string) error {
	return s.with(ctx, name, func(e *entry, dr Driver) error { return s.replaceable(ctx, e, dr) })
}

// Steps of a replacement.
const (
	stepAway = 1
	stepIn   = 2
)

// Replaced tells where what was replaced is.
type Replaced struct {
	Name    string // a volume of that name
	InTrash bool   // or in the trash, under the volume's own name
}

// Replace puts the data of another volume, which is no more then, in place of a
// volume's. The volume stays who it is: its name, its labels, and the containers that
// refer to it. Its own data, with its snapshots, goes to the trash, or where there is
// none becomes a volume of its own. Nobody has either of them mounted.
func (s *Service) Replace(ctx context.Context, name, with string) (Replaced, error) {
	for _, n := range slices.Sorted(slices.Values([]string{name, with})) { // in one order, whoever locks two
		unlock, err := s.locks.Lock(ctx, n)
		if err != nil {
			return Replaced{}, err
		}
		defer unlock()
	}
	e, err := s.get(name)
	if err != nil {
		return Replaced{}, err
	}
	other, err := s.get(with)
	if err != nil {
		return Replaced{}, err
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return Replaced{}, err
	}
	if err := s.mayReplace(ctx, e, other, dr); err != nil {
		return Replaced{}, err
	}
	do, err := s.intendReplace(e, with)
	if err != nil {
		return Replaced{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	for _, x := range []*entry{e, other} {
		if err := dr.Unmount(ctx, x.rec.spec()); err != nil {
			return Replaced{}, err
		}
	}
	if err := s.change(e, func(r *Record) { r.Doing = &do }); err != nil {
		return Replaced{}, err
	}
	err = failpoint.Hit("volume.replace.afterIntent")
	if err == nil {
		err = s.finishReplace(ctx, dr, e)
	}
	if nothingTouched(err) && e.rec.Doing.Step == stepAway {
		if derr := s.change(e, func(r *Record) { r.Doing = nil }); derr != nil {
			s.d.Log.Warn("record of a change that was not made stays", logkey.Volume, name, logkey.Err, derr)
		}
		return Replaced{}, err
	}
	if err != nil {
		return Replaced{}, fmt.Errorf("replace volume %s, which the next start of the daemon will finish: %w", name, err)
	}
	out := Replaced{Name: do.To}
	if strings.HasPrefix(do.To, trashPrefix) {
		out = Replaced{Name: name, InTrash: true}
	}
	s.publish(events.ActionDestroy, with, map[string]string{"driver": e.rec.Driver})
	s.publish(ActionReplace, name, map[string]string{"driver": e.rec.Driver, "kept": out.Name})
	return out, nil
}

// nothingTouched tells of a rename that was refused.
func nothingTouched(err error) bool {
	return errors.Is(err, errdefs.ErrAlreadyExists) || errors.Is(err, errdefs.ErrFailedPrecondition) || errors.Is(err, os.ErrNotExist)
}

func (s *Service) mayReplace(ctx context.Context, e, other *entry, dr Driver) error {
	if err := errors.Join(s.replaceable(ctx, e, dr), whole(other)); err != nil {
		return err
	}
	switch {
	case other.rec.Driver != e.rec.Driver:
		return fault.New(errdefs.ErrInvalidArgument, "volume %s is of driver %s, volume %s of driver %s", e.rec.Name, e.rec.Driver, other.rec.Name, other.rec.Driver)
	case len(s.refs(other)) > 0:
		return fault.New(errdefs.ErrConflict, "volume %s is in use - [%s]", other.rec.Name, strings.Join(s.refs(other), ", "))
	}
	return nil
}

func (s *Service) replaceable(ctx context.Context, e *entry, dr Driver) error {
	if err := s.atRest(e); err != nil {
		return err
	}
	if err := errors.Join(s.mend(ctx, e, dr), whole(e)); err != nil {
		return err
	}
	if _, ok := dr.(Renamer); !ok || !dr.Capabilities().Rename || !s.keepsHere(&e.rec) {
		return lacks(dr, "way to replace a volume")
	}
	switch {
	case e.rec.Protected:
		return fault.New(errdefs.ErrConflict, "volume %s is protected: unprotect it first", e.rec.Name)
	case s.inUse(e):
		return fault.New(errdefs.ErrConflict, "volume %s is in use by running containers [%s]: stop them first", e.rec.Name, strings.Join(s.mounted(e), ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(e.snapRefs) > 0 {
		return fault.New(errdefs.ErrConflict, "containers refer to snapshots of volume %s, which would go along: remove them first", e.rec.Name)
	}
	return nil
}

// intendReplace finds a place for what is replaced.
func (s *Service) intendReplace(e *entry, with string) (Intent, error) {
	now := s.d.Clock.Now().UTC()
	do := Intent{Verb: DoReplace, With: with, Step: stepAway, At: now}
	if s.d.Trash.Keep > 0 {
		var b [6]byte
		if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
			return do, fmt.Errorf("make a name in the trash: %w", err)
		}
		do.To = trashPrefix + hex.EncodeToString(b[:])
		return do, nil
	}
	do.To = e.rec.Name + ".before-" + now.Format(timeName)
	if err := checkName(do.To); err != nil {
		return do, err
	}
	return do, s.isFree(do.To)
}

// finishReplace does what is left of what the record's intent says; it may be
// repeated. The caller has the volume's lock, or is alone.
func (s *Service) finishReplace(ctx context.Context, dr Driver, e *entry) error {
	rn, ok := dr.(Renamer)
	if !ok {
		return lacks(dr, "renaming")
	}
	do := *e.rec.Doing
	away := e.rec.clone()
	away.Name, away.Doing, away.Protected = do.To, nil, false
	if strings.HasPrefix(do.To, trashPrefix) {
		away.State, away.Was, away.Removed = InTrash, e.rec.Name, do.At
	}
	if do.Step == stepAway {
		if err := rn.Rename(ctx, e.rec.spec(), away.spec()); err != nil {
			return err
		}
		if err := failpoint.Hit("volume.replace.afterAway"); err != nil {
			return err
		}
		if err := s.d.Records.Put(away.Name, &away); err != nil {
			return err
		}
		if err := failpoint.Hit("volume.replace.afterKept"); err != nil {
			return err
		}
		err := s.change(e, func(r *Record) {
			r.Snapshots = nil
			next := do
			next.Step = stepIn
			r.Doing = &next
		})
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.placeEntry(newEntry(away))
		s.mu.Unlock()
	}
	if err := failpoint.Hit("volume.replace.beforeIn"); err != nil {
		return err
	}
	if err := rn.Rename(ctx, Spec{Name: do.With, Options: e.rec.Options}, e.rec.spec()); err != nil {
		return err
	}
	if err := failpoint.Hit("volume.replace.afterIn"); err != nil {
		return err
	}
	if err := s.d.Records.Delete(do.With); err != nil {
		return err
	}
	s.drop(do.With)
	return s.change(e, func(r *Record) { r.Doing, r.Origin = nil, "" })
}

// recoverReplaced finishes replacements that an earlier daemon began, before anybody
// looks at the volumes that take part. It returns the records that are left.
func (s *Service) recoverReplaced(ctx context.Context, recs []*Record) []*Record {
	gone := map[string]bool{}
	for _, r := range recs {
		if r.Doing == nil || r.Doing.Verb != DoReplace {
			continue
		}
		do := *r.Doing
		dr, ok := s.known(r.Driver)
		if !ok {
			s.d.Log.Error("volume not recovered", logkey.Volume, r.Name, logkey.Err, unknownDriver(r.Driver))
			continue
		}
		e := newEntry(*r)
		if err := s.finishReplace(ctx, dr, e); err != nil {
			s.d.Log.Error("volume not recovered", logkey.Volume, r.Name, logkey.Err, err)
			*r = e.rec
			continue
		}
		*r = e.rec
		gone[do.With] = true
		s.d.Log.Info("change of a volume settled", logkey.Volume, r.Name, logkey.Why, "the daemon ended during "+string(DoReplace), logkey.Applied, true)
	}
	return slices.DeleteFunc(recs, func(r *Record) bool { return gone[r.Name] })
}
