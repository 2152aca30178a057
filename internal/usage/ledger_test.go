package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
)

type fakeClock struct {
	clock.System
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type fakeRecords struct {
	mu   sync.Mutex
	all  map[string]Entry
	fail error
}

func (r *fakeRecords) Put(id string, e *Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		r.all[id] = *e
	}
	return r.fail
}

func (r *fakeRecords) Delete(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		delete(r.all, id)
	}
	return r.fail
}

func (r *fakeRecords) All() ([]*Entry, error) {
	var out []*Entry
	for _, e := range r.all {
		out = append(out, &e)
	}
	return out, nil
}

// world is what there is to measure, and the truth about it.
type world struct {
	mu     sync.Mutex
	there  map[Key]Subject
	truth  map[Key]int64
	cost   time.Duration
	walks  int
	during func() // in the midst of a walk
	fail   error
}

func (w *world) All() []Subject {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.there))
}

func (w *world) Find(k Key) (Subject, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.there[k]
	return s, ok
}

func (w *world) Walk(_ context.Context, k Key, _ bool) (Size, time.Duration, error) {
	w.mu.Lock()
	n, cost, during, err := w.truth[k], w.cost, w.during, w.fail
	w.walks++
	w.mu.Unlock()
	if during != nil {
		during()
	}
	return Size{Bytes: n, Files: int64(cost / perFile)}, cost, err
}

func (w *world) set(s Subject, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.there[s.Key], w.truth[s.Key] = s, n
}

type rig struct {
	*Ledger
	clock *fakeClock
	recs  *fakeRecords
	world *world
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		clock: &fakeClock{now: time.Unix(1e6, 0)},
		recs:  &fakeRecords{all: map[string]Entry{"state/clean": {Key: cleanEntry}}},
		world: &world{there: map[Key]Subject{}, truth: map[Key]int64{}, cost: time.Millisecond},
	}
	r.start(t)
	return r
}

// start is the next daemon.
func (r *rig) start(t *testing.T) {
	t.Helper()
	var err error
	r.Ledger, err = New(Deps{
		Clock: r.clock, Log: slog.New(slog.DiscardHandler), Records: r.recs, Subjects: r.world, Walker: r.world,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) wants(t *testing.T, k Key, bytes int64, exact bool, walks int) {
	t.Helper()
	before := r.world.walks
	got, err := r.Size(t.Context(), k)
	if err != nil || got.Bytes != bytes || got.Exact != exact || r.world.walks-before != walks {
		t.Errorf("%s: %d bytes, exact %v, %d walks, %v; want %d, %v, %d", k.ID, got.Bytes, got.Exact, r.world.walks-before, err, bytes, exact, walks)
	}
}

var (
	one = Key{Layer, "one"}
	vol = Key{Volume, "vol"}
)

func TestAtRestIsMeasuredOnce(t *testing.T) {
	r := newRig(t)
	r.world.set(Subject{Key: one}, 10)
	r.wants(t, one, 10, true, 1)
	r.clock.pass(time.Hour)
	r.wants(t, one, 10, true, 0)
	// Written to, as by docker cp.
	r.world.set(Subject{Key: one}, 20)
	r.Changed(one)
	r.wants(t, one, 20, true, 1)
	r.wants(t, one, 20, true, 0)
}

func TestRunningIsToldWithItsAge(t *testing.T) {
	r := newRig(t)
	r.world.cost = time.Second // more than anybody waits for
	r.world.set(Subject{Key: one, Open: true, Stamp: "1"}, 10)
	r.wants(t, one, 10, false, 1)
	at := r.clock.Now()
	r.clock.pass(time.Minute)
	r.world.set(Subject{Key: one, Open: true, Stamp: "1"}, 30)
	r.wants(t, one, 10, false, 0)
	if got, _ := r.Size(t.Context(), one); !got.At.Equal(at) {
		t.Errorf("measured at %s, said %s", at, got.At)
	}
	// It ends: the background has it due at once, and then it is known.
	r.world.set(Subject{Key: one, Stamp: "2"}, 40)
	r.wants(t, one, 10, false, 0)
	k, ok := r.next(nil)
	if !ok || k != one {
		t.Fatalf("due: %v, %v", k, ok)
	}
	if _, err := r.measure(t.Context(), k, true, false); err != nil {
		t.Fatal(err)
	}
	r.wants(t, one, 40, true, 0)
	// It ran while no daemon of ours looked.
	r.world.set(Subject{Key: one, Stamp: "3"}, 50)
	r.wants(t, one, 40, false, 0)
}

func TestWaitingCallersPayLittle(t *testing.T) {
	r := newRig(t)
	r.world.cost = 15 * time.Millisecond
	for i := range 50 {
		r.world.set(Subject{Key: Key{Layer, fmt.Sprint(i)}, Open: true}, 1)
	}
	for range 3 { // the first time all are waited for
		for i := range 50 {
			if _, err := r.Size(t.Context(), Key{Layer, fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.world.walks != 54 {
		t.Errorf("%d walks", r.world.walks)
	}
	r.clock.pass(time.Second)
	r.world.cost = time.Second
	r.wants(t, Key{Layer, "49"}, 1, false, 1)
	r.clock.pass(time.Second)
	r.wants(t, Key{Layer, "49"}, 1, false, 0)
}

// A slow walk of few files says that the machine was busy.
func TestCost(t *testing.T) {
	few, many := &Entry{Worked: time.Second, Size: Size{Files: 10}}, &Entry{Worked: time.Second, Size: Size{Files: 100_000}}
	if costOf(few) > cheap || costOf(many) <= cheap || costOf(&Entry{Worked: time.Millisecond, Size: many.Size}) != time.Millisecond {
		t.Errorf("%s, %s", costOf(few), costOf(many))
	}
}

func TestChangeDuringAWalkIsNotLost(t *testing.T) {
	r := newRig(t)
	r.world.set(Subject{Key: one}, 10)
	r.world.during = func() {
		r.world.during = nil
		r.world.set(Subject{Key: one}, 20)
		r.Changed(one)
	}
	r.wants(t, one, 10, false, 1)
	r.wants(t, one, 20, true, 1)
}

func TestStartDuringAWalkIsNotLost(t *testing.T) {
	r := newRig(t)
	r.world.set(Subject{Key: one, Stamp: "1"}, 10)
	r.world.during = func() {
		r.world.during = nil
		r.world.set(Subject{Key: one, Stamp: "2"}, 20) // started and ended
	}
	r.wants(t, one, 10, false, 1)
	r.wants(t, one, 20, true, 1)
}

func TestRestarts(t *testing.T) {
	r := newRig(t)
	r.world.cost = time.Second
	r.world.set(Subject{Key: one, Stamp: "1"}, 10)
	r.world.set(Subject{Key: vol, Birth: "a", Open: true}, 5)
	r.wants(t, one, 10, true, 1)
	r.wants(t, vol, 5, false, 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	r.wants(t, one, 10, true, 0)
	r.wants(t, vol, 5, false, 0)
	// A crash: what was kept is told with its age and measured again.
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	r.world.set(Subject{Key: one, Stamp: "1"}, 99) // a start that died before it was put down
	r.wants(t, one, 10, false, 0)
	if k, ok := r.next(nil); !ok || k != one {
		t.Errorf("due: %v", k)
	}
	if err := r.Fresh(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	r.wants(t, one, 99, true, 0)
	// Another volume of the same name.
	r.world.set(Subject{Key: vol, Birth: "b"}, 7)
	r.wants(t, vol, 7, true, 1)
}

// The mark that the ledger is true goes before anything changes, and comes only
// when all is written.
func TestNoTrustWithoutTheMark(t *testing.T) {
	r := newRig(t)
	if _, ok := r.recs.all["state/clean"]; ok {
		t.Error("the mark is still there while the daemon runs")
	}
	r.world.set(Subject{Key: one}, 10)
	r.wants(t, one, 10, true, 1)
	r.recs.fail = errors.New("no space left on device")
	if err := r.Close(); err == nil {
		t.Error("closed well")
	}
	r.recs.fail = nil
	if _, ok := r.recs.all["state/clean"]; ok {
		t.Error("marked")
	}
	// What is behind at the end is not taken for true by the next one.
	r.Changed(one)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	r.world.set(Subject{Key: one}, 11)
	r.wants(t, one, 11, true, 1)
}

func TestGone(t *testing.T) {
	r := newRig(t)
	r.world.set(Subject{Key: vol, Birth: "a"}, 5)
	r.wants(t, vol, 5, true, 1)
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	delete(r.world.there, vol)
	r.Observe(events.Message{Type: events.VolumeEventType, Action: events.ActionDestroy, Actor: events.Actor{ID: "vol"}})
	if _, err := r.Size(t.Context(), vol); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if err := r.save(); err != nil || len(r.recs.all) != 0 {
		t.Errorf("left: %v, %v", r.recs.all, err)
	}
	// Removed with no event, as by another daemon.
	r.world.set(Subject{Key: vol, Birth: "a"}, 5)
	r.wants(t, vol, 5, true, 1)
	delete(r.world.there, vol)
	r.next(nil)
	if err := r.save(); err != nil || len(r.recs.all) != 0 {
		t.Errorf("left: %v, %v", r.recs.all, err)
	}
}

func TestWhenTheBackgroundMeasures(t *testing.T) {
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		name string
		e    *Entry
		s    Subject
		n    need
		ever bool
		due  time.Time
	}{
		{"never seen", nil, Subject{}, unknown, true, time.Time{}},
		{"known", &Entry{At: at}, Subject{}, exact, false, time.Time{}},
		{"came to rest", &Entry{At: at, Open: true}, Subject{}, aged, true, time.Time{}},
		{"runs, small", &Entry{At: at, Worked: time.Millisecond}, Subject{Open: true}, aged, true, at.Add(30 * time.Second)},
		{"runs, large", &Entry{At: at, Worked: 3 * time.Second}, Subject{Open: true}, aged, true, at.Add(10 * time.Minute)},
		{"runs, huge", &Entry{At: at, Worked: time.Hour}, Subject{Open: true}, aged, true, at.Add(6 * time.Hour)},
	} {
		if due, ever := dueAt(c.e, c.s, c.n); ever != c.ever || !due.Equal(c.due) {
			t.Errorf("%s: %s, %v", c.name, due, ever)
		}
	}
}

func TestShare(t *testing.T) {
	got := Share([]Made{
		{"base", map[string]int64{"a": 100, "b": 10}, true},
		{"app", map[string]int64{"a": 100, "b": 10, "c": 7}, false},
		{"app2", map[string]int64{"a": 100, "c": 7, "d": 1}, false},
	})
	if got.Total != 118 || got.Reclaimable != 8 || got.Unique["base"] != 0 || got.Unique["app"] != 0 || got.Unique["app2"] != 1 {
		t.Errorf("got %+v", got)
	}
}
