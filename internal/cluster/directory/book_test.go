package directory

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, n}) }

func entry(id string, n byte, healthy bool) Entry {
	return Entry{ID: id, Network: "net", Addr: addr(n), Healthy: healthy}
}

// shown is what a book shows, as text: id@node, with ! for healthy and ? for
// nodes that are gone.
func shown(b *book) string {
	var out []string
	for _, l := range b.all() {
		s := l.ID + "@" + l.Node
		if l.Healthy {
			s += "!"
		}
		if !l.Live {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestBook(t *testing.T) {
	t0 := time.Unix(1000, 0)
	put := func(e, s uint64, es ...Entry) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.apply(delta{Node: "n", stamp: stamp{e, s}, Put: es}, now) }
	}
	del := func(e, s uint64, ids ...string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.apply(delta{Node: "n", stamp: stamp{e, s}, Del: ids}, now) }
	}
	whole := func(e, s uint64, es ...Entry) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.replace(list{Node: "n", stamp: stamp{e, s}, Entries: es}, now) }
	}
	mark := func(alive bool) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.mark("n", alive, now) }
	}
	a, a2, c := entry("a", 1, false), entry("a", 1, true), entry("c", 3, true)
	for name, tc := range map[string]struct {
		steps []func(*book, time.Time)
		want  string
	}{
		"in order":                        {[]func(*book, time.Time){mark(true), put(1, 1, a), put(1, 2, a2)}, "a@n!"},
		"twice":                           {[]func(*book, time.Time){mark(true), put(1, 1, a), put(1, 2, a2), put(1, 1, a)}, "a@n!"},
		"out of order":                    {[]func(*book, time.Time){mark(true), put(1, 2, a2), put(1, 1, a)}, "a@n!"},
		"removal overtakes":               {[]func(*book, time.Time){mark(true), del(1, 2, "a"), put(1, 1, a)}, ""},
		"removal and back":                {[]func(*book, time.Time){mark(true), put(1, 1, a), del(1, 2, "a"), put(1, 3, a2)}, "a@n!"},
		"removal is late":                 {[]func(*book, time.Time){mark(true), put(1, 1, a), put(1, 3, a2), del(1, 2, "a")}, "a@n!"},
		"whole list":                      {[]func(*book, time.Time){mark(true), put(1, 1, a), whole(1, 5, c)}, "c@n!"},
		"older list":                      {[]func(*book, time.Time){mark(true), whole(1, 5, c), whole(1, 4, a)}, "c@n!"},
		"newer change than the list":      {[]func(*book, time.Time){mark(true), put(1, 7, a2), whole(1, 5, c)}, "a@n! c@n!"},
		"newer removal than the list":     {[]func(*book, time.Time){mark(true), del(1, 7, "c"), whole(1, 5, a, c)}, "a@n"},
		"started anew":                    {[]func(*book, time.Time){mark(true), put(1, 1, a), put(1, 2, c), put(2, 1, a2)}, "a@n!"},
		"word of before the start":        {[]func(*book, time.Time){mark(true), put(2, 1, a), put(1, 9, c), whole(1, 9, c)}, "a@n"},
		"started anew with nothing":       {[]func(*book, time.Time){mark(true), put(1, 1, a), whole(2, 0)}, ""},
		"gone":                            {[]func(*book, time.Time){mark(true), put(1, 1, a2), mark(false)}, "a@n!?"},
		"gone and back":                   {[]func(*book, time.Time){mark(true), put(1, 1, a2), mark(false), mark(true)}, "a@n!"},
		"heard of before it is seen":      {[]func(*book, time.Time){put(1, 1, a2)}, "a@n!?"},
		"heard of, then seen":             {[]func(*book, time.Time){put(1, 1, a2), mark(true)}, "a@n!"},
		"too large, with the list":        {[]func(*book, time.Time){mark(true), func(b *book, now time.Time) { b.apply(delta{Node: "n", stamp: stamp{1, 1}, Large: true}, now) }, whole(1, 1, a2)}, "a@n!"},
		"nobody tells us about ourselves": {[]func(*book, time.Time){func(b *book, now time.Time) { b.apply(delta{Node: "self", stamp: stamp{9, 1}, Put: []Entry{a}}, now) }}, ""},
	} {
		b := newBook("self")
		for i, step := range tc.steps {
			step(b, t0.Add(time.Duration(i)*time.Millisecond))
		}
		if got := shown(b); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestBookAsksForWhatIsMissing(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBook("self")
	b.mark("n", true, now)
	b.apply(delta{Node: "n", stamp: stamp{1, 2}, Put: []Entry{entry("a", 1, true)}}, now)
	if nodes, next := b.wanting(now); len(nodes) > 0 || next != now.Add(patience) {
		t.Errorf("at once: %v, next %v", nodes, next)
	}
	if nodes, _ := b.wanting(now.Add(patience)); !slices.Equal(nodes, []string{"n"}) {
		t.Errorf("after the patience: %v", nodes)
	}
	b.apply(delta{Node: "n", stamp: stamp{1, 1}, Put: []Entry{entry("c", 3, true)}}, now)
	if nodes, next := b.wanting(now.Add(time.Hour)); len(nodes) > 0 || !next.IsZero() {
		t.Errorf("nothing is missing: %v, next %v", nodes, next)
	}
	// What does not fit into a packet is asked for at once, and not forgotten when
	// an older change comes.
	b.apply(delta{Node: "n", stamp: stamp{1, 4}, Large: true}, now)
	b.apply(delta{Node: "n", stamp: stamp{1, 3}, Put: []Entry{entry("d", 4, true)}}, now)
	if nodes, _ := b.wanting(now); !slices.Equal(nodes, []string{"n"}) {
		t.Errorf("too large: %v", nodes)
	}
	if got := b.heard(map[string]stamp{"n": {1, 4}, "self": {9, 9}, "new": {1, 1}}); !slices.Equal(got, []string{"n", "new"}) {
		t.Errorf("a digest makes us ask for %v", got)
	}
}

func TestBookForgetsTheDead(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBook("self")
	b.mark("n", true, now)
	b.apply(delta{Node: "n", stamp: stamp{1, 1}, Put: []Entry{entry("a", 1, true)}}, now)
	b.mark("n", false, now)
	if ls := b.lists(func(string) bool { return true }); len(ls) != 0 {
		t.Errorf("word of the dead is spread: %v", ls)
	}
	if changed, next := b.expire(now.Add(keepWay - 1)); changed || next != now.Add(keepWay) || shown(b) != "a@n!?" {
		t.Errorf("early: %v %v %s", changed, next, shown(b))
	}
	if changed, _ := b.expire(now.Add(keepWay)); !changed || shown(b) != "" {
		t.Errorf("late: %v %s", changed, shown(b))
	}
}

// Whatever order changes come in, whichever get lost, and whenever whole lists
// come: in the end, with the last list, a reader has what the writer wrote.
func TestBookConverges(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := time.Unix(1000, 0)
		w := newBook("w")
		own := newShelf(stamp{Epoch: 5})
		own.alive = true
		w.nodes["w"] = own
		var msgs []func(*book)
		for range 30 {
			d := delta{Node: "w"}
			id := fmt.Sprint(r.IntN(6))
			own.Seq++
			if _, ok := own.entries[id]; ok && r.IntN(2) == 0 {
				delete(own.entries, id)
				d.Del = []string{id}
			} else {
				e := entry(id, byte(r.IntN(200)+1), r.IntN(2) == 0)
				own.entries[id] = numbered{e, own.Seq}
				d.Put = []Entry{e}
			}
			d.stamp = own.stamp
			msgs = append(msgs, func(b *book) { b.apply(d, now) })
			if r.IntN(8) == 0 {
				l := w.lists(func(string) bool { return true })[0]
				msgs = append(msgs, func(b *book) { b.replace(l, now) })
			}
		}
		reader := newBook("r")
		reader.mark("w", true, now)
		r.Shuffle(len(msgs), func(i, j int) { msgs[i], msgs[j] = msgs[j], msgs[i] })
		for _, m := range msgs {
			if r.IntN(5) > 0 {
				m(reader)
			}
		}
		last := w.lists(func(string) bool { return true })[0]
		if nodes := reader.heard(w.digest()); len(nodes) > 0 {
			reader.replace(last, now)
		}
		if got, want := shown(reader), shown(w); got != want {
			t.Fatalf("seed %d: reader has %q, writer %q", seed, got, want)
		}
	}
}
