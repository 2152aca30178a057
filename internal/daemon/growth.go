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
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/dash"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/usage"
)

func (d *Daemon) runRecorder(ctx context.Context) error {
	d.recorder = usage.NewRecorder(usage.JanitorDeps{Clock: d.clock, Log: d.log},
		store.NewCollection[usage.Sample](d.db, "storage-samples"), d.sizes)
	d.supervise(ctx, "samples of sizes", d.recorder.Run)
	return nil
}

// sizes is what everything takes now, as far as it is known without measuring: by
// name, and in sums by kind.
func (d *Daemon) sizes(ctx context.Context) (out, totals map[string]int64, err error) {
	out, totals = map[string]int64{}, map[string]int64{}
	names := d.containers.Names()
	for _, i := range d.ledger.Items() {
		if i.At.IsZero() {
			continue
		}
		switch i.Key.Kind {
		case usage.Layer:
			out[api.UsageContainer+" "+names[i.Key.ID]] = i.Disk
			totals[dash.Containers] += i.Disk
		case usage.Volume:
			out[api.UsageVolume+" "+i.Key.ID] = i.Disk
			totals[dash.Volumes] += i.Disk
		case usage.Snapshot: // of a volume, together
			volume, _, _ := strings.Cut(i.Key.ID, "@")
			out[api.UsageSnapshot+" "+volume] += i.Disk
			totals[dash.Snapshots] += i.Disk
		case usage.Trash:
			out[api.UsageTrash] += i.Disk
			totals[dash.Trash] += i.Disk
		}
	}
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return nil, nil, err
	}
	made := make([]usage.Made, len(list))
	for n, i := range list {
		made[n] = usage.Made{ID: i.ID, Parts: parts[i.ID]}
	}
	totals[dash.Layers] = usage.Share(made).Total
	repositories := map[string]map[string]int64{} // of each, parts
	for _, i := range list {
		of := map[string]bool{}
		for _, tag := range i.RepoTags {
			of[repository(tag)] = true
		}
		if len(of) == 0 {
			of["<none>"] = true
		}
		for name := range of {
			if repositories[name] == nil {
				repositories[name] = map[string]int64{}
			}
			for p, n := range parts[i.ID] {
				repositories[name][p] = n
			}
		}
	}
	for name, parts := range repositories {
		var total int64
		for _, n := range parts {
			total += n
		}
		out["image "+name] = total
	}
	cache, err := d.buildUsage(ctx)
	if err == nil && cache.TotalSize > 0 {
		out[api.PruneCache], totals[dash.Cache] = cache.TotalSize, cache.TotalSize
	}
	return out, totals, err
}

// Top implements the storage router's Backend.
func (b storageBackend) Top(ctx context.Context, span time.Duration) ([]api.StorageGrowth, error) {
	all, err := b.d.recorder.Top(ctx, span)
	if err != nil {
		return nil, err
	}
	out := make([]api.StorageGrowth, len(all))
	for i, g := range all {
		kind, name, _ := strings.Cut(g.Name, " ")
		if g.Name == api.PruneCache || g.Name == api.UsageTrash {
			kind, name = g.Name, ""
		}
		out[i] = api.StorageGrowth{Kind: kind, Name: name, Bytes: g.Bytes}
		for d, to := range map[time.Duration]**int64{usage.Hour: &out[i].Hour, usage.Day: &out[i].Day, usage.Week: &out[i].Week} {
			if g.Known[d] {
				v := g.By[d]
				*to = &v
			}
		}
	}
	return out, nil
}

// Explain implements the storage router's Backend.
func (b storageBackend) Explain(ctx context.Context, what string) (api.StorageExplanation, error) {
	if filepath.IsAbs(what) {
		return b.d.explainPath(ctx, filepath.Clean(what))
	}
	if c, err := b.d.containers.Inspect(ctx, what, false); err == nil {
		return b.d.explainContainer(ctx, c.ID)
	} else if !errdefs.IsNotFound(err) {
		return api.StorageExplanation{}, err
	}
	if _, err := b.d.volumes.Inspect(ctx, what); err == nil {
		return b.d.explainVolume(ctx, what)
	}
	if i, err := b.d.images.Inspect(ctx, what, image.InspectOptions{}); err == nil {
		return b.d.explainImage(ctx, i.ID)
	} else if !errdefs.IsNotFound(err) {
		return api.StorageExplanation{}, err
	}
	return api.StorageExplanation{}, fault.New(errdefs.ErrNotFound, "no container, volume or image %s, and no absolute path", what)
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
	if hash, ok := strings.CutPrefix(path, filepath.Join(d.cfg.Root, "containerd", "content", "blobs", "sha256")+"/"); ok {
		return d.explainParts(ctx, out, "content (a compressed layer, manifest or config)", func(part string) bool { return part == "blob sha256:"+hash })
	}
	if who, err := d.layerAt(ctx, under); err != nil || who != "" {
		if err != nil {
			return out, err
		}
		return d.explainParts(ctx, out, "a read-only layer", func(part string) bool { return part == "layer "+who })
	}
	switch {
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

func (d *Daemon) explainParts(ctx context.Context, out api.StorageExplanation, what string, is func(part string) bool) (api.StorageExplanation, error) {
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return out, err
	}
	var names []string
	for _, i := range list {
		for p, n := range parts[i.ID] {
			if !is(p) {
				continue
			}
			out.Bytes, out.Exact = n, true
			name := i.ID
			if len(i.RepoTags) > 0 {
				name = i.RepoTags[0]
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		out.Why = []string{what + " that no image refers to: of the build cache, or garbage that goes with the next collection"}
		out.Frees = []string{"holdfast builder prune"}
		return out, nil
	}
	out.Why = []string{what + " of " + strings.Join(names, ", ")}
	out.Frees = []string{"removing all of these images: holdfast rmi " + strings.Join(names, " ")}
	return out, nil
}

// layerAt finds the chain of the read-only layer that the path is below, or "".
func (d *Daemon) layerAt(ctx context.Context, under func(dir string) bool) (string, error) {
	_, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return "", err
	}
	for _, of := range parts {
		for p := range of {
			chain, ok := strings.CutPrefix(p, "layer ")
			if !ok {
				continue
			}
			dirs, err := d.imageStore.Dirs(ctx, digest.Digest(chain))
			if errdefs.IsNotFound(err) {
				continue // another platform's, not unpacked
			}
			if err != nil {
				return "", err
			}
			if len(dirs) > 0 && under(dirs[0]) {
				return chain, nil
			}
		}
	}
	return "", nil
}

// containersOf asks for all containers that refer to a volume.
func containersOf(volume string) container.ListOptions {
	return container.ListOptions{All: true, Filters: map[string][]string{"volume": {volume}}}
}
