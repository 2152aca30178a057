package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// ParseRef makes a tagged reference of the API's repo and tag parameters; nil
// for an empty repo.
func ParseRef(repo, tag string) (reference.NamedTagged, error) {
	if repo == "" {
		return nil, nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, fault.New(errdefs.ErrInvalidArgument, "cannot import digest reference")
	}
	if tag == "" {
		return reference.TagNameOnly(ref).(reference.NamedTagged), nil
	}
	tagged, err := reference.WithTag(ref, tag)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	return tagged, nil
}

// Tag gives the image that ref means another name.
func (s *Service) Tag(ctx context.Context, ref string, name reference.Named) error {
	if reference.FamiliarName(name) == string(digest.Canonical) {
		return fault.New(errdefs.ErrInvalidArgument, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	s.names.Lock()
	defer s.names.Unlock()
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return err
	}
	if err := s.point(ctx, name.String(), r.Target, r.Labels); err != nil {
		return err
	}
	s.emit(events.ActionTag, r.ID(), reference.FamiliarString(name), s.labels(ctx, r.Target))
	return nil
}

// Name gives a target that somebody else wrote its name: a full reference, or a
// dangling name. What had the name before stays.
func (s *Service) Name(ctx context.Context, name string, target ocispec.Descriptor) error {
	if strings.HasPrefix(name, DanglingPrefix) {
		return s.name(ctx, nil, target)
	}
	ref, err := reference.ParseNamed(name)
	if err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	tagged, ok := ref.(reference.NamedTagged)
	if !ok {
		return fault.New(errdefs.ErrInvalidArgument, "image name %q has no tag", name)
	}
	return s.name(ctx, tagged, target)
}

// point makes a name refer to target. What it referred to before stays, without
// a name if that was its last one. The caller holds names.
func (s *Service) point(ctx context.Context, name string, target ocispec.Descriptor, labels map[string]string) error {
	now := s.d.Clock.Now().UTC()
	dangling := danglingName(target.Digest)
	if name == "" {
		same, err := s.sameTarget(ctx, target.Digest)
		if err != nil || len(same) > 0 {
			return err
		}
		name = dangling
	}
	old, err := s.d.Records.Get(ctx, name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil && old.Target.Digest != target.Digest {
		if err := s.keep(ctx, old); err != nil {
			return fmt.Errorf("keep the image that had the name %q: %w", name, err)
		}
		s.noteMove(ctx, old)
	}
	r := Record{Name: name, Target: target, Labels: labels, Created: now, Updated: now}
	if err := s.d.Records.Put(ctx, r); err != nil {
		return fmt.Errorf("write image name %q: %w", name, err)
	}
	if name == dangling {
		return nil
	}
	return s.d.Records.Delete(ctx, false, dangling)
}

// keep gives an image that is about to lose the name r a dangling one, unless
// it has others.
func (s *Service) keep(ctx context.Context, r Record) error {
	same, err := s.sameTarget(ctx, r.Target.Digest)
	if err != nil || len(same) > 1 {
		return err
	}
	d := r
	d.Name = danglingName(r.Target.Digest)
	d.Target.Annotations = nil // may carry the old name
	return s.d.Records.Put(ctx, d)
}
