package stateful

import (
	"reflect"
	"testing"
	"time"
)

func TestNextAct(t *testing.T) {
	record := Record{Epoch: 4, Leader: "db-1.x", Last: "db-1.x", Node: "n1", Term: 1, Sync: Sync{Members: []string{"db-2.y", "db-3.z"}, Need: 2}}
	chain := Chain{{Epoch: 3, Timeline: 2, Start: 10}, {Epoch: 4, Timeline: 3, Start: 20}}
	view := func(f func(*View)) View {
		v := View{
			Set:   Set{Name: "db", Mode: ModeOn, Port: 5432, Record: record, Chain: chain, Homes: map[string]string{"db-1": "n1", "db-2": "n2", "db-3": "n3"}},
			Addrs: map[string]string{"db-1": "a1", "db-2": "a2", "db-3": "a3"},
		}
		if f != nil {
			f(&v)
		}
		return v
	}
	state := func(member string, phase Phase, epoch uint64, f func(*State)) State {
		s := State{Member: member, Identity: map[string]string{"db-1": "db-1.x", "db-2": "db-2.y"}[member], Phase: phase, Epoch: epoch, Promised: 4}
		if f != nil {
			f(&s)
		}
		return s
	}
	leading := func(f func(*State)) State {
		return state("db-1", Leading, 4, func(s *State) {
			s.Chain, s.Ack, s.InForce = chain, FirstAck(record), true
			s.Streams = []Stream{{Identity: "db-2.y"}, {Identity: "db-3.z"}}
			if f != nil {
				f(s)
			}
		})
	}
	grant := func() *Lead { return &Lead{Epoch: 4, Until: time.Unix(9, 0), Stop: time.Unix(8, 0)} }
	both := Ack{Members: []string{"db-2.y", "db-3.z"}, Count: 1}
	one := Ack{Members: []string{"db-2.y"}, Count: 1}
	for _, c := range []struct {
		name  string
		view  View
		state State
		grant *Lead
		alone bool
		want  Act
	}{
		{name: "granted and resting", view: view(nil), state: state("db-1", Resting, 0, nil), grant: grant(), want: Act{Lead: &Lead{
			Epoch: 4, Until: time.Unix(9, 0), Stop: time.Unix(8, 0), Ack: both, Peers: []string{"db-2", "db-3"},
		}}},
		{name: "promoted is left alone", view: view(nil), state: state("db-1", Promoting, 4, nil), grant: grant()},
		{name: "leads without a grant", view: view(nil), state: leading(nil), want: Act{Stop: 4}},
		{name: "leads what is another's", view: view(func(v *View) { v.Record.Leader = "db-2.y" }), state: leading(nil), grant: grant(), want: Act{Stop: 4}},
		{name: "leads an older epoch", view: view(func(v *View) { v.Record.Epoch = 5 }), state: leading(nil), grant: grant(), want: Act{Stop: 4}},
		{name: "its server died", view: view(nil), state: state("db-1", Starting, 0, func(s *State) { s.Lost = 4 }), grant: grant(), want: Act{Release: 4}},
		{name: "its data are gone", view: view(nil), state: state("db-1", Empty, 0, func(s *State) { s.Identity = "db-1.new" }), grant: grant(), want: Act{Release: 4}},
		{name: "writes and nobody knows", view: view(func(v *View) { v.Chain = chain[:1] }), state: leading(nil), grant: grant(), want: Act{Began: chain}},
		{name: "all is well", view: view(nil), state: leading(nil), grant: grant()},
		{name: "narrows when all have everything", view: view(func(v *View) { v.Record.Sync = Sync{Members: []string{"db-2.y", "db-3.z"}, Need: 3} }), state: leading(func(s *State) { s.CaughtUp = true }), grant: grant(), want: Act{Record: &Sync{Members: []string{"db-2.y", "db-3.z"}, Need: 2}}},
		{name: "a follower is gone: asks the other", view: view(nil), state: leading(func(s *State) { s.Streams = s.Streams[:1] }), grant: grant(), want: Act{Ack: &one}},
		{name: "all followers are gone a moment ago", view: view(nil), state: leading(func(s *State) { s.Streams = nil }), grant: grant()},
		{name: "all followers are gone for long", view: view(nil), state: leading(func(s *State) { s.Streams = nil }), grant: grant(), alone: true, want: Act{Record: &Sync{Need: 1}}},
		{name: "and it is strict", view: view(func(v *View) { v.Mode = ModeStrict }), state: leading(func(s *State) { s.Streams = nil }), grant: grant(), alone: true},
		{name: "a far follower is not asked yet", view: view(nil), state: leading(func(s *State) { s.Ack, s.Streams[1].Lag = one, mayLag }), grant: grant(), want: Act{Record: &Sync{Members: []string{"db-2.y"}, Need: 1}}},
		{name: "a wished switch", view: view(func(v *View) { v.Switch = &Switch{To: "db-2", Epoch: 4} }), state: leading(nil), grant: grant(), want: Act{Switch: 4}},
		{name: "a switch to who does not follow", view: view(func(v *View) { v.Switch = &Switch{To: "db-2", Epoch: 4} }), state: leading(func(s *State) { s.Streams, s.Ack = s.Streams[1:], Ack{Members: []string{"db-3.z"}, Count: 1} }), grant: grant()},
		{name: "a switch of another epoch", view: view(func(v *View) { v.Switch = &Switch{Epoch: 3} }), state: leading(nil), grant: grant()},
		{name: "follows", view: view(nil), state: state("db-2", Resting, 0, nil), want: Act{Follow: &Follow{Epoch: 4, Host: "a1", Port: 5432, Chain: chain, MayDiscard: true}}},
		{name: "follows already", view: view(nil), state: state("db-2", Following, 4, nil)},
		{name: "not before the leader writes", view: view(func(v *View) { v.Chain = chain[:1] }), state: state("db-2", Resting, 0, nil)},
		{name: "not who it promised against", view: view(nil), state: state("db-2", Resting, 0, func(s *State) { s.Promised = 5 })},
		{name: "not nobody", view: view(func(v *View) { v.Record.Leader = "" }), state: state("db-2", Resting, 0, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "a far follower is not asked yet" {
				c.state.CaughtUp = true
			}
			if got := NextAct(c.view, c.state, c.grant, c.alone); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %+v, not %s: %+v", got, got, c.want, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	led := Set{Homes: map[string]string{"db-1": "n"}, Record: Record{Epoch: 1, Leader: "db-1.x", Node: "n", Term: 2}}
	without := led
	without.Record.Leader = ""
	paused := without
	paused.Paused = true
	for _, c := range []struct {
		name    string
		set     Set
		lease   Lease
		expired bool
		want    Verdict
	}{
		{"led", led, Lease{Term: 2}, false, Fine},
		{"run out", led, Lease{Term: 2}, true, Revoking},
		{"revoked", led, Lease{Term: 2, Revoked: true}, true, Choosing},
		{"a later term", led, Lease{Term: 3}, false, Choosing},
		{"given back", without, Lease{Term: 2}, false, Choosing},
		{"paused", paused, Lease{Term: 2}, false, Fine},
		{"no members yet", Set{}, Lease{}, false, Fine},
	} {
		if got := Judge(c.set, c.lease, c.expired); got != c.want {
			t.Errorf("%s: %d, not %d", c.name, got, c.want)
		}
	}
}

// Two leaders that knew nothing of each other both began timeline 2.
func TestChain(t *testing.T) {
	a := Chain{{Epoch: 1, Timeline: 1, Start: 0}, {Epoch: 3, Timeline: 2, Start: 100}}
	b := Chain{{Epoch: 1, Timeline: 1, Start: 0}, {Epoch: 2, Timeline: 2, Start: 120}}
	if p := b.Position(2, 500); p != (Position{2, 500}) || a.Leads(p) {
		t.Errorf("what the other leader wrote is %+v, and follows: %t", p, a.Leads(p))
	}
	if p := a.Position(2, 90); p != (Position{1, 90}) {
		t.Errorf("a log that names timeline 2 and does not reach it is %+v", p)
	}
	for _, c := range []struct {
		p    Position
		want bool
	}{{Position{1, 100}, true}, {Position{1, 101}, false}, {Position{3, 900}, true}, {Position{0, 0}, false}} {
		if got := a.Leads(c.p); got != c.want {
			t.Errorf("%+v follows: %t", c.p, got)
		}
	}
	// It followed the leader of epoch 3, received nothing, and leads: what others have of
	// epoch 1 beyond its end is not in its log.
	c := a.With(Link{Epoch: 4, Timeline: 3, Start: 95})
	if c.Leads(Position{1, 98}) || !c.Leads(Position{1, 95}) || c.Leads(Position{3, 100}) || c.Epoch() != 4 {
		t.Errorf("%+v", c)
	}
	var long Chain
	for e := range uint64(100) {
		long = long.With(Link{Epoch: e, Timeline: e + 1})
	}
	if len(long) != chainLimit || long.Epoch() != 99 {
		t.Errorf("%d links, the last of epoch %d", len(long), long.Epoch())
	}
}
