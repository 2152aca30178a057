package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
)

// acquireSnapshot has a container refer to a snapshot, which then cannot be
// removed, nor its volume.
func (s *Service) acquireSnapshot(ctx context.Context, vol, snap string, r Request) (i Info, err error) {
	if len(r.Options) > 0 {
		return i, fault.New(errdefs.ErrInvalidArgument, "create %s: a snapshot takes no driver options", r.Name)
	}
	err = s.withSnapshot(ctx, vol, snap, func(e *entry, dr Driver, sn Snapshotter) error {
		if r.Driver != "" && r.Driver != dr.Name() {
			return fault.New(errdefs.ErrConflict, "driver '%s' has volume '%s', not driver '%s'", dr.Name(), vol, r.Driver)
		}
		if do := e.rec.Doing; do != nil && do.Verb == DoRemoveSnapshot && do.Snapshot == snap {
			return fault.New(errdefs.ErrConflict, "snapshot %s is being removed", r.Name)
		}
		s.setIn(e.snapRefs, r.Container+SnapshotSeparator+snap)
		i = Info{Name: r.Name, Driver: dr.Name(), Source: sn.SnapshotPath(e.rec.spec(), snap), ReadOnly: true}
		return nil
	})
	if errdefs.IsNotFound(err) {
		// Clients take a 404 at a container's creation for a missing image.
		err = fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	return i, err
}

// withSnapshot runs do with the volume's lock held, if it has the snapshot.
func (s *Service) withSnapshot(ctx context.Context, vol, snap string, do func(*entry, Driver, Snapshotter) error) error {
	return s.with(ctx, vol, func(e *entry, dr Driver) error {
		if e.rec.snapshot(snap) == nil {
			return noSnapshot(vol, snap)
		}
		sn, err := snapshotter(dr)
		if err != nil {
			return err
		}
		return do(e, dr, sn)
	})
}

func (s *Service) reattachSnapshot(ctx context.Context, vol, snap, container string, mounted bool) error {
	return s.withSnapshot(ctx, vol, snap, func(e *entry, _ Driver, _ Snapshotter) error {
		s.setIn(e.snapRefs, container+SnapshotSeparator+snap)
		if mounted {
			s.setIn(e.snapMounts, container+SnapshotSeparator+snap)
		}
		return nil
	})
}

func (s *Service) mountSnapshot(ctx context.Context, vol, snap, container string, about map[string]string) (path string, err error) {
	err = s.withSnapshot(ctx, vol, snap, func(e *entry, dr Driver, sn Snapshotter) error {
		if err := errors.Join(whole(e), s.atRest(e)); err != nil {
			return err
		}
		path = sn.SnapshotPath(e.rec.spec(), snap)
		if err := mount(ctx, dr, e.rec.spec()); err != nil {
			return err
		}
		s.setIn(e.snapMounts, container+SnapshotSeparator+snap)
		attrs := map[string]string{"driver": e.rec.Driver, "container": container}
		maps.Copy(attrs, about)
		s.publish(events.ActionMount, vol+SnapshotSeparator+snap, attrs)
		return nil
	})
	return path, err
}

func (s *Service) unmountSnapshot(ctx context.Context, vol, snap, container string) error {
	return s.with(ctx, vol, func(e *entry, dr Driver) error {
		key := container + SnapshotSeparator + snap
		if _, ok := e.snapMounts[key]; !ok { // changes with the lock held only
			return nil
		}
		s.unset(e.snapMounts, key)
		s.publish(events.ActionUnmount, vol+SnapshotSeparator+snap, map[string]string{"driver": e.rec.Driver, "container": container})
		if s.inUse(e) {
			return nil
		}
		if err := dr.Unmount(ctx, e.rec.spec()); err != nil {
			return fmt.Errorf("unmount volume %s: %w", vol, err)
		}
		return nil
	})
}
