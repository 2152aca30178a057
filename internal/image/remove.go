package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// RemoveOptions say how to remove an image.
type RemoveOptions struct {
	Force     bool
	Platforms []ocispec.Platform // remove these alone; none: the image
}

// Remove takes a name away and, with the last one, the image; by ID it takes
// all of the image. What runs cannot be removed, what merely exists only with Force.
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) ([]image.DeleteResponse, error) {
	s.names.Lock()
	defer s.names.Unlock()
	r, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(o.Platforms) > 0 {
		return s.removePlatforms(ctx, ref, r, o)
	}
	same, err := s.sameTarget(ctx, r.Target.Digest)
	if err != nil {
		return nil, err
	}
	if r.dangling() || shortID(ref) != "" && isIDPrefix(r.ID(), ref) {
		return s.removeByID(ctx, r, same, o)
	}
	gone := sameRepository(r, same, ref)
	if len(gone) < len(same) {
		return s.untag(ctx, gone)
	}
	if u := s.user(ctx, r, false); u != nil {
		if !o.Force {
			return nil, conflict(r.familiar(), false,
				"container %s is using its referenced image %s", truncate(u.ID), truncate(r.ID()))
		}
		// The containers keep the image: it only loses its name.
		if err := s.keepAll(ctx, r, same); err != nil {
			return nil, err
		}
		return s.untag(ctx, gone)
	}
	return s.destroy(ctx, r, same)
}

func (s *Service) removeByID(ctx context.Context, r Record, same []Record, o RemoveOptions) ([]image.DeleteResponse, error) {
	short := truncate(r.ID())
	if u := s.user(ctx, r, true); u != nil {
		return nil, conflict(short, true, "image is being used by running container %s", truncate(u.ID))
	}
	if !o.Force {
		if u := s.user(ctx, r, false); u != nil {
			return nil, conflict(short, false, "image is being used by stopped container %s", truncate(u.ID))
		}
		if repositories(same) > 1 {
			return nil, conflict(short, false, "image is referenced in multiple repositories")
		}
	}
	return s.destroy(ctx, r, same)
}

// conflict is Docker's refusal.
func conflict(ref string, hard bool, format string, args ...any) error {
	how := "must be forced"
	if hard {
		how = "cannot be forced"
	}
	return fault.New(errdefs.ErrConflict, "conflict: unable to delete %s (%s) - %s", ref, how, fmt.Sprintf(format, args...))
}

func truncate(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	if len(hex) > 12 {
		return hex[:12]
	}
	return hex
}

// user returns a container that uses the image, a running one if asked for.
func (s *Service) user(ctx context.Context, r Record, running bool) *User {
	for _, u := range s.d.Users.Users(ctx) {
		if u.ImageID == r.ID() && (u.Running || !running) {
			return &u
		}
	}
	return nil
}

func repositories(rs []Record) int {
	seen := map[string]bool{}
	for _, r := range rs {
		if ref, err := reference.ParseNamed(r.Name); err == nil && !r.dangling() {
			seen[ref.Name()] = true
		}
	}
	return len(seen)
}

// sameRepository returns the records that removing r by ref takes away: itself,
// for a reference by digest all tags of the repository, and for the last tag of
// the repository its references by digest.
func sameRepository(r Record, same []Record, ref string) []Record {
	parsed, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return []Record{r}
	}
	_, byDigest := parsed.(reference.Digested)
	var out []Record
	for _, o := range same {
		have, err := reference.ParseNamed(o.Name)
		if err != nil || have.Name() != parsed.Name() {
			continue
		}
		if _, tagged := have.(reference.Tagged); tagged && !byDigest && o.Name != r.Name {
			return []Record{r}
		}
		out = append(out, o)
	}
	return out
}

// untag takes names away from an image that has others, or a dangling one.
func (s *Service) untag(ctx context.Context, rs []Record) ([]image.DeleteResponse, error) {
	var out []image.DeleteResponse
	for _, r := range rs {
		if r.dangling() {
			continue
		}
		if err := s.d.Records.Delete(ctx, false, r.Name); err != nil {
			return out, err
		}
		s.emit(events.ActionUnTag, r.ID(), r.familiar(), nil)
		out = append(out, image.DeleteResponse{Untagged: r.familiar()})
	}
	return out, nil
}

// keepAll gives the image a dangling name before all others go.
func (s *Service) keepAll(ctx context.Context, r Record, same []Record) error {
	for _, o := range same {
		if o.dangling() {
			return nil
		}
	}
	d := r
	d.Name = danglingName(r.Target.Digest)
	d.Target.Annotations = nil
	return s.d.Records.Put(ctx, d)
}

// destroy takes the image away with all its names and waits until what only it
// used is gone.
func (s *Service) destroy(ctx context.Context, r Record, same []Record) ([]image.DeleteResponse, error) {
	var out []image.DeleteResponse
	names := make([]string, len(same))
	for i, o := range same {
		names[i] = o.Name
	}
	// Past this point it goes on whatever the client does.
	if err := s.d.Records.Delete(context.WithoutCancel(ctx), true, names...); err != nil {
		return nil, err
	}
	for _, o := range same {
		if o.dangling() {
			continue
		}
		s.emit(events.ActionUnTag, o.ID(), o.familiar(), nil)
		out = append(out, image.DeleteResponse{Untagged: o.familiar()})
	}
	s.emit(events.ActionDelete, r.ID(), r.ID(), nil)
	return append(out, image.DeleteResponse{Deleted: r.ID()}), nil
}
