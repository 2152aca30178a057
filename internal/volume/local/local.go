package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume"
)

const (
	dataDir = "_data"
	// Folders in the making and going. Names of volumes begin with a letter or a
	// digit, so none collides.
	newPrefix  = ".new-"
	gonePrefix = ".gone-"
)

var _ volume.Driver = (*Driver)(nil)

// Driver fills volume.Driver with directories.
type Driver struct {
	root    string
	resolve Resolver
}

// Resolver finds the address of a file server's name.
type Resolver func(ctx context.Context, host string) (addr string, err error)

// New returns the driver for the folder root, which it makes, and finishes
// removals that an earlier daemon began.
func New(root string, resolve Resolver) (*Driver, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of local volumes: %w", err)
	}
	// Files in volumes have the modes that containers gave them: nobody else on
	// the host may come that far.
	if err := os.Chmod(root, 0o700); err != nil {
		return nil, fmt.Errorf("close folder of local volumes to others: %w", err)
	}
	for _, left := range []string{newPrefix + "*", gonePrefix + "*", filepath.Join("*", snapshotsDir, gonePrefix+"*")} {
		left, err := filepath.Glob(filepath.Join(root, left))
		if err != nil {
			return nil, err
		}
		for _, p := range left {
			if err := os.RemoveAll(p); err != nil {
				return nil, fmt.Errorf("finish removal of a volume: %w", err)
			}
		}
	}
	return &Driver{root: root, resolve: resolve}, nil
}

// Name implements volume.Driver.
func (*Driver) Name() string { return "local" }

// Capabilities implements volume.Driver.
func (*Driver) Capabilities() volume.Capabilities {
	return volume.Capabilities{Scope: "local", Snapshot: true, Clone: true, Rename: true, Send: true}
}

func (d *Driver) dir(v volume.Spec) string { return filepath.Join(d.root, v.Name) }

// Path implements volume.Driver.
func (d *Driver) Path(v volume.Spec) string { return filepath.Join(d.dir(v), dataDir) }

// Create implements volume.Driver. The folder is made aside and renamed, so a
// crash leaves nothing half-made under the volume's name.
func (d *Driver) Create(_ context.Context, v volume.Spec) error {
	es, err := os.ReadDir(d.Path(v))
	switch {
	case err == nil && len(es) > 0:
		return fault.New(errdefs.ErrAlreadyExists, "%s holds data that belongs to no volume: move it away first", d.Path(v))
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("look for volume data: %w", err)
	}
	// A folder without data in it may be left of a removal by hand; one with
	// other things in it is not ours and makes the rename fail.
	if err := os.Remove(d.dir(v)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(errdefs.ErrAlreadyExists, err, "make volume folder")
	}
	if err := d.createAside(v); err != nil {
		return fmt.Errorf("error while creating volume root path '%s': %w", d.dir(v), err)
	}
	return nil
}

func (d *Driver) createAside(v volume.Spec) (err error) {
	tmp, err := os.MkdirTemp(d.root, newPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	data := filepath.Join(tmp, dataDir)
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	// Not left to the umask: containers run as any user.
	if err := os.Chmod(data, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o701); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, d.dir(v)); err != nil {
		return err
	}
	return atomicfile.SyncDir(d.root)
}

// Remove implements volume.Driver. The folder is renamed away first: a crash
// leaves the whole volume or none of it.
func (d *Driver) Remove(ctx context.Context, v volume.Spec) error {
	if err := d.Unmount(ctx, v); err != nil {
		return err
	}
	if err := d.nothingMounted(v); err != nil {
		return err
	}
	gone := filepath.Join(d.root, gonePrefix+short(v.Name))
	if err := os.RemoveAll(gone); err != nil { // left of a removal that failed
		return fmt.Errorf("error removing volume path '%s': %w", gone, err)
	}
	switch err := os.Rename(d.dir(v), gone); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("error removing volume path '%s': %w", d.dir(v), err)
	}
	if err := atomicfile.SyncDir(d.root); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("error removing volume path '%s': %w", gone, err)
	}
	return nil
}

// short stands for a name where a prefix before it could make it too long.
func short(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// nothingMounted refuses to delete through a mount: behind it are other
// people's files.
func (d *Driver) nothingMounted(v volume.Spec) error {
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.dir(v)))
	if err != nil {
		return fmt.Errorf("look for mounts below volume: %w", err)
	}
	if len(ms) > 0 {
		return fault.New(errdefs.ErrFailedPrecondition, "something is mounted on %s: unmount it first", ms[0].Mountpoint)
	}
	return nil
}

// Usage implements volume.Driver.
func (d *Driver) Usage(ctx context.Context, v volume.Spec) (int64, error) {
	n, err := measure(ctx, d.Path(v))
	if err != nil {
		return 0, fmt.Errorf("measure volume %s: %w", v.Name, err)
	}
	return n, nil
}

// measure adds up the sizes of the files below dir as they show, hard links
// counted once.
func measure(ctx context.Context, dir string) (int64, error) {
	if _, err := os.Lstat(dir); err != nil {
		return 0, err
	}
	var total int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		if errors.Is(err, os.ErrNotExist) { // deleted under our eyes
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() {
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			k := inode{st.Dev, st.Ino}
			if seen[k] {
				return nil
			}
			seen[k] = true
		}
		total += fi.Size()
		return nil
	})
	return total, err
}

func hasMount(v volume.Spec) bool {
	return v.Options["type"] != "" || v.Options["device"] != ""
}

func maskPassword(text, options string) string {
	for o := range strings.SplitSeq(options, ",") {
		if p, ok := strings.CutPrefix(o, "password="); ok && p != "" {
			text = strings.ReplaceAll(text, "password="+p, "password=********")
		}
	}
	return text
}
