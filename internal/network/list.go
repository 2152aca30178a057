package network

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// List returns the networks that the filters keep, sorted by name.
func (s *Service) List(_ context.Context, filters map[string][]string) ([]mobynet.Summary, error) {
	keep, err := s.filter(filters, "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []mobynet.Summary{}
	for _, n := range s.nets {
		if keep(n) {
			out = append(out, mobynet.Summary{Network: n.rec.api()})
		}
	}
	slices.SortFunc(out, func(a, b mobynet.Summary) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Prunable is a network that may go.
type Prunable struct {
	ID, Name string
	Why      string
	Created  time.Time
}

// Prunable lists the networks that nobody uses, by name.
func (s *Service) Prunable(filters map[string][]string) ([]Prunable, error) {
	keep, err := s.filter(filters, "label", "label!", "until")
	if err != nil {
		return nil, err
	}
	var out []Prunable
	s.mu.Lock()
	for _, n := range s.nets {
		if !n.rec.Predefined && !n.rec.overlay() && len(n.endpoints) == 0 && keep(n) {
			out = append(out, Prunable{ID: n.rec.ID, Name: n.rec.Name, Created: n.rec.Created, Why: "no running container is on it"})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b Prunable) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Prune removes the networks that nobody uses.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (mobynet.PruneReport, error) {
	plan, err := s.Prunable(filters)
	if err != nil {
		return mobynet.PruneReport{}, err
	}
	return s.PruneThese(ctx, plan)
}

// PruneThese removes what of the plan is still used by nobody.
func (s *Service) PruneThese(ctx context.Context, plan []Prunable) (mobynet.PruneReport, error) {
	var rep mobynet.PruneReport
	for _, p := range plan {
		if ctx.Err() != nil {
			break
		}
		if err := s.Remove(ctx, p.ID); err != nil { // in use since we looked, or gone
			s.d.Log.Info("network not pruned", logkey.Network, p.Name, logkey.Err, err)
			continue
		}
		rep.NetworksDeleted = append(rep.NetworksDeleted, p.Name)
	}
	s.d.Events.Publish(events.Message{
		Type: events.NetworkEventType, Action: events.ActionPrune, Scope: "local",
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": "0"}},
	})
	return rep, nil
}

// filter makes one predicate of the API's filters. It is called with mu held.
func (s *Service) filter(f map[string][]string, allowed ...string) (func(*netw) bool, error) {
	for _, k := range slices.Sorted(maps.Keys(f)) {
		if !slices.Contains(allowed, k) {
			return nil, invalid("invalid filter '%s'", k)
		}
	}
	for _, t := range f["type"] {
		if t != "custom" && t != "builtin" {
			return nil, invalid("invalid filter: 'type'='%s'", t)
		}
	}
	dangling, err := danglingFilter(f["dangling"])
	if err != nil {
		return nil, err
	}
	var until time.Time
	if u := f["until"]; len(u) > 1 {
		return nil, invalid("more than one until filter specified")
	} else if len(u) == 1 {
		if until, err = parseUntil(u[0], s.d.Clock.Now()); err != nil {
			return nil, err
		}
	}
	return func(n *netw) bool {
		r := n.rec
		return anyOf(f["driver"], func(v string) bool { return r.Driver == v }) &&
			anyOf(f["id"], func(v string) bool { return strings.HasPrefix(r.ID, v) }) &&
			anyOf(f["name"], func(v string) bool { return strings.Contains(r.Name, v) }) &&
			anyOf(f["scope"], func(v string) bool { return v == r.scope() }) &&
			anyOf(f["type"], func(v string) bool { return (v == "builtin") == r.Predefined }) &&
			allOf(f["label"], func(v string) bool { return hasLabel(r.Labels, v) }) &&
			allOf(f["label!"], func(v string) bool { return !hasLabel(r.Labels, v) }) &&
			(until.IsZero() || r.Created.Before(until)) &&
			(dangling == nil || (!r.Predefined && *dangling == (len(n.endpoints) == 0)))
	}, nil
}

func danglingFilter(v []string) (*bool, error) {
	if len(v) == 0 {
		return nil, nil
	}
	if len(v) > 1 {
		return nil, invalid(`got more than one value for filter key "dangling"`)
	}
	var on bool
	switch v[0] {
	case "1", "true":
		on = true
	case "0", "false":
	default:
		return nil, invalid(`invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`)
	}
	return &on, nil
}

func anyOf(values []string, match func(string) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, match)
}

func allOf(values []string, match func(string) bool) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !match(v) })
}

func hasLabel(labels map[string]string, want string) bool {
	k, v, withValue := strings.Cut(want, "=")
	have, ok := labels[k]
	return ok && (!withValue || have == v)
}

// parseUntil reads a point in time: an age ("10m"), seconds since the epoch,
// or a date in RFC 3339's forms.
func parseUntil(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Unix(0, int64(sec*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid value for 'until': %q is neither a duration nor a time", v)
}
