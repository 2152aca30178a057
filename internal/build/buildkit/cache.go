package buildkit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/build"
)

// Records lists the build cache. It does not open BuildKit.
func (b *Builder) Records(ctx context.Context) ([]build.CacheRecord, error) {
	if !b.Awake() {
		return b.asleep(ctx)
	}
	o, done, err := b.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list, of, err := o.worker.usage(ctx, bkclient.DiskUsageInfo{})
	if err != nil {
		return nil, err
	}
	out := make([]build.CacheRecord, len(list))
	for i, u := range list {
		out[i] = record(*u)
		out[i].OfImage = of[u.ID] != notShared
	}
	return out, nil
}

func record(u bkclient.UsageInfo) build.CacheRecord {
	return build.CacheRecord{
		ID: u.ID, Parents: u.Parents, Type: string(u.RecordType), Description: u.Description,
		InUse: u.InUse, Shared: u.Shared, Size: u.Size,
		CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
	}
}

// together makes one filter of several: BuildKit removes what any filter of its
// list matches, and a user who gives two means both.
func together(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return []string{strings.Join(list, ",")}
}

// Prune removes cache that nothing uses and returns what went.
func (b *Builder) Prune(ctx context.Context, o build.PruneOptions) ([]build.CacheRecord, error) {
	if o.Nothing || !b.used() {
		return nil, nil
	}
	bk, done, err := b.change(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	opts := []bkclient.PruneOption{
		bkclient.WithFilter(together(o.Filters)),
		bkclient.WithKeepOpt(o.UnusedIn, o.Reserved, o.MaxUsed, o.MinFree),
	}
	if o.All {
		opts = append(opts, bkclient.PruneAll)
	}
	ch := make(chan bkclient.UsageInfo)
	var gone []build.CacheRecord
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(ch)
		return bk.client.Prune(ctx, ch, opts...)
	})
	g.Go(func() error {
		var err error
		for u := range ch { // to its end, or BuildKit waits for ever
			gone = append(gone, record(u))
			err = errors.Join(err, failpoint.Hit("build.prune.afterRecord"))
		}
		return err
	})
	return gone, g.Wait()
}

// Prunable lists what Prune would remove by the same options.
func (b *Builder) Prunable(ctx context.Context, o build.PruneOptions) ([]build.CacheRecord, error) {
	if o.Nothing {
		return nil, nil
	}
	match, err := filters.ParseAll(together(o.Filters)...)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	all, err := b.Records(ctx)
	if err != nil {
		return nil, err
	}
	return prunable(all, o, match, time.Now()), nil
}

// prunable has BuildKit's rules: nothing in use, and without All nothing that is
// an image's or BuildKit's own; what others are made of goes only after them.
func prunable(all []build.CacheRecord, o build.PruneOptions, match filters.Filter, now time.Time) []build.CacheRecord {
	goes := map[string]bool{}
	limited := o.Reserved != 0 || o.MaxUsed != 0 || o.MinFree != 0
	for _, r := range all {
		own := r.Type == string(bkclient.UsageRecordTypeInternal) || r.Type == string(bkclient.UsageRecordTypeFrontend)
		recent := o.UnusedIn != 0 && r.LastUsedAt != nil && r.LastUsedAt.After(now.Add(-o.UnusedIn))
		goes[r.ID] = !r.InUse && (o.All || !own && !r.OfImage) && (!limited || !r.Shared) && !recent && match.Match(recordFields(r))
	}
	for changed := true; changed; {
		changed = false
		for _, r := range all {
			for _, p := range r.Parents {
				if !goes[r.ID] && goes[p] {
					goes[p], changed = false, true
				}
			}
		}
	}
	var out []build.CacheRecord
	for _, r := range all {
		if goes[r.ID] {
			out = append(out, r)
		}
	}
	return out[:min(len(out), untilKept(all, out, o))]
}

// untilKept sorts what may go, first what was used longest ago and least often,
// and says how much of it goes before there is as little as is to be kept.
func untilKept(all, out []build.CacheRecord, o build.PruneOptions) int {
	used := func(r build.CacheRecord) time.Time {
		if r.LastUsedAt == nil {
			return time.Time{}
		}
		return *r.LastUsedAt
	}
	slices.SortStableFunc(out, func(a, b build.CacheRecord) int {
		return cmp.Or(used(a).Compare(used(b)), cmp.Compare(a.UsageCount, b.UsageCount), cmp.Compare(a.ID, b.ID))
	})
	keep := max(o.Reserved, o.MaxUsed)
	if keep == 0 {
		return len(out)
	}
	var total int64
	for _, r := range all {
		if !r.Shared { // those cost nothing
			total += r.Size
		}
	}
	for i, r := range out {
		if total <= keep {
			return i
		}
		total -= r.Size
	}
	return len(out)
}

// recordFields are what filters may ask of a record.
func recordFields(r build.CacheRecord) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return r.ID, true
		case "parents", "parent":
			return strings.Join(r.Parents, ";"), len(r.Parents) > 0
		case "description":
			return r.Description, r.Description != ""
		case "inuse":
			return "", r.InUse
		case "idle":
			return "", !r.InUse
		case "type":
			return r.Type, r.Type != ""
		case "shared":
			return "", r.Shared
		case "private":
			return "", !r.Shared
		}
		return "", false
	})
}
