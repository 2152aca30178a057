package image

import (
	"context"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Load stores the images of an archive and writes what it did to out. Nothing
// of a bad archive stays.
func (s *Service) Load(ctx context.Context, r io.Reader, wanted []ocispec.Platform, out io.Writer, quiet bool) (err error) {
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	progress := &stream{w: out}
	var p Progress = progress
	if quiet {
		p = Silent{}
	}
	loaded, err := s.d.Archives.Load(held, r, wanted, p)
	if err != nil {
		return err
	}
	for _, l := range loaded {
		if err := s.loaded(held, l, wanted, progress); err != nil {
			return err
		}
	}
	return nil
}

// loaded unpacks and names one image of an archive: in this order, so that a
// name never stands for something that cannot run.
func (s *Service) loaded(ctx context.Context, l Loaded, wanted []ocispec.Platform, out *stream) error {
	all, err := s.d.Content.Manifests(ctx, l.Target)
	if err != nil {
		return err
	}
	unpack := wanted
	if len(unpack) == 0 {
		unpack = []ocispec.Platform{s.d.Platform}
	}
	for _, p := range unpack {
		m := s.pick(all, &p)
		if m == nil && len(wanted) > 0 {
			return errNoPlatform(l.Target.Digest.String(), p)
		}
		if m == nil || !m.Complete {
			continue
		}
		if err := s.d.Layers.Unpack(ctx, *m); err != nil {
			return fmt.Errorf("unpack image %s: %w", l.Target.Digest, err)
		}
	}
	s.names.Lock()
	defer s.names.Unlock()
	names := l.Names
	if len(names) == 0 {
		names = []string{""}
	}
	target := l.Target
	target.Annotations = nil
	for _, name := range names {
		if err := s.point(ctx, name, target, nil); err != nil {
			return err
		}
		if name == "" {
			out.Text("Loaded image ID: " + target.Digest.String() + "\n")
			continue
		}
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			name = reference.FamiliarString(ref)
		}
		out.Text("Loaded image: " + name + "\n")
	}
	id := target.Digest.String()
	s.emit(events.ActionLoad, id, id, s.labels(ctx, target))
	return nil
}
