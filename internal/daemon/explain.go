package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/btrfs"
)

// Explain implements the storage router's Backend.
func (b storageBackend) Explain(ctx context.Context, what string) (api.StorageExplanation, error) {
	d := b.d
	if filepath.IsAbs(what) {
		return d.explainPath(ctx, filepath.Clean(what))
	}
	if c, err := d.containers.Inspect(ctx, what, false); err == nil {
		return d.explainContainer(ctx, c.ID)
	} else if !errdefs.IsNotFound(err) {
		return api.StorageExplanation{}, err
	}
	if _, err := d.volumes.Inspect(ctx, what); err == nil {
		return d.explainVolume(ctx, what)
	}
	if i, err := d.images.Inspect(ctx, what, image.InspectOptions{}); err == nil {
		return d.explainImage(ctx, i.ID)
	} else if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) { // as VOLUME@SNAPSHOT is none
		return api.StorageExplanation{}, err
	}
	for _, look := range []func(context.Context, string) (api.StorageExplanation, bool, error){
		d.explainStored, d.explainCache, d.explainPool, d.explainDigest,
	} {
		if e, ok, err := look(ctx, what); err != nil || ok {
			return e, err
		}
	}
	return api.StorageExplanation{}, fault.New(errdefs.ErrNotFound, "no container, volume, image, snapshot, removed volume, record of the build cache, pool or blob %s, and no absolute path", what)
}

func (d *Daemon) explainContainer(ctx context.Context, id string) (api.StorageExplanation, error) {
	c, err := d.containers.Inspect(ctx, id, false)
	if err != nil {
		return api.StorageExplanation{}, err
	}
	name := strings.TrimPrefix(c.Name, "/")
	t, err := d.ledger.Size(ctx, layerKey(c.ID))
	if err != nil {
		return api.StorageExplanation{}, err
	}
	out := api.StorageExplanation{Kind: api.UsageContainer, ID: c.ID, Name: name, Bytes: t.Disk, MeasuredAt: t.At, Exact: t.Exact}
	out.Why = append(out.Why, fmt.Sprintf("what container %s wrote beside its volumes, over the layers of its image %s", name, c.Config.Image))
	if l, err := d.engine.Rootfs().Layer(ctx, c.ID); err == nil {
		out.Path = l.Upper
	}
	if c.State.Running {
		out.Frees = append(out.Frees, "it runs: what it deletes itself; or holdfast rm -f "+name)
	} else {
		out.Frees = append(out.Frees, "it does not run: holdfast rm "+name+", or holdfast container prune")
	}
	return out, nil
}

func (d *Daemon) explainVolume(ctx context.Context, name string) (api.StorageExplanation, error) {
	out := api.StorageExplanation{Kind: api.UsageVolume, ID: name, Name: name, Bytes: -1}
	p, ok := d.volumes.Place(name)
	if !ok {
		out.Why = append(out.Why, "its data is not kept on this machine by Holdfast")
		return out, nil
	}
	t, err := d.ledger.Size(ctx, usage.Key{Kind: usage.Volume, ID: name})
	if err != nil {
		return out, err
	}
	out.Path, out.Bytes, out.MeasuredAt, out.Exact = p.Dir, t.Disk, t.At, t.Exact
	du, err := d.containers.List(ctx, containersOf(name))
	if err != nil {
		return out, err
	}
	var users []string
	for _, c := range du {
		users = append(users, strings.TrimPrefix(c.Names[0], "/"))
	}
	slices.Sort(users)
	if len(users) == 0 {
		out.Why = append(out.Why, "the data of volume "+name+", which no container refers to")
		out.Frees = append(out.Frees, "holdfast volume rm "+name+" (the data goes with it)")
		return out, nil
	}
	out.Why = append(out.Why, "the data of volume "+name+", which these containers refer to: "+strings.Join(users, ", "))
	out.Frees = append(out.Frees, "what these containers delete in it; the volume itself only after they are removed")
	return out, nil
}

func (d *Daemon) explainImage(ctx context.Context, id string) (api.StorageExplanation, error) {
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return api.StorageExplanation{}, err
	}
	out := api.StorageExplanation{Kind: "image", ID: id, Exact: true}
	made := make([]usage.Made, 0, len(list))
	for _, i := range list {
		made = append(made, usage.Made{ID: i.ID, Parts: parts[i.ID]})
		if i.ID == id {
			out.Bytes, out.Name = i.Size, strings.Join(i.RepoTags, ", ")
		}
	}
	unique := usage.Share(made).Unique[id]
	out.Why = append(out.Why, fmt.Sprintf("%d layers and blobs of the image; %d bytes are its own, the rest other images have, too", len(parts[id]), unique))
	users := 0
	for _, u := range d.containers.ImageUsers() {
		if u.ImageID == id {
			users++
		}
	}
	if users > 0 {
		out.Frees = append(out.Frees, fmt.Sprintf("%d containers have it: after they are removed, holdfast rmi frees %d bytes", users, unique))
	} else {
		out.Frees = append(out.Frees, fmt.Sprintf("no container has it: holdfast rmi frees %d bytes (the build cache may hold some)", unique))
	}
	return out, nil
}

// explainPath finds out whose a path below the daemon's root is.
func (d *Daemon) explainPath(ctx context.Context, path string) (api.StorageExplanation, error) {
	out := api.StorageExplanation{Kind: "path", ID: path, Path: path, Bytes: -1}
	if _, err := os.Lstat(path); err != nil {
		return out, fault.New(errdefs.ErrNotFound, "%s", err)
	}
	under := func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	for _, p := range d.volumes.Places() {
		if under(p.Dir) {
			return d.explainVolume(ctx, p.Name)
		}
	}
	for _, l := range d.containers.LayerStates() {
		layer, err := d.engine.Rootfs().Layer(ctx, l.ID)
		if err != nil && !errdefs.IsNotFound(err) {
			return out, err
		}
		if err == nil && (under(layer.Upper) || under(layer.Work)) || under(layer.Merged) && layer.Merged != "" {
			return d.explainContainer(ctx, l.ID)
		}
		if under(filepath.Join(d.paths.Containers, l.ID)) {
			e, err := d.explainContainer(ctx, l.ID)
			e.Path, e.Why = path, []string{"the log and other files that the daemon keeps for container " + e.Name}
			e.Frees = []string{"a smaller max-size of its log (--log-opt max-size=10m); or holdfast rm " + e.Name}
			return e, err
		}
	}
	if e, ok, err := d.storedAt(ctx, under); err != nil || ok {
		e.Path = path
		return e, err
	}
	if e, ok, err := d.partAt(ctx, path, under); err != nil || ok {
		return e, err
	}
	if e, ok, err := d.poolAt(under); err != nil || ok {
		e.Path = path
		return e, err
	}
	switch {
	case under(filepath.Join(d.cfg.Root, "backups")):
		out.Why = []string{"settings, secrets and caches of backup repositories; the backups themselves are in the repositories"}
		out.Frees = []string{"holdfast backup-repo rm NAME forgets a repository, and what is kept here of it goes"}
	case under(filepath.Join(d.cfg.Root, "buildkit")):
		out.Why, out.Frees = []string{"the builder's own files"}, []string{"holdfast builder prune"}
	case under(filepath.Join(d.cfg.Root, "containerd")):
		out.Why = []string{"content or a layer that no image refers to: of the build cache, of an operation that goes on, or garbage that goes with the next collection"}
		out.Frees = []string{"holdfast builder prune"}
	case under(d.cfg.Root):
		out.Why = []string{"files of the daemon itself"}
	default:
		out.Why = []string{"not below " + d.cfg.Root + ": nothing of Holdfast's"}
	}
	return out, nil
}

// partAt explains a path that is in, or is, a blob or a layer.
func (d *Daemon) partAt(ctx context.Context, path string, under func(dir string) bool) (api.StorageExplanation, bool, error) {
	if !under(filepath.Join(d.cfg.Root, "containerd")) {
		return api.StorageExplanation{}, false, nil
	}
	stored, err := d.engine.OnDisk(ctx)
	if err != nil {
		return api.StorageExplanation{}, false, err
	}
	for _, s := range stored {
		if under(s.Path) {
			e, err := d.explainPart(ctx, s)
			e.Kind, e.ID, e.Path = "path", path, path
			return e, true, err
		}
	}
	return api.StorageExplanation{}, false, nil
}

// explainDigest explains a blob by its digest.
func (d *Daemon) explainDigest(ctx context.Context, what string) (api.StorageExplanation, bool, error) {
	if _, err := digest.Parse(what); err != nil {
		return api.StorageExplanation{}, false, nil //nolint:nilerr // then it is something else
	}
	stored, err := d.engine.OnDisk(ctx)
	if err != nil {
		return api.StorageExplanation{}, false, err
	}
	for _, part := range []string{"blob " + what, "layer " + what} {
		for _, s := range stored {
			if s.Part == part {
				e, err := d.explainPart(ctx, s)
				e.Kind, e.ID = strings.Fields(part)[0], what
				return e, true, err
			}
		}
	}
	return api.StorageExplanation{}, false, nil
}

func (d *Daemon) explainPart(ctx context.Context, s ctrd.Stored) (api.StorageExplanation, error) {
	out := api.StorageExplanation{Path: s.Path, Exact: true}
	what := "a read-only layer"
	if filepath.Base(filepath.Dir(s.Path)) != "snapshots" {
		what = "content (a compressed layer, manifest or config)"
	}
	var err error
	if out.Bytes, err = blocksOf(ctx, s.Path); err != nil {
		return out, err
	}
	if s.Part == "" || !s.Refs {
		out.Why = []string{what + " that nothing refers to: it goes with the next collection"}
		out.Frees = []string{"holdfast storage repair"}
		return out, nil
	}
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return out, err
	}
	var names []string
	for _, i := range list {
		n, ok := parts[i.ID][s.Part]
		if !ok {
			continue
		}
		out.Bytes = n
		name := i.ID
		if len(i.RepoTags) > 0 {
			name = i.RepoTags[0]
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) > 0 {
		out.Why = []string{what + " of " + strings.Join(names, ", ")}
		out.Frees = []string{"removing all of these images: holdfast rmi " + strings.Join(names, " ")}
		return out, nil
	}
	pinned, err := d.imageStore.Pinned(ctx)
	if err != nil {
		return out, err
	}
	if pinned[s.Part] {
		out.Why = []string{what + " of the build cache, or of an operation that goes on"}
		out.Frees = []string{"holdfast builder prune"}
		return out, nil
	}
	out.Why = []string{what + " that containers lie on, of a plugin, or a record of a build (holdfast buildx history ls)"}
	out.Frees = []string{"removing those; then it goes by itself"}
	return out, nil
}

// explainStored explains a snapshot, VOLUME@SNAPSHOT, or a volume in the trash by its
// number there or by the name that it had.
func (d *Daemon) explainStored(_ context.Context, what string) (api.StorageExplanation, bool, error) {
	for _, s := range d.volumes.StoredSnapshots() {
		if s.ID == what {
			return d.explainSnapshot(s), true, nil
		}
	}
	trash := d.volumes.StoredTrash()
	at := slices.IndexFunc(trash, func(s volume.Stored) bool { return s.ID == what })
	if at < 0 {
		at = slices.IndexFunc(trash, func(s volume.Stored) bool { return s.Name == what })
	}
	if at < 0 {
		return api.StorageExplanation{}, false, nil
	}
	return d.explainTrash(trash[at]), true, nil
}

// storedAt is explainStored for a path.
func (d *Daemon) storedAt(_ context.Context, under func(dir string) bool) (api.StorageExplanation, bool, error) {
	for _, s := range d.volumes.StoredTrash() {
		if slices.ContainsFunc(s.Dirs, under) {
			return d.explainTrash(s), true, nil
		}
	}
	for _, s := range d.volumes.StoredSnapshots() {
		if slices.ContainsFunc(s.Dirs, under) {
			return d.explainSnapshot(s), true, nil
		}
	}
	return api.StorageExplanation{}, false, nil
}

func (d *Daemon) storedExplanation(kind usage.Kind, shown string, s volume.Stored) api.StorageExplanation {
	out := api.StorageExplanation{Kind: shown, ID: s.ID, Name: s.Name, Bytes: -1}
	if len(s.Dirs) > 0 {
		out.Path = s.Dirs[0]
	}
	if t, ok := d.ledger.Known(usage.Key{Kind: kind, ID: s.ID}); ok {
		out.Bytes, out.MeasuredAt, out.Exact = t.Disk, t.At, t.Exact
	}
	return out
}

func (d *Daemon) explainSnapshot(s volume.Stored) api.StorageExplanation {
	out := d.storedExplanation(usage.Snapshot, api.UsageSnapshot, s)
	out.Why = []string{"a snapshot of volume " + s.Volume + ", made " + s.Made.UTC().Format(time.DateTime) + " UTC"}
	if s.Cheap {
		out.Why = append(out.Why, "the size is what it alone has; the rest it shares with the volume and its other snapshots")
	}
	if s.Kept != "" {
		out.Frees = []string{"nothing as it is: " + s.Kept}
		return out
	}
	out.Frees = []string{"holdfast volume snapshot rm " + s.ID}
	return out
}

func (d *Daemon) explainTrash(s volume.Stored) api.StorageExplanation {
	out := d.storedExplanation(usage.Trash, api.UsageTrash, s)
	out.Why = []string{"volume " + s.Name + " with its snapshots, removed " + s.Made.UTC().Format(time.DateTime) + " UTC: it can be had back by holdfast volume undelete " + s.ID}
	for _, t := range d.volumes.InTrash() {
		if t.ID == s.ID && !t.Expires.IsZero() {
			out.Why = append(out.Why, "it goes by itself "+t.Expires.UTC().Format(time.DateTime)+" UTC")
		}
	}
	out.Frees = []string{"holdfast volume trash rm " + s.ID + " (the data goes with it)"}
	return out
}

// explainCache explains a record of the build cache.
func (d *Daemon) explainCache(ctx context.Context, what string) (api.StorageExplanation, bool, error) {
	all, err := d.builder.Records(ctx)
	if err != nil {
		return api.StorageExplanation{}, false, err
	}
	for _, r := range all {
		if r.ID != what {
			continue
		}
		out := api.StorageExplanation{Kind: api.PruneCache, ID: r.ID, Name: r.Description, Bytes: r.Size, Exact: true}
		used := "never used since"
		if r.LastUsedAt != nil {
			used = "last used " + r.LastUsedAt.UTC().Format(time.DateTime) + " UTC"
		}
		out.Why = []string{fmt.Sprintf("a record of the build cache of type %s, used %d times, %s: %s", r.Type, r.UsageCount, used, r.Description)}
		switch {
		case r.InUse:
			out.Frees = []string{"nothing now: a build uses it"}
		case r.Shared:
			out.Frees = []string{"an image has the same layer: that image's removal, and holdfast builder prune -a"}
		default:
			out.Frees = []string{"holdfast builder prune -a --filter id=" + r.ID}
		}
		return out, true, nil
	}
	return api.StorageExplanation{}, false, nil
}

// explainPool explains a pool by its name.
func (d *Daemon) explainPool(_ context.Context, what string) (api.StorageExplanation, bool, error) {
	return d.poolWhere(func(p btrfs.Info) bool { return p.Name == what })
}

// poolAt explains a path that is the file of a pool, or is where it is mounted.
func (d *Daemon) poolAt(under func(dir string) bool) (api.StorageExplanation, bool, error) {
	return d.poolWhere(func(p btrfs.Info) bool {
		return p.Kind == btrfs.File && under(p.Source) || p.Mount != "" && under(p.Mount)
	})
}

func (d *Daemon) poolWhere(is func(btrfs.Info) bool) (api.StorageExplanation, bool, error) {
	if d.pools == nil {
		return api.StorageExplanation{}, false, nil
	}
	all, err := d.pools.List()
	if err != nil {
		return api.StorageExplanation{}, false, err
	}
	at := slices.IndexFunc(all, is)
	if at < 0 {
		return api.StorageExplanation{}, false, nil
	}
	p := all[at]
	out := api.StorageExplanation{Kind: "pool", ID: p.Name, Name: p.Name, Path: p.Source, Bytes: -1}
	if p.Err != "" {
		out.Why = []string{"the pool cannot be used: " + p.Err}
	} else {
		inside, err := diskOf(p.Mount)
		if err != nil {
			return out, false, err
		}
		out.Bytes, out.Exact = inside.Used, true
		out.Why = []string{fmt.Sprintf("the file system of pool %s, of %s, in which %s are in use: by %d volumes, their snapshots, and %d removed volumes in the trash",
			p.Name, units.HumanSize(float64(inside.Total)), units.HumanSize(float64(inside.Used)), len(p.Volumes), p.Trashed)}
	}
	if p.Kind == btrfs.File {
		var st unix.Stat_t
		if err := unix.Stat(p.Source, &st); err == nil {
			out.Bytes = st.Blocks * blockSize
			out.Why = append(out.Why, "it is in a file; the size is what that takes of the disk")
		}
	}
	out.Frees = []string{"removing volumes and snapshots makes room in it; the pool itself goes by holdfast pool rm " + p.Name + " when it is empty"}
	return out, true, nil
}

// containersOf asks for all containers that refer to a volume.
func containersOf(volume string) container.ListOptions {
	return container.ListOptions{All: true, Filters: map[string][]string{"volume": {volume}}}
}
