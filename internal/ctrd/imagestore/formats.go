package imagestore

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

func matches(want, have ocispec.Platform) bool { return platforms.Only(want).Match(have) }

// hold adds a blob to the context's lease.
func (s *Store) hold(ctx context.Context, d digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	r := leases.Resource{ID: d.String(), Type: "content"}
	if err := s.d.Leases.AddResource(ctx, leases.Lease{ID: id}, r); err != nil {
		return fmt.Errorf("hold %s: %w", d, err)
	}
	return nil
}

// ociImages reads an OCI layout.
func (l *loader) ociImages(layout []byte) ([]image.Loaded, error) {
	var v ocispec.ImageLayout
	if err := decode(ocispec.ImageLayoutFile, layout, &v); err != nil {
		return nil, err
	}
	if v.Version != ocispec.ImageLayoutVersion {
		return nil, fault.New(errdefs.ErrInvalidArgument, "unsupported OCI version %s", v.Version)
	}
	doc, ok := l.docs[ocispec.ImageIndexFile]
	if !ok {
		return nil, fault.New(errdefs.ErrInvalidArgument, "missing index.json in OCI layout %s", v.Version)
	}
	var idx ocispec.Index
	if err := decode(ocispec.ImageIndexFile, doc, &idx); err != nil {
		return nil, err
	}
	if len(idx.Manifests) == 0 || len(idx.Manifests) > manifestLimit {
		return nil, fault.New(errdefs.ErrInvalidArgument, "index.json names %d images", len(idx.Manifests))
	}
	var out []image.Loaded
	for _, d := range idx.Manifests {
		if d.Annotations[images.AnnotationManifestSubject] != "" {
			continue // speaks of another manifest, is no image of its own
		}
		if err := l.ociImage(d, &out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *loader) ociImage(d ocispec.Descriptor, out *[]image.Loaded) error {
	if err := d.Digest.Validate(); err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "index.json")
	}
	info, err := l.s.d.Content.Info(l.ctx, d.Digest)
	if errdefs.IsNotFound(err) {
		return fault.New(errdefs.ErrInvalidArgument, "the archive lacks %s, which index.json names", d.Digest)
	}
	if err != nil {
		return err
	}
	if info.Size != d.Size {
		return fault.New(errdefs.ErrInvalidArgument, "%s is %d bytes long, index.json says %d", d.Digest, info.Size, d.Size)
	}
	name := ociName(d.Annotations)
	for i := range *out {
		if (*out)[i].Target.Digest == d.Digest {
			if name != "" && !slices.Contains((*out)[i].Names, name) {
				(*out)[i].Names = append((*out)[i].Names, name)
			}
			return nil
		}
	}
	if err := l.prepare(d); err != nil {
		return err
	}
	loaded := image.Loaded{Target: d}
	if name != "" {
		loaded.Names = []string{name}
	}
	*out = append(*out, loaded)
	return nil
}

// ociName returns the full image name of an index entry, or "". A bare tag, as
// some tools write, is no image name.
func ociName(annotations map[string]string) string {
	for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
		ref, err := reference.ParseNormalizedNamed(annotations[key])
		if err != nil {
			continue
		}
		if key == ocispec.AnnotationRefName && reference.IsNameOnly(ref) {
			continue
		}
		return reference.TagNameOnly(ref).String()
	}
	return ""
}

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerImages reads the format of `docker save`.
func (l *loader) dockerImages(doc []byte) ([]image.Loaded, error) {
	var entries []dockerImage
	if err := decode(dockerManifest, doc, &entries); err != nil {
		return nil, err
	}
	if len(entries) == 0 || len(entries) > manifestLimit {
		return nil, fault.New(errdefs.ErrInvalidArgument, "manifest.json names %d images", len(entries))
	}
	var out []image.Loaded
	for _, e := range entries {
		names := make([]string, 0, len(e.RepoTags))
		for _, t := range e.RepoTags {
			ref, err := reference.ParseNormalizedNamed(t)
			if err != nil {
				return nil, fault.New(errdefs.ErrInvalidArgument, "invalid tag %q: %s", t, err)
			}
			names = append(names, reference.TagNameOnly(ref).String())
		}
		target, err := l.dockerImage(e)
		if err != nil {
			return nil, err
		}
		if err := l.prepare(target); err != nil {
			return nil, err
		}
		out = append(out, image.Loaded{Names: names, Target: target})
	}
	return out, nil
}

// dockerImage makes a manifest of an entry, the same that other engines with a
// content store make, so that an image has one ID everywhere.
func (l *loader) dockerImage(e dockerImage) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	cb, err := l.blob(e.Config)
	if err != nil {
		return none, err
	}
	m := struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
	}{
		SchemaVersion: 2,
		MediaType:     images.MediaTypeDockerSchema2Manifest,
		Config:        ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: cb.digest, Size: cb.size},
		Layers:        []ocispec.Descriptor{},
	}
	var config dockerspec.DockerOCIImage
	if err := l.s.readJSON(l.ctx, m.Config, &config); err != nil {
		return none, err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(e.Layers) {
		return none, fault.New(errdefs.ErrInvalidArgument, "invalid manifest, layers length mismatch: expected %d, got %d", len(ids), len(e.Layers))
	}
	if len(ids) > layerLimit {
		return none, fault.New(errdefs.ErrInvalidArgument, "more than %d layers", layerLimit)
	}
	for i, name := range e.Layers {
		b, err := l.blob(name)
		if err != nil {
			return none, err
		}
		d, err := l.dockerLayer(name, b, ids[i])
		if err != nil {
			return none, err
		}
		m.Layers = append(m.Layers, d)
	}
	target, err := l.s.writeJSON(l.ctx, m.MediaType, m, childLabels(m.Config, m.Layers))
	if err != nil {
		return none, err
	}
	if config.OS != "" {
		p := platforms.Normalize(config.Platform)
		target.Platform = &p
	}
	return target, nil
}

func (l *loader) dockerLayer(name string, b blob, want digest.Digest) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{Digest: b.digest, Size: b.size, MediaType: images.MediaTypeDockerSchema2Layer}
	if !b.layer && b.size > 0 {
		return d, fault.New(errdefs.ErrInvalidArgument, "layer %q is not a tar archive", name)
	}
	if b.layer && b.diffID != want {
		return d, fault.New(errdefs.ErrInvalidArgument, "invalid diffID for layer %q: expected %q, got %q", name, want, b.diffID)
	}
	switch b.format {
	case gzipped:
		d.MediaType = images.MediaTypeDockerSchema2LayerGzip
	case zstded:
		d.MediaType = images.MediaTypeDockerSchema2LayerZstd
	case plain:
		return l.known(d)
	default: // other formats were changed to one of these on their way in
	}
	return d, nil
}

// known prefers a compressed form of the layer that another image has already
// brought, so that it is kept once.
func (l *loader) known(d ocispec.Descriptor) (ocispec.Descriptor, error) {
	var found *content.Info
	err := l.s.d.Content.Walk(l.ctx, func(i content.Info) error {
		if i.Digest != d.Digest && (found == nil || i.Digest < found.Digest) {
			found = &i
		}
		return nil
	}, fmt.Sprintf("labels.%q==%s", labels.LabelUncompressed, d.Digest))
	if err != nil {
		return d, fmt.Errorf("look for layer %s: %w", d.Digest, err)
	}
	if found == nil {
		return d, nil
	}
	mt, err := l.s.layerType(l.ctx, *found)
	if err != nil || mt == "" {
		return d, err
	}
	if err := l.s.hold(l.ctx, found.Digest); err != nil {
		return d, err
	}
	return ocispec.Descriptor{MediaType: mt, Digest: found.Digest, Size: found.Size}, nil
}

// layerType finds the media type of a stored layer by its first bytes.
func (s *Store) layerType(ctx context.Context, i content.Info) (string, error) {
	ra, err := s.d.Content.ReaderAt(ctx, ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
	if err != nil {
		return "", fmt.Errorf("read layer %s: %w", i.Digest, err)
	}
	defer ra.Close()
	head := make([]byte, 6)
	if n, err := ra.ReadAt(head, 0); err != nil && n == 0 {
		return "", nil //nolint:nilerr // an empty or unreadable one is none to prefer
	}
	switch formatOf(head) {
	case gzipped:
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case zstded:
		return images.MediaTypeDockerSchema2LayerZstd, nil
	default:
		return "", nil
	}
}
