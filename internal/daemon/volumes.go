package daemon

import (
	"context"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/volume/archive"
)

// tars is internal/volume/archive as the router of volumes needs it.
type tars struct{}

// Write implements the router's Archiver.
func (tars) Write(ctx context.Context, dir string, to io.Writer) error {
	return archive.Write(ctx, dir, to)
}

// Extract implements the router's Archiver.
func (tars) Extract(ctx context.Context, from io.Reader, dir string) (files, bytes int64, err error) {
	r, err := archive.Extract(ctx, from, dir)
	return r.Files, r.Bytes, err
}

// Compress implements the router's Archiver.
func (tars) Compress(method string, to io.Writer) (io.WriteCloser, error) {
	switch method {
	case "", "none":
		return plain{to}, nil
	case "zstd":
		return zstd.NewWriter(to)
	}
	return nil, fault.New(errdefs.ErrInvalidArgument, "unknown compression %q: want zstd or none", method)
}

type plain struct{ io.Writer }

// Close implements io.Closer.
func (plain) Close() error { return nil }

// volumeArtifacts keeps volumes in image registries.
type volumeArtifacts struct{ a imagestore.Artifacts }

// Push implements the router's Artifacts.
func (v volumeArtifacts) Push(
	ctx context.Context, ref string, annotations map[string]string, write func(io.Writer) error, r image.Remote, p image.Progress,
) (ocispec.Descriptor, error) {
	return v.a.Push(ctx, ref, api.VolumeArtifact, annotations, write, r, p)
}

// Open implements the router's Artifacts.
func (v volumeArtifacts) Open(ctx context.Context, ref string, r image.Remote) (func(context.Context, func(io.Reader) error, image.Progress) error, error) {
	a, err := v.a.Open(ctx, ref, api.VolumeArtifact, r)
	return a.Read, err
}
