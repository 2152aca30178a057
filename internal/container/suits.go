package container

import (
	"context"
	"strings"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// Place is somewhere on the host that a container writes to.
type Place struct {
	Target string // in the container
	Volume string // empty: a bind mount
	Path   string // on the host; empty: a volume that is not mounted yet
}

// Preflight looks whether the places of a container's data suit it. For what is no
// database, and for file systems of a known kind, it costs nothing.
type Preflight interface {
	// Check tells what the container's owner should know. refused says that it must
	// not start.
	Check(ctx context.Context, u VolumeUser, places []Place) (warnings []string, refused error)
}

// ActionPreflight is the event of a container whose data is in the wrong place.
const ActionPreflight events.Action = "preflight"

// suits asks the preflight, at a start with what is mounted, else with none.
func (s *Service) suits(ctx context.Context, r *Record, mounted []bindSource) ([]string, error) {
	if s.d.Preflight == nil {
		return nil, nil
	}
	paths := map[string]string{}
	for _, b := range mounted {
		paths[b.Target] = b.Path
	}
	var places []Place
	for _, m := range r.Mounts {
		p := Place{Target: m.Target, Path: paths[m.Target]}
		switch {
		case m.ReadOnly:
			continue
		case m.Type == mount.TypeVolume && (m.Subpath == "" || p.Path != ""):
			p.Volume = m.Name
		case m.Type == mount.TypeBind:
			p.Path = m.Source
		default:
			continue
		}
		places = append(places, p)
	}
	if len(places) == 0 {
		return nil, nil
	}
	warnings, err := s.d.Preflight.Check(ctx, r.volumeUser(), places)
	if len(warnings) > 0 && mounted != nil {
		text := strings.Join(warnings, "; ")
		s.d.Log.Warn("database in the wrong place", logkey.Container, r.ID, logkey.Why, text)
		s.emit(*r, ActionPreflight, map[string]string{"warning": text})
	}
	return warnings, err
}
