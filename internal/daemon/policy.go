package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/volume"
)

func (d *Daemon) runJanitor(ctx context.Context) error {
	d.janitor = usage.NewJanitor(usage.JanitorDeps{
		Clock:  d.clock,
		Log:    d.log,
		Policy: func() usage.Policy { return d.settings().StoragePolicy },
		Store:  unused{d},
		Runs:   store.NewCollection[usage.Run](d.db, "storage-runs"),
		Events: d.events,
		Daemon: d.id,
	})
	d.supervise(ctx, "storage policy", d.janitor.Run)
	return nil
}

// unused fills usage.Store: what nobody uses, and its removal.
type unused struct{ d *Daemon }

var _ usage.Store = unused{}

// Disk implements usage.Store.
func (u unused) Disk() (usage.Disk, error) { return diskOf(u.d.cfg.Root) }

func diskOf(path string) (usage.Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return usage.Disk{}, fmt.Errorf("look at the disk of %s: %w", path, err)
	}
	return diskFrom(&st), nil
}

func diskFrom(st *unix.Statfs_t) usage.Disk {
	n := func(blocks uint64) int64 { return int64(blocks) * st.Bsize } //nolint:gosec // disks are smaller than that
	return usage.Disk{
		Total: n(st.Blocks), Used: n(st.Blocks - st.Bfree), Free: n(st.Bavail),
		Inodes: int64(st.Files), InodesFree: int64(st.Ffree), //nolint:gosec // the same
	}
}

// Rule implements usage.Store.
func (unused) Rule(p usage.Policy, kind string) *usage.Rule {
	switch kind {
	case api.PruneContainers:
		return p.Containers
	case api.PruneImages:
		return p.Images
	case api.PruneCache:
		return p.BuildCache
	case api.PruneSnapshots:
		return p.Snapshots
	case api.PruneTrash:
		return p.Trash
	case api.PruneLogs:
		return p.Logs
	}
	return nil
}

// policyKinds are what a policy may have a rule for.
func policyKinds() []string {
	return []string{api.PruneContainers, api.PruneImages, api.PruneCache, api.PruneSnapshots, api.PruneTrash, api.PruneLogs}
}

// anyImage is the filter that lets a prune take images with names.
func anyImage() map[string][]string { return map[string][]string{"dangling": {"false"}} }

// Unused implements usage.Store.
func (u unused) Unused(ctx context.Context, rule func(kind string) *usage.Rule) ([]usage.Held, error) {
	p, err := u.list(ctx, rule)
	if err != nil {
		return nil, err
	}
	var out []usage.Held
	for _, c := range p.containers {
		out = append(out, usage.Held{
			Kind: api.PruneContainers, ID: c.ID, Name: c.Name, Since: c.Since, Labels: c.Labels,
			Frees: u.d.containerCandidate(ctx, c).Own,
		})
	}
	if len(p.images) > 0 {
		list, parts, err := u.d.images.Weigh(ctx)
		if err != nil {
			return nil, err
		}
		made := make([]usage.Made, len(list))
		for i, img := range list {
			made[i] = usage.Made{ID: img.ID, Parts: parts[img.ID]}
		}
		unique := usage.Share(made).Unique
		for _, i := range p.images {
			h := usage.Held{Kind: api.PruneImages, ID: i.ID, Name: i.Name, Group: repository(i.Name), Since: i.Since, Labels: i.Labels}
			if i.Last {
				h.Frees = unique[i.ID]
			}
			out = append(out, h)
		}
	}
	for _, c := range p.cache {
		h := usage.Held{Kind: api.PruneCache, ID: c.ID, Name: c.Description, Since: c.CreatedAt, Frees: cacheCandidate(c).Own}
		if c.LastUsedAt != nil {
			h.Since = *c.LastUsedAt
		}
		out = append(out, h)
	}
	return append(out, u.kept(&p)...), nil
}

// kept is what of a plan is kept for its own sake.
func (u unused) kept(p *prunePlan) []usage.Held {
	var out []usage.Held
	for _, s := range p.snapshots {
		c := u.d.storedCandidate(api.PruneSnapshots, usage.Snapshot, s, "")
		out = append(out, usage.Held{Kind: c.Kind, ID: s.ID, Name: s.Name, Group: s.Volume, Since: s.Made, Labels: s.Labels, Frees: c.Own})
	}
	for _, s := range p.trash {
		c := u.d.storedCandidate(api.PruneTrash, usage.Trash, s, "")
		out = append(out, usage.Held{Kind: c.Kind, ID: s.ID, Name: s.Name, Group: s.Name, Since: s.Made, Labels: s.Labels, Frees: c.Own})
	}
	for _, l := range p.logs {
		out = append(out, usage.Held{
			Kind: api.PruneLogs, ID: l.ID, Name: logName(l), Group: l.ID, Since: l.File.Ended, Labels: l.Labels, Frees: l.File.Bytes,
		})
	}
	return out
}

func (u unused) list(ctx context.Context, rule func(kind string) *usage.Rule) (p prunePlan, err error) {
	if rule(api.PruneContainers) != nil {
		if p.containers, err = u.d.containers.Prunable(nil); err != nil {
			return p, err
		}
	}
	if rule(api.PruneImages) != nil {
		if p.images, err = u.d.images.Prunable(ctx, anyImage(), nil); err != nil {
			return p, err
		}
	}
	if rule(api.PruneCache) != nil {
		if p.cache, err = u.d.builder.Prunable(ctx, build.PruneOptions{All: true}); err != nil {
			return p, err
		}
	}
	for _, kind := range []string{api.PruneSnapshots, api.PruneTrash, api.PruneLogs} {
		if rule(kind) == nil {
			continue
		}
		if err := u.d.planKept(kind, nil, &p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// repository is an image's name without its tag.
func repository(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return ""
	}
	if at := strings.LastIndex(name, "@"); at >= 0 {
		return name[:at]
	}
	if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
		return name[:colon]
	}
	return name
}

// Remove implements usage.Store.
func (u unused) Remove(ctx context.Context, all []usage.Held) (func(usage.Held) bool, error) {
	type key struct{ kind, id, name string }
	wanted := map[key]bool{}
	for _, h := range all {
		wanted[key{h.Kind, h.ID, h.Name}] = true
	}
	kinds := map[string]bool{}
	for _, h := range all {
		kinds[h.Kind] = true
	}
	some := func(kind string) *usage.Rule {
		if kinds[kind] {
			return &usage.Rule{}
		}
		return nil
	}
	p, err := u.list(ctx, some)
	if err != nil {
		return nil, err
	}
	p.containers = slices.DeleteFunc(p.containers, func(c container.Prunable) bool { return !wanted[key{api.PruneContainers, c.ID, c.Name}] })
	p.images = slices.DeleteFunc(p.images, func(i image.Prunable) bool { return !wanted[key{api.PruneImages, i.ID, i.Name}] })
	p.cache = slices.DeleteFunc(p.cache, func(c build.CacheRecord) bool { return !wanted[key{api.PruneCache, c.ID, c.Description}] })
	stays := func(kind string) func(s volume.Stored) bool {
		return func(s volume.Stored) bool { return !wanted[key{kind, s.ID, s.Name}] }
	}
	p.snapshots = slices.DeleteFunc(p.snapshots, stays(api.PruneSnapshots))
	p.trash = slices.DeleteFunc(p.trash, stays(api.PruneTrash))
	p.logs = slices.DeleteFunc(p.logs, func(l container.OldLog) bool { return !wanted[key{api.PruneLogs, l.ID, logName(l)}] })
	var r api.PruneRequest
	for _, k := range []struct {
		kind string
		n    int
	}{{api.PruneLogs, len(p.logs)}, {api.PruneSnapshots, len(p.snapshots)}, {api.PruneTrash, len(p.trash)}} {
		if k.n > 0 {
			r.Steps = append(r.Steps, api.PruneStep{Kind: k.kind})
		}
	}
	if len(p.containers) > 0 {
		r.Steps = append(r.Steps, api.PruneStep{Kind: api.PruneContainers})
	}
	if len(p.images) > 0 {
		r.Steps = append(r.Steps, api.PruneStep{Kind: api.PruneImages, Filters: anyImage()})
	}
	if len(p.cache) > 0 {
		r.Steps = append(r.Steps, api.PruneStep{Kind: api.PruneCache, All: true})
	}
	gone, err := u.d.executePrune(ctx, r, &p)
	return func(h usage.Held) bool { return gone[h.Kind+" "+h.ID+" "+h.Name] }, err
}

// Policy implements the storage router's Backend.
func (b storageBackend) Policy(ctx context.Context) (api.StoragePolicy, error) {
	disk, plan, err := b.d.janitor.Plan(ctx)
	if err != nil {
		return api.StoragePolicy{}, err
	}
	p := b.d.settings().StoragePolicy
	out := api.StoragePolicy{
		HighWater: p.HighWater.String(), LowWater: p.LowWater.String(), Idle: p.Idle(), Over: usage.Over(p, disk),
		Disk: api.StorageDisk(disk), Rules: map[string]api.StorageRule{}, Verdicts: []api.StorageVerdict{},
	}
	for _, kind := range policyKinds() {
		if r := unused(b).Rule(p, kind); r != nil {
			out.Rules[kind] = api.StorageRule{KeepLast: r.KeepLast, KeepUntilNanos: int64(r.KeepUntil), KeepIfLabel: r.KeepIfLabel}
		}
	}
	for _, v := range plan {
		out.Verdicts = append(out.Verdicts, api.StorageVerdict{Kind: v.Kind, ID: v.ID, Name: v.Name, Since: v.Since, Frees: v.Frees, Goes: v.Goes, Why: v.Why})
	}
	return out, nil
}

// RunPolicy implements the storage router's Backend.
func (b storageBackend) RunPolicy(ctx context.Context) (api.StorageRun, error) {
	r, err := b.d.janitor.RunNow(ctx, "asked for", true)
	return storageRun(&r), err
}

// Log implements the storage router's Backend.
func (b storageBackend) Log(context.Context) ([]api.StorageRun, error) {
	all, err := b.d.janitor.Log()
	out := make([]api.StorageRun, len(all))
	for i, r := range all {
		out[i] = storageRun(r)
	}
	return out, err
}

func storageRun(r *usage.Run) api.StorageRun {
	out := api.StorageRun{At: r.At, Why: r.Why, Used: r.Used, Total: r.Total, Freed: r.Freed, Error: r.Error, Items: []api.PruneItem{}}
	for _, g := range r.Gone {
		out.Items = append(out.Items, api.PruneItem{Kind: g.Kind, ID: g.ID, Name: g.Name, Size: g.Frees, Frees: g.Frees, Why: g.Why, Removed: g.Removed})
	}
	return out
}
