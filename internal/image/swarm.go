package image

import (
	"context"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/fault"
)

// swarmNames begins the names of images that can be given to a swarm: all its
// nodes get them, and no prune takes them then.
const swarmNames = "docker.io/cluster/"

// keptLabel marks the names that were.
const keptLabel = "holdfast.swarm"

func (r Record) ofSwarm() bool {
	return strings.HasPrefix(r.Name, swarmNames) && r.Labels[keptLabel] != ""
}

// KeepForSwarm has prunes leave the image alone, as long as it has this name.
func (s *Service) KeepForSwarm(ctx context.Context, name string) error {
	s.names.Lock()
	defer s.names.Unlock()
	r, err := s.d.Records.Get(ctx, name)
	if err != nil {
		return err
	}
	r.Labels = maps.Clone(r.Labels)
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[keptLabel] = "kept"
	return s.d.Records.Put(ctx, r)
}

// OfSwarm tells a name of an image that belongs to the swarm.
func OfSwarm(ref reference.Named) bool { return strings.HasPrefix(ref.Name(), swarmNames) }

// Tagged is what a name means.
type Tagged struct {
	Name   reference.NamedTagged
	Target ocispec.Descriptor
}

// Pushable lists what a push of a name is about: one image, or all tags for a
// name without one. All that this machine runs of them is here.
func (s *Service) Pushable(ctx context.Context, ref reference.Named) ([]Tagged, error) {
	var records []Record
	if reference.IsNameOnly(ref) {
		var err error
		if records, err = s.repository(ctx, ref); err != nil {
			return nil, err
		}
	} else if r, err := s.d.Records.Get(ctx, ref.String()); err == nil {
		records = append(records, r)
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	var out []Tagged
	for _, r := range records {
		named, err := reference.ParseNamed(r.Name)
		if err != nil {
			continue
		}
		tagged, ok := named.(reference.NamedTagged)
		if _, exact := named.(reference.Digested); !ok || exact {
			continue
		}
		if m, err := s.best(ctx, r.Target, nil); err != nil || !m.Complete {
			return nil, errNoPlatform(r.familiar(), s.d.Platform)
		}
		out = append(out, Tagged{tagged, r.Target})
	}
	if len(out) == 0 {
		return nil, fault.New(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarString(ref))
	}
	return out, nil
}
