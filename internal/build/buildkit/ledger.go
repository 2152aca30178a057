package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/build"
)

// Kept is a record of the cache as it is put down: with its place among layers,
// by which an image that has it is found.
type Kept struct {
	build.CacheRecord
	Chain    digest.Digest `json:",omitempty"`
	Snapshot string        `json:",omitempty"`
}

// Ledger keeps records of the cache durably.
type Ledger interface {
	Put(id string, k *Kept) error
	Delete(id string) error
	All() ([]*Kept, error)
}

// trueMark is the record that is there while the others are what BuildKit would
// say: written when BuildKit was closed, taken away before it is opened. After a
// crash BuildKit is asked once, in the background.
const trueMark = "_true"

// counted is what is known of the cache without asking BuildKit.
type counted struct {
	to Ledger

	writing sync.Mutex // held while records are written, taken before mu

	mu     sync.Mutex // guards the fields below; never held across I/O
	have   map[string]Kept
	behind bool // BuildKit ran since, and did not say goodbye
	ever   bool // something was put down once
	first  chan struct{}
}

func newCounted(to Ledger) (*counted, error) {
	all, err := to.All()
	if err != nil { // BuildKit can say it again
		return &counted{to: to, have: map[string]Kept{}, behind: true, first: make(chan struct{})}, err
	}
	c := &counted{to: to, have: map[string]Kept{}, behind: true, first: make(chan struct{})}
	for _, k := range all {
		c.ever = true
		if k.ID == trueMark {
			c.behind = false
			continue
		}
		c.have[k.ID] = *k
	}
	return c, nil
}

// opening says that the cache may change from here on.
func (c *counted) opening() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.to.Delete(trueMark); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = true
	return nil
}

// replace puts down what BuildKit says now. last says that it will not change
// any more.
func (c *counted) replace(list []Kept, last bool) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	now := make(map[string]Kept, len(list))
	for _, k := range list {
		k.InUse, k.Shared, k.OfImage = false, false, false // told anew each time
		now[k.ID] = k
	}
	c.mu.Lock()
	had := c.have
	c.have, c.ever, c.behind = now, true, !last
	c.mu.Unlock()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards errs
		errs []error
	)
	write := func(do func() error) { // side by side, so that they share commits
		wg.Go(func() {
			if err := do(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	for id, k := range now {
		if before, ok := had[id]; !ok || !same(before, k) {
			write(func() error { return c.to.Put(id, &k) })
		}
	}
	for id := range had {
		if _, ok := now[id]; !ok {
			write(func() error { return c.to.Delete(id) })
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || !last {
		return err
	}
	return c.to.Put(trueMark, &Kept{CacheRecord: build.CacheRecord{ID: trueMark}})
}

func same(a, b Kept) bool {
	at, bt := time.Time{}, time.Time{}
	if a.LastUsedAt != nil {
		at = *a.LastUsedAt
	}
	if b.LastUsedAt != nil {
		bt = *b.LastUsedAt
	}
	return a.Size == b.Size && a.UsageCount == b.UsageCount && at.Equal(bt) && a.Type == b.Type && a.Chain == b.Chain &&
		a.Snapshot == b.Snapshot && a.Description == b.Description && a.CreatedAt.Equal(b.CreatedAt) && slices.Equal(a.Parents, b.Parents)
}

// list is what is known, in the order of IDs.
func (c *counted) list() (out []Kept, behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.have {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Kept) int { return strings.Compare(a.ID, b.ID) })
	return out, c.behind
}

// asked says that BuildKit was asked, or could not be: nobody waits any more.
func (c *counted) asked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.first:
	default:
		close(c.first)
	}
}

// unknown is a channel to wait for where nothing was ever put down, else nil.
func (c *counted) unknown() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ever {
		return nil
	}
	return c.first
}

// Run puts down what BuildKit says when builds and prunes end, until ctx does.
// It opens BuildKit only where an earlier daemon left no word of how the cache is.
func (b *Builder) Run(ctx context.Context) error {
	if _, behind := b.counted.list(); behind && b.used() {
		b.count(ctx, true)
	}
	b.counted.asked()
	// BuildKit looks for what is too much within a minute of a build's end.
	again := time.NewTimer(afterGC)
	defer again.Stop()
	again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.touched:
			again.Reset(afterGC)
		case <-again.C:
		}
		b.count(ctx, false)
	}
}

// afterGC is more than BuildKit waits with its own collection.
const afterGC = 90 * time.Second

// count asks BuildKit for the cache and puts it down.
func (b *Builder) count(ctx context.Context, open bool) {
	if !open && !b.Awake() {
		return
	}
	o, done, err := b.use(ctx)
	if err == nil {
		defer done()
		err = b.putDown(ctx, o, false)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, errClosed) {
		b.cfg.Log.Warn("build cache not counted", logkey.Err, err)
	}
}

func (b *Builder) putDown(ctx context.Context, o *opened, last bool) error {
	list, _, err := o.worker.usage(ctx, bkclient.DiskUsageInfo{})
	if err != nil {
		return fmt.Errorf("ask BuildKit for its cache: %w", err)
	}
	out := make([]Kept, len(list))
	for i, u := range list {
		l := o.worker.layerOf(u.ID)
		out[i] = Kept{CacheRecord: record(*u), Chain: l.chain, Snapshot: l.snapshot}
	}
	return b.counted.replace(out, last)
}

// touch says that something may have changed the cache.
func (b *Builder) touch() {
	select {
	case b.touched <- struct{}{}:
	default: // one waits already
	}
}

// asleep lists the cache while BuildKit is not in memory: nobody uses it then,
// and what of it is an image's the images say.
func (b *Builder) asleep(ctx context.Context) ([]build.CacheRecord, error) {
	if !b.used() {
		return nil, nil
	}
	if wait := b.counted.unknown(); wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	list, _ := b.counted.list()
	chains, err := b.chains.all(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]build.CacheRecord, len(list))
	for i, k := range list {
		k.InUse = false
		of := sharingOf(layer{k.Chain, k.Snapshot}, chains)
		k.Shared, k.OfImage = of == oneSnapshot, of != notShared
		out[i] = k.CacheRecord
	}
	return out, nil
}

// imageChains tells the layers of all images, and remembers those it read: what an
// image is made of never changes.
type imageChains struct {
	images images.Store
	blobs  content.Provider

	mu    sync.Mutex // guards known
	known map[digest.Digest][]digest.Digest
}

// all lists the layers of all images, each by the chain that ends with it.
func (c *imageChains) all(ctx context.Context) (map[digest.Digest]bool, error) {
	list, err := c.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the images: %w", err)
	}
	c.mu.Lock()
	had := c.known
	c.mu.Unlock()
	now := make(map[digest.Digest][]digest.Digest, len(list))
	out := map[digest.Digest]bool{}
	for _, i := range list {
		of, ok := had[i.Target.Digest]
		if !ok {
			if of, err = chainsOf(ctx, i, c.blobs); err != nil {
				return nil, err
			}
		}
		if of != nil {
			now[i.Target.Digest] = of
		}
		for _, d := range of {
			out[d] = true
		}
	}
	c.mu.Lock()
	c.known = now
	c.mu.Unlock()
	return out, nil
}

// sharingOf tells what a record has in common with the images of these chains.
func sharingOf(l layer, chains map[digest.Digest]bool) sharing {
	if l.chain == "" || !chains[l.chain] {
		return notShared
	}
	// What a step made has a snapshot of its own beside the image's; a base image's
	// layers are the same one.
	if own, ok := snapshot.ParseLayerSnapshotID(l.snapshot); ok && own == l.chain {
		return oneSnapshot
	}
	return ownSnapshot
}
