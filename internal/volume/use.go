package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Acquire finds or creates the volume for a container, which refers to it from
// then on: it cannot be removed until Release.
//
// The name volume@snapshot means a snapshot, which must be there.
func (s *Service) Acquire(ctx context.Context, r Request) (Info, error) {
	if vol, snap, ok := strings.Cut(r.Name, SnapshotSeparator); ok {
		return s.acquireSnapshot(ctx, vol, snap, r)
	}
	e, unlock, err := s.ensure(ctx, CreateOptions{Name: r.Name, Driver: r.Driver, Options: r.Options, Labels: r.Labels})
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	s.setIn(e.refs, r.Container)
	v := s.toAPI(e)
	return Info{Name: v.Name, Driver: v.Driver, Source: v.Mountpoint, Anonymous: e.rec.Anonymous}, nil
}

// Where tells where a volume is now: one that was moved is not where it was when
// its containers were made. Volumes of plugins are not moved.
func (s *Service) Where(name string) (driver, source string, ok bool) {
	vol, snap, of := strings.Cut(name, SnapshotSeparator)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byName[vol]
	if e == nil || s.drivers[e.rec.Driver] == nil {
		return "", "", false
	}
	dr := s.drivers[e.rec.Driver]
	if !of {
		return dr.Name(), dr.Path(e.rec.spec()), true
	}
	sn, ok := dr.(Snapshotter)
	if !ok {
		return "", "", false
	}
	return dr.Name(), sn.SnapshotPath(e.rec.spec(), snap), true
}

// Reattach refers again to a volume after a daemon restart.
func (s *Service) Reattach(ctx context.Context, name, container string, mounted bool) error {
	if vol, snap, ok := strings.Cut(name, SnapshotSeparator); ok {
		return s.reattachSnapshot(ctx, vol, snap, container, mounted)
	}
	return s.with(ctx, name, func(e *entry, _ Driver) error {
		s.setIn(e.refs, container)
		if mounted {
			s.setIn(e.mounts, container)
		}
		return nil
	})
}

// with runs do with the volume's lock held.
func (s *Service) with(ctx context.Context, name string, do func(*entry, Driver) error) error {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := s.get(name)
	if err != nil {
		return err
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return err
	}
	return do(e, dr)
}

// Mount makes the volume's data reachable for a run of the container and
// returns its directory. It is idempotent per container.
func (s *Service) Mount(ctx context.Context, name, container string) (path string, err error) {
	return s.mountFor(ctx, name, container, nil)
}

// MountAt is Mount for a place in the container, which the event tells of.
func (s *Service) MountAt(ctx context.Context, name, container, at string, writable bool) (path string, err error) {
	return s.mountFor(ctx, name, container, map[string]string{
		"destination": at, "read/write": strconv.FormatBool(writable), "propagation": "",
	})
}

func (s *Service) mountFor(ctx context.Context, name, container string, about map[string]string) (path string, err error) {
	if vol, snap, ok := strings.Cut(name, SnapshotSeparator); ok {
		return s.mountSnapshot(ctx, vol, snap, container, about)
	}
	err = s.with(ctx, name, func(e *entry, dr Driver) error {
		users := s.mounted(e)
		if slices.Contains(users, container) {
			path = dr.Path(e.rec.spec())
			s.tellMount(e, container, about)
			return nil
		}
		if do := e.rec.Doing; do != nil && do.Verb == DoRollback { // nobody is at it: we have the lock
			if err := s.mend(ctx, e, dr); err != nil {
				return err
			}
		}
		if err := errors.Join(whole(e), s.atRest(e)); err != nil {
			return err
		}
		if err := mount(ctx, dr, e.rec.spec()); err != nil {
			return err
		}
		path = dr.Path(e.rec.spec()) // a plugin tells with its answer
		s.setIn(e.mounts, container)
		s.tellMount(e, container, about)
		return nil
	})
	return path, err
}

// tellMount tells of a volume at a place in a container, once. The volume is locked.
func (s *Service) tellMount(e *entry, container string, about map[string]string) {
	at := about["destination"]
	s.mu.Lock()
	known := slices.Contains(e.places[container], at)
	if !known {
		if e.places == nil {
			e.places = map[string][]string{}
		}
		e.places[container] = append(e.places[container], at)
	}
	s.mu.Unlock()
	if known {
		return
	}
	attrs := map[string]string{"driver": e.rec.Driver, "container": container}
	maps.Copy(attrs, about)
	s.publish(events.ActionMount, e.rec.Name, attrs)
}

// tellUnmount forgets the places of a volume in a container and tells of each. The
// volume is locked.
func (s *Service) tellUnmount(e *entry, container string) {
	s.mu.Lock()
	n := max(1, len(e.places[container]))
	delete(e.places, container)
	s.mu.Unlock()
	for range n {
		s.publish(events.ActionUnmount, e.rec.Name, map[string]string{"driver": e.rec.Driver, "container": container})
	}
}

// mount asks the driver each time, not for the first user only: it is
// idempotent, and it finds that the data has gone from under the others.
func mount(ctx context.Context, dr Driver, v Spec) error {
	if err := dr.Mount(ctx, v); err != nil {
		return fault.Wrap(errdefs.Resolve(err), err, "error while mounting volume '%s'", dr.Path(v))
	}
	return nil
}

// Unmount ends a run of the container. Idempotent.
func (s *Service) Unmount(ctx context.Context, name, container string) error {
	if vol, snap, ok := strings.Cut(name, SnapshotSeparator); ok {
		return s.unmountSnapshot(ctx, vol, snap, container)
	}
	return s.with(ctx, name, func(e *entry, dr Driver) error {
		if _, ok := e.mounts[container]; !ok { // mounts change with the lock held only
			return nil
		}
		s.unset(e.mounts, container)
		s.tellUnmount(e, container)
		if s.inUse(e) {
			return nil
		}
		if err := dr.Unmount(ctx, e.rec.spec()); err != nil {
			return fmt.Errorf("unmount volume %s: %w", name, err)
		}
		return nil
	})
}

// Populate copies src, a directory of the image, into the volume, or into the
// directory sub of it, if that is empty. A volume that the driver must mount is
// mounted for it.
func (s *Service) Populate(ctx context.Context, name, container, src, sub string) error {
	return s.with(ctx, name, func(e *entry, dr Driver) (err error) {
		if err := s.atRest(e); err != nil {
			return err
		}
		if err := mount(ctx, dr, e.rec.spec()); err != nil {
			return err
		}
		if !s.inUse(e) {
			defer func() { err = errors.Join(err, dr.Unmount(context.WithoutCancel(ctx), e.rec.spec())) }()
		}
		if err := s.d.Populator.Populate(ctx, src, dr.Path(e.rec.spec()), sub); err != nil {
			return fmt.Errorf("copy the image's content of container %s into volume %s: %w", container, name, err)
		}
		return nil
	})
}

// Release ends the container's reference. Idempotent; a volume that has gone is
// no error.
func (s *Service) Release(ctx context.Context, name, container string) error {
	vol, snap, of := strings.Cut(name, SnapshotSeparator)
	err := s.with(ctx, vol, func(e *entry, _ Driver) error {
		if of {
			s.unset(e.snapRefs, container+SnapshotSeparator+snap)
			return nil
		}
		s.unset(e.refs, container)
		return nil
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// RemoveAnonymous deletes the volume if it is anonymous and nobody refers to it
// any more; else it does nothing.
func (s *Service) RemoveAnonymous(ctx context.Context, name string) error {
	if strings.Contains(name, SnapshotSeparator) {
		return nil // a snapshot is never that
	}
	err := s.with(ctx, name, func(e *entry, _ Driver) error {
		if !e.rec.Anonymous || len(s.refs(e)) > 0 {
			return nil
		}
		return s.removeLocked(ctx, e, false)
	})
	if errdefs.IsNotFound(err) {
		s.d.Log.Debug("anonymous volume already gone", logkey.Volume, name)
		return nil
	}
	return err
}
