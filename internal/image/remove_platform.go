package image

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// removePlatforms takes the content of single platforms away from an image that
// has several; its names stay. What is attested of them goes too.
func (s *Service) removePlatforms(ctx context.Context, ref string, r Record, o RemoveOptions) ([]image.DeleteResponse, error) {
	all, err := s.d.Content.Manifests(ctx, r.Target)
	if err != nil {
		return nil, err
	}
	gone, err := ofPlatforms(ref, r, all, o.Platforms)
	if err != nil {
		return nil, err
	}
	for _, d := range gone {
		if err := s.freeManifest(ctx, r, d, o.Force); err != nil {
			return nil, err
		}
	}
	// Past this point it goes on whatever the client does.
	held, release, err := s.d.Content.Hold(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	defer release(true)
	var out []image.DeleteResponse
	for _, d := range gone {
		if err := s.d.Content.Drop(held, d); err != nil && !errdefs.IsNotFound(err) {
			return out, err
		}
		out = append(out, image.DeleteResponse{Deleted: d.String()})
	}
	return out, nil
}

// ofPlatforms lists the manifests of an image that are for one of the platforms,
// and those that speak of them.
func ofPlatforms(ref string, r Record, all []Manifest, wanted []ocispec.Platform) ([]digest.Digest, error) {
	var out []digest.Digest
	for _, want := range wanted {
		matches, found := platforms.OnlyStrict(want), false
		for _, m := range all {
			if m.Kind != KindImage || !m.Complete || !matches.Match(m.Platform) {
				continue
			}
			if m.Descriptor.Digest == r.Target.Digest {
				return nil, conflict(r.familiar(), true, "it has no platform but %s: remove the image itself", platforms.FormatAll(want))
			}
			found = true
			out = append(out, m.Descriptor.Digest)
			for _, about := range all {
				if about.Kind == KindAttestation && about.For == m.Descriptor.Digest && len(about.Content) > 0 {
					out = append(out, about.Descriptor.Digest)
				}
			}
		}
		if !found {
			return nil, errNoPlatform(ref, want)
		}
	}
	return out, nil
}

// freeManifest refuses to remove a manifest that a container was made from, or
// that is a part of another image.
func (s *Service) freeManifest(ctx context.Context, r Record, d digest.Digest, force bool) error {
	for _, u := range s.d.Users.Users(ctx) {
		if u.Manifest != d {
			continue
		}
		if u.Running {
			return conflict(r.familiar(), true, "container %s is using its platform", truncate(u.ID))
		}
		if !force {
			return conflict(r.familiar(), false, "container %s is using its platform", truncate(u.ID))
		}
	}
	records, err := s.d.Records.List(ctx)
	if err != nil {
		return err
	}
	for _, other := range records {
		if other.Target.Digest == r.Target.Digest {
			continue
		}
		all, err := s.d.Content.Manifests(ctx, other.Target)
		if err != nil {
			return err
		}
		for _, m := range all {
			if m.Descriptor.Digest == d {
				return conflict(r.familiar(), true, "its platform is a part of image %s, too", other.familiar())
			}
		}
	}
	return nil
}
