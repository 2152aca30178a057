package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/build"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/build/buildkit"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/store"
)

func (d *Daemon) startBuilder(ctx context.Context) error {
	c := d.engine.Client()
	files := filepath.Join(d.cfg.Root, "buildkit-net")
	if err := os.RemoveAll(files); err != nil { // of steps of a killed daemon
		return fmt.Errorf("remove left build steps' files: %w", err)
	}
	b, err := buildkit.New(ctx, buildkit.Config{
		Root:         filepath.Join(d.cfg.Root, "buildkit"),
		Namespace:    ctrd.Namespace,
		Snapshotter:  ctrd.Snapshotter,
		Client:       c,
		Images:       builtImages{c.ImageService(), d.images},
		Dangling:     image.DanglingPrefix,
		Hosts:        imagestore.Registries(registries(d.cfg, d.version)), //nolint:contextcheck // it only reads files
		Networks:     buildNetworks{d.networks, files},
		Ledger:       store.NewCollection[buildkit.Kept](d.db, "build-cache"),
		Runc:         d.paths.Runc,
		CgroupParent: path.Join("/", d.cfg.CgroupParent),
		Version:      d.version.Version,
		Log:          d.log,
	})
	if err != nil {
		return fmt.Errorf("start the builder: %w", err)
	}
	d.builder = b
	d.onStop(func(context.Context) error { return b.Close() }) //nolint:contextcheck // it finishes whatever becomes of the caller
	d.supervise(ctx, "ledger of the build cache", b.Run)
	return nil
}

// builtImages is containerd's image store in which the image domain gives the
// names, so that an image that loses its name to a new build stays.
type builtImages struct {
	images.Store
	s *image.Service
}

// Create implements images.Store.
func (b builtImages) Create(ctx context.Context, i images.Image) (images.Image, error) {
	return i, b.s.Name(ctx, i.Name, i.Target)
}

// Update implements images.Store.
func (b builtImages) Update(ctx context.Context, i images.Image, _ ...string) (images.Image, error) {
	return i, b.s.Name(ctx, i.Name, i.Target)
}

// buildNetworks gives build steps a namespace on the default bridge.
type buildNetworks struct {
	s   *network.Service
	dir string // for files about names; BuildKit writes its own
}

// Join implements buildkit.Networks.
func (n buildNetworks) Join(ctx context.Context, id, hostname string) (string, error) {
	files := filepath.Join(n.dir, id)
	if err := os.MkdirAll(files, 0o711); err != nil {
		return "", fmt.Errorf("make a build step's directory: %w", err)
	}
	info, err := n.s.Join(ctx, network.SandboxRequest{
		Container: id,
		Name:      "build-" + id[:12],
		Hostname:  hostname,
		Endpoints: map[string]*mobynet.EndpointSettings{"bridge": {}},
		Dir:       files,
	})
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(files))
	}
	return info.NetNS, nil
}

// Leave implements buildkit.Networks.
func (n buildNetworks) Leave(ctx context.Context, id string) error {
	return errors.Join(n.s.Leave(ctx, id), os.RemoveAll(filepath.Join(n.dir, id)))
}

// buildUsage is the build cache's part of `docker system df`.
func (d *Daemon) buildUsage(ctx context.Context) (*build.DiskUsage, error) {
	list, err := d.builder.Records(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the build cache: %w", err)
	}
	u := &build.DiskUsage{Items: []build.CacheRecord{}, TotalCount: int64(len(list))}
	for _, r := range list {
		u.Items = append(u.Items, build.CacheRecord{
			ID: r.ID, Parents: r.Parents, Type: r.Type, Description: r.Description, InUse: r.InUse, Shared: r.Shared,
			Size: r.Size, CreatedAt: r.CreatedAt, LastUsedAt: r.LastUsedAt, UsageCount: r.UsageCount,
		})
		if r.InUse {
			u.ActiveCount++
		}
		if r.Shared { // an image's, and counted there
			continue
		}
		u.TotalSize += r.Size
		if !r.InUse {
			u.Reclaimable += r.Size
		}
	}
	return u, nil
}
