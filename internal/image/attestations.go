package image

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

const (
	statementType = "application/vnd.in-toto+json"
	predicateType = "in-toto.io/predicate-type" // annotation of a statement
)

// AttestationOptions selects statements about an image.
type AttestationOptions struct {
	Platform  *ocispec.Platform // nil: this machine's
	Types     []string          // of predicates; none: all
	Statement bool              // with the statements themselves
}

// Attestations lists what is attested of an image's manifest for a platform.
func (s *Service) Attestations(ctx context.Context, ref string, o AttestationOptions) ([]image.AttestationStatement, error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := s.d.Content.Manifests(ctx, r.Target)
	if err != nil {
		return nil, err
	}
	of := s.pick(all, o.Platform)
	if of == nil && o.Platform != nil {
		return nil, errNoPlatform(ref, *o.Platform)
	}
	if of == nil {
		return nil, fault.New(errdefs.ErrNotFound, "image %s has no manifest here", ref)
	}
	out := []image.AttestationStatement{}
	for _, d := range statements(all, of, o.Types) {
		one := image.AttestationStatement{Descriptor: d, PredicateType: d.Annotations[predicateType]}
		if o.Statement {
			b, err := s.d.Content.Blob(ctx, d)
			if errdefs.IsNotFound(err) {
				return nil, fault.New(errdefs.ErrNotFound, "attestation %s of image %s is not here", d.Digest, ref)
			}
			if err != nil {
				return nil, err
			}
			if !json.Valid(b) {
				return nil, fault.New(errdefs.ErrInvalidArgument, "attestation %s of image %s is no JSON", d.Digest, ref)
			}
			raw := json.RawMessage(b)
			one.Statement = &raw
		}
		out = append(out, one)
	}
	return out, nil
}

// statements are the in-toto statements about one manifest, of the wanted types.
func statements(all []Manifest, of *Manifest, types []string) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, m := range all {
		if m.Kind != KindAttestation || m.For != of.Descriptor.Digest {
			continue
		}
		for _, l := range m.Layers {
			if l.MediaType != statementType || len(types) > 0 && !slices.Contains(types, l.Annotations[predicateType]) {
				continue
			}
			out = append(out, l)
		}
	}
	return out
}
