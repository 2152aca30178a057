package image

import (
	"context"
	"encoding/json"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Distribution asks the registry what a reference points to, without pulling it.
func (s *Service) Distribution(ctx context.Context, ref string, r Remote) (registry.DistributionInspect, error) {
	var out registry.DistributionInspect
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return out, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return out, fault.New(errdefs.ErrUnknown, "no manifest found for full image ID")
	}
	full := reference.TagNameOnly(named).String()
	d, err := s.d.Registry.Resolve(ctx, full, r)
	if err != nil {
		return out, err
	}
	out.Descriptor = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	b, err := s.d.Registry.Fetch(ctx, full, d, r)
	if err != nil {
		return out, err
	}
	// One form for both: an index has manifests, a manifest a config.
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    ocispec.Descriptor   `json:"config"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return out, fault.Wrap(errdefs.ErrInvalidArgument, err, "parse the registry's answer for %s", ref)
	}
	for _, m := range doc.Manifests {
		if m.Platform != nil {
			out.Platforms = append(out.Platforms, *m.Platform)
		}
	}
	if len(doc.Manifests) > 0 || doc.Config.Digest == "" {
		return out, nil
	}
	if b, err = s.d.Registry.Fetch(ctx, full, doc.Config, r); err != nil {
		return out, err
	}
	var p ocispec.Platform
	if err := json.Unmarshal(b, &p); err == nil && (p.OS != "" || p.Architecture != "") {
		out.Platforms = append(out.Platforms, p)
	}
	return out, nil
}

// Here tells of an image of this node what Distribution tells of a registry's.
// made is whether it is from here: no registry gave it or was given it.
func (s *Service) Here(ctx context.Context, ref string) (out registry.DistributionInspect, made bool, err error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return out, false, err
	}
	all, err := s.d.Content.Manifests(ctx, r.Target)
	if err != nil {
		return out, false, err
	}
	out.Descriptor = ocispec.Descriptor{MediaType: r.Target.MediaType, Digest: r.Target.Digest, Size: r.Target.Size}
	for _, m := range all {
		if m.Kind == KindImage && m.Complete {
			out.Platforms = append(out.Platforms, ocispec.Platform{OS: m.Platform.OS, Architecture: m.Platform.Architecture, Variant: m.Platform.Variant})
		}
	}
	if len(out.Platforms) == 0 {
		return out, false, fault.New(errdefs.ErrNotFound, "image %s has nothing here that could run", ref)
	}
	known, err := s.d.Content.FromRegistry(ctx, r.Target.Digest)
	return out, !known, err
}

// Named tells what a full reference means here: its target and since when.
func (s *Service) Named(ctx context.Context, name string) (ocispec.Descriptor, time.Time, error) {
	r, err := s.d.Records.Get(ctx, name)
	return r.Target, r.Updated, err
}

// Auth checks credentials with their registry and returns an identity token
// where it gives one.
func (s *Service) Auth(ctx context.Context, a Auth) (string, error) {
	return s.d.Registry.Login(ctx, a)
}

// Count returns how many images there are, as `docker info` counts them.
func (s *Service) Count(ctx context.Context) (int, error) {
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return 0, err
	}
	seen := map[digest.Digest]bool{}
	for _, r := range all {
		seen[r.Target.Digest] = true
	}
	return len(seen), nil
}
