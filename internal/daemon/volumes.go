package daemon

import (
	"context"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/internal/base/fault"
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
