package buildkit

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/disk"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// BuildKit takes a record for an image's if all its layers that have a blob are:
// whatever a step wrote on top of a base image, before it is exported, counts as
// shared, so as nothing, and is neither pruned nor seen by a limit. So which
// records are shared is decided here, and BuildKit is not told of any image.

// shared tells which records of the cache an image needs, too.
//
// usage.Parents of a layer is the one below it. lookup returns the record's place
// in an image: the chain ID of its layers, once they have blobs, and its snapshot.
func shared(list []*bkclient.UsageInfo, chains map[digest.Digest]bool, lookup func(id string) layer) map[string]sharing {
	out := map[string]sharing{}
	for _, u := range list {
		if of := sharingOf(lookup(u.ID), chains); of != notShared {
			out[u.ID] = of
		}
	}
	return out
}

// layer is what the cache knows of a record as a layer.
type layer struct {
	chain    digest.Digest
	snapshot string
}

// sharing says what a record has in common with an image.
type sharing int

const (
	notShared   sharing = iota
	ownSnapshot         // the same layer, on the disk twice
	oneSnapshot         // the same snapshot
)

// layerOf reads a record's place from the cache's metadata.
func (w *imageWorker) layerOf(id string) (l layer) {
	item, ok := w.MetadataStore.Get(id)
	if !ok {
		return l
	}
	for key, to := range map[string]any{"cache.chainID": &l.chain, "cache.snapshot": &l.snapshot} {
		if v := item.Get(key); v != nil && v.Unmarshal(to) != nil {
			return layer{} // not what it was when this was written: counts as not shared
		}
	}
	return l
}

// chainsOf lists the layers of an image, each by the chain that ends with it: none
// of one for another platform, or that is being removed.
func chainsOf(ctx context.Context, i images.Image, blobs content.Provider) ([]digest.Digest, error) {
	layers, err := i.RootFS(ctx, blobs, platforms.Default())
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the layers of %s: %w", i.Name, err)
	}
	return identity.ChainIDs(slices.Clone(layers)), nil
}

// usage lists the whole cache, with what is shared told rightly.
func (w *imageWorker) usage(ctx context.Context, ageLimit bkclient.DiskUsageInfo) ([]*bkclient.UsageInfo, map[string]sharing, error) {
	ageLimit.Filter = nil
	w.asking.Lock()
	defer w.asking.Unlock()
	list, err := w.Worker.DiskUsage(ctx, ageLimit)
	if err != nil {
		return nil, nil, err
	}
	chains, err := w.chains.all(ctx)
	if err != nil {
		return nil, nil, err
	}
	of := shared(list, chains, w.layerOf)
	for _, u := range list {
		u.Shared = of[u.ID] == oneSnapshot
	}
	return list, of, nil
}

// DiskUsage implements worker.Worker.
func (w *imageWorker) DiskUsage(ctx context.Context, o bkclient.DiskUsageInfo) ([]*bkclient.UsageInfo, error) {
	wanted, err := filters.ParseAll(o.Filter...)
	if err != nil {
		return nil, fmt.Errorf("%w: filters of the build cache: %w", errdefs.ErrInvalidArgument, err)
	}
	list, _, err := w.usage(ctx, o)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(u *bkclient.UsageInfo) bool { return !wanted.Match(fields(u)) }), nil
}

// Prune implements worker.Worker.
func (w *imageWorker) Prune(ctx context.Context, ch chan bkclient.UsageInfo, opts ...bkclient.PruneInfo) error {
	list, of, err := w.usage(ctx, bkclient.DiskUsageInfo{})
	if err != nil {
		return err
	}
	stat, err := disk.GetDiskStat(w.root)
	if err != nil {
		return fmt.Errorf("measure the build cache's disk: %w", err)
	}
	var adjusted []bkclient.PruneInfo
	for _, o := range opts {
		o, some, err := spare(o, list, of, stat.Free)
		if err != nil {
			return err
		}
		if some {
			adjusted = append(adjusted, o)
		}
	}
	if len(adjusted) == 0 {
		return nil
	}
	return w.Worker.Prune(ctx, ch, adjusted...)
}

// spare rewrites what is to be pruned for a BuildKit that does not know what is
// shared. Without All, what an image is made of stays, so that it can be built
// again quickly. A limit is about what the cache takes beside the images: those
// records that cost nothing stay, and are not counted.
func spare(o bkclient.PruneInfo, list []*bkclient.UsageInfo, of map[string]sharing, freeOnDisk int64) (_ bkclient.PruneInfo, some bool, err error) {
	limited := o.ReservedSpace != 0 || o.MaxUsedSpace != 0 || o.MinFreeSpace != 0
	if o.MinFreeSpace != 0 && o.MaxUsedSpace == 0 && freeOnDisk >= o.MinFreeSpace {
		return o, false, nil // BuildKit would remove one record all the same
	}
	if o.All && !limited && len(o.Filter) == 0 {
		return o, true, nil
	}
	wanted, err := filters.ParseAll(o.Filter...)
	if err != nil {
		return o, false, fmt.Errorf("%w: filters of the build cache: %w", errdefs.ErrInvalidArgument, err)
	}
	var ids []string
	var free int64
	for _, u := range list {
		if of[u.ID] == oneSnapshot {
			free += u.Size
		}
		switch {
		case !wanted.Match(fields(u)), !o.All && of[u.ID] != notShared, limited && of[u.ID] == oneSnapshot:
		default:
			ids = append(ids, regexp.QuoteMeta(u.ID))
		}
	}
	if len(ids) == 0 {
		return o, false, nil
	}
	o.Filter = []string{"id~=\"^(" + strings.Join(ids, "|") + ")$\""}
	if limited {
		o.ReservedSpace += free
		if o.MaxUsedSpace != 0 {
			o.MaxUsedSpace += free
		}
	}
	return o, true, nil
}

// fields are what filters may ask of a record.
func fields(u *bkclient.UsageInfo) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		text := func(s string) (string, bool) { return s, s != "" }
		switch path[0] {
		case "id":
			return text(u.ID)
		case "parents", "parent":
			return text(strings.Join(u.Parents, ";"))
		case "description":
			return text(u.Description)
		case "type":
			return text(string(u.RecordType))
		case "inuse":
			return "", u.InUse
		case "idle": // ours
			return "", !u.InUse
		case "mutable":
			return "", u.Mutable
		case "immutable":
			return "", !u.Mutable
		case "shared":
			return "", u.Shared
		case "private":
			return "", !u.Shared
		}
		return "", false
	})
}
