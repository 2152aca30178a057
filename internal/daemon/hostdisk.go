package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/usage/walk"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/btrfs"
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
	t, err := d.territory(ctx)
	if err != nil {
		return out, err
	}
	told, err := d.toldByPart(ctx)
	if err != nil {
		return out, err
	}
	found, err := walk.Split(ctx, d.cfg.Root, t.marks)
	if err != nil {
		return out, err
	}
	for name, f := range found {
		out.Walked += f.Blocks
		p := api.HostPart{Name: cmp.Or(name, partRest), Path: cmp.Or(t.paths[name], d.cfg.Root), Walked: f.Blocks, Told: -1, Note: notes[name]}
		if n, ok := told[name]; ok {
			p.Told = n
		}
		if p.Walked != 0 || p.Told > 0 {
			out.Parts = append(out.Parts, p)
		}
	}
	slices.SortFunc(out.Parts, func(a, b api.HostPart) int {
		return cmp.Or(cmp.Compare(b.Walked, a.Walked), strings.Compare(a.Name, b.Name))
	})
	if out.Pools, err = d.hostPools(); err != nil {
		return out, err
	}
	if out.Orphans, err = d.orphans(ctx, &t); err != nil {
		return out, err
	}
	out.DeletedOpen, err = d.deletedOpen()
	return out, err
}

// Parts of what is below the root. What is in none of them is a part by the name of
// its folder there.
const (
	partWritable = "writable layers"
	partLayers   = "layers of images"
	partContent  = "content of images"
	partCache    = "build cache"
	partInit     = "other layers and content"
	partNobodys  = "not referenced"
	partVolumes  = "data of volumes"
	partSnaps    = "snapshots of volumes"
	partTrash    = "trash"
	partPools    = "files of pools"
	partOrphans  = "orphans"
	partRest     = "the root itself"
)

// notes say what a difference between the disk and the ledger is made of.
var notes = map[string]string{
	partWritable: "the disk has a folder and a work folder for each, too",
	partLayers:   "the disk has a folder for each, too",
	partContent:  "the disk gives whole blocks",
	partCache:    "the disk has layers that BuildKit tells as of size 0 and compressed copies of layers",
	partInit:     "mount points in containers, plugins, records of builds, operations that go on",
	partNobodys:  "by name below; goes with the next collection, or holdfast storage repair",
	partVolumes:  "those that are below the root; pools and mounts are not",
	partOrphans:  "by name below",
	"containerd": "databases and folders of the engine",
	"buildkit":   "the builder's own files",
	"containers": "logs and other files of containers",
	"volumes":    "folders around volumes",
}

// territory says whose each place below the root is.
type territory struct {
	marks map[string]string // the part that begins at a path
	paths map[string]string // where a part is
	lost  []ctrd.Stored     // what nothing refers to
	tales map[string]string // by path, why an orphan is one
}

func (t *territory) mark(path, part string) {
	t.marks[path] = part
	t.paths[part] = filepath.Dir(path)
}

func (d *Daemon) territory(ctx context.Context) (territory, error) {
	t := territory{marks: map[string]string{}, paths: map[string]string{}, tales: map[string]string{}}
	entries, err := os.ReadDir(d.cfg.Root)
	if err != nil {
		return t, fmt.Errorf("read the daemon's root: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(d.cfg.Root, e.Name())
		t.marks[path], t.paths[e.Name()] = e.Name(), path
	}
	for _, p := range d.volumes.Places() {
		t.mark(p.Dir, partVolumes)
	}
	for _, s := range d.volumes.StoredSnapshots() {
		for _, dir := range s.Dirs {
			t.mark(dir, partSnaps)
		}
	}
	for _, s := range d.volumes.StoredTrash() {
		for _, dir := range s.Dirs {
			t.mark(dir, partTrash)
		}
	}
	if err := d.markPools(&t); err != nil {
		return t, err
	}
	if err := d.markLost(ctx, &t); err != nil {
		return t, err
	}
	return t, d.markStored(ctx, &t)
}

// markStored tells whose each blob and layer is.
func (d *Daemon) markStored(ctx context.Context, t *territory) error {
	stored, err := d.engine.OnDisk(ctx)
	if err != nil {
		return err
	}
	_, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return err
	}
	images := map[string]bool{}
	for _, of := range parts {
		for p := range of {
			images[p] = true
		}
	}
	pinned, err := d.imageStore.Pinned(ctx)
	if err != nil {
		return err
	}
	for _, s := range stored {
		part := partInit
		switch {
		case s.Part == "" || !s.Refs:
			part = partNobodys
			t.lost = append(t.lost, s)
		case s.Writable && containerID(s.Name):
			part = partWritable
		case images[s.Part] && strings.HasPrefix(s.Part, "blob "):
			part = partContent
		case images[s.Part]:
			part = partLayers
		case pinned[s.Part]:
			part = partCache
		}
		t.mark(s.Path, part)
	}
	return nil
}

// markPools marks the files that file systems of pools are in.
func (d *Daemon) markPools(t *territory) error {
	pools, err := d.pools.List()
	if err != nil {
		return err
	}
	for _, p := range pools {
		if p.Kind == btrfs.File {
			t.mark(p.Source, partPools)
		}
	}
	return nil
}

// hostPools tells of pools in files what they are on the outside and inside.
func (d *Daemon) hostPools() ([]api.HostPool, error) {
	pools, err := d.pools.List()
	if err != nil {
		return nil, err
	}
	out := []api.HostPool{}
	for _, p := range pools {
		if p.Kind != btrfs.File {
			continue
		}
		h := api.HostPool{Name: p.Name, Path: p.Source, Error: p.Err}
		var st unix.Stat_t
		if err := unix.Stat(p.Source, &st); err != nil {
			h.Error = cmp.Or(h.Error, err.Error())
		}
		h.Bytes, h.OnDisk = st.Size, st.Blocks*blockSize
		if p.Err == "" {
			used, err := diskOf(p.Mount)
			if err != nil {
				return nil, err
			}
			h.Used = used.Used
		}
		out = append(out, h)
	}
	return out, nil
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

// toldByPart is what the ledger and the image store say is in each part.
func (d *Daemon) toldByPart(ctx context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	below := func(dir string) bool { return strings.HasPrefix(dir, d.cfg.Root+"/") }
	here := map[usage.Key]bool{} // below the root, and not in a pool
	for _, p := range d.volumes.Places() {
		here[usage.Key{Kind: usage.Volume, ID: p.Name}] = below(p.Dir) && !p.Cheap
	}
	for kind, list := range map[usage.Kind][]volume.Stored{usage.Snapshot: d.volumes.StoredSnapshots(), usage.Trash: d.volumes.StoredTrash()} {
		for _, s := range list {
			here[usage.Key{Kind: kind, ID: s.ID}] = len(s.Dirs) > 0 && below(s.Dirs[0]) && !s.Cheap
		}
	}
	parts := map[usage.Kind]string{usage.Layer: partWritable, usage.Volume: partVolumes, usage.Snapshot: partSnaps, usage.Trash: partTrash}
	for _, i := range d.ledger.Items() {
		if i.Key.Kind == usage.Layer || here[i.Key] {
			out[parts[i.Key.Kind]] += i.Disk
		}
	}
	_, made, err := d.images.Weigh(ctx)
	if err != nil {
		return nil, err
	}
	once := map[string]int64{}
	for _, of := range made {
		for p, n := range of {
			once[p] = n
		}
	}
	for p, n := range once {
		if strings.HasPrefix(p, "blob ") {
			out[partContent] += n
		} else {
			out[partLayers] += n
		}
	}
	cache, err := d.buildUsage(ctx)
	if err != nil {
		return nil, err
	}
	out[partCache] = cache.TotalSize
	return out, nil
}

// markLost finds folders that the daemon's records do not know.
func (d *Daemon) markLost(ctx context.Context, t *territory) error {
	for _, dir := range []string{d.paths.Containers, d.paths.Volumes} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read %s: %w", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if dir == d.paths.Containers {
				if containerID(e.Name()) && !d.containers.Known(e.Name()) {
					t.mark(path, partOrphans)
					t.tales[path] = taleContainer
				}
				continue
			}
			if _, err := d.volumes.Inspect(ctx, e.Name()); errdefs.IsNotFound(err) && !strings.HasPrefix(e.Name(), ".") {
				t.mark(path, partOrphans)
				t.tales[path] = taleVolume
			}
		}
	}
	return nil
}

const (
	taleContainer = "log and files of a container that is no more"
	taleVolume    = "data in the folder of volumes that belongs to no volume: move it away, or delete it by hand"
	taleBlob      = "content that no image, container, build cache or operation refers to"
	taleLayer     = "a layer that no image, container, build cache or operation refers to"
)

// orphans are things below the root that nothing refers to.
func (d *Daemon) orphans(ctx context.Context, t *territory) ([]api.HostOrphan, error) {
	out := []api.HostOrphan{}
	for _, path := range slices.Sorted(maps.Keys(t.tales)) {
		out = append(out, api.HostOrphan{Path: path, Why: t.tales[path], Repairable: t.tales[path] != taleVolume})
	}
	for _, s := range t.lost {
		o := api.HostOrphan{Path: s.Path, Why: taleLayer, Repairable: true}
		if filepath.Base(filepath.Dir(s.Path)) != "snapshots" {
			o.Why = taleBlob
		}
		out = append(out, o)
	}
	for i := range out {
		var err error
		if out[i].Bytes, err = blocksOf(ctx, out[i].Path); err != nil {
			return out, err
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
	d := b.d
	t, err := d.territory(ctx)
	if err != nil {
		return nil, err
	}
	all, err := d.orphans(ctx, &t)
	if err != nil || dryRun {
		return all, err
	}
	for i := range all {
		o := &all[i]
		// Once more: its container may have been made since.
		if o.Why != taleContainer || d.containers.Known(filepath.Base(o.Path)) {
			continue
		}
		if err := os.RemoveAll(o.Path); err != nil {
			return all, fmt.Errorf("remove what belongs to nobody: %w", err)
		}
	}
	// Content and layers: the engine looks again, with the locks of those who make them.
	err = d.engine.Sweep(ctx)
	for i := range all {
		_, gone := os.Lstat(all[i].Path)
		all[i].Removed = all[i].Repairable && errors.Is(gone, os.ErrNotExist)
	}
	return all, err
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
