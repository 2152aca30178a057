package stateful

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
)

// desk is the managers and one helper as an agent sees them.
type desk struct {
	now    time.Time
	view   View
	grants []Grant
	st     State
	frozen bool // the helper does not answer
	deaf   bool // managers do not hear a release
	heard  []string
	asked  []Ack
}

func (d *desk) Rejoin(context.Context) (uint64, error) { return 1, nil }
func (d *desk) Renew(context.Context, uint64) (Renewal, error) {
	return Renewal{Grants: d.grants, Views: map[string]View{"s": d.view}}, nil
}

func (d *desk) Release(_ context.Context, set string, epoch uint64, to string) error {
	if d.deaf {
		return errors.New("no answer")
	}
	d.grants = nil
	d.heard = append(d.heard, fmt.Sprintf("release %s %d to %q", set, epoch, to))
	return nil
}
func (d *desk) Began(context.Context, string, uint64, Chain) error         { return nil }
func (d *desk) Record(context.Context, string, uint64, uint64, Sync) error { return nil }
func (d *desk) Promise(context.Context, uint64) (State, error)             { return d.st, nil }
func (d *desk) Lead(context.Context, Lead) error                           { return nil }
func (d *desk) Hold(context.Context, Hold) error                           { return nil }
func (d *desk) Discard(context.Context, uint64) error                      { return nil }
func (d *desk) Follow(context.Context, Follow) error                       { return nil }
func (d *desk) Acknowledge(_ context.Context, _ uint64, k Ack) error {
	d.asked = append(d.asked, k)
	return nil
}
func (d *desk) StepDown(context.Context, uint64, bool) (State, error) { return d.st, nil }
func (d *desk) Extend(_ context.Context, e uint64, until, _ time.Time) error {
	d.heard = append(d.heard, fmt.Sprintf("extend %d to %v", e, until.Sub(time.Unix(1000, 0))))
	return nil
}

func (d *desk) State(context.Context) (State, error) {
	if d.frozen {
		return State{}, errors.New("no answer")
	}
	return d.st, nil
}

func leadingAgent(t *testing.T) (*desk, *Agent, Local) {
	t.Helper()
	d := &desk{
		now: time.Unix(1000, 0),
		view: View{Set: Set{
			Name: "db", Mode: ModeOn, Chain: Chain{{Epoch: 4}}, Homes: map[string]string{"db-1": "n1"},
			Record: Record{Epoch: 4, Leader: "db-1.x", Last: "db-1.x", Node: "n1", Term: 1, Sync: Sync{Members: []string{"db-2.y"}, Need: 1}},
		}},
		grants: []Grant{{"s", 4}},
		st: State{
			Member: "db-1", Identity: "db-1.x", Phase: Leading, Epoch: 4, Promised: 4, Chain: Chain{{Epoch: 4}},
			Ack: Ack{Members: []string{"db-2.y"}, Count: 1}, InForce: true, CaughtUp: true, Streams: []Stream{{Identity: "db-2.y"}},
		},
	}
	a := NewAgent(AgentDeps{
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Managers: d, Terms: Terms{TTL: 5 * time.Second, Margin: time.Second},
		Now: func() time.Time { return d.now },
		Go:  func(f func()) { f() }, LoadTerm: func() (uint64, error) { return 0, nil }, SaveTerm: func(uint64) error { return nil },
		Stand: func(string, string, Part) {},
	})
	l := Local{Set: "s", Member: "db-1", Helper: d}
	a.keep([]Local{l})
	a.holder.Rejoined(1)
	a.joined = true
	return d, a, l
}

func (d *desk) second(t *testing.T, a *Agent, l Local) {
	t.Helper()
	d.now = d.now.Add(time.Second)
	a.step(t.Context(), l)
	for set, epoch := range a.silent() {
		_ = a.release(t.Context(), set, epoch, "") // a deaf manager is asked again
	}
	_ = a.Renew(t.Context())
}

// A frozen container keeps its leader's lease for as long as the helper in it may
// believe in it, and no longer: without an end of its own the set would have a
// leader that does nothing, for ever.
func TestSilentLeaderIsGivenBack(t *testing.T) {
	d, a, l := leadingAgent(t)
	for range 3 {
		d.second(t, a, l)
	}
	if want := []string{"extend 4 to 7s", "extend 4 to 8s"}; !slices.Equal(d.heard[len(d.heard)-2:], want) {
		t.Fatalf("heard %v", d.heard)
	}
	d.heard, d.frozen = nil, true
	var at time.Duration
	for range 10 {
		d.second(t, a, l)
		if at == 0 && slices.Contains(d.heard, `release s 4 to ""`) {
			at = d.now.Sub(time.Unix(1000, 0))
		}
	}
	// It answered last at 3 s, and was told once more at 4 s that it leads until 9 s.
	if want := []string{"extend 4 to 9s", `release s 4 to ""`}; !slices.Equal(d.heard, want) || at != 9*time.Second {
		t.Errorf("heard %v, given back at %v", d.heard, at)
	}
}

// A daemon that starts anew beside a frozen container does not know what its
// forerunner told it.
func TestSilentLeaderOfAnotherDaemon(t *testing.T) {
	d, a, l := leadingAgent(t)
	d.frozen = true
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		d.second(t, a, l)
	}
	if len(d.heard) > 0 {
		t.Errorf("heard %v within what the other may have said", d.heard)
	}
	for range 2 {
		d.second(t, a, l)
	}
	if want := []string{`release s 4 to ""`}; !slices.Equal(d.heard, want) {
		t.Errorf("heard %v", d.heard)
	}
}

// The managers elect their own leader while a set's leader dies: nobody hears that
// it was given back, and renewals go on to grant it. It is said again.
func TestReleaseIsSaidUntilItIsHeard(t *testing.T) {
	d, a, l := leadingAgent(t)
	d.second(t, a, l)
	d.deaf, d.st.Phase, d.st.Lost = true, Stopped, 4
	for range 3 {
		d.second(t, a, l)
	}
	d.heard, d.deaf = nil, false
	d.second(t, a, l)
	if want := []string{`release s 4 to ""`}; !slices.Equal(d.heard, want) {
		t.Errorf("heard %v", d.heard)
	}
}

func (d *desk) AskHold(context.Context, NodeAddr, string, Hold) error { return nil }

// The record is narrowed to one follower, and the leader has not heard yet that it is so
// when another follower takes its place: it does not ask that one before the record is
// widened. By the record as it knows it, nobody else had anything to lose.
func TestNobodyIsAskedByAnOldRecord(t *testing.T) {
	d, a, l := leadingAgent(t)
	d.view.Record.Sync = Sync{Need: 1}
	_ = a.Renew(t.Context())
	a.step(t.Context(), l) // records db-2, and does not see it in the next view
	d.st.Streams = []Stream{{Identity: "db-3.z"}}
	a.step(t.Context(), l)
	if len(d.asked) > 0 {
		t.Errorf("asks for %+v", d.asked)
	}
	d.view.Record.Sync, d.view.Turn = Sync{Members: []string{"db-2.y", "db-3.z"}, Need: 2}, d.view.Turn+1
	_ = a.Renew(t.Context())
	a.step(t.Context(), l)
	if want := []Ack{{Members: []string{"db-3.z"}, Count: 1}}; len(d.asked) != 1 || !sameAck(d.asked[0], want[0]) {
		t.Errorf("widened, it asks for %+v", d.asked)
	}
}
