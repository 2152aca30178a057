package imagestore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

const (
	// jsonLimit bounds every manifest, index and config: they are read into memory.
	jsonLimit = 8 << 20
	// statementLimit bounds an attestation; bills of materials are large.
	statementLimit = 64 << 20
	// depthLimit bounds indexes within indexes.
	depthLimit = 4
	// manifestLimit bounds the manifests of one image.
	manifestLimit = 1000

	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
)

// Has implements image.Content.
func (s *Store) Has(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := s.d.Content.Info(s.ns(ctx), d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Drop implements image.Content.
func (s *Store) Drop(ctx context.Context, d digest.Digest) error {
	defer s.forget()
	return s.d.Content.Delete(s.ns(ctx), d)
}

// Blob implements image.Content.
func (s *Store) Blob(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	return s.readSmall(s.ns(ctx), d, statementLimit, "an attestation")
}

// Opened is a blob being read.
type Opened = content.ReaderAt

// Open opens a blob. errdefs.ErrNotFound where it is not here.
func (s *Store) Open(ctx context.Context, d digest.Digest) (Opened, error) {
	return s.d.Content.ReaderAt(s.ns(ctx), ocispec.Descriptor{Digest: d})
}

// Describe tells what manifest or index a digest means. Anything else here is
// errdefs.ErrNotFound.
func (s *Store) Describe(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	ctx = s.ns(ctx)
	info, err := s.d.Content.Info(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	none := fault.New(errdefs.ErrNotFound, "%s is no manifest", d)
	if info.Size > jsonLimit {
		return ocispec.Descriptor{}, none
	}
	b, err := content.ReadBlob(ctx, s.d.Content, ocispec.Descriptor{Digest: d, Size: info.Size})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return ocispec.Descriptor{}, none
	}
	switch {
	case doc.MediaType != "":
	case doc.Manifests != nil: // OCI lets the type out
		doc.MediaType = ocispec.MediaTypeImageIndex
	case doc.Layers != nil:
		doc.MediaType = ocispec.MediaTypeImageManifest
	}
	if !images.IsManifestType(doc.MediaType) && !images.IsIndexType(doc.MediaType) {
		return ocispec.Descriptor{}, none
	}
	return ocispec.Descriptor{MediaType: doc.MediaType, Digest: d, Size: info.Size}, nil
}

// FromRegistry implements image.Content.
func (s *Store) FromRegistry(ctx context.Context, d digest.Digest) (bool, error) {
	info, err := s.d.Content.Info(s.ns(ctx), d)
	if err != nil {
		return false, err
	}
	for l := range info.Labels {
		if strings.HasPrefix(l, labels.LabelDistributionSource+".") {
			return true, nil
		}
	}
	return false, nil
}

func (s *Store) readSmall(ctx context.Context, d ocispec.Descriptor, limit int64, what string) ([]byte, error) {
	info, err := s.d.Content.Info(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	if info.Size > limit {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s is %d bytes long: too much for %s", d.Digest, info.Size, what)
	}
	d.Size = info.Size
	return content.ReadBlob(ctx, s.d.Content, d)
}

// readJSON reads a small blob.
func (s *Store) readJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	b, err := s.readSmall(ctx, d, jsonLimit, "a manifest or config")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "parse %s", d.Digest)
	}
	return nil
}

// Manifests implements image.Content.
func (s *Store) Manifests(ctx context.Context, target ocispec.Descriptor) ([]image.Manifest, error) {
	s.mu.Lock()
	all, ok := s.known[target.Digest]
	epoch := s.epoch
	s.mu.Unlock()
	if ok {
		return all, nil
	}
	var out []image.Manifest
	if err := s.walk(s.ns(ctx), target, nil, 0, &out); err != nil {
		return nil, fmt.Errorf("read image %s: %w", target.Digest, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.known[target.Digest] = out
	}
	return out, nil
}

// walk collects the manifests below d; above are the index blobs on the way.
func (s *Store) walk(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor, depth int, out *[]image.Manifest) error {
	switch {
	case depth > depthLimit:
		return fault.New(errdefs.ErrInvalidArgument, "indexes nested more than %d deep", depthLimit)
	case len(*out) >= manifestLimit:
		return fault.New(errdefs.ErrInvalidArgument, "more than %d manifests", manifestLimit)
	case images.IsManifestType(d.MediaType):
		m, err := s.manifest(ctx, d)
		if err != nil {
			return err
		}
		m.Content = append(m.Content, above...)
		*out = append(*out, m)
		return nil
	case images.IsIndexType(d.MediaType):
		var idx ocispec.Index
		if err := s.readJSON(ctx, d, &idx); err != nil {
			if errdefs.IsNotFound(err) {
				return nil
			}
			return err
		}
		above = append(above[:len(above):len(above)], d)
		for _, c := range idx.Manifests {
			if err := s.walk(ctx, c, above, depth+1, out); err != nil {
				return err
			}
		}
		return nil
	}
	return nil // something that is no image: not ours to judge
}

func (s *Store) manifest(ctx context.Context, d ocispec.Descriptor) (image.Manifest, error) {
	out := image.Manifest{Descriptor: d}
	if d.Annotations[referenceType] == "attestation-manifest" {
		out.Kind = image.KindAttestation
		out.For = digest.Digest(d.Annotations[referenceDigest])
	} else if d.Platform != nil && d.Platform.OS != "unknown" {
		out.Kind = image.KindImage
	}
	if d.Platform != nil {
		out.Platform = *d.Platform
	}
	var m ocispec.Manifest
	if err := s.readJSON(ctx, d, &m); err != nil {
		if errdefs.IsNotFound(err) {
			return out, nil
		}
		return out, err
	}
	out.Content = append(out.Content, d)
	out.Layers = m.Layers
	out.Complete = true
	for _, c := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		has, err := s.Has(ctx, c.Digest)
		if err != nil {
			return out, err
		}
		if !has {
			out.Complete = false
			continue
		}
		out.Content = append(out.Content, c)
	}
	if out.Kind == image.KindAttestation || !images.IsConfigType(m.Config.MediaType) {
		return out, nil
	}
	if err := s.readJSON(ctx, m.Config, &out.Config); err != nil {
		if errdefs.IsNotFound(err) {
			return out, nil
		}
		return out, err
	}
	if out.Config.OS == "unknown" {
		return out, nil
	}
	out.Kind = image.KindImage
	if d.Platform == nil {
		out.Platform = platforms.Normalize(out.Config.Platform)
	}
	return out, nil
}

// configOf returns the descriptor of a manifest's config.
func (s *Store) configOf(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	var m ocispec.Manifest
	err := s.readJSON(ctx, d, &m)
	return m.Config, err
}
