package buildkit

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/buildkit/snapshot"
)

// engineName is the engine's name of a snapshot of BuildKit's. BuildKit names the
// layers of images so that they meet nobody else's, because older versions of it
// kept contents there that nobody had verified. There is no such version of this
// engine, and both verify what they unpack: so the layers of a base image are one
// snapshot, not two.
func engineName(key string) string {
	if chainID, ok := snapshot.ParseLayerSnapshotID(key); ok {
		return chainID.String()
	}
	return key
}

// sharedSnapshots are the engine's snapshots under BuildKit's names.
type sharedSnapshots struct{ snapshots.Snapshotter }

// name is where a snapshot really is: what an engine of before the names were
// shared has unpacked stays where it is.
func (s sharedSnapshots) name(ctx context.Context, key string) string {
	name := engineName(key)
	if name == key {
		return key
	}
	if _, err := s.Snapshotter.Stat(ctx, name); err == nil {
		return name
	}
	if _, err := s.Snapshotter.Stat(ctx, key); err == nil {
		return key
	}
	return name
}

// Stat implements snapshots.Snapshotter.
func (s sharedSnapshots) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return s.Snapshotter.Stat(ctx, s.name(ctx, key))
}

// Update implements snapshots.Snapshotter.
func (s sharedSnapshots) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	info.Name = s.name(ctx, info.Name)
	return s.Snapshotter.Update(ctx, info, fieldpaths...)
}

// Usage implements snapshots.Snapshotter.
func (s sharedSnapshots) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return s.Snapshotter.Usage(ctx, s.name(ctx, key))
}

// Mounts implements snapshots.Snapshotter.
func (s sharedSnapshots) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return s.Snapshotter.Mounts(ctx, s.name(ctx, key))
}

// Prepare implements snapshots.Snapshotter.
func (s sharedSnapshots) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.Prepare(ctx, engineName(key), s.name(ctx, parent), opts...)
}

// View implements snapshots.Snapshotter.
func (s sharedSnapshots) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.View(ctx, engineName(key), s.name(ctx, parent), opts...)
}

// Commit implements snapshots.Snapshotter.
func (s sharedSnapshots) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.Snapshotter.Commit(ctx, engineName(name), engineName(key), opts...)
}

// sharedLeases keep snapshots under the names that they really have: a record of
// the cache holds its layer also when the image is removed.
type sharedLeases struct {
	leases.Manager
	snapshots   snapshots.Snapshotter
	snapshotter string
}

func (l sharedLeases) named(ctx context.Context, r leases.Resource) leases.Resource {
	if r.Type == "snapshots/"+l.snapshotter {
		r.ID = sharedSnapshots{l.snapshots}.name(ctx, r.ID)
	}
	return r
}

// AddResource implements leases.Manager.
func (l sharedLeases) AddResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	return l.Manager.AddResource(ctx, lease, l.named(ctx, r))
}

// DeleteResource implements leases.Manager.
func (l sharedLeases) DeleteResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	return l.Manager.DeleteResource(ctx, lease, l.named(ctx, r))
}
