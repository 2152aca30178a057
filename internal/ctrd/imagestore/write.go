package imagestore

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/image"
)

// Write implements image.Content.
func (s *Store) Write(ctx context.Context, config dockerspec.DockerOCIImage, layers []image.Layer) (ocispec.Descriptor, error) {
	ctx = s.ns(ctx)
	defer s.forget()
	ready := stagedOf(layers)
	defer func() { s.dropAll(ctx, ready) }()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers:    []ocispec.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, l.Descriptor)
		// Layers of another image stay even if that image goes meanwhile.
		if err := s.hold(ctx, l.Descriptor.Digest); err != nil {
			return ocispec.Descriptor{}, err
		}
		has, err := s.Has(ctx, l.Descriptor.Digest)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if !has {
			return ocispec.Descriptor{}, fmt.Errorf("layer %s is gone: %w", l.Descriptor.Digest, errdefs.ErrNotFound)
		}
	}
	var err error
	if m.Config, err = s.writeJSON(ctx, ocispec.MediaTypeImageConfig, config, nil); err != nil {
		return ocispec.Descriptor{}, err
	}
	target, err := s.writeJSON(ctx, m.MediaType, m, childLabels(m.Config, m.Layers))
	if err != nil {
		return target, err
	}
	if err := s.unpack(ctx, m.Config, config.RootFS.DiffIDs, m.Layers, ready); err != nil {
		return target, err
	}
	return target, nil
}

// childLabels keep what a manifest refers to from being collected.
func childLabels(config ocispec.Descriptor, layers []ocispec.Descriptor) map[string]string {
	out := map[string]string{"containerd.io/gc.ref.content.config": config.Digest.String()}
	for i, l := range layers {
		out[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return out
}
