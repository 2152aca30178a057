package daemon

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/usage/walk"
	"holdfast.dev/holdfast/internal/volume"
)

// prunePlan is what a request would remove, kind by kind.
type prunePlan struct {
	containers []container.Prunable
	networks   []network.Prunable
	volumes    []volume.Prunable
	images     []image.Prunable
	cache      []build.CacheRecord
	keepsCache bool // records of the build cache stay
	snapshots  []volume.Stored
	trash      []volume.Stored
	logs       []container.OldLog

	made  map[string]map[string]int64 // what each image is made of, if images are in it
	sizes map[string]int64            // of the images, as lists show them

	candidates []usage.Candidate // of all, in order
	frees      []int64
}

// Prune implements the storage router's Backend. It plans first; each domain
// then looks again at each thing, with the lock held that its users take.
func (b storageBackend) Prune(ctx context.Context, r api.PruneRequest) (api.PruneReport, error) {
	p, err := b.d.planPrune(ctx, r)
	if err != nil {
		return api.PruneReport{}, err
	}
	out := api.PruneReport{DryRun: r.DryRun, Items: []api.PruneItem{}}
	for i, c := range p.candidates {
		out.Items = append(out.Items, api.PruneItem{Kind: c.Kind, ID: c.ID, Name: c.Name, Size: c.Size, Frees: p.frees[i], Why: c.Why})
		out.Frees += p.frees[i]
	}
	if r.DryRun {
		return out, nil
	}
	gone, err := b.d.executePrune(ctx, r, p)
	out.Frees = 0
	for i := range out.Items {
		it := &out.Items[i]
		if it.Removed = gone[it.Kind+" "+it.ID+" "+it.Name]; it.Removed {
			out.Frees += it.Frees
		}
	}
	return out, err
}

func (d *Daemon) planPrune(ctx context.Context, r api.PruneRequest) (*prunePlan, error) {
	p := &prunePlan{keepsCache: true}
	goes := map[string]bool{}
	gone := func(id string) bool { return goes[id] }
	for _, s := range r.Steps {
		var err error
		switch s.Kind {
		case api.PruneContainers:
			p.containers, err = d.containers.Prunable(s.Filters)
			p.containers = chosen(r.Only, p.containers, func(c container.Prunable) string { return api.PruneRef(s.Kind, c.ID, c.Name) })
			for _, c := range p.containers {
				goes[c.ID] = true
			}
		case api.PruneNetworks:
			p.networks, err = d.networks.Prunable(s.Filters)
			p.networks = chosen(r.Only, p.networks, func(n network.Prunable) string { return api.PruneRef(s.Kind, n.ID, n.Name) })
		case api.PruneVolumes:
			p.volumes, err = d.volumes.Prunable(s.Filters, gone)
			p.volumes = chosen(r.Only, p.volumes, func(v volume.Prunable) string { return api.PruneRef(s.Kind, v.Name, v.Name) })
		case api.PruneImages:
			p.images, err = d.images.Prunable(ctx, s.Filters, gone)
			p.images = chosenNames(r.Only, p.images)
		case api.PruneCache:
			err = d.planCache(ctx, s, r.Only, p)
		case api.PruneSnapshots, api.PruneTrash, api.PruneLogs:
			err = d.planKept(s.Kind, r.Only, p)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, d.weigh(ctx, r, p)
}

// chosen are those of a plan's items that a request is about.
func chosen[T any](only []string, items []T, ref func(T) string) []T {
	if len(only) == 0 {
		return items
	}
	return slices.DeleteFunc(items, func(i T) bool { return !slices.Contains(only, ref(i)) })
}

// chosenNames is chosen for names of images: one of which a name stays does not go.
func chosenNames(only []string, plan []image.Prunable) []image.Prunable {
	stays := map[string]bool{}
	out := slices.DeleteFunc(slices.Clone(plan), func(i image.Prunable) bool {
		out := len(only) > 0 && !slices.Contains(only, api.PruneRef(api.PruneImages, i.ID, i.Name))
		stays[i.ID] = stays[i.ID] || out
		return out
	})
	for k := range out {
		out[k].Last = out[k].Last && !stays[out[k].ID]
	}
	return out
}

func (d *Daemon) planCache(ctx context.Context, s api.PruneStep, only []string, p *prunePlan) error {
	o, err := cacheOptions(s)
	if err != nil {
		return err
	}
	if p.cache, err = d.builder.Prunable(ctx, o); err != nil {
		return err
	}
	p.cache = chosen(only, p.cache, func(c build.CacheRecord) string { return api.PruneRef(s.Kind, c.ID, c.Description) })
	all, err := d.builder.Records(ctx)
	p.keepsCache = len(all) > len(p.cache)
	return err
}

func cacheOptions(s api.PruneStep) (build.PruneOptions, error) {
	o := build.PruneOptions{All: s.All, Reserved: s.Keep}
	for _, key := range slices.Sorted(maps.Keys(s.Filters)) {
		for _, v := range s.Filters[key] {
			if err := o.AddFilter(key, v); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

// weigh lists the plan in the order of its steps and tells what each thing frees.
func (d *Daemon) weigh(ctx context.Context, r api.PruneRequest, p *prunePlan) error {
	if err := d.weighImages(ctx, p); err != nil {
		return err
	}
	for _, s := range r.Steps {
		switch s.Kind {
		case api.PruneContainers:
			for _, c := range p.containers {
				p.candidates = append(p.candidates, d.containerCandidate(ctx, c))
			}
		case api.PruneNetworks:
			for _, n := range p.networks {
				p.candidates = append(p.candidates, usage.Candidate{Kind: s.Kind, ID: n.ID, Name: n.Name, Why: n.Why})
			}
		case api.PruneVolumes:
			for _, v := range p.volumes {
				p.candidates = append(p.candidates, d.volumeCandidate(ctx, v))
			}
		case api.PruneCache:
			for _, c := range p.cache {
				p.candidates = append(p.candidates, cacheCandidate(c))
			}
		case api.PruneImages:
			p.imageCandidates()
		case api.PruneSnapshots, api.PruneTrash, api.PruneLogs:
			p.candidates = append(p.candidates, d.keptCandidates(s.Kind, p)...)
		}
	}
	return d.frees(ctx, p)
}

func (d *Daemon) containerCandidate(ctx context.Context, c container.Prunable) usage.Candidate {
	out := usage.Candidate{Kind: api.PruneContainers, ID: c.ID, Name: c.Name, Why: c.Why, Size: -1}
	if t, err := d.ledger.Size(ctx, layerKey(c.ID)); err == nil {
		out.Size, out.Own = t.Bytes, t.Disk
	} else if !errdefs.IsNotFound(err) {
		d.log.Warn("size of container unknown", logkey.Container, c.ID, logkey.Err, err)
	}
	// Its log and other files go with it; there are few.
	if f, _, err := walk.Dir(ctx, filepath.Join(d.paths.Containers, c.ID), false); err == nil {
		out.Own += f.Blocks
	} else if !errdefs.IsNotFound(err) {
		d.log.Warn("size of container's log unknown", logkey.Container, c.ID, logkey.Err, err)
	}
	return out
}

func (d *Daemon) volumeCandidate(ctx context.Context, v volume.Prunable) usage.Candidate {
	out := usage.Candidate{Kind: api.PruneVolumes, ID: v.Name, Name: v.Name, Why: v.Why, Size: -1}
	short, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	t, err := d.ledger.Size(short, usage.Key{Kind: usage.Volume, ID: v.Name})
	switch {
	case err == nil:
		out.Size, out.Own = t.Bytes, t.Disk
	case !errdefs.IsNotFound(err) && !errors.Is(err, context.DeadlineExceeded):
		d.log.Warn("size of volume unknown", logkey.Volume, v.Name, logkey.Err, err)
	}
	return out
}

func cacheCandidate(c build.CacheRecord) usage.Candidate {
	out := usage.Candidate{Kind: api.PruneCache, ID: c.ID, Name: c.Description, Why: "no build uses it", Size: c.Size, Own: c.Size}
	if c.Shared { // an image's, and free with that
		out.Own, out.Why = 0, "no build uses it; an image has the same layer"
	}
	return out
}

// weighImages looks once, for imageCandidates and frees, at what all images are
// made of.
func (d *Daemon) weighImages(ctx context.Context, p *prunePlan) error {
	if len(p.images) == 0 {
		return nil
	}
	list, parts, err := d.images.Weigh(ctx)
	if err != nil {
		return err
	}
	p.made, p.sizes = parts, map[string]int64{}
	for _, i := range list {
		p.sizes[i.ID] = i.Size
	}
	return nil
}

func (p *prunePlan) imageCandidates() {
	for _, i := range p.images {
		c := usage.Candidate{Kind: api.PruneImages, ID: i.ID, Name: i.Name, Why: i.Why, Size: p.sizes[i.ID]}
		if i.Last {
			c.Parts = p.made[i.ID]
		}
		p.candidates = append(p.candidates, c)
	}
}

func (d *Daemon) frees(ctx context.Context, p *prunePlan) (err error) {
	goes := map[string]bool{}
	for _, i := range p.images {
		goes[i.ID] = goes[i.ID] || i.Last
	}
	var stay []usage.Made
	for id := range p.sizes {
		if !goes[id] {
			stay = append(stay, usage.Made{ID: id, Parts: p.made[id]})
		}
	}
	var pinned map[string]bool
	if len(goes) > 0 && p.keepsCache {
		if pinned, err = d.imageStore.Pinned(ctx); err != nil {
			return err
		}
	}
	p.frees = usage.Frees(p.candidates, stay, func(part string) bool { return pinned[part] })
	return nil
}

// executePrune removes what of the plan is still unused, and tells what went.
func (d *Daemon) executePrune(ctx context.Context, r api.PruneRequest, p *prunePlan) (map[string]bool, error) {
	gone := map[string]bool{}
	removed := func(kind, id, name string) { gone[kind+" "+id+" "+name] = true }
	for _, s := range r.Steps {
		if err := failpoint.Hit("prune.beforeStep"); err != nil {
			return gone, err
		}
		switch s.Kind {
		case api.PruneContainers:
			rep, err := d.containers.PruneThese(ctx, p.containers)
			if err != nil {
				return gone, err
			}
			for _, c := range p.containers {
				if slices.Contains(rep.ContainersDeleted, c.ID) {
					removed(s.Kind, c.ID, c.Name)
				}
			}
		case api.PruneNetworks:
			rep, err := d.networks.PruneThese(ctx, p.networks)
			if err != nil {
				return gone, err
			}
			for _, n := range p.networks {
				if slices.Contains(rep.NetworksDeleted, n.Name) {
					removed(s.Kind, n.ID, n.Name)
				}
			}
		case api.PruneVolumes:
			rep, err := d.volumes.PruneThese(ctx, s.Filters, p.volumes)
			if err != nil {
				return gone, err
			}
			for _, name := range rep.VolumesDeleted {
				removed(s.Kind, name, name)
			}
		case api.PruneImages:
			rep, err := d.images.PruneThese(ctx, s.Filters, p.images)
			if err != nil {
				return gone, err
			}
			for _, i := range p.images {
				for _, del := range rep.ImagesDeleted {
					if del.Untagged == i.Name {
						removed(s.Kind, i.ID, i.Name)
					}
				}
			}
		case api.PruneCache:
			if err := d.pruneCache(ctx, s, p, removed); err != nil {
				return gone, err
			}
		case api.PruneSnapshots, api.PruneTrash, api.PruneLogs:
			if err := d.pruneKept(ctx, s.Kind, p, removed); err != nil {
				return gone, err
			}
		}
	}
	return gone, nil
}

// pruneCache removes the records of the plan and no others.
func (d *Daemon) pruneCache(ctx context.Context, s api.PruneStep, p *prunePlan, removed func(kind, id, name string)) error {
	if len(p.cache) == 0 {
		return nil
	}
	o, err := cacheOptions(s)
	if err != nil {
		return err
	}
	o.Reserved, o.Filters = 0, nil
	names := map[string]string{}
	for _, c := range p.cache {
		o.Filters = append(o.Filters, "id=="+c.ID)
		names[c.ID] = c.Description
	}
	recs, err := d.builder.Prune(ctx, o)
	for _, c := range recs {
		removed(s.Kind, c.ID, names[c.ID])
	}
	return err
}
