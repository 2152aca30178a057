package volume

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

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
	if err := mayGo(&r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	dr, err := s.driverOf(e)
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
func mayGo(r *Record) error {
	if r.Protected {
		return fault.New(errdefs.ErrConflict, "remove %s: volume is protected: unprotect it first", r.Name)
	}
	if r.Doing != nil && r.Doing.Verb == DoRename {
		return whole(&entry{rec: *r})
	}
	if len(r.Snapshots) > 0 {
		return fault.New(errdefs.ErrConflict, "remove %s: volume has snapshots (%d): remove them first", r.Name, len(r.Snapshots))
	}
	return nil
}

// Prune removes the volumes that nobody refers to: anonymous ones, or with the
// filter all=true all of them. Volumes with driver options stay: their data is
// elsewhere.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if !s.pruning.CompareAndSwap(false, true) {
		return report, fault.New(errdefs.ErrConflict, "a prune operation is already running")
	}
	defer s.pruning.Store(false)
	keep, err := pruneFilter(filters)
	if err != nil {
		return report, err
	}
	for _, name := range s.names() {
		if ctx.Err() != nil {
			break
		}
		size, removed, err := s.pruneOne(ctx, name, keep)
		if err != nil {
			s.d.Log.Warn("volume not pruned", logkey.Volume, name, logkey.Err, err)
			continue
		}
		if removed {
			report.VolumesDeleted = append(report.VolumesDeleted, name)
			report.SpaceReclaimed += uint64(max(size, 0))
		}
	}
	s.publish(events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

func (s *Service) pruneOne(ctx context.Context, name string, matches func(*entry) bool) (size int64, removed bool, err error) {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	e, err := s.get(name)
	if err != nil || len(s.refs(e)) > 0 || e.rec.Driver != s.d.Drivers[0].Name() || len(e.rec.Options) > 0 || mayGo(&e.rec) != nil || !matches(e) {
		return 0, false, nil
	}
	if size, err = s.d.Drivers[0].Usage(ctx, e.rec.spec()); err != nil {
		s.d.Log.Warn("size of volume unknown", logkey.Volume, name, logkey.Err, err)
	}
	if err := s.removeLocked(ctx, e, false); err != nil {
		return 0, false, err
	}
	return size, true, nil
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
