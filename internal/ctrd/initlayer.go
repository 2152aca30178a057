package ctrd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// The init layer lies between an image's top layer and the writable layers of
// its containers. It holds what the runtime will mount over, so that these
// mount points never show up as changes of the container. All containers of an
// image share it; it lives as long as the image's layers do.
const (
	initSuffix   = "-init"
	initBuilding = "init-" // prefix of the keys of init layers in the making
	emptyParent  = "empty" // names the init layer of images without a layer

	// gcBackRef makes an object live as long as the snapshot that it names.
	gcBackRef = "containerd.io/gc.bref.snapshot." + Snapshotter
)

func initName(parent string) string {
	if parent == "" {
		parent = emptyParent
	}
	return parent + initSuffix
}

// initTries bounds how often a writable layer is tried on an init layer that a
// collection takes away in between.
const initTries = 5

// prepare makes the active snapshot id on the parent's init layer.
func (r *Rootfs) prepare(ctx context.Context, id, parent string, labels map[string]string) error {
	var err error
	for range initTries {
		_, err = r.snaps.Prepare(ctx, id, initName(parent), snapshots.WithLabels(labels))
		if !errdefs.IsNotFound(err) {
			return err
		}
		if err = r.makeInit(ctx, parent); err != nil {
			return err
		}
	}
	return err
}

func (r *Rootfs) makeInit(ctx context.Context, parent string) (err error) {
	key := initBuilding + rand.Text()
	mounts, err := r.snaps.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{gcRoot: "building"}))
	if err != nil {
		return fmt.Errorf("prepare init layer: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		if rerr := r.snaps.Remove(context.WithoutCancel(ctx), key); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, fmt.Errorf("give up init layer: %w", rerr))
		}
	}()
	if err := mount.WithTempMount(ctx, mounts, fillInit); err != nil {
		return fmt.Errorf("fill init layer: %w", err)
	}
	labels := map[string]string{gcBackRef: parent}
	if parent == "" {
		labels = map[string]string{gcRoot: "init"} // belongs to no image: a few empty files, kept
	}
	err = r.snaps.Commit(ctx, initName(parent), key, snapshots.WithLabels(labels))
	if errdefs.IsAlreadyExists(err) { // another container's start was quicker
		return r.snaps.Remove(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("commit init layer: %w", err)
	}
	return nil
}

// fillInit makes the mount points that are missing. What the image has stays,
// and nothing is made where a link of the image leads out of its root.
func fillInit(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range []struct{ name, kind string }{
		{"dev/pts", "dir"},
		{"dev/shm", "dir"},
		{"proc", "dir"},
		{"sys", "dir"},
		{".dockerenv", "file"},
		{"dev/console", "file"},
		{"etc/hosts", "file"},
		{"etc/hostname", "file"},
		{"etc/resolv.conf", "file"},
		{"etc/mtab", "/proc/mounts"},
	} {
		if err := fillOne(root, p.name, p.kind); err != nil && !leadsOut(err) {
			return err
		}
	}
	return nil
}

func fillOne(root *os.Root, name, kind string) error {
	if _, err := root.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch kind {
	case "dir":
		return root.Mkdir(name, 0o755)
	case "file":
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
		if err != nil {
			return err
		}
		return f.Close()
	}
	return root.Symlink(kind, name)
}

// leadsOut tells the errors of images whose /etc or /dev is something odd: a
// link to elsewhere or a file. The runtime will say what it thinks of them.
func leadsOut(err error) bool {
	var pe *os.PathError
	return errors.As(err, &pe) && (strings.Contains(pe.Err.Error(), "escapes") || errors.Is(err, os.ErrExist) || isNotDir(err))
}

// sweepInit removes init layers that an earlier engine was making when it ended.
func (r *Rootfs) sweepInit(ctx context.Context) error {
	var left []string
	err := r.snaps.Walk(in(ctx), func(_ context.Context, i snapshots.Info) error {
		if strings.HasPrefix(i.Name, initBuilding) {
			left = append(left, i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list init layers: %w", err)
	}
	for _, key := range left {
		if err := r.snaps.Remove(in(ctx), key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove unfinished init layer: %w", err)
		}
	}
	return nil
}
