package imagestore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/image"
)

// Driver implements image.Layers.
func (s *Store) Driver() string { return s.d.Snapshotter }

// snapshotLabel on a config's blob keeps the image's top snapshot, and so all
// below it, as long as the config is kept.
func (s *Store) snapshotLabel() string { return "containerd.io/gc.ref.snapshot." + s.d.Snapshotter }

// Unpacked implements image.Layers.
func (s *Store) Unpacked(ctx context.Context, m image.Manifest) (bool, error) {
	ctx = s.ns(ctx)
	ids := m.Config.RootFS.DiffIDs
	if len(ids) == 0 {
		return true, nil
	}
	return s.hasSnapshot(ctx, identity.ChainID(ids))
}

// HasLayer implements image.Layers.
func (s *Store) HasLayer(ctx context.Context, chain digest.Digest) (bool, error) {
	return s.hasSnapshot(s.ns(ctx), chain)
}

func (s *Store) hasSnapshot(ctx context.Context, chain digest.Digest) (bool, error) {
	_, err := s.d.Snapshots.Stat(ctx, chain.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for layer %s: %w", chain, err)
	}
	return true, nil
}

// Unpack implements image.Layers.
func (s *Store) Unpack(ctx context.Context, m image.Manifest) error {
	ctx = s.ns(ctx)
	config, err := s.configOf(ctx, m.Descriptor)
	if err != nil {
		return err
	}
	return s.unpack(ctx, config, m.Config.RootFS.DiffIDs, m.Layers, nil)
}

// unpack makes the chain of snapshots, of staged layers where they fit, and
// ties it to the config.
func (s *Store) unpack(
	ctx context.Context, config ocispec.Descriptor, diffIDs []digest.Digest, layers []ocispec.Descriptor, ready map[digest.Digest]staged,
) error {
	if len(layers) != len(diffIDs) {
		return fault.New(errdefs.ErrInvalidArgument, "the image's config names %d layers, its manifest %d", len(diffIDs), len(layers))
	}
	if len(diffIDs) == 0 {
		return nil
	}
	chain := identity.ChainIDs(slices.Clone(diffIDs))
	top := chain[len(chain)-1]
	has, err := s.hasSnapshot(ctx, top)
	if err != nil {
		return err
	}
	for i := range layers {
		if has {
			break
		}
		parent := ""
		if i > 0 {
			parent = chain[i-1].String()
		}
		if err := s.unpackLayer(ctx, layers[i], diffIDs[i], chain[i].String(), parent, ready); err != nil {
			return err
		}
	}
	label := s.snapshotLabel()
	info := content.Info{Digest: config.Digest, Labels: map[string]string{label: top.String()}}
	if _, err := s.d.Content.Update(ctx, info, "labels."+label); err != nil {
		return fmt.Errorf("tie layers to the image: %w", err)
	}
	return nil
}

// unpackLayer makes one snapshot of the chain, if it isn't there.
func (s *Store) unpackLayer(
	ctx context.Context, layer ocispec.Descriptor, diffID digest.Digest, chain, parent string, ready map[digest.Digest]staged,
) error {
	has, err := s.hasSnapshot(ctx, digest.Digest(chain))
	if err != nil || has {
		return err
	}
	if st, ok := ready[diffID]; ok && st.fits(parent == "") {
		delete(ready, diffID) // its key is gone after this, whatever comes
		var opts []snapshots.Opt
		if parent != "" {
			opts = append(opts, snapshots.WithParent(parent))
		}
		err := s.d.Snapshots.Commit(ctx, chain, st.key, opts...)
		if err == nil {
			return nil
		}
		s.drop(ctx, st.key)
		if errdefs.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("commit layer %s: %w", diffID, err)
	}
	return s.applyLayer(ctx, layer, diffID, chain, parent)
}

func (s *Store) applyLayer(ctx context.Context, layer ocispec.Descriptor, diffID digest.Digest, chain, parent string) error {
	key, err := unique(snapshots.UnpackKeyPrefix + "-")
	if err != nil {
		return err
	}
	mounts, err := s.d.Snapshots.Prepare(ctx, key, parent)
	if err != nil {
		return fmt.Errorf("prepare layer %s: %w", diffID, err)
	}
	got, err := s.d.Applier.Apply(ctx, layer, mounts)
	if err != nil {
		s.drop(ctx, key)
		return refuse(fmt.Errorf("unpack layer %s: %w", layer.Digest, err))
	}
	if got.Digest != diffID {
		s.drop(ctx, key)
		return fault.New(errdefs.ErrInvalidArgument, "layer %s is not what the image's config says: its diff ID is %s, not %s", layer.Digest, got.Digest, diffID)
	}
	if err := s.d.Snapshots.Commit(ctx, chain, key); err != nil {
		s.drop(ctx, key)
		if errdefs.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("commit layer %s: %w", diffID, err)
	}
	info := content.Info{Digest: layer.Digest, Labels: map[string]string{labels.LabelUncompressed: diffID.String()}}
	if _, err := s.d.Content.Update(ctx, info, "labels."+labels.LabelUncompressed); err != nil {
		return fmt.Errorf("label layer %s: %w", layer.Digest, err)
	}
	return nil
}

// Sizes implements image.Layers. A layer's size is told once by containerd, which
// keeps it from when the layer was committed.
func (s *Store) Sizes(ctx context.Context, diffIDs []digest.Digest) ([]int64, error) {
	ctx = s.ns(ctx)
	chain := identity.ChainIDs(slices.Clone(diffIDs))
	out := make([]int64, len(chain))
	for i, c := range chain {
		s.mu.Lock()
		n, ok := s.sizes[c]
		epoch := s.epoch
		s.mu.Unlock()
		if ok {
			out[i] = n
			continue
		}
		u, err := s.d.Snapshots.Usage(ctx, c.String())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("measure layer %s: %w", c, err)
		}
		out[i] = u.Size
		s.mu.Lock()
		if s.epoch == epoch {
			s.sizes[c] = u.Size
		}
		s.mu.Unlock()
	}
	return out, nil
}

// Dirs implements image.Layers.
func (s *Store) Dirs(ctx context.Context, chain digest.Digest) ([]string, error) {
	s.mu.Lock()
	dirs, ok := s.dirs[chain]
	epoch := s.epoch
	s.mu.Unlock()
	if ok {
		return dirs, nil
	}
	ctx = s.ns(ctx)
	key, err := unique("dirs-")
	if err != nil {
		return nil, err
	}
	mounts, err := s.d.Snapshots.View(ctx, key, chain.String())
	if err != nil {
		return nil, fmt.Errorf("look at layer %s: %w", chain, err)
	}
	s.drop(ctx, key)
	dirs = lowerDirs(mounts)
	if len(dirs) == 0 {
		return nil, fmt.Errorf("layer %s has no directory: %w", chain, errdefs.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.dirs[chain] = dirs
	}
	return dirs, nil
}

// lowerDirs returns the directories of a read-only view, top first.
func lowerDirs(mounts []mount.Mount) []string {
	if len(mounts) != 1 {
		return nil
	}
	m := mounts[0]
	if m.Type == "bind" {
		return []string{m.Source}
	}
	for _, o := range m.Options {
		if l, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(l, ":")
		}
	}
	return nil
}

// stagedOf collects the staged layers of an image about to be written.
func stagedOf(layers []image.Layer) map[digest.Digest]staged {
	out := map[digest.Digest]staged{}
	for _, l := range layers {
		if st, ok := l.Staged.(staged); ok && st.key != "" {
			out[l.DiffID] = st
		}
	}
	return out
}

// dropAll removes staged layers that found no place.
func (s *Store) dropAll(ctx context.Context, ready map[digest.Digest]staged) {
	for d, st := range ready {
		s.d.Log.Debug("staged layer not needed", logkey.Name, d)
		s.drop(ctx, st.key)
	}
}

// Pinned tells what stays even when no image refers to it: what leases name, as
// those of the build cache do, and the layers below. Names are "layer CHAIN" and
// "blob DIGEST".
func (s *Store) Pinned(ctx context.Context) (map[string]bool, error) {
	ctx = s.ns(ctx)
	all, err := s.d.Leases.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	out := map[string]bool{}
	for _, l := range all {
		rs, err := s.d.Leases.ListResources(ctx, l)
		if errdefs.IsNotFound(err) {
			continue // released meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list what lease %s holds: %w", l.ID, err)
		}
		for _, r := range rs {
			if r.Type == "content" {
				out["blob "+r.ID] = true
				continue
			}
			for key := r.ID; key != "" && !out["layer "+key]; {
				out["layer "+key] = true
				info, err := s.d.Snapshots.Stat(ctx, key)
				if err != nil && !errdefs.IsNotFound(err) {
					return nil, fmt.Errorf("look at layer %s: %w", key, err)
				}
				key = info.Parent
			}
		}
	}
	return out, nil
}
