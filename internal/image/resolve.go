package image

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// DanglingPrefix begins the name of a record for an image without a name.
const DanglingPrefix = "holdfast-dangling@"

func danglingName(d digest.Digest) string { return DanglingPrefix + d.String() }

func (r Record) dangling() bool { return r.Name == danglingName(r.Target.Digest) }

// ID is the image's ID.
func (r Record) ID() string { return r.Target.Digest.String() }

// familiar is the name as users write it, or the ID of a dangling image.
func (r Record) familiar() string {
	if r.dangling() {
		return r.ID()
	}
	if ref, err := reference.ParseNamed(r.Name); err == nil {
		return reference.FamiliarString(ref)
	}
	return r.Name
}

func errNoImage(ref reference.Reference) error {
	if named, ok := ref.(reference.Named); ok {
		ref = reference.TagNameOnly(named)
	}
	return fault.New(errdefs.ErrNotFound, "No such image: %s", reference.FamiliarString(ref))
}

// shortID returns the hexadecimal part of what may be an ID or its prefix, or "".
func shortID(s string) string {
	s = strings.TrimPrefix(s, "sha256:")
	if len(s) < 4 || len(s) > 64 {
		return ""
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return s
}

// isIDPrefix says whether ref is a beginning of the ID, with or without algorithm.
func isIDPrefix(id, ref string) bool {
	if ref == "" {
		return false
	}
	_, hex, _ := strings.Cut(id, ":")
	return strings.HasPrefix(id, ref) || strings.HasPrefix(hex, ref)
}

// resolve finds the record that a name, ID or unambiguous ID prefix means.
func (s *Service) resolve(ctx context.Context, ref string) (Record, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return Record{}, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if d, ok := parsed.(reference.Digested); ok {
		return s.resolveDigest(ctx, parsed, d.Digest())
	}
	name := reference.TagNameOnly(parsed.(reference.Named)).String()
	r, err := s.d.Records.Get(ctx, name)
	if err == nil || !errdefs.IsNotFound(err) {
		return r, err
	}
	hex := shortID(ref)
	if hex == "" {
		return Record{}, errNoImage(parsed)
	}
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return Record{}, err
	}
	var found *Record
	for i, r := range all {
		if !strings.HasPrefix(r.Target.Digest.Encoded(), hex) {
			continue
		}
		if found != nil && found.Target.Digest != r.Target.Digest {
			return Record{}, fault.New(errdefs.ErrNotFound, "ambiguous reference")
		}
		found = &all[i]
	}
	if found == nil {
		return Record{}, errNoImage(parsed)
	}
	return *found, nil
}

func (s *Service) resolveDigest(ctx context.Context, parsed reference.Reference, d digest.Digest) (Record, error) {
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return Record{}, err
	}
	named, isNamed := parsed.(reference.Named)
	for _, r := range all {
		if r.Target.Digest != d {
			continue
		}
		if !isNamed {
			return r, nil
		}
		// busybox@sha256:… is not satisfied by the same content under another name.
		if have, err := reference.ParseNormalizedNamed(r.Name); err == nil && have.Name() == named.Name() {
			return r, nil
		}
	}
	return Record{}, errNoImage(parsed)
}

// sameTarget returns all records that point where r does, r included.
func (s *Service) sameTarget(ctx context.Context, d digest.Digest) ([]Record, error) {
	all, err := s.d.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, r := range all {
		if r.Target.Digest == d {
			out = append(out, r)
		}
	}
	return out, nil
}

func (s *Service) matcher(want *ocispec.Platform) platforms.MatchComparer {
	if want != nil {
		return platforms.OnlyStrict(*want)
	}
	return platforms.Only(s.d.Platform)
}

// pick returns the image manifest that suits the platform best; with no
// platform asked for, one that is at least complete does.
func (s *Service) pick(all []Manifest, want *ocispec.Platform) *Manifest {
	pm := s.matcher(want)
	var best, any *Manifest
	for i := range all {
		m := &all[i]
		if m.Kind != KindImage {
			continue
		}
		if any == nil && m.Complete {
			any = m
		}
		if !pm.Match(m.Platform) {
			continue
		}
		if best == nil || m.Complete && !best.Complete || m.Complete == best.Complete && pm.Less(m.Platform, best.Platform) {
			best = m
		}
	}
	if best == nil && want == nil {
		return any
	}
	return best
}

// best returns the manifest of the target for a platform (nil: this machine's).
func (s *Service) best(ctx context.Context, target ocispec.Descriptor, want *ocispec.Platform) (Manifest, error) {
	all, err := s.d.Content.Manifests(ctx, target)
	if err != nil {
		return Manifest{}, err
	}
	if m := s.pick(all, want); m != nil {
		return *m, nil
	}
	return Manifest{}, fault.New(errdefs.ErrNotFound, "image %s has no manifest here", target.Digest)
}

func errNoPlatform(ref string, want ocispec.Platform) error {
	return fault.New(errdefs.ErrNotFound,
		"image with reference %s was found but does not provide the specified platform (%s)", ref, platforms.FormatAll(want))
}

// Runnable is an image ready for a container.
type Runnable struct {
	ID       string
	Name     string // full reference; empty when found by ID
	ChainID  string // of the top layer; empty for an image with no layer
	Config   dockerspec.DockerOCIImageConfig
	Platform ocispec.Platform
	Manifest ocispec.Descriptor
}

// Runnable finds an image by name, ID or unambiguous ID prefix and sees to it
// that it is unpacked. A platform may be asked for.
func (s *Service) Runnable(ctx context.Context, ref string, want *ocispec.Platform) (Runnable, error) {
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return Runnable{}, err
	}
	m, err := s.best(ctx, r.Target, want)
	if errdefs.IsNotFound(err) && want != nil {
		return Runnable{}, errNoPlatform(ref, *want)
	}
	if err != nil {
		return Runnable{}, err
	}
	if err := s.unpack(ctx, m); err != nil {
		return Runnable{}, err
	}
	out := Runnable{
		ID:       r.ID(),
		Config:   m.Config.Config,
		Platform: m.Platform,
		Manifest: m.Descriptor,
	}
	if ids := m.Config.RootFS.DiffIDs; len(ids) > 0 {
		out.ChainID = identity.ChainID(ids).String()
	}
	if !r.dangling() && (shortID(ref) == "" || !isIDPrefix(out.ID, ref)) {
		out.Name = r.Name
	}
	return out, nil
}

// unpack is quick when there is nothing to do, and holds a lease only otherwise.
func (s *Service) unpack(ctx context.Context, m Manifest) (err error) {
	done, err := s.d.Layers.Unpacked(ctx, m)
	if err != nil || done {
		return err
	}
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	return s.d.Layers.Unpack(held, m)
}
