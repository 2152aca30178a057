package registry

import (
	"context"
	"io"
	"regexp"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// uploadPattern is what an upload is called.
var uploadPattern = regexp.MustCompile(`^[a-f0-9]{32}$`)

// Writer is a Source that takes things in.
type Writer interface {
	Source
	Lister
	// Begin opens an upload and returns what it is called.
	Begin(ctx context.Context, repo string) (id string, err error)
	// Uploaded tells how much of an upload is here.
	Uploaded(ctx context.Context, repo, id string) (int64, error)
	// Append adds to an upload at offset (-1: at its end), and returns its new
	// length. It is errdefs.ErrOutOfRange if it does not end there.
	Append(ctx context.Context, repo, id string, offset int64, r io.Reader) (int64, error)
	// Finish makes the upload a blob of the repository. It is
	// errdefs.ErrInvalidArgument, and the upload is gone, if it is not what d says.
	Finish(ctx context.Context, repo, id string, d digest.Digest) error
	// Cancel forgets an upload.
	Cancel(ctx context.Context, repo, id string) error
	// Mount gives the repository a blob that another one has; from may be empty:
	// whichever.
	Mount(ctx context.Context, repo, from string, d digest.Digest) error
	// Put stores a manifest, by its digest and, if it is not empty, under a tag. It is
	// errdefs.ErrNotFound where the repository lacks what it is made of.
	Put(ctx context.Context, repo, tag string, d ocispec.Descriptor, m manifest, body []byte) error
	// DeleteManifest removes a manifest and the tags that mean it, DeleteTag a tag.
	DeleteManifest(ctx context.Context, repo string, d digest.Digest) error
	DeleteTag(ctx context.Context, repo, tag string) error
	DeleteBlob(ctx context.Context, repo string, d digest.Digest) error
}
