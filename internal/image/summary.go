package image

import (
	"context"

	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// measured is what an image's manifests weigh.
type measured struct {
	summaries  []image.ManifestSummary
	total      int64 // content and snapshots, each once
	containers int64
	layers     map[digest.Digest]int64 // chain ID to snapshot bytes
	blobs      map[digest.Digest]int64
}

// size is what one manifest weighs; the whole where it isn't among the summaries.
func (m measured) size(d digest.Digest) int64 {
	for _, s := range m.summaries {
		if s.Descriptor.Digest == d {
			return s.Size.Total
		}
	}
	return m.total
}

func (s *Service) measure(ctx context.Context, all []Manifest) (measured, error) {
	out := measured{layers: map[digest.Digest]int64{}, blobs: map[digest.Digest]int64{}}
	users := s.d.Users.Users(ctx)
	for _, m := range all {
		sum := image.ManifestSummary{
			ID:         m.Descriptor.Digest.String(),
			Descriptor: m.Descriptor,
			Available:  m.Complete,
			Kind:       image.ManifestKindUnknown,
		}
		for _, c := range m.Content {
			sum.Size.Content += c.Size
			out.blobs[c.Digest] = c.Size
		}
		sum.Size.Total = sum.Size.Content
		switch m.Kind {
		case KindAttestation:
			sum.Kind = image.ManifestKindAttestation
			sum.AttestationData = &image.AttestationProperties{For: m.For}
		case KindImage:
			sum.Kind = image.ManifestKindImage
			sum.ImageData = &image.ImageProperties{Platform: m.Platform}
			for _, u := range users {
				if u.Manifest == m.Descriptor.Digest {
					sum.ImageData.Containers = append(sum.ImageData.Containers, u.ID)
					out.containers++
				}
			}
			sizes, err := s.d.Layers.Sizes(ctx, m.Config.RootFS.DiffIDs)
			if err != nil {
				return out, err
			}
			for i, n := range sizes {
				sum.ImageData.Size.Unpacked += n
				out.layers[identity.ChainID(m.Config.RootFS.DiffIDs[:i+1])] = n
			}
			sum.Size.Total += sum.ImageData.Size.Unpacked
		case KindUnknown: // shown by its descriptor alone
		}
		out.summaries = append(out.summaries, sum)
	}
	for _, n := range out.layers {
		out.total += n
	}
	for _, n := range out.blobs {
		out.total += n
	}
	return out, nil
}
