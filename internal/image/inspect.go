package image

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// InspectOptions selects what Inspect shows.
type InspectOptions struct {
	Manifests bool
	Platform  *ocispec.Platform
}

// Inspect describes an image.
func (s *Service) Inspect(ctx context.Context, ref string, o InspectOptions) (image.InspectResponse, error) {
	var none image.InspectResponse
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return none, err
	}
	same, err := s.sameTarget(ctx, r.Target.Digest)
	if err != nil {
		return none, err
	}
	all, err := s.d.Content.Manifests(ctx, r.Target)
	if err != nil {
		return none, err
	}
	m := s.pick(all, o.Platform)
	if m == nil && o.Platform != nil {
		return none, errNoPlatform(ref, *o.Platform)
	}
	target := r.Target
	if m == nil {
		m = &Manifest{Descriptor: target}
	} else if o.Platform != nil {
		target = m.Descriptor
	}
	tags, digests := names(same)
	sum, err := s.measure(ctx, all)
	if err != nil {
		return none, err
	}
	c := m.Config
	out := image.InspectResponse{
		ID:           target.Digest.String(),
		RepoTags:     tags,
		RepoDigests:  digests,
		Author:       c.Author,
		Architecture: c.Architecture,
		Variant:      c.Variant,
		Os:           c.OS,
		OsVersion:    c.OSVersion,
		Config:       &c.Config,
		Size:         sum.size(m.Descriptor.Digest),
		Descriptor:   &target,
		RootFS:       image.RootFS{Type: c.RootFS.Type},
		Metadata:     image.Metadata{LastTagTime: lastTagged(same)},
	}
	if c.Created != nil {
		out.Created = c.Created.Format(time.RFC3339Nano)
	}
	if n := len(c.History); n > 0 {
		out.Comment = c.History[n-1].Comment
	}
	for _, d := range c.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if o.Manifests {
		out.Manifests = sum.summaries
	}
	out.GraphDriver, err = s.graphDriver(ctx, c.RootFS.DiffIDs)
	return out, err
}

func lastTagged(rs []Record) time.Time {
	var t time.Time
	for _, r := range rs {
		if r.Updated.After(t) {
			t = r.Updated
		}
	}
	return t
}

// names returns the RepoTags and RepoDigests of records with one target.
func names(rs []Record) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	seen := map[string]bool{}
	for _, r := range rs {
		if r.dangling() {
			continue
		}
		ref, err := reference.ParseNamed(r.Name)
		if err != nil {
			tags = append(tags, r.Name)
			continue
		}
		if _, ok := ref.(reference.Tagged); ok {
			tags = append(tags, reference.FamiliarString(ref))
		}
		d, err := reference.WithDigest(reference.TrimNamed(ref), r.Target.Digest)
		if err != nil || seen[d.String()] {
			continue
		}
		seen[d.String()] = true
		digests = append(digests, reference.FamiliarString(d))
	}
	return tags, digests
}

// graphDriver tells where the image's layers are, as the overlay driver shows it.
func (s *Service) graphDriver(ctx context.Context, diffIDs []digest.Digest) (*storage.DriverData, error) {
	g := &storage.DriverData{Name: s.d.Layers.Driver()}
	if len(diffIDs) == 0 {
		return g, nil
	}
	dirs, err := s.d.Layers.Dirs(ctx, identity.ChainID(diffIDs))
	if errdefs.IsNotFound(err) {
		return g, nil // another platform's image
	}
	if err != nil {
		return nil, err
	}
	g.Data = overlayData(dirs)
	return g, nil
}

func overlayData(dirs []string) map[string]string {
	data := map[string]string{"UpperDir": dirs[0]}
	lower := ""
	for i, d := range dirs[1:] {
		if i > 0 {
			lower += ":"
		}
		lower += d
	}
	if lower != "" {
		data["LowerDir"] = lower
	}
	return data
}

// History lists the steps that made an image, newest first.
func (s *Service) History(ctx context.Context, ref string, want *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	m, err := s.best(ctx, r.Target, want)
	if err != nil {
		if errdefs.IsNotFound(err) && want != nil {
			return nil, errNoPlatform(ref, *want)
		}
		return nil, err
	}
	sizes, err := s.d.Layers.Sizes(ctx, m.Config.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	steps := m.Config.History
	out := make([]image.HistoryResponseItem, len(steps))
	for i, h := range steps {
		item := image.HistoryResponseItem{ID: "<missing>", Comment: h.Comment, CreatedBy: h.CreatedBy}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer {
			if len(sizes) == 0 {
				s.d.Log.Debug("image history names more layers than there are", logkey.Image, r.ID())
			} else {
				item.Size, sizes = sizes[0], sizes[1:]
			}
		}
		out[len(steps)-1-i] = item
	}
	if len(out) == 0 {
		return out, nil
	}
	same, err := s.sameTarget(ctx, r.Target.Digest)
	if err != nil {
		return nil, err
	}
	out[0].ID = r.ID()
	out[0].Tags, _ = names(same)
	if len(out[0].Tags) == 0 {
		out[0].Tags = nil
	}
	return out, nil
}
