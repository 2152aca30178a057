package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/usage/walk"
)

// Host implements the storage router's Backend.
func (b storageBackend) Host(ctx context.Context) (api.HostReport, error) {
	d := b.d
	out := api.HostReport{Root: d.cfg.Root, Parts: []api.HostPart{}, Orphans: []api.HostOrphan{}, DeletedOpen: []api.HostDeleted{}}
	disk, err := diskOf(d.cfg.Root)
	if err != nil {
		return out, err
	}
	out.Disk = api.StorageDisk(disk)
	told, err := d.toldByPart(ctx)
	if err != nil {
		return out, err
	}
	entries, err := os.ReadDir(d.cfg.Root)
	if err != nil {
		return out, fmt.Errorf("read the daemon's root: %w", err)
	}
	for _, e := range entries {
		p := api.HostPart{Name: e.Name(), Path: filepath.Join(d.cfg.Root, e.Name()), Told: -1}
		if p.Walked, err = blocksOf(ctx, p.Path); err != nil {
			return out, err
		}
		if t, ok := told[e.Name()]; ok {
			p.Told, p.Note = t.bytes, t.note
		}
		out.Walked += p.Walked
		out.Parts = append(out.Parts, p)
	}
	slices.SortFunc(out.Parts, func(a, b api.HostPart) int { return cmp.Compare(b.Walked, a.Walked) })
	if out.Orphans, err = d.orphans(ctx); err != nil {
		return out, err
	}
	out.DeletedOpen, err = d.deletedOpen()
	return out, err
}

// blockSize is the unit of st_blocks.
const blockSize = 512

// blocksOf is what a file or a tree takes; nothing if it has gone.
func blocksOf(ctx context.Context, path string) (int64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return st.Blocks * blockSize, nil
	}
	f, _, err := walk.Dir(ctx, path, false)
	if errdefs.IsNotFound(err) {
		return 0, nil
	}
	return f.Blocks, err
}

type partTold struct {
	bytes int64
	note  string
}

// toldByPart is what the ledger and the image store say is in each part.
func (d *Daemon) toldByPart(ctx context.Context) (map[string]partTold, error) {
	var volumes, layers, images int64
	for _, i := range d.ledger.Items() {
		if i.Key.Kind == usage.Layer {
			layers += i.Disk
		} else {
			volumes += i.Disk
		}
	}
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return nil, err
	}
	made := make([]usage.Made, len(list))
	for i, img := range list {
		made[i] = usage.Made{ID: img.ID, Parts: parts[img.ID]}
	}
	images = usage.Share(made).Total
	cache, err := d.buildUsage(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]partTold{
		filepath.Base(d.paths.Volumes): {volumes, "volumes; snapshots and folders are not in the ledger"},
		"containerd":                   {layers + images + cache.TotalSize, "writable layers, images, build cache; databases are not in the ledger"},
	}, nil
}

// orphans are things below the root that the daemon's records do not know.
func (d *Daemon) orphans(ctx context.Context) ([]api.HostOrphan, error) {
	out := []api.HostOrphan{}
	add := func(path, why string, repairable bool) error {
		n, err := blocksOf(ctx, path)
		out = append(out, api.HostOrphan{Path: path, Bytes: n, Why: why, Repairable: repairable})
		return err
	}
	for _, dir := range []string{d.paths.Containers, d.paths.Volumes} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return out, fmt.Errorf("read %s: %w", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if dir == d.paths.Containers {
				if containerID(e.Name()) && !d.containers.Known(e.Name()) {
					if err := add(path, "log and files of a container that is no more", true); err != nil {
						return out, err
					}
				}
				continue
			}
			if _, err := d.volumes.Inspect(ctx, e.Name()); errdefs.IsNotFound(err) && !strings.HasPrefix(e.Name(), ".") {
				if err := add(path, "data in the folder of volumes that belongs to no volume: move it away, or delete it by hand", false); err != nil {
					return out, err
				}
			}
		}
	}
	return out, nil
}

// containerID says whether a name looks like one.
func containerID(name string) bool {
	const length = 64
	return len(name) == length && strings.Trim(name, "0123456789abcdef") == ""
}

// Repair implements the storage router's Backend.
func (b storageBackend) Repair(ctx context.Context, dryRun bool) ([]api.HostOrphan, error) {
	all, err := b.d.orphans(ctx)
	if err != nil || dryRun {
		return all, err
	}
	for i := range all {
		o := &all[i]
		// Once more: its container may have been made since.
		if !o.Repairable || b.d.containers.Known(filepath.Base(o.Path)) {
			continue
		}
		if err := os.RemoveAll(o.Path); err != nil {
			return all, fmt.Errorf("remove what belongs to nobody: %w", err)
		}
		o.Removed = true
	}
	// Content and layers that nothing refers to.
	return all, b.d.engine.Collect(ctx)
}

// deletedOpen looks through all processes for files on the root's file system,
// or in a container's, that have no name any more.
func (d *Daemon) deletedOpen() ([]api.HostDeleted, error) {
	devices := map[uint64]bool{}
	var st unix.Stat_t
	if err := unix.Stat(d.cfg.Root, &st); err != nil {
		return nil, fmt.Errorf("look at the daemon's root: %w", err)
	}
	devices[st.Dev] = true
	owners := map[uint64]string{} // of a container's root file system
	names := d.containers.Names()
	for id, name := range names {
		merged := filepath.Join(d.cfg.Root, "rootfs", id)
		if err := unix.Stat(merged, &st); err == nil && !devices[st.Dev] {
			devices[st.Dev], owners[st.Dev] = true, name
		}
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	out := []api.HostDeleted{}
	seen := map[[2]uint64]bool{}
	for _, fd := range fds {
		// Processes and files come and go: what cannot be looked at is not there.
		if err := unix.Stat(fd, &st); err != nil || st.Nlink != 0 || !devices[st.Dev] || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Blocks == 0 {
			continue
		}
		k := [2]uint64{st.Dev, st.Ino}
		if seen[k] {
			continue
		}
		seen[k] = true
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		out = append(out, api.HostDeleted{
			Pid: pid, Command: strings.TrimSpace(string(comm)), Path: strings.TrimSuffix(target, " (deleted)"),
			Bytes: st.Blocks * blockSize, Container: cmp.Or(owners[st.Dev], d.containerOf(dir, names)),
		})
	}
	slices.SortFunc(out, func(a, b api.HostDeleted) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return out, nil
}

// containerOf tells by its cgroup whose process it is.
func (d *Daemon) containerOf(proc string, names map[string]string) string {
	b, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return ""
	}
	for id, name := range names {
		if strings.Contains(string(b), id) {
			return name
		}
	}
	return ""
}
