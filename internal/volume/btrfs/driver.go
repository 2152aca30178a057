package btrfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
)

const (
	dataDir      = "_data"
	snapshotsDir = "_snapshots"
	nextDir      = ".next"
	newPrefix    = ".new-"
	gonePrefix   = ".gone-"

	optPool = "pool"
	optSize = volume.OptSize
	// DefaultPool is the pool of volumes that name none.
	DefaultPool = "default"
)

var (
	_ volume.Driver      = (*Driver)(nil)
	_ volume.Snapshotter = (*Driver)(nil)
	_ volume.Cloner      = (*Driver)(nil)
	_ volume.Renamer     = (*Driver)(nil)
	_ volume.Limiter     = (*Driver)(nil)
	_ volume.Keeper      = (*Driver)(nil)
)

// Driver fills volume.Driver with subvolumes.
type Driver struct{ pools *Pools }

// New returns the driver for volumes in the pools.
func New(pools *Pools) *Driver { return &Driver{pools} }

// Name implements volume.Driver.
func (*Driver) Name() string { return "btrfs" }

// Capabilities implements volume.Driver.
func (*Driver) Capabilities() volume.Capabilities {
	return volume.Capabilities{Scope: "local", Snapshot: true, PointInTime: true, Clone: true, Rename: true, Quota: true, Send: true, Incremental: true, CheapSize: true}
}

// Space implements volume.Spacer.
func (d *Driver) Space(v volume.Spec) (free, total uint64, err error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return 0, 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.mount, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: p.mount, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil //nolint:gosec // a block has a size
}

// Keeps implements volume.Keeper.
func (*Driver) Keeps(volume.Spec) bool { return true }

// CheckOptions implements volume.Driver.
func (d *Driver) CheckOptions(options map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		switch k {
		case optPool:
		case optSize:
			if _, err := sizeOf(options); err != nil {
				return err
			}
		default:
			return fault.New(errdefs.ErrInvalidArgument, "invalid option: %q", k)
		}
	}
	p, err := d.pools.find(poolOf(options))
	if err != nil {
		return err
	}
	if size, _ := sizeOf(options); size > 0 && !p.quota {
		return fault.New(errdefs.ErrInvalidArgument, "quota size requested but pool %s has no simple quotas (Linux 6.7, and a pool that Holdfast made)", p.Name)
	}
	return nil
}

func poolOf(options map[string]string) string {
	if p := options[optPool]; p != "" {
		return p
	}
	return DefaultPool
}

func sizeOf(options map[string]string) (uint64, error) {
	s := options[optSize]
	if s == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, fault.New(errdefs.ErrInvalidArgument, "invalid size: %q", s)
	}
	return uint64(n), nil
}

func (d *Driver) dir(v volume.Spec) string {
	return filepath.Join(d.pools.volumes(poolOf(v.Options)), v.Name)
}

// Path implements volume.Driver.
func (d *Driver) Path(v volume.Spec) string { return filepath.Join(d.dir(v), dataDir) }

// SnapshotPath implements volume.Snapshotter.
func (d *Driver) SnapshotPath(v volume.Spec, snapshot string) string {
	return filepath.Join(d.dir(v), snapshotsDir, snapshot)
}

// short stands for a name where a prefix before it could make it too long.
func short(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// Create implements volume.Driver. The folder is made aside and renamed.
func (d *Driver) Create(_ context.Context, v volume.Spec) error {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return err
	}
	es, err := os.ReadDir(d.Path(v))
	switch {
	case err == nil && len(es) > 0:
		return fault.New(errdefs.ErrAlreadyExists, "%s holds data that belongs to no volume: move it away first", d.Path(v))
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.Remove(d.dir(v)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(errdefs.ErrAlreadyExists, err, "make volume folder")
	}
	aside := filepath.Join(p.volumes(), newPrefix+short(v.Name))
	err = removeAll(aside)
	if err == nil {
		err = os.Mkdir(aside, 0o701)
	}
	if err == nil {
		err = in(aside, func(dir *os.File) error { return createSubvolume(dir, dataDir) })
	}
	if err == nil {
		err = os.Chmod(filepath.Join(aside, dataDir), 0o755)
	}
	if err == nil {
		err = d.limit(v, filepath.Join(aside, dataDir))
	}
	if err == nil {
		err = move(aside, d.dir(v))
	}
	if err == nil {
		err = p.sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create volume %s in pool %s: %w", v.Name, p.Name, err), removeAll(aside))
	}
	return nil
}

// limit sets the volume's limit on a subvolume that is about to be its data.
func (d *Driver) limit(v volume.Spec, path string) error {
	size, err := sizeOf(v.Options)
	if err != nil || size == 0 {
		return err
	}
	return in(path, func(f *os.File) error {
		id, err := subvolumeID(f)
		if err != nil {
			return err
		}
		return limit(f, id, size)
	})
}

// in runs do with a directory open.
func in(path string, do func(*os.File) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return do(f)
}

// move renames; nothing must be at the new name.
func move(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// removeAll is os.RemoveAll for trees with subvolumes in them.
func removeAll(path string) error {
	is, err := isSubvolume(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if is {
		return removeSubvolume(path)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		es, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := removeAll(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeSubvolume deletes one, and those that its users made in it.
func removeSubvolume(path string) error {
	remove := func() error {
		return in(filepath.Dir(path), func(dir *os.File) error { return destroy(dir, filepath.Base(path)) })
	}
	err := remove()
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	if err := in(path, func(f *os.File) error { return setReadOnly(f, false) }); err != nil {
		return err
	}
	var nested []string
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == path || !e.IsDir() {
			return err
		}
		is, err := isSubvolume(p)
		if is {
			nested = append(nested, p)
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range nested {
		if err := removeSubvolume(p); err != nil {
			return err
		}
	}
	return remove()
}

// Remove implements volume.Driver.
func (d *Driver) Remove(_ context.Context, v volume.Spec) error {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return err
	}
	gone := filepath.Join(p.volumes(), gonePrefix+short(v.Name))
	if err := removeAll(gone); err != nil {
		return err
	}
	if err := move(d.dir(v), gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := p.sync(); err != nil {
		return err
	}
	if err := removeAll(gone); err != nil {
		return fmt.Errorf("remove volume %s: %w", v.Name, err)
	}
	return nil
}

// Mount implements volume.Driver: the pool is mounted already.
func (d *Driver) Mount(_ context.Context, v volume.Spec) error {
	if _, err := d.pools.find(poolOf(v.Options)); err != nil {
		return err
	}
	is, err := isSubvolume(d.Path(v))
	if errors.Is(err, os.ErrNotExist) || err == nil && !is {
		return fault.New(errdefs.ErrDataLoss, "the data of volume %s is missing: put the subvolume %s back, or remove the volume", v.Name, d.Path(v))
	}
	return err
}

// Unmount implements volume.Driver.
func (*Driver) Unmount(context.Context, volume.Spec) error { return nil }

// Usage implements volume.Driver: what is accounted to the volume and its
// snapshots. Blocks that a clone shares with what it was made of are not.
func (d *Driver) Usage(ctx context.Context, v volume.Spec) (int64, error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return 0, err
	}
	total, err := accounted(ctx, p, d.Path(v))
	if err != nil {
		return 0, fmt.Errorf("measure volume %s: %w", v.Name, err)
	}
	es, err := os.ReadDir(filepath.Join(d.dir(v), snapshotsDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	for _, e := range es {
		n, err := accounted(ctx, p, filepath.Join(d.dir(v), snapshotsDir, e.Name()))
		if err != nil {
			return 0, fmt.Errorf("measure volume %s: %w", v.Name, err)
		}
		total += n
	}
	return total, nil
}

// accounted is what is accounted to one subvolume; without quotas its files are
// looked at.
func accounted(ctx context.Context, p *pool, path string) (n int64, err error) {
	if !p.quota {
		return walk(ctx, path)
	}
	err = in(path, func(f *os.File) error {
		id, err := subvolumeID(f)
		if err != nil {
			return err
		}
		// What was written is accounted when its transaction is on disk.
		if err := syncPool(f); err != nil {
			return err
		}
		n, err = used(f, id)
		return err
	})
	return n, err
}

// walk adds up the blocks of the files below path.
func walk(ctx context.Context, path string) (int64, error) {
	var total int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if p != path && (errors.Is(err, os.ErrNotExist) || seen[inode{st.Dev, st.Ino}]) {
			return nil
		}
		seen[inode{st.Dev, st.Ino}] = st.Nlink > 1
		total += st.Blocks * 512
		return err
	})
	return total, err
}

// SnapshotUsage implements volume.Snapshotter.
func (d *Driver) SnapshotUsage(ctx context.Context, v volume.Spec, snapshot string) (int64, error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return 0, err
	}
	n, err := accounted(ctx, p, d.SnapshotPath(v, snapshot))
	if err != nil {
		return 0, fmt.Errorf("measure snapshot %s of volume %s: %w", snapshot, v.Name, err)
	}
	return n, nil
}

// Resize implements volume.Limiter.
func (d *Driver) Resize(_ context.Context, v volume.Spec, bytes int64) error {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return err
	}
	if !p.quota {
		return fault.New(errdefs.ErrNotImplemented, "pool %s has no simple quotas (Linux 6.7, and a pool that Holdfast made)", p.Name)
	}
	return in(d.Path(v), func(f *os.File) error {
		id, err := subvolumeID(f)
		if err != nil {
			return err
		}
		if err := limit(f, id, uint64(max(bytes, 0))); err != nil {
			return err
		}
		return syncPool(f)
	})
}

func (d *Driver) snapshots(v volume.Spec) string { return filepath.Join(d.dir(v), snapshotsDir) }

// Snapshot implements volume.Snapshotter. The kernel makes it whole or not at all.
func (d *Driver) Snapshot(ctx context.Context, v volume.Spec, name string) (volume.Made, error) {
	if err := ctx.Err(); err != nil {
		return volume.Made{}, err
	}
	to := d.SnapshotPath(v, name)
	if err := free(to); err != nil {
		return volume.Made{}, err
	}
	if err := os.Mkdir(d.snapshots(v), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return volume.Made{}, err
	}
	err := copySubvolume(d.Path(v), to, true)
	if err == nil {
		err = failpoint.Hit("btrfs.snapshot.made")
	}
	if err != nil {
		return volume.Made{}, errors.Join(fmt.Errorf("snapshot %s of volume %s: %w", name, v.Name, err), d.RemoveSnapshot(ctx, v, name))
	}
	return volume.Made{Method: volume.MethodSubvolume}, nil
}

func free(path string) error {
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fault.New(errdefs.ErrAlreadyExists, "%s is there already and belongs to nobody: move it away first", path)
}

func copySubvolume(from, to string, readOnly bool) error {
	return in(from, func(src *os.File) error {
		return in(filepath.Dir(to), func(dir *os.File) error {
			if err := snapshot(src, dir, filepath.Base(to), readOnly); err != nil {
				return err
			}
			return syncPool(dir)
		})
	})
}

// RemoveSnapshot implements volume.Snapshotter.
func (d *Driver) RemoveSnapshot(_ context.Context, v volume.Spec, name string) error {
	there := false
	for _, path := range []string{d.receiveAside(v, name), d.SnapshotPath(v, name)} {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			continue
		}
		there = true
		if err := removeAll(path); err != nil {
			return fmt.Errorf("remove snapshot %s of volume %s: %w", name, v.Name, err)
		}
	}
	if !there {
		return nil
	}
	return in(d.snapshots(v), syncPool)
}

// Rollback implements volume.Snapshotter.
func (d *Driver) Rollback(ctx context.Context, v volume.Spec, name, keep string) (volume.Made, error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return volume.Made{}, err
	}
	kept, next := d.SnapshotPath(v, keep), filepath.Join(d.dir(v), nextDir)
	if err := free(kept); err != nil {
		return volume.Made{}, err
	}
	for _, step := range []struct {
		do   func() error
		then string
	}{
		{func() error { return removeAll(next) }, ""},
		{func() error { return copySubvolume(d.SnapshotPath(v, name), next, false) }, ""},
		{func() error { return errors.Join(d.limit(v, next), p.sync()) }, "btrfs.rollback.next"},
		{func() error { return errors.Join(move(d.Path(v), kept), p.sync()) }, "btrfs.rollback.kept"},
		{func() error { return errors.Join(move(next, d.Path(v)), p.sync()) }, "btrfs.rollback.placed"},
		{func() error { return in(kept, func(f *os.File) error { return setReadOnly(f, true) }) }, ""},
	} {
		if err = step.do(); err == nil && step.then != "" {
			err = failpoint.Hit(step.then)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		return volume.Made{Method: volume.MethodSubvolume}, nil
	}
	err = fmt.Errorf("roll volume %s back to %s: %w", v.Name, name, err)
	done, serr := d.SettleRollback(context.WithoutCancel(ctx), v, keep)
	if done && serr == nil {
		return volume.Made{Method: volume.MethodSubvolume}, nil
	}
	return volume.Made{}, errors.Join(err, serr)
}

// SettleRollback implements volume.Snapshotter.
func (d *Driver) SettleRollback(_ context.Context, v volume.Spec, keep string) (done bool, err error) {
	p, err := d.pools.find(poolOf(v.Options))
	if err != nil {
		return false, err
	}
	next, kept := filepath.Join(d.dir(v), nextDir), d.SnapshotPath(v, keep)
	there := map[string]bool{}
	for _, path := range []string{next, kept, d.Path(v)} {
		_, err := os.Lstat(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		there[path] = err == nil
	}
	if there[next] && there[kept] && !there[d.Path(v)] {
		err = move(next, d.Path(v))
	} else {
		err = removeAll(next)
	}
	if err == nil && there[kept] {
		err = in(kept, func(f *os.File) error { return setReadOnly(f, true) })
	}
	if err == nil {
		err = p.sync()
	}
	return there[kept], err
}

// Clone implements volume.Cloner.
func (d *Driver) Clone(_ context.Context, from volume.Spec, name string, to volume.Spec) (volume.Made, error) {
	if poolOf(from.Options) != poolOf(to.Options) {
		return volume.Made{}, fault.New(errdefs.ErrNotImplemented, "volume %s cannot be cloned into another pool", from.Name)
	}
	src := d.Path(from)
	if name != "" {
		src = d.SnapshotPath(from, name)
	}
	err := removeAll(d.Path(to))
	if err == nil {
		err = copySubvolume(src, d.Path(to), false)
	}
	if err == nil {
		err = d.limit(to, d.Path(to))
	}
	if err == nil {
		err = failpoint.Hit("btrfs.clone.made")
	}
	if err != nil {
		return volume.Made{}, fmt.Errorf("clone volume %s from %s: %w", to.Name, from.Name, err)
	}
	return volume.Made{Method: volume.MethodSubvolume}, nil
}

// Rename implements volume.Renamer.
func (d *Driver) Rename(_ context.Context, from, to volume.Spec) error {
	p, err := d.pools.find(poolOf(from.Options))
	if err != nil {
		return err
	}
	err = move(d.dir(from), d.dir(to))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, terr := os.Lstat(d.dir(to)); terr != nil {
			return err
		}
		return nil
	case errors.Is(err, os.ErrExist):
		return fault.Wrap(errdefs.ErrAlreadyExists, err, "rename volume %s", from.Name)
	case err != nil:
		return err
	}
	return p.sync()
}
