package container

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/container/ps"
)

// Top lists the processes of a running container. The usual columns are read
// from /proc; other arguments need the host's ps program.
func (s *Service) Top(ctx context.Context, name, psArgs string) (container.TopResponse, error) {
	if err := ps.Validate(psArgs); err != nil {
		return container.TopResponse{}, invalid("%v", err)
	}
	c, err := s.lookup(name)
	if err != nil {
		return container.TopResponse{}, err
	}
	r := c.record()
	switch {
	case r.Phase == Restarting:
		return container.TopResponse{}, errRestarting(r.ID)
	case !r.Phase.alive():
		return container.TopResponse{}, errNotRunning(r.ID)
	}
	pids, err := s.d.Runtime.Pids(ctx, r.ID)
	if err != nil {
		return container.TopResponse{}, err
	}
	slices.Sort(pids)
	titles, rows, err := ps.List(ctx, psArgs, pids, s.d.Clock.Now())
	if err != nil {
		return container.TopResponse{}, err
	}
	s.emit(r, events.ActionTop, nil)
	return container.TopResponse{Titles: titles, Processes: rows}, nil
}
