package image

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Family lists the IDs of an image and of all that were made from it.
func (s *Service) Family(ctx context.Context, ref string) ([]string, error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := []string{r.ID()}
	m, err := s.best(ctx, r.Target, nil)
	if errdefs.IsNotFound(err) {
		return out, nil // nothing of it is here: nothing can be known to come of it
	}
	if err != nil {
		return nil, err
	}
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if slices.Contains(out, other.ID()) {
			continue
		}
		o, err := s.best(ctx, other.Target, nil)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if descends(&o.Config, &m.Config) {
			out = append(out, other.ID())
		}
	}
	return out, nil
}

// descends says whether an image was made from base: it has base's layers, and
// base's history if that is told, and something more. An image without layers or
// history is the beginning of everything and so of nothing.
func descends(image, base *dockerspec.DockerOCIImage) bool {
	layers, below := image.RootFS.DiffIDs, base.RootFS.DiffIDs
	if len(layers) < len(below) || !slices.Equal(layers[:len(below)], below) {
		return false
	}
	if len(below)+len(base.History) == 0 {
		return false
	}
	if len(image.History) < len(base.History) || !slices.EqualFunc(image.History[:len(base.History)], base.History, sameStep) {
		return false
	}
	return len(layers) > len(below) || len(image.History) > len(base.History)
}

func sameStep(a, b ocispec.History) bool {
	at := func(t *time.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	return a.CreatedBy == b.CreatedBy && a.EmptyLayer == b.EmptyLayer && at(a.Created) == at(b.Created)
}
