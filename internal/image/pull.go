package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// PullOptions say how to pull.
type PullOptions struct {
	Remote
	Platform *ocispec.Platform // nil: this machine's
}

// Pull fetches an image, or all tags of a repository for a name without tag
// and digest, telling out how it goes.
func (s *Service) Pull(ctx context.Context, ref reference.Named, o PullOptions, out io.Writer) error {
	p := &stream{w: out}
	if !reference.IsNameOnly(ref) {
		return s.pullOne(ctx, ref, o, p)
	}
	tags, err := s.d.Registry.Tags(ctx, ref.Name(), o.Remote)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		tagged, err := reference.WithTag(ref, tag)
		if err != nil {
			continue // no name a client could ask for
		}
		if err := s.pullOne(ctx, tagged, o, p); err != nil {
			return fmt.Errorf("error pulling %s: %w", reference.FamiliarString(tagged), err)
		}
	}
	return nil
}

func (s *Service) pullOne(ctx context.Context, ref reference.Named, o PullOptions, p *stream) (err error) {
	platform := s.d.Platform
	if o.Platform != nil {
		platform = *o.Platform
	}
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	target, err := s.d.Registry.Resolve(held, ref.String(), o.Remote)
	if err != nil {
		return err
	}
	tag := ref.String()
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	p.Message(tag, "Pulling from "+reference.Path(ref))
	if err := s.d.Registry.Pull(held, ref.String(), target, platform, o.Remote, p); err != nil {
		return err
	}
	newer, err := s.pulled(held, ref, target)
	if err != nil {
		return err
	}
	p.Message("", "Digest: "+target.Digest.String())
	if newer {
		p.Message("", "Status: Downloaded newer image for "+reference.FamiliarString(ref))
	} else {
		p.Message("", "Status: Image is up to date for "+reference.FamiliarString(ref))
	}
	s.emit(events.ActionPull, reference.FamiliarString(ref), reference.FamiliarName(ref), s.labels(held, target))
	return nil
}

// Receive takes an image in that a source has and names it ref.
func (s *Service) Receive(ctx context.Context, ref reference.Named, target ocispec.Descriptor, src Source, out io.Writer) (err error) {
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	p := &stream{w: out}
	if err := s.d.Content.Receive(held, target, s.d.Platform, src, p); err != nil {
		return err
	}
	if _, err := s.pulled(held, ref, target); err != nil {
		return err
	}
	s.emit(events.ActionPull, reference.FamiliarString(ref), reference.FamiliarName(ref), s.labels(held, target))
	return nil
}

// pulled names what was pulled and says whether it is another image than before.
func (s *Service) pulled(ctx context.Context, ref reference.Named, target ocispec.Descriptor) (bool, error) {
	s.names.Lock()
	defer s.names.Unlock()
	old, err := s.d.Records.Get(ctx, ref.String())
	if err != nil && !errdefs.IsNotFound(err) {
		return false, err
	}
	newer := err != nil || old.Target.Digest != target.Digest
	return newer, s.point(ctx, ref.String(), target, nil)
}

// PushOptions say how to push.
type PushOptions struct {
	Remote
	Platform *ocispec.Platform // nil: all that is here
}

// Push sends an image, or all tags of a repository for a name without tag and
// digest, to its registry, telling out how it goes.
func (s *Service) Push(ctx context.Context, ref reference.Named, o PushOptions, out io.Writer) error {
	list := []reference.Named{ref}
	if reference.IsNameOnly(ref) {
		list = nil
		all, err := s.repository(ctx, ref)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return fault.New(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(ref))
		}
		for _, r := range all {
			if named, err := reference.ParseNamed(r.Name); err == nil {
				list = append(list, named)
			}
		}
	}
	p := &stream{w: out}
	p.Message("", fmt.Sprintf("The push refers to repository [%s]", ref.Name()))
	for _, one := range list {
		if err := s.pushOne(ctx, one, o, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) pushOne(ctx context.Context, ref reference.Named, o PushOptions, p *stream) (err error) {
	held, release, err := s.d.Content.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err != nil) }()
	r, err := s.d.Records.Get(held, ref.String())
	if errdefs.IsNotFound(err) {
		return fault.New(errdefs.ErrNotFound, "tag does not exist: %s", reference.FamiliarString(ref))
	}
	if err != nil {
		return err
	}
	target, err := s.pushable(held, r, o.Platform)
	if err != nil {
		return err
	}
	if err := s.d.Registry.Push(held, ref.String(), target, o.Remote, p); err != nil {
		return err
	}
	if t, ok := ref.(reference.Tagged); ok {
		p.Message("", fmt.Sprintf("%s: digest: %s size: %d", t.Tag(), target.Digest, target.Size))
	}
	s.emit(events.ActionPush, reference.FamiliarString(ref), reference.FamiliarName(ref), s.labels(held, r.Target))
	return nil
}

// pushable chooses what to push: the whole index if all of it is here, else
// the one manifest that is here and fits.
func (s *Service) pushable(ctx context.Context, r Record, want *ocispec.Platform) (ocispec.Descriptor, error) {
	all, err := s.d.Content.Manifests(ctx, r.Target)
	if err != nil {
		return r.Target, err
	}
	if want == nil {
		whole := true
		for _, m := range all {
			whole = whole && m.Complete
		}
		if whole {
			return r.Target, nil
		}
	}
	m := s.pick(all, want)
	if m == nil || !m.Complete {
		p := s.d.Platform
		if want != nil {
			p = *want
		}
		return r.Target, errNoPlatform(r.familiar(), p)
	}
	return m.Descriptor, nil
}
