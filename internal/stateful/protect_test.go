package stateful

import (
	"log/slog"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
)

// A set is not protected between the moment at which its first leader asks its
// followers and that at which the record says that they have everything: a leader
// lost then is waited for, however many followers there are.
func TestUnprotected(t *testing.T) {
	set := func(f func(*Set)) *Set {
		s := &Set{
			Mode:   ModeOn,
			Record: Record{Epoch: 4, Leader: "db-1.x", Last: "db-1.x", Sync: Sync{Members: []string{"db-2.y", "db-3.z"}, Need: 2}},
			Chain:  Chain{{Epoch: 4}},
			Homes:  map[string]string{"db-1": "n1", "db-2": "n2", "db-3": "n3"},
		}
		if f != nil {
			f(s)
		}
		return s
	}
	leading := State{Phase: Leading, Epoch: 4, Streams: []Stream{{Identity: "db-2.y"}, {Identity: "db-3.z"}}, Ack: Ack{Members: []string{"db-2.y", "db-3.z"}, Count: 1}, InForce: true}
	one := leading
	one.Streams = leading.Streams[:1]
	promoting := leading
	promoting.Phase = Promoting
	for _, c := range []struct {
		name string
		set  *Set
		led  State
		want string
	}{
		{"all follow", set(nil), leading, ""},
		{"asked, and not recorded", set(func(s *Set) { s.Record.Sync = Sync{Need: 1} }), leading, "db-1 alone has every acknowledged row"},
		{"went on alone", set(func(s *Set) { s.Record.Sync = Sync{Need: 1} }), State{Phase: Leading, Epoch: 4}, "db-1 alone has every acknowledged row"},
		{"of a clone that came back", set(nil), func() State {
			l := leading
			l.Streams = []Stream{{Identity: "db-2.new"}, {Identity: "db-3.z"}}
			return l
		}(), "a new leader would need 2 of 2 members, and 1 follow"},
		{"one follows, both are needed", set(nil), one, "a new leader would need 2 of 2 members, and 1 follow"},
		{"one follows, one is needed", set(func(s *Set) { s.Record.Sync = Sync{Members: []string{"db-2.y"}, Need: 1} }), one, ""},
		{"narrowed to more than there are", set(func(s *Set) { s.Record.Sync.Need = 3 }), leading, "db-1 alone has every acknowledged row"},
		{"promoted", set(nil), promoting, "db-1 does not take writes yet"},
		{"nobody knows that it writes", set(func(s *Set) { s.Chain = Chain{{Epoch: 3}} }), leading, "db-1 does not take writes yet"},
		{"the leader does not answer", set(nil), State{}, "db-1 does not take writes yet"},
		{"none", set(func(s *Set) { s.Record.Leader = "" }), leading, "it has no leader"},
		{"asynchronous", set(func(s *Set) { s.Mode = ModeOff }), leading, "rows are acknowledged by the leader alone (synchronous=off)"},
	} {
		if got := c.set.Unprotected(map[string]State{"db-1": c.led}); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
}

// A set's first leader is lost before it has made the database. Nothing was
// acknowledged, so that another makes one, once all have answered.
func TestFirstLeaderThatNeverBegan(t *testing.T) {
	c := NewController(ControllerDeps{Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	s := Set{
		Mode: ModeOn, Homes: map[string]string{"db-1": "n1", "db-2": "n2"},
		Record: Record{Epoch: 1, Leader: "db-1.x", Last: "db-1.x", Node: "n1", Term: 1, Sync: Sync{Need: 1}},
	}
	got := []State{{Member: "db-2", Identity: "db-2.y", Empty: true, Promised: 2}}
	if ch := c.elect(s, got, Snapshot{}, true); ch.Wait == "" {
		t.Errorf("%+v is chosen, and db-1 may have data", ch.Leader)
	}
	got = append(got, State{Member: "db-1", Identity: "db-1.z", Empty: true, Promised: 2})
	if ch := c.elect(s, got, Snapshot{}, true); ch.Wait != "" || ch.Record.Epoch != 2 {
		t.Errorf("waits: %s", ch.Wait)
	}
	s.Chain = Chain{{Epoch: 1}}
	if ch := c.elect(s, got, Snapshot{}, true); ch.Wait == "" {
		t.Errorf("%+v is chosen in place of a leader whose data are gone", ch.Leader)
	}
}

// A wish for another leader is not kept for ever, and not taken from a set whose leader
// has stepped down for it.
func TestWishIsGivenUp(t *testing.T) {
	at := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		change func(*Set)
		now    time.Time
		want   bool
	}{
		"in time":              {func(*Set) {}, at.Add(-time.Second), false},
		"too late":             {func(*Set) {}, at, true},
		"its leader has ended": {func(s *Set) { s.Record.Leader = "" }, at.Add(time.Hour), false},
		"of an older release":  {func(s *Set) { s.Switch.Until = time.Time{} }, at.Add(time.Hour), false},
		"none":                 {func(s *Set) { s.Switch = nil }, at.Add(time.Hour), false},
	} {
		s := Set{Record: Record{Epoch: 3, Leader: "db-1.x"}, Switch: &Switch{To: "db-2", Epoch: 3, Until: at}}
		c.change(&s)
		had := s.Switch
		if got := s.giveUp(c.now); got != c.want || got != (had != nil && s.Switch == nil) || got != (len(s.Events) == 1) {
			t.Errorf("%s: given up is %t, left %+v, events %v", name, got, s.Switch, s.Events)
		}
	}
}
