package container

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// errChanged says that a container is no longer what it was when a plan was made.
var errChanged = fault.New(errdefs.ErrConflict, "used meanwhile")

// Prunable is a container that may go.
type Prunable struct {
	ID, Name string
	Why      string
	Labels   map[string]string
	Since    time.Time // it ended, or was made
	Volumes  []string  // that it refers to

	rec Record
}

// Prunable lists the containers that do not run and that the filters match,
// oldest first.
func (s *Service) Prunable(filters map[string][]string) ([]Prunable, error) {
	f, err := newFilter(filters, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	now := s.d.Clock.Now()
	until, err := f.until(now)
	if err != nil {
		return nil, err
	}
	var out []Prunable
	for _, c := range s.all() {
		r := c.record()
		if r.Phase.running() || r.Phase == Starting || (!until.IsZero() && r.Created.After(until)) || !f.labels(r.Config.Labels) {
			continue
		}
		p := Prunable{ID: r.ID, Name: r.Name, Labels: r.Config.Labels, Since: r.Created, Why: "was never started", rec: r}
		if !r.FinishedAt.IsZero() {
			p.Since, p.Why = r.FinishedAt, "does not run: "+status(&r, now)
		}
		for _, m := range r.Mounts {
			if m.Name != "" {
				p.Volumes = append(p.Volumes, m.Name)
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Prunable) int { return a.Since.Compare(b.Since) })
	return out, nil
}

// unchanged says that the container was not started, nor anything else done
// with it, since the plan was made.
func (p Prunable) unchanged(now *Record) bool {
	was := &p.rec
	return now.Phase == was.Phase && now.StartedAt.Equal(was.StartedAt) && now.FinishedAt.Equal(was.FinishedAt) && now.Name == was.Name
}

// Prune removes all containers that do not run and that the filters match.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (container.PruneReport, error) {
	plan, err := s.Prunable(filters)
	if err != nil {
		return container.PruneReport{}, err
	}
	return s.PruneThese(ctx, plan)
}

// PruneThese removes what of a plan is as it was. What was made just now is
// waited for: between its creation and its start, which clients ask for one
// after the other, it looks like one that nobody wants.
func (s *Service) PruneThese(ctx context.Context, plan []Prunable) (container.PruneReport, error) {
	rep := container.PruneReport{}
	if !s.pruning.TryLock() {
		return rep, conflict("a prune operation is already running")
	}
	defer s.pruning.Unlock()
	now := s.d.Clock.Now()
	young := func(p Prunable) bool {
		return p.rec.StartedAt.IsZero() && now.Sub(p.rec.Created) < s.d.Settings.PruneGrace
	}
	slices.SortStableFunc(plan, func(a, b Prunable) int { return btoi(young(a)) - btoi(young(b)) })
	for _, p := range plan {
		if left := p.rec.Created.Add(s.d.Settings.PruneGrace).Sub(s.d.Clock.Now()); young(p) && left > 0 && clock.Sleep(ctx, s.d.Clock, left) != nil {
			break
		}
		if ctx.Err() != nil {
			return rep, nil
		}
		s.pruneOne(ctx, p, &rep)
	}
	s.d.Events.Publish(events.Message{
		Type: events.ContainerEventType, Action: events.ActionPrune, Scope: "local",
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(rep.SpaceReclaimed, 10)}},
	})
	return rep, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Service) pruneOne(ctx context.Context, p Prunable, rep *container.PruneReport) {
	s.mu.Lock()
	c := s.byID[p.ID]
	s.mu.Unlock()
	if c == nil {
		return
	}
	size, _, err := s.d.Rootfs.Usage(ctx, p.ID)
	if err != nil {
		s.d.Log.Warn("size of pruned container unknown", logkey.Container, p.ID, logkey.Err, err)
		size = 0
	}
	err = s.removeStopped(context.WithoutCancel(ctx), c, false, p.unchanged)
	switch {
	case errors.Is(err, errChanged), errors.As(err, new(stillRuns)):
		s.d.Log.Info("container not pruned", logkey.Container, p.ID, logkey.Why, "used meanwhile")
	case err != nil:
		s.d.Log.Warn("container not pruned", logkey.Container, p.ID, logkey.Err, err)
	default:
		rep.SpaceReclaimed += uint64(max(size, 0))
		rep.ContainersDeleted = append(rep.ContainersDeleted, p.ID)
	}
}
