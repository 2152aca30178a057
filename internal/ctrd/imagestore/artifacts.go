package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/image"
)

// Artifacts sends what is no image to registries and gets it back: one blob, in an
// OCI artifact of a type. What is sent is in the store for that time only.
type Artifacts struct{ s *Store }

// NewArtifacts returns the artifacts' side of a store.
func NewArtifacts(s *Store) Artifacts { return Artifacts{s} }

// artifactLayer is what the blob of an artifact is, for whoever looks at it.
const artifactLayer = ocispec.MediaTypeImageLayerZstd

// Push sends what write writes, a tar compressed by zstd, and returns the manifest's
// descriptor. A write that fails has sent nothing.
func (a Artifacts) Push(
	ctx context.Context, ref, kind string, annotations map[string]string, write func(io.Writer) error, r image.Remote, p image.Progress,
) (_ ocispec.Descriptor, err error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	ctx, release, err := a.s.Hold(ctx)
	if err != nil {
		return fail(err)
	}
	defer release(true)
	layer, err := a.store(ctx, write)
	if err != nil {
		return fail(err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Layers: []ocispec.Descriptor{layer}, Annotations: annotations,
	}
	if m.Config, err = a.s.writeJSON(ctx, ocispec.MediaTypeEmptyJSON, struct{}{}, nil); err != nil {
		return fail(err)
	}
	target, err := a.s.writeJSON(ctx, m.MediaType, m, childLabels(m.Config, m.Layers))
	if err != nil {
		return fail(err)
	}
	return target, a.s.Push(ctx, ref, target, r, p)
}

// store keeps what write writes as a blob.
func (a Artifacts) store(ctx context.Context, write func(io.Writer) error) (d ocispec.Descriptor, err error) {
	ref, err := unique("holdfast-")
	if err != nil {
		return d, err
	}
	w, err := content.OpenWriter(ctx, a.s.d.Content, content.WithRef(ref))
	if err != nil {
		return d, fmt.Errorf("store an artifact: %w", err)
	}
	err = write(w)
	var size int64
	if err == nil {
		var st content.Status
		if st, err = w.Status(); err == nil {
			size = st.Offset
			err = w.Commit(ctx, size, "")
		}
	}
	dgst := w.Digest()
	err = errors.Join(err, w.Close())
	if err != nil && !errdefs.IsAlreadyExists(err) { // it may have been sent before
		if aerr := a.s.d.Content.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, aerr)
		}
		return d, err
	}
	return ocispec.Descriptor{MediaType: artifactLayer, Digest: dgst, Size: size}, nil
}

// Artifact is one that a registry has.
type Artifact struct {
	Annotations map[string]string
	Size        int64
	a           Artifacts
	ref         string
	layer       ocispec.Descriptor
	remote      image.Remote
}

// Open looks at an artifact, which must be of that type.
func (a Artifacts) Open(ctx context.Context, ref, kind string, r image.Remote) (Artifact, error) {
	ctx = a.s.ns(ctx)
	d, err := a.s.Resolve(ctx, ref, r)
	if err != nil {
		return Artifact{}, err
	}
	other := func(what string) (Artifact, error) {
		return Artifact{}, fault.New(errdefs.ErrInvalidArgument, "%s is no %s: %s", ref, kind, what)
	}
	if d.MediaType != ocispec.MediaTypeImageManifest {
		return other("it is a " + d.MediaType)
	}
	b, err := a.s.Fetch(ctx, ref, d, r)
	if err != nil {
		return Artifact{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return other("its manifest cannot be read")
	}
	switch {
	case m.ArtifactType != kind:
		return other(fmt.Sprintf("its type is %.100q", m.ArtifactType))
	case len(m.Layers) != 1 || m.Layers[0].MediaType != artifactLayer:
		return other("it has another content")
	case m.Layers[0].Size <= 0 || m.Layers[0].Digest.Validate() != nil:
		return other("its manifest does not say what it holds")
	}
	return Artifact{Annotations: m.Annotations, Size: m.Layers[0].Size, a: a, ref: ref, layer: m.Layers[0], remote: r}, nil
}

// Read hands the blob to take, as it comes. It is the artifact's only if Read
// returns no error: its digest is known at its end.
func (f Artifact) Read(ctx context.Context, take func(io.Reader) error, p image.Progress) error {
	ctx = f.a.s.ns(ctx)
	way, err := f.a.s.reach(ctx, f.ref, f.remote)
	if err != nil {
		return err
	}
	defer way.close()
	from, err := way.resolver().Fetcher(ctx, f.ref)
	if err != nil {
		return fromRegistry(f.ref, err)
	}
	rc, err := from.Fetch(ctx, f.layer)
	if err != nil {
		return fromRegistry(f.ref, err)
	}
	defer rc.Close()
	verify := f.layer.Digest.Verifier()
	counted := &arriving{r: io.TeeReader(io.LimitReader(rc, f.layer.Size+1), verify), id: short(f.layer.Digest), total: f.layer.Size, p: p}
	if err := take(counted); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fmt.Errorf("read %s: %w", f.layer.Digest, err)
	}
	if counted.n != f.layer.Size || !verify.Verified() {
		return fault.New(errdefs.ErrDataLoss, "the registry sent something else than %s", f.layer.Digest)
	}
	p.Update(counted.id, "Pull complete", 0, 0)
	return nil
}

// arriving tells how much was read, a hundred times at most.
type arriving struct {
	r              io.Reader
	id             string
	n, told, total int64
	p              image.Progress
}

// Read implements io.Reader.
func (c *arriving) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	if c.n-c.told > c.total/100 {
		c.told = c.n
		c.p.Update(c.id, "Downloading", c.n, c.total)
	}
	return n, err
}
