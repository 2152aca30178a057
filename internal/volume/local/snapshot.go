package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/tree"
)

const (
	snapshotsDir = "_snapshots"
	nextDir      = ".next"     // whole, about to become the data
	nextNewDir   = ".next-new" // in the making
)

// Space implements volume.Spacer.
func (d *Driver) Space(volume.Spec) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.root, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: d.root, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil //nolint:gosec // a block has a size
}

// Keeps implements volume.Keeper.
func (*Driver) Keeps(v volume.Spec) bool { return len(v.Options) == 0 }

var (
	_ volume.Keeper      = (*Driver)(nil)
	_ volume.Snapshotter = (*Driver)(nil)
	_ volume.Cloner      = (*Driver)(nil)
	_ volume.Renamer     = (*Driver)(nil)
)

func (d *Driver) snapshots(v volume.Spec) string { return filepath.Join(d.dir(v), snapshotsDir) }

// SnapshotPath implements volume.Snapshotter.
func (d *Driver) SnapshotPath(v volume.Spec, snapshot string) string {
	return filepath.Join(d.snapshots(v), snapshot)
}

// elsewhere refuses volumes that are mounts of something: their data is not here.
func elsewhere(v volume.Spec) error {
	if hasMount(v) {
		return fault.New(errdefs.ErrNotImplemented, "volume %s is a mount of %s: its data is not the local driver's to copy", v.Name, v.Options["device"])
	}
	return nil
}

// Snapshot implements volume.Snapshotter: the tree is copied aside, synced and
// renamed.
func (d *Driver) Snapshot(ctx context.Context, v volume.Spec, snapshot string) (_ volume.Made, err error) {
	if err := elsewhere(v); err != nil {
		return volume.Made{}, err
	}
	to := d.SnapshotPath(v, snapshot)
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		return volume.Made{}, taken(to, err)
	}
	if err := makeDir(d.snapshots(v)); err != nil {
		return volume.Made{}, err
	}
	aside := d.snapshotAside(v, newPrefix, snapshot)
	made, err := copyWhole(ctx, d.Path(v), aside)
	if err == nil {
		err = failpoint.Hit("local.snapshot.copied")
	}
	if err == nil {
		err = moveDurably(aside, to)
	}
	if err == nil {
		err = failpoint.Hit("local.snapshot.named")
	}
	if err != nil { // it may have its name already, and not be sure to keep it
		return volume.Made{}, errors.Join(fmt.Errorf("snapshot %s of volume %s: %w", snapshot, v.Name, err), d.RemoveSnapshot(context.WithoutCancel(ctx), v, snapshot))
	}
	return made, nil
}

func (d *Driver) snapshotAside(v volume.Spec, prefix, snapshot string) string {
	return filepath.Join(d.snapshots(v), prefix+short(snapshot))
}

func taken(path string, err error) error {
	if err != nil {
		return fmt.Errorf("look for %s: %w", path, err)
	}
	return fault.New(errdefs.ErrAlreadyExists, "%s is there already and belongs to nobody: move it away first", path)
}

// makeDir makes a folder of ours in a volume's folder, durably.
func makeDir(dir string) error {
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// moveDurably renames within one folder; nothing must be at the new name.
func moveDurably(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	if err := atomicfile.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return atomicfile.SyncDir(filepath.Dir(from))
}

// copyWhole makes a copy of a tree, on disk when it returns, at a place that it
// clears first.
func copyWhole(ctx context.Context, from, to string) (volume.Made, error) {
	if err := os.RemoveAll(to); err != nil {
		return volume.Made{}, err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return volume.Made{}, err
	}
	return copyInto(ctx, from, to)
}

// copyInto copies a tree into an empty directory and syncs it. The source may be
// in use: the Service has asked whether that is wanted.
func copyInto(ctx context.Context, from, to string) (_ volume.Made, err error) {
	src, err := os.Open(from)
	if err != nil {
		return volume.Made{}, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.Open(to)
	if err != nil {
		return volume.Made{}, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	r, err := tree.Copy(ctx, src, dst, tree.Options{Workers: runtime.GOMAXPROCS(0) + 1, Live: true})
	if err != nil {
		return volume.Made{}, err
	}
	if err := failpoint.Hit("local.copy.afterContent"); err != nil {
		return volume.Made{}, err
	}
	if err := tree.Attributes(src, dst); err != nil {
		return volume.Made{}, err
	}
	if err := unix.Syncfs(int(dst.Fd())); err != nil {
		return volume.Made{}, os.NewSyscallError("syncfs", err)
	}
	m := volume.Made{Method: volume.MethodCopy, Files: r.Files, Bytes: r.Written}
	if r.Shared > 0 && r.Written == 0 {
		m.Method = volume.MethodReflink
	}
	return m, nil
}

// RemoveSnapshot implements volume.Snapshotter. It is renamed away first: a
// crash leaves the whole snapshot or none of it.
func (d *Driver) RemoveSnapshot(_ context.Context, v volume.Spec, snapshot string) error {
	gone := d.snapshotAside(v, gonePrefix, snapshot)
	for _, p := range []string{d.snapshotAside(v, newPrefix, snapshot), gone} {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove what is left of snapshot %s: %w", snapshot, err)
		}
	}
	if err := moveDurably(d.SnapshotPath(v, snapshot), gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := failpoint.Hit("local.snapshotRemove.renamed"); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove snapshot %s of volume %s: %w", snapshot, v.Name, err)
	}
	return nil
}

// SnapshotUsage implements volume.Snapshotter: sizes of its files.
func (d *Driver) SnapshotUsage(ctx context.Context, v volume.Spec, snapshot string) (int64, error) {
	n, err := measure(ctx, d.SnapshotPath(v, snapshot))
	if err != nil {
		return 0, fmt.Errorf("measure snapshot %s of volume %s: %w", snapshot, v.Name, err)
	}
	return n, nil
}

// Rollback implements volume.Snapshotter. The copy is made whole before
// anything is touched; then two renames: SettleRollback tells from what is at
// which name how far they came.
func (d *Driver) Rollback(ctx context.Context, v volume.Spec, snapshot, keep string) (_ volume.Made, err error) {
	if err := elsewhere(v); err != nil {
		return volume.Made{}, err
	}
	if err := d.nothingMounted(v); err != nil {
		return volume.Made{}, err
	}
	kept := d.SnapshotPath(v, keep)
	if _, err := os.Lstat(kept); !errors.Is(err, os.ErrNotExist) {
		return volume.Made{}, taken(kept, err)
	}
	next, aside := filepath.Join(d.dir(v), nextDir), filepath.Join(d.dir(v), nextNewDir)
	made, err := copyWhole(ctx, d.SnapshotPath(v, snapshot), aside)
	if err == nil {
		err = failpoint.Hit("local.rollback.copied")
	}
	if err == nil {
		err = moveDurably(aside, next)
	}
	if err == nil {
		err = failpoint.Hit("local.rollback.next")
	}
	if err == nil {
		err = moveDurably(d.Path(v), kept)
	}
	if err == nil {
		err = failpoint.Hit("local.rollback.kept")
	}
	if err == nil {
		err = moveDurably(next, d.Path(v))
	}
	if err == nil {
		err = failpoint.Hit("local.rollback.placed")
	}
	if err == nil {
		return made, nil
	}
	err = fmt.Errorf("roll volume %s back to %s: %w", v.Name, snapshot, err)
	done, serr := d.SettleRollback(context.WithoutCancel(ctx), v, keep)
	if done && serr == nil { // what failed was to be sure of it, and now it is
		return made, nil
	}
	return volume.Made{}, errors.Join(err, serr)
}

// SettleRollback implements volume.Snapshotter.
func (d *Driver) SettleRollback(_ context.Context, v volume.Spec, keep string) (done bool, err error) {
	next := filepath.Join(d.dir(v), nextDir)
	hasNext, err := exists(next)
	if err != nil {
		return false, err
	}
	hasData, err := exists(d.Path(v))
	if err != nil {
		return false, err
	}
	hasKept, err := exists(d.SnapshotPath(v, keep))
	if err != nil {
		return false, err
	}
	if hasNext && hasKept && !hasData {
		return true, moveDurably(next, d.Path(v))
	}
	for _, p := range []string{next, filepath.Join(d.dir(v), nextNewDir)} {
		if err := os.RemoveAll(p); err != nil {
			return false, err
		}
	}
	return hasKept, atomicfile.SyncDir(d.dir(v))
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Clone implements volume.Cloner.
func (d *Driver) Clone(ctx context.Context, from volume.Spec, snapshot string, to volume.Spec) (volume.Made, error) {
	for _, v := range []volume.Spec{from, to} {
		if err := elsewhere(v); err != nil {
			return volume.Made{}, err
		}
	}
	src := d.Path(from)
	if snapshot != "" {
		src = d.SnapshotPath(from, snapshot)
	}
	made, err := copyInto(ctx, src, d.Path(to))
	if err != nil {
		return volume.Made{}, fmt.Errorf("clone volume %s from %s: %w", to.Name, from.Name, err)
	}
	return made, failpoint.Hit("local.clone.copied")
}

// Rename implements volume.Renamer.
func (d *Driver) Rename(_ context.Context, from, to volume.Spec) error {
	if err := d.nothingMounted(from); err != nil {
		return err
	}
	err := moveDurably(d.dir(from), d.dir(to))
	if errors.Is(err, os.ErrNotExist) {
		if there, terr := exists(d.dir(to)); there || terr != nil {
			return terr
		}
	}
	if errors.Is(err, os.ErrExist) {
		return fault.Wrap(errdefs.ErrAlreadyExists, err, "rename volume %s", from.Name)
	}
	return err
}
