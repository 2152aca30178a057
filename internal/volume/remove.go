package volume

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Remove deletes a volume and its data. One that a container refers to is
// refused. Force forgives a volume that is not there, and forgets one that its
// driver cannot remove.
func (s *Service) Remove(ctx context.Context, name string, force bool) error {
	if err := s.remove(ctx, name, force); err != nil {
		return err
	}
	s.makeRoom(ctx) // whoever removes on a full disk needs the room
	return nil
}

func (s *Service) remove(ctx context.Context, name string, force bool) error {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := s.get(name)
	if err != nil {
		if force {
			return nil
		}
		return err
	}
	return s.removeLocked(ctx, e, force)
}

// removeLocked is called with the volume's lock held.
func (s *Service) removeLocked(ctx context.Context, e *entry, force bool) error {
	r := e.rec
	if refs := s.refs(e); len(refs) > 0 {
		return fault.New(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", r.Name, strings.Join(refs, ", "))
	}
	if err := s.mayGo(&r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	dr, err := s.driverOf(e)
	if err == nil && s.trashes(&r) {
		done, terr := s.toTrash(ctx, dr, e)
		if done {
			s.publish(events.ActionDestroy, r.Name, map[string]string{"driver": r.Driver})
			return nil
		}
		err = terr
	}
	if err == nil {
		err = s.removeData(ctx, dr, e)
	}
	if err != nil {
		if !force {
			return fault.Wrap(errdefs.Resolve(err), err, "remove %s", r.Name)
		}
		s.d.Log.Warn("volume forgotten, its data may still be there", logkey.Volume, r.Name, logkey.Err, err)
	}
	if err := s.d.Records.Delete(r.Name); err != nil {
		return err
	}
	s.drop(r.Name)
	s.publish(events.ActionDestroy, r.Name, map[string]string{"driver": r.Driver})
	return nil
}

// removeData writes the intent, so that a volume that is half gone is never
// taken for a whole one.
func (s *Service) removeData(ctx context.Context, dr Driver, e *entry) error {
	if err := dr.Unmount(ctx, e.rec.spec()); err != nil {
		return err
	}
	was := e.rec.State
	if err := s.setState(e, Removing); err != nil {
		// Without room for the intent there is none for a record either way, and
		// removing is how users make room: go on.
		if !errors.Is(err, errdefs.ErrResourceExhausted) {
			return err
		}
		s.d.Log.Warn("volume removed without writing the intent", logkey.Volume, e.rec.Name, logkey.Err, err)
	}
	if err := failpoint.Hit("volume.remove.afterIntent"); err != nil {
		return err
	}
	err := dr.Remove(ctx, e.rec.spec())
	if errors.Is(err, errdefs.ErrFailedPrecondition) { // the driver refused before it touched anything
		return errors.Join(err, s.setState(e, was))
	}
	if err != nil {
		return err
	}
	return failpoint.Hit("volume.remove.afterDriver")
}

func (s *Service) setState(e *entry, st State) error {
	return s.change(e, func(r *Record) { r.State = st })
}

// mayGo refuses what must not be lost by a slip.
func (s *Service) mayGo(r *Record) error {
	if r.Protected {
		return fault.New(errdefs.ErrConflict, "remove %s: volume is protected: unprotect it first", r.Name)
	}
	if r.Doing != nil && (r.Doing.Verb == DoRename && !onItsWay(r) || r.Doing.Verb == DoReplace) {
		return whole(&entry{rec: *r})
	}
	if len(r.Snapshots) > 0 && !s.trashes(r) { // else they go along, and can be had back
		return fault.New(errdefs.ErrConflict, "remove %s: volume has snapshots (%d): remove them first", r.Name, len(r.Snapshots))
	}
	return nil
}

// Prunable is a volume that may go.
type Prunable struct {
	Name    string
	Why     string
	Created time.Time
}

// Prunable lists the volumes that nobody refers to: anonymous ones, or with the
// filter all=true all of them. Volumes with driver options stay: their data is
// elsewhere. Containers for which gone is true are taken for removed; gone may
// be nil.
func (s *Service) Prunable(filters map[string][]string, gone func(container string) bool) ([]Prunable, error) {
	keep, err := pruneFilter(filters)
	if err != nil {
		return nil, err
	}
	var out []Prunable
	for _, e := range s.entries() {
		refs := s.refs(e)
		if gone != nil {
			refs = slices.DeleteFunc(refs, gone)
		}
		s.mu.Lock()
		if len(refs) == 0 && s.mayPrune(e, keep) {
			p := Prunable{Name: e.rec.Name, Created: e.rec.Created, Why: "no container refers to it, and it was made without a name"}
			if _, anonymous := e.rec.Labels[AnonymousLabel]; !anonymous {
				p.Why = "no container refers to it"
			}
			out = append(out, p)
		}
		s.mu.Unlock()
	}
	return out, nil
}

// mayPrune is called with the volume's lock or mu held.
func (s *Service) mayPrune(e *entry, matches func(*entry) bool) bool {
	return s.keepsHere(&e.rec) && s.mayGo(&e.rec) == nil && matches(e)
}

// Prune removes what Prunable lists.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (volume.PruneReport, error) {
	plan, err := s.Prunable(filters, nil)
	if err != nil {
		return volume.PruneReport{VolumesDeleted: []string{}}, err
	}
	return s.PruneThese(ctx, filters, plan)
}

// PruneThese removes what of the plan may still go.
func (s *Service) PruneThese(ctx context.Context, filters map[string][]string, plan []Prunable) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if !s.pruning.CompareAndSwap(false, true) {
		return report, fault.New(errdefs.ErrConflict, "a prune operation is already running")
	}
	defer s.pruning.Store(false)
	keep, err := pruneFilter(filters)
	if err != nil {
		return report, err
	}
	for _, p := range plan {
		if ctx.Err() != nil {
			break
		}
		size, removed, err := s.pruneOne(ctx, p, keep)
		if err != nil {
			s.d.Log.Warn("volume not pruned", logkey.Volume, p.Name, logkey.Err, err)
			continue
		}
		if removed {
			report.VolumesDeleted = append(report.VolumesDeleted, p.Name)
			report.SpaceReclaimed += uint64(max(size, 0))
		}
	}
	s.makeRoom(ctx)
	s.publish(events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

func (s *Service) pruneOne(ctx context.Context, p Prunable, matches func(*entry) bool) (size int64, removed bool, err error) {
	unlock, err := s.locks.Lock(ctx, p.Name)
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	e, err := s.get(p.Name)
	if err != nil || len(s.refs(e)) > 0 || !e.rec.Created.Equal(p.Created) || !s.mayPrune(e, matches) {
		return 0, false, nil
	}
	if size, err = s.size(ctx, e); err != nil {
		s.d.Log.Warn("size of volume unknown", logkey.Volume, p.Name, logkey.Err, err)
	}
	if s.trashes(&e.rec) {
		size = 0 // it is still there
	}
	if err := s.removeLocked(ctx, e, false); err != nil {
		return 0, false, err
	}
	return size, true, nil
}

// size is called with the volume's lock held.
func (s *Service) size(ctx context.Context, e *entry) (int64, error) {
	if s.d.Size != nil {
		return s.d.Size(ctx, e.rec.Name)
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return 0, err
	}
	return dr.Usage(ctx, e.rec.spec())
}

func pruneFilter(filters map[string][]string) (func(*entry) bool, error) {
	f := filter.Args(filters)
	if err := f.Check("label", "label!", "all"); err != nil {
		return nil, invalid(err)
	}
	all := false
	if v := slices.Compact(slices.Sorted(slices.Values(f["all"]))); len(v) > 1 {
		return nil, fault.New(errdefs.ErrInvalidArgument, "invalid filter 'all=%s': only one value is expected", v)
	} else if len(v) == 1 {
		var err error
		if all, err = strconv.ParseBool(v[0]); err != nil {
			return nil, fault.New(errdefs.ErrInvalidArgument, "invalid filter 'all': %s", err)
		}
	}
	return func(e *entry) bool {
		_, anonymous := e.rec.Labels[AnonymousLabel]
		return (all || anonymous) && f.Labels("label", e.rec.Labels) && f.NoLabels("label!", e.rec.Labels)
	}, nil
}

func invalid(err error) error { return fault.New(errdefs.ErrInvalidArgument, "%s", err) }
