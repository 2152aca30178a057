package image

import (
	"context"
	"io"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportOptions describe an image made of a root file system archive.
type ImportOptions struct {
	Ref      reference.NamedTagged // nil: no name
	Comment  string
	Changes  []string // Dockerfile instructions
	Platform *ocispec.Platform
}

// Import makes an image with one layer of a tar archive and returns its ID.
func (s *Service) Import(ctx context.Context, r io.Reader, o ImportOptions) (_ string, err error) {
	var c dockerspec.DockerOCIImageConfig
	if err := ApplyChanges(&c, o.Changes); err != nil {
		return "", err
	}
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return "", err
	}
	defer func() { release(err != nil) }()
	layer, err := s.d.Layers.Read(held, r)
	if err != nil {
		return "", err
	}
	platform := s.d.Platform
	if o.Platform != nil {
		platform = *o.Platform
	}
	now := s.d.Clock.Now().UTC()
	config := dockerspec.DockerOCIImage{
		Image: ocispec.Image{
			Platform: platform,
			Created:  &now,
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.DiffID}},
			History:  []ocispec.History{{Created: &now, Comment: o.Comment}},
		},
		Config: c,
	}
	target, err := s.d.Content.Write(held, config, []Layer{layer})
	if err != nil {
		return "", err
	}
	id := target.Digest.String()
	if err := s.name(held, o.Ref, target); err != nil {
		return "", err
	}
	s.emit(events.ActionImport, id, id, c.Labels)
	return id, nil
}

// name makes the record of a new image, dangling if ref is nil.
func (s *Service) name(ctx context.Context, ref reference.NamedTagged, target ocispec.Descriptor) error {
	s.names.Lock()
	defer s.names.Unlock()
	name := ""
	if ref != nil {
		name = ref.String()
	}
	if err := s.point(ctx, name, target, nil); err != nil {
		return err
	}
	if ref != nil {
		s.emit(events.ActionTag, target.Digest.String(), reference.FamiliarString(ref), s.labels(ctx, target))
	}
	return nil
}
