package convert

import (
	"maps"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/fault"
)

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

// pair is one value of an enumeration in both languages.
type pair[D comparable, S comparable] struct {
	d D
	s S
}

// table translates an enumeration. Its first row is the default: what the API
// leaves out.
type table[D comparable, S comparable] []pair[D, S]

func (t table[D, S]) toDocker(s S) D {
	for _, p := range t {
		if p.s == s {
			return p.d
		}
	}
	return t[0].d
}

// toSwarmkit refuses a word that is not in the table. An empty one is the default.
func (t table[D, S]) toSwarmkit(d D, what string) (S, error) {
	var none D
	if d == none {
		return t[0].s, nil
	}
	for _, p := range t {
		if p.d == d {
			return p.s, nil
		}
	}
	return t[0].s, invalid("invalid %s: %q", what, any(d))
}

func annotationsFrom(a api.Annotations) swarm.Annotations {
	labels := maps.Clone(a.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	return swarm.Annotations{Name: a.Name, Labels: labels}
}

func annotationsTo(a swarm.Annotations) api.Annotations {
	return api.Annotations{Name: a.Name, Labels: maps.Clone(a.Labels)}
}

func metaFrom(m api.Meta) swarm.Meta {
	return swarm.Meta{
		Version:   swarm.Version{Index: m.Version.Index},
		CreatedAt: timeFrom(m.CreatedAt),
		UpdatedAt: timeFrom(m.UpdatedAt),
	}
}

func timeFrom(t *gogotypes.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t.Seconds, int64(t.Nanos)).UTC()
}

func timePtrFrom(t *gogotypes.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	out := timeFrom(t)
	return &out
}

// durationFrom is zero for what is not set or out of the range of Go.
func durationFrom(d *gogotypes.Duration) time.Duration {
	if d == nil {
		return 0
	}
	out, err := gogotypes.DurationFromProto(d)
	if err != nil {
		return 0
	}
	return out
}

func durationPtrFrom(d *gogotypes.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	out := durationFrom(d)
	return &out
}

func durationTo(d time.Duration) *gogotypes.Duration { return gogotypes.DurationProto(d) }

// durationOrNil leaves a zero out.
func durationOrNil(d time.Duration) *gogotypes.Duration {
	if d == 0 {
		return nil
	}
	return durationTo(d)
}

func durationPtrTo(d *time.Duration) *gogotypes.Duration {
	if d == nil {
		return nil
	}
	return durationTo(*d)
}

func driverFrom(d *api.Driver) *swarm.Driver {
	if d == nil {
		return nil
	}
	return &swarm.Driver{Name: d.Name, Options: maps.Clone(d.Options)}
}

func driverTo(d *swarm.Driver) *api.Driver {
	if d == nil {
		return nil
	}
	return &api.Driver{Name: d.Name, Options: maps.Clone(d.Options)}
}

// each converts a list; none stays none.
func each[A, B any](in []A, f func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// eachErr is each for what can be refused.
func eachErr[A, B any](in []A, f func(A) (B, error)) ([]B, error) {
	if in == nil {
		return nil, nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		var err error
		if out[i], err = f(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func addrsTo(in []netip.Addr) []string { return each(in, netip.Addr.String) }

// prefixesFrom leaves out what is no prefix: it came from us.
func prefixesFrom(in []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}
