package imagestore

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/image"
)

// Save implements image.Archives. The archive is an OCI layout and has the
// manifest.json of `docker save` beside it, so both kinds of reader find what they know.
func (s *Store) Save(ctx context.Context, w io.Writer, list []image.Export, want []ocispec.Platform) error {
	ctx = s.ns(ctx)
	pm := platforms.MatchComparer(preferring{platforms.Only(s.d.Platform)})
	if len(want) > 0 {
		pm = platforms.Any(want...)
	}
	opts := []archive.ExportOpt{
		archive.WithSkipNonDistributableBlobs(),
		archive.WithPlatform(pm),
		archive.WithSkipMissing(s.d.Content),
	}
	for _, e := range list {
		t := e.Target
		t.Annotations = nil // a name in there would be taken for the image's
		opts = append(opts, archive.WithManifest(t, e.Names...))
	}
	if err := archive.Export(ctx, s.d.Content, w, opts...); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// preferring takes all platforms, the given one first.
type preferring struct{ platforms.MatchComparer }

// Match implements platforms.Matcher.
func (preferring) Match(ocispec.Platform) bool { return true }

// Less implements platforms.MatchComparer.
func (p preferring) Less(a, b ocispec.Platform) bool {
	x, y := p.MatchComparer.Match(a), p.MatchComparer.Match(b)
	if x != y {
		return x
	}
	return x && p.MatchComparer.Less(a, b)
}
