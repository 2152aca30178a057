package buildkit

import (
	"context"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/build"
)

// Records lists the build cache.
func (b *Builder) Records(ctx context.Context) ([]build.CacheRecord, error) {
	if !b.used() {
		return nil, nil
	}
	o, done, err := b.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := o.client.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]build.CacheRecord, len(list))
	for i, u := range list {
		out[i] = record(*u)
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

// Prune removes cache that nothing uses and returns what went.
func (b *Builder) Prune(ctx context.Context, o build.PruneOptions) ([]build.CacheRecord, error) {
	if !b.used() {
		return nil, nil
	}
	bk, done, err := b.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	opts := []bkclient.PruneOption{
		bkclient.WithFilter(o.Filters),
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
		for u := range ch {
			gone = append(gone, record(u))
		}
		return nil
	})
	return gone, g.Wait()
}
