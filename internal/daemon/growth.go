package daemon

import (
	"context"
	"strings"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/dash"
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
