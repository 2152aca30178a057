package ctrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/container"
)

// gcRoot is the label that keeps a snapshot from being collected.
const gcRoot = "containerd.io/gc.root"

// Rootfs keeps writable layers as active overlayfs snapshots named by their
// container. It implements container.Rootfs.
type Rootfs struct {
	snaps   snapshots.Snapshotter
	collect func(context.Context) error // removes what is no longer referred to
	dir     string                      // merged directories, by container
	sizes   sync.Map                    // of read-only layers: name to committedLayer
}

var _ container.Rootfs = (*Rootfs)(nil)

// Driver implements container.Rootfs.
func (*Rootfs) Driver() string { return Snapshotter }

func (r *Rootfs) merged(id string) string { return filepath.Join(r.dir, id) }

// Prepare implements container.Rootfs.
func (r *Rootfs) Prepare(ctx context.Context, id, parent string) error {
	err := r.prepare(in(ctx), id, parent, map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339)})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("prepare writable layer of container %s: %w", id, err)
	}
	return nil
}

// Mount implements container.Rootfs.
func (r *Rootfs) Mount(ctx context.Context, id string) (container.Layer, error) {
	mounts, err := r.mounts(ctx, id)
	if err != nil {
		return container.Layer{}, err
	}
	dir := r.merged(id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return container.Layer{}, fmt.Errorf("make merged directory: %w", err)
	}
	mounted, err := mountinfo.Mounted(dir)
	if err != nil {
		return container.Layer{}, fmt.Errorf("look for mount of %s: %w", dir, err)
	}
	if !mounted {
		if err := mount.All(mounts, dir); err != nil {
			return container.Layer{}, fmt.Errorf("mount layers of container %s: %w", id, err)
		}
	}
	return r.layer(id, mounts), nil
}

// Unmount implements container.Rootfs.
func (r *Rootfs) Unmount(_ context.Context, id string) error {
	dir := r.merged(id)
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
			continue // mounts may be stacked
		case errors.Is(err, unix.EINVAL): // not mounted
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove merged directory: %w", err)
			}
			return nil
		case errors.Is(err, unix.ENOENT):
			return nil
		}
		return fmt.Errorf("unmount layers of container %s: %w", id, err)
	}
}

// Layer implements container.Rootfs.
func (r *Rootfs) Layer(ctx context.Context, id string) (container.Layer, error) {
	mounts, err := r.mounts(ctx, id)
	if err != nil {
		return container.Layer{}, err
	}
	return r.layer(id, mounts), nil
}

func (r *Rootfs) mounts(ctx context.Context, id string) ([]mount.Mount, error) {
	m, err := r.snaps.Mounts(in(ctx), id)
	if err != nil {
		return nil, fmt.Errorf("find layers of container %s: %w", id, err)
	}
	return m, nil
}

// layer reads the directories out of what will be mounted.
func (r *Rootfs) layer(id string, mounts []mount.Mount) container.Layer {
	l := container.Layer{Merged: r.merged(id)}
	for _, m := range mounts {
		for _, o := range m.Options {
			switch k, v, _ := strings.Cut(o, "="); k {
			case "lowerdir":
				l.Lower = strings.Split(v, ":")
			case "upperdir":
				l.Upper = v
			case "workdir":
				l.Work = v
			}
		}
	}
	return l
}

// Remove implements container.Rootfs.
func (r *Rootfs) Remove(ctx context.Context, id string) error {
	if err := r.Unmount(ctx, id); err != nil {
		return err
	}
	if err := r.snaps.Remove(in(ctx), id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove writable layer of container %s: %w", id, err)
	}
	// Its files go with the next collection, soon after. Who removes a container
	// to make room on a full disk has that room when the removal is done.
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) > littleRoom { //nolint:gosec // a block size is positive
		return nil //nolint:nilerr // the collection comes all the same
	}
	if err := r.collect(ctx); err != nil {
		return fmt.Errorf("free the writable layer of container %s: %w", id, err)
	}
	return nil
}

// littleRoom is the free space below which removals wait for it to grow.
const littleRoom = 256 << 20

// Usage implements container.Rootfs.
func (r *Rootfs) Usage(ctx context.Context, id string) (rw, rootfs int64, err error) {
	u, err := r.snaps.Usage(in(ctx), id)
	if err != nil {
		return 0, 0, fmt.Errorf("measure layer %s: %w", id, err)
	}
	below, err := r.Below(ctx, id)
	return u.Size, u.Size + below, err
}

// Below is the size of what a container's writable layer lies on. It is known
// from when each layer was committed.
func (r *Rootfs) Below(ctx context.Context, id string) (int64, error) {
	ctx = in(ctx)
	info, err := r.snaps.Stat(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("look at layer %s: %w", id, err)
	}
	var total int64
	for key := info.Parent; key != ""; {
		l, err := r.committed(ctx, key)
		if err != nil {
			return 0, err
		}
		total += l.size
		key = l.parent
	}
	return total, nil
}

// committedLayer is a layer that never changes.
type committedLayer struct {
	size   int64
	parent string
}

// committed looks a layer up once. The caller's container keeps it there, and
// one that is made again under the same name has the same content.
func (r *Rootfs) committed(ctx context.Context, key string) (committedLayer, error) {
	if l, ok := r.sizes.Load(key); ok {
		return l.(committedLayer), nil //nolint:forcetypeassert // nothing else is stored
	}
	u, err := r.snaps.Usage(ctx, key)
	if err != nil {
		return committedLayer{}, fmt.Errorf("measure layer %s: %w", key, err)
	}
	info, err := r.snaps.Stat(ctx, key)
	if err != nil {
		return committedLayer{}, fmt.Errorf("look at layer %s: %w", key, err)
	}
	l := committedLayer{u.Size, info.Parent}
	r.sizes.Store(key, l)
	return l, nil
}

// idLength is the length of a container ID; image unpacking has active
// snapshots too, under longer names.
const idLength = 64

// List implements container.Rootfs: snapshots and merged directories alike.
func (r *Rootfs) List(ctx context.Context) ([]string, error) {
	seen := map[string]bool{}
	err := r.snaps.Walk(in(ctx), func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive && len(i.Name) == idLength {
			seen[i.Name] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list writable layers: %w", err)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list merged directories: %w", err)
	}
	for _, e := range entries {
		if len(e.Name()) == idLength {
			seen[e.Name()] = true
		}
	}
	out := make([]string, 0, len(seen))
	for id := range seen {
		out = append(out, id)
	}
	return out, nil
}

// Changes implements container.Rootfs.
func (r *Rootfs) Changes(ctx context.Context, id string) ([]dockercontainer.FilesystemChange, error) {
	l, err := r.Layer(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := changes(ctx, l.Upper, l.Lower)
	if err != nil {
		return nil, fmt.Errorf("compare layers of container %s: %w", id, err)
	}
	return c, nil
}
