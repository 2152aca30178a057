package daemon

import (
	"context"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume/btrfs"
)

// pools are btrfs's as the router of volumes needs them.
type pools struct{ p *btrfs.Pools }

func showPool(i btrfs.Info) api.Pool {
	return api.Pool{
		Name: i.Name, Kind: string(i.Kind), Source: i.Source, Mount: i.Mount, Created: i.Created,
		Bytes: i.Size, Free: i.Free, Quota: i.Quota, Volumes: i.Volumes, Error: i.Err,
	}
}

// CreatePool implements the router's Pools.
func (p pools) CreatePool(ctx context.Context, r api.PoolCreate) (api.Pool, error) {
	o := btrfs.CreateOptions{Name: r.Name, Kind: btrfs.File, Size: r.Bytes, Sparse: r.Sparse}
	switch {
	case r.Directory != "" && r.Device != "":
		return api.Pool{}, fault.New(errdefs.ErrInvalidArgument, "a pool is of a directory or of a device")
	case r.Directory != "":
		o.Kind, o.Source = btrfs.Directory, r.Directory
	case r.Device != "":
		o.Kind, o.Source = btrfs.Device, r.Device
	}
	i, err := p.p.Create(ctx, o)
	return showPool(i), err
}

// Pools implements the router's Pools.
func (p pools) Pools(context.Context) ([]api.Pool, error) {
	all, err := p.p.List()
	out := make([]api.Pool, len(all))
	for n, i := range all {
		out[n] = showPool(i)
	}
	return out, err
}

// Pool implements the router's Pools.
func (p pools) Pool(_ context.Context, name string) (api.Pool, error) {
	i, err := p.p.Inspect(name)
	return showPool(i), err
}

// GrowPool implements the router's Pools.
func (p pools) GrowPool(ctx context.Context, name string, bytes int64) (api.Pool, error) {
	i, err := p.p.Grow(ctx, name, bytes)
	return showPool(i), err
}

// CheckPool implements the router's Pools.
func (p pools) CheckPool(ctx context.Context, name string) (api.PoolCheck, error) {
	s, err := p.p.Check(ctx, name)
	return api.PoolCheck(s), err
}

// RemovePool implements the router's Pools.
func (p pools) RemovePool(ctx context.Context, name string) error { return p.p.Remove(ctx, name) }
