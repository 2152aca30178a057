package image

import (
	"cmp"
	"context"
	"slices"

	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

// ListOptions selects images.
type ListOptions struct {
	All        bool // Docker's "all" adds intermediate images, of which there are none here
	Filters    map[string][]string
	SharedSize bool
	Manifests  bool
}

// List returns the images that pass the filters, newest first.
func (s *Service) List(ctx context.Context, o ListOptions) ([]image.Summary, error) {
	out, _, err := s.list(ctx, o)
	return out, err
}

// Weigh returns all images, newest first, with what each has in common with
// others, and by ID what each is made of: bytes by name of layer or blob.
func (s *Service) Weigh(ctx context.Context) (list []image.Summary, parts map[string]map[string]int64, err error) {
	list, weights, err := s.list(ctx, ListOptions{SharedSize: true})
	if err != nil {
		return nil, nil, err
	}
	parts = make(map[string]map[string]int64, len(weights))
	for id, w := range weights {
		// Two kinds of names: a lowest layer has the digest of its uncompressed blob.
		of := make(map[string]int64, len(w.layers)+len(w.blobs))
		for d, n := range w.layers {
			of["layer "+d.String()] = n
		}
		for d, n := range w.blobs {
			of["blob "+d.String()] = n
		}
		parts[id] = of
	}
	return list, parts, nil
}

func (s *Service) list(ctx context.Context, o ListOptions) ([]image.Summary, map[string]measured, error) {
	keep, err := s.filter(ctx, o.Filters, listFilters)
	if err != nil {
		return nil, nil, err
	}
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	groups := map[digest.Digest][]Record{}
	for _, r := range all {
		ok, err := keep(r)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			groups[r.Target.Digest] = append(groups[r.Target.Digest], r)
		}
	}
	out := make([]image.Summary, 0, len(groups))
	weights := make(map[string]measured, len(groups))
	for _, rs := range groups {
		sum, w, err := s.summary(ctx, rs)
		if err != nil {
			return nil, nil, err
		}
		if !o.Manifests {
			sum.Manifests = nil
		}
		out = append(out, sum)
		weights[sum.ID] = w
	}
	if o.SharedSize {
		shared(out, weights)
	}
	slices.SortFunc(out, func(a, b image.Summary) int {
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, weights, nil
}

func (s *Service) summary(ctx context.Context, rs []Record) (image.Summary, measured, error) {
	target := rs[0].Target
	all, err := s.d.Content.Manifests(ctx, target)
	if err != nil {
		return image.Summary{}, measured{}, err
	}
	w, err := s.measure(ctx, all)
	if err != nil {
		return image.Summary{}, measured{}, err
	}
	tags, digests := names(rs)
	out := image.Summary{
		ID:          target.Digest.String(),
		RepoTags:    tags,
		RepoDigests: digests,
		Labels:      map[string]string{},
		Size:        w.total,
		SharedSize:  -1,
		Containers:  w.containers,
		Manifests:   w.summaries,
		Descriptor:  &target,
	}
	if m := s.pick(all, nil); m != nil {
		if m.Config.Created != nil {
			out.Created = m.Config.Created.Unix()
		}
		if m.Config.Config.Labels != nil {
			out.Labels = m.Config.Config.Labels
		}
	}
	return out, w, nil
}

// shared fills in what each image has in common with others of the list.
func shared(out []image.Summary, weights map[string]measured) {
	// Two maps: a lowest layer has the digest of its uncompressed blob.
	layers, blobs := map[digest.Digest]int{}, map[digest.Digest]int{}
	for _, w := range weights {
		for d := range w.layers {
			layers[d]++
		}
		for d := range w.blobs {
			blobs[d]++
		}
	}
	for i := range out {
		w := weights[out[i].ID]
		out[i].SharedSize = 0
		for d, n := range w.layers {
			if layers[d] > 1 {
				out[i].SharedSize += n
			}
		}
		for d, n := range w.blobs {
			if blobs[d] > 1 {
				out[i].SharedSize += n
			}
		}
	}
}
