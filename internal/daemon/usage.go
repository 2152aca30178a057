package daemon

import (
	"context"

	dockercontainer "github.com/moby/moby/api/types/container"
	dockerimage "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/container"
	systemrouter "holdfast.dev/holdfast/internal/httpapi/router/system"
	"holdfast.dev/holdfast/internal/usage"
)

// DiskUsage implements the system router's Backend.
func (b systemBackend) DiskUsage(ctx context.Context, o systemrouter.DiskUsageOptions) (system.DiskUsage, error) {
	var out system.DiskUsage
	g, ctx := errgroup.WithContext(ctx)
	if o.Containers {
		g.Go(func() (err error) { out.ContainerUsage, err = b.d.containerUsage(ctx); return err })
	}
	if o.Images {
		g.Go(func() (err error) { out.ImageUsage, err = b.d.imageUsage(ctx); return err })
	}
	if o.Volumes {
		g.Go(func() error {
			u, err := b.d.volumes.DiskUsage(ctx, b.d.volumeSize)
			out.VolumeUsage = &u
			return err
		})
	}
	if o.BuildCache {
		g.Go(func() (err error) { out.BuildCacheUsage, err = b.d.buildUsage(ctx); return err })
	}
	return out, g.Wait()
}

func (d *Daemon) containerUsage(ctx context.Context) (*dockercontainer.DiskUsage, error) {
	list, err := d.containers.List(ctx, container.ListOptions{All: true, Size: true})
	if err != nil {
		return nil, err
	}
	u := &dockercontainer.DiskUsage{Items: list, TotalCount: int64(len(list))}
	for _, c := range list {
		u.TotalSize += c.SizeRw
		switch c.State {
		case dockercontainer.StateRunning, dockercontainer.StatePaused, dockercontainer.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u, nil
}

func (d *Daemon) imageUsage(ctx context.Context) (*dockerimage.DiskUsage, error) {
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string]int64{}
	for _, u := range d.containers.ImageUsers() {
		users[u.ImageID]++
	}
	u := &dockerimage.DiskUsage{Items: list, TotalCount: int64(len(list))}
	made := make([]usage.Made, len(list))
	for i := range list {
		list[i].Containers = users[list[i].ID]
		if list[i].Containers > 0 {
			u.ActiveCount++
		}
		made[i] = usage.Made{ID: list[i].ID, Parts: parts[list[i].ID], Used: list[i].Containers > 0}
	}
	shares := usage.Share(made)
	u.TotalSize, u.Reclaimable = shares.Total, shares.Reclaimable
	return u, nil
}

// Auth implements the system router's Backend.
func (b systemBackend) Auth(ctx context.Context, c registry.AuthConfig) (string, error) {
	return b.d.imageStore.Login(ctx, c)
}
