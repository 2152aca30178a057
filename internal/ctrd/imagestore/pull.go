package imagestore

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

const defaultDownloads = 3

// Pull implements image.Registry. Layers are unpacked while they arrive.
func (s *Store) Pull(
	ctx context.Context, ref string, target ocispec.Descriptor, platform ocispec.Platform, r image.Remote, p image.Progress,
) error {
	ctx = s.ns(ctx)
	defer s.forget()
	a, err := s.reach(ctx, ref, r)
	if err != nil {
		return err
	}
	defer a.close()
	f, err := a.resolver().Fetcher(ctx, ref)
	if err != nil {
		return fromRegistry(ref, err)
	}
	pl := &puller{s: s, f: f, p: p, ready: map[digest.Digest]staged{}}
	err = pl.pull(ctx, ref, target, platform)
	s.dropAll(ctx, pl.ready)
	return fromRegistry(ref, err)
}

// Receive implements image.Content.
func (s *Store) Receive(ctx context.Context, target ocispec.Descriptor, platform ocispec.Platform, src image.Source, p image.Progress) error {
	ctx = s.ns(ctx)
	defer s.forget()
	pl := &puller{s: s, f: src, p: p, ready: map[digest.Digest]staged{}}
	err := pl.pull(ctx, "", target, platform)
	s.dropAll(ctx, pl.ready)
	return err
}

// puller is one image being pulled.
type puller struct {
	s *Store
	f remotes.Fetcher
	p image.Progress

	mu    sync.Mutex // guards ready
	ready map[digest.Digest]staged
}

func (pl *puller) pull(ctx context.Context, ref string, target ocispec.Descriptor, platform ocispec.Platform) error {
	d, err := pl.manifest(ctx, target, platform)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := pl.s.readJSON(ctx, d, &m); err != nil {
		return err
	}
	if err := pl.small(ctx, m.Config); err != nil {
		return err
	}
	if len(m.Layers) > layerLimit {
		return fault.New(errdefs.ErrInvalidArgument, "the image has more than %d layers", layerLimit)
	}
	var config dockerspec.DockerOCIImage
	if images.IsConfigType(m.Config.MediaType) {
		if err := pl.s.readJSON(ctx, m.Config, &config); err != nil {
			return err
		}
	}
	all := true
	for _, l := range m.Layers {
		had, err := pl.s.Has(ctx, l.Digest)
		if err != nil {
			return err
		}
		all = all && had
	}
	if all { // nothing to show of what changes nothing
		pl.p = image.Silent{}
	}
	for _, l := range m.Layers {
		pl.p.Update(short(l.Digest), "Pulling fs layer", 0, 0)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(pl.s.d.Downloads, defaultDownloads))
	for _, l := range m.Layers {
		g.Go(func() error { return pl.layer(gctx, l) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := pl.s.label(ctx, ref, target); err != nil {
		return err
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return nil // an artifact: kept, but nothing to run
	}
	if err := pl.s.unpack(ctx, m.Config, config.RootFS.DiffIDs, m.Layers, pl.ready); err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	for _, l := range m.Layers {
		pl.p.Update(short(l.Digest), "Pull complete", 0, 0)
	}
	return nil
}

func short(d digest.Digest) string {
	if e := d.Encoded(); len(e) > 12 {
		return e[:12]
	}
	return d.Encoded()
}

// manifest fetches what the target is made of down to the platform's manifest.
func (pl *puller) manifest(ctx context.Context, d ocispec.Descriptor, platform ocispec.Platform) (ocispec.Descriptor, error) {
	for range depthLimit {
		if err := pl.small(ctx, d); err != nil {
			return d, err
		}
		if images.IsManifestType(d.MediaType) {
			return d, nil
		}
		if !images.IsIndexType(d.MediaType) {
			return d, fault.New(errdefs.ErrInvalidArgument, "unsupported media type %s", d.MediaType)
		}
		var idx ocispec.Index
		if err := pl.s.readJSON(ctx, d, &idx); err != nil {
			return d, err
		}
		next := choose(idx.Manifests, platforms.Only(platform))
		if next == nil {
			return d, fault.New(errdefs.ErrNotFound,
				"no matching manifest for %s in the manifest list entries: no match for platform in manifest: not found",
				platforms.FormatAll(platform))
		}
		d = *next
	}
	return d, fault.New(errdefs.ErrInvalidArgument, "indexes nested more than %d deep", depthLimit)
}

// choose returns the entry that suits best; one without a platform if none says its own.
func choose(ds []ocispec.Descriptor, pm platforms.MatchComparer) *ocispec.Descriptor {
	var best, silent *ocispec.Descriptor
	for i := range ds {
		d := &ds[i]
		if d.Annotations[referenceType] != "" {
			continue
		}
		if d.Platform == nil {
			if silent == nil {
				silent = d
			}
			continue
		}
		if pm.Match(*d.Platform) && (best == nil || pm.Less(*d.Platform, *best.Platform)) {
			best = d
		}
	}
	if best == nil {
		return silent
	}
	return best
}

// small fetches a manifest, index or config.
func (pl *puller) small(ctx context.Context, d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "the registry's digest")
	}
	if d.Size > jsonLimit {
		return fault.New(errdefs.ErrInvalidArgument, "%s is %d bytes long: too much for a manifest or config", d.Digest, d.Size)
	}
	had, err := pl.s.Has(ctx, d.Digest)
	if err != nil {
		return err
	}
	if had {
		return pl.s.hold(ctx, d.Digest)
	}
	if err := remotes.Fetch(ctx, pl.s.d.Content, pl.f, d); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("fetch %s: %w", d.Digest, err)
	}
	return nil
}

func (pl *puller) layer(ctx context.Context, d ocispec.Descriptor) error {
	id := short(d.Digest)
	if err := d.Digest.Validate(); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "the registry's digest")
	}
	had, err := pl.s.Has(ctx, d.Digest)
	if err != nil {
		return err
	}
	if had {
		pl.p.Update(id, "Already exists", 0, 0)
		return pl.s.hold(ctx, d.Digest)
	}
	rc, err := pl.f.Fetch(ctx, d)
	if err != nil {
		return fmt.Errorf("fetch layer %s: %w", d.Digest, err)
	}
	defer rc.Close()
	step := stepper(d.Size)
	b, err := pl.s.ingestAs(ctx, rc, d, func(n int64) {
		if step(n) {
			pl.p.Update(id, "Downloading", n, d.Size)
		}
	})
	if err != nil {
		return fmt.Errorf("fetch layer %s: %w", d.Digest, err)
	}
	pl.p.Update(id, "Download complete", 0, 0)
	if b.staged.key == "" {
		return nil
	}
	pl.mu.Lock()
	had2, twice := pl.ready[b.diffID]
	pl.ready[b.diffID] = b.staged
	pl.mu.Unlock()
	if twice {
		pl.s.drop(ctx, had2.key)
	}
	return nil
}

// label ties what an image is made of together for the collector, and notes
// which registry it came from (if ref is not empty), so that a push to the same
// registry can mount it.
func (s *Store) label(ctx context.Context, ref string, target ocispec.Descriptor) error {
	tie := images.SetChildrenLabels(s.d.Content, s.children)
	if ref == "" {
		return s.walkAll(ctx, tie, target)
	}
	source, err := docker.AppendDistributionSourceLabel(s.d.Content, ref)
	if err != nil {
		return fmt.Errorf("note the source of %s: %w", ref, err)
	}
	note := func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := source.Handle(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		return nil, nil
	}
	return s.walkAll(ctx, images.Handlers(tie, images.HandlerFunc(note)), target)
}

func (s *Store) walkAll(ctx context.Context, h images.Handler, target ocispec.Descriptor) error {
	if err := images.Walk(ctx, h, target); err != nil {
		return fmt.Errorf("read image %s: %w", target.Digest, err)
	}
	return nil
}

// children lists what a manifest or index refers to, as far as it is here.
func (s *Store) children(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType) {
		return nil, nil
	}
	cs, err := images.Children(ctx, s.d.Content, d)
	if errdefs.IsNotFound(err) {
		return nil, images.ErrSkipDesc // another platform, left out
	}
	return cs, err
}
