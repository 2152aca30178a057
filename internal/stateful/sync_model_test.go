package stateful

import (
	"bytes"
	"fmt"
	"testing"
)

// The model of synchronous sets: all ways in which up to modelMembers members, a
// leader that does not know it is deposed, lost and late messages, restarts and
// any number of needless failovers can follow each other, within bounds. Time is
// not part of it: no acknowledged row may be lost even where every clock is wrong.
const modelMembers = 3

// bounds of the exploration.
type bounds struct {
	epochs, writes uint8
}

// modelMember is one member: its log is the epoch of each entry.
type modelMember struct {
	log      []uint8
	promised uint8
	leading  uint8               // the epoch it believes to lead; 0: none
	ack      Ack                 // of a leader
	mark     uint8               // entries when it began to ask for ack
	match    [modelMembers]uint8 // entries it knows each other member to have
}

type world struct {
	epoch        uint8
	leader, last int8 // -1: none
	sync         Sync
	m            [modelMembers]modelMember
	writes       uint8
	acked        []uint8 // the longest acknowledged log
	from         *world  // what led here, and how
	how          func() string
}

func name(i int) string   { return string(rune('a' + i)) }
func index(n string) int8 { return int8(n[0] - 'a') }

func (w *world) clone() *world {
	c := *w
	for i := range c.m {
		c.m[i].log = bytes.Clone(c.m[i].log)
	}
	return &c
}

// orders are all ways to name the members.
var orders = [][modelMembers]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// key is equal for worlds that differ in the names of their members only,
// whatever led to them.
func (w *world) key() string {
	least := w.keyInOrder(make([]byte, 0, 96), &orders[0])
	other := make([]byte, 0, 96)
	for i := range orders[1:] {
		if other = w.keyInOrder(other[:0], &orders[i+1]); bytes.Compare(other, least) < 0 {
			least, other = other, least
		}
	}
	return string(least)
}

func (w *world) keyInOrder(b []byte, order *[modelMembers]int) []byte {
	var place [modelMembers]int8
	for at, i := range order {
		place[i] = int8(at)
	}
	mask := func(members []string) (m byte) {
		for _, n := range members {
			m |= 1 << place[index(n)]
		}
		return m
	}
	placed := func(i int8) byte {
		if i < 0 {
			return 0xff
		}
		return byte(place[i])
	}
	b = append(b, w.epoch, placed(w.leader), placed(w.last), mask(w.sync.Members), byte(w.sync.Need), w.writes, byte(len(w.acked)))
	b = append(b, w.acked...)
	for _, i := range order {
		m := &w.m[i]
		b = append(b, byte(len(m.log)))
		b = append(b, m.log...)
		b = append(b, m.promised, m.leading)
		if m.leading > 0 {
			b = append(b, mask(m.ack.Members), byte(m.ack.Count), m.mark)
			for _, s := range order {
				b = append(b, m.match[s])
			}
		}
	}
	return b
}

// did returns a copy of the world in which something was done.
func (w *world) did(format string, args ...any) *world {
	c := w.clone()
	c.from, c.how = w, func() string { return fmt.Sprintf(format, args...) }
	return c
}

// history is what was done up to here.
func (w *world) history() string {
	if w.from == nil {
		return ""
	}
	return w.from.history() + "\n  " + w.how()
}

// next are all worlds that can follow.
func (w *world) next(b bounds) []*world {
	var all []*world
	for i := range modelMembers {
		all = append(all, w.asLeader(i, b)...)
		all = append(all, w.asFollower(i, b)...)
	}
	return append(all, w.choose(b)...)
}

func (w *world) asLeader(i int, b bounds) (all []*world) {
	m := &w.m[i]
	if w.leader == int8(i) && m.leading != w.epoch && m.promised <= w.epoch {
		c := w.did("%s leads in epoch %d", name(i), w.epoch)
		l := &c.m[i]
		l.leading, l.promised = w.epoch, w.epoch
		l.ack, l.match, l.mark = FirstAck(Record{Sync: w.sync}), [modelMembers]uint8{}, uint8(len(l.log))
		all = append(all, c)
	}
	if m.leading == 0 {
		return all
	}
	if w.writes < b.writes {
		c := w.did("%s writes in epoch %d", name(i), m.leading)
		c.m[i].log = append(c.m[i].log, m.leading)
		c.writes++
		all = append(all, c)
	}
	for n := len(m.log); n > 0 && m.log[n-1] == m.leading; n-- {
		have := 0
		for _, s := range m.ack.Members {
			if int(m.match[index(s)]) >= n {
				have++
			}
		}
		if have < m.ack.Count {
			continue
		}
		if n > len(w.acked) || !bytes.Equal(w.acked[:n], m.log[:n]) {
			c := w.did("%s acknowledges %d entries in epoch %d", name(i), n, m.leading)
			c.acked = bytes.Clone(m.log[:n])
			all = append(all, c)
		}
		break
	}
	if w.leader == int8(i) && w.epoch == m.leading {
		all = append(all, w.changeSync(i)...)
	}
	return all
}

// changeSync makes every next step to every way of acknowledging.
func (w *world) changeSync(i int) (all []*world) {
	m := &w.m[i]
	a, b := name((i+1)%modelMembers), name((i+2)%modelMembers)
	for _, want := range []Ack{{}, {[]string{a}, 1}, {[]string{b}, 1}, {[]string{a, b}, 1}, {[]string{a, b}, 2}} {
		caughtUp := true
		for _, s := range want.Members {
			caughtUp = caughtUp && m.match[index(s)] >= m.mark
		}
		s := NextStep(w.sync, m.ack, want, caughtUp)
		switch {
		case s.Ack != nil:
			c := w.did("%s asks for %v", name(i), *s.Ack)
			c.m[i].ack, c.m[i].mark = *s.Ack, uint8(len(m.log))
			all = append(all, c)
		case s.Record != nil:
			c := w.did("%s records %v", name(i), *s.Record)
			c.sync = *s.Record
			all = append(all, c)
		}
	}
	return all
}

func (w *world) asFollower(i int, b bounds) (all []*world) {
	f := &w.m[i]
	if f.promised < w.epoch+1 && w.epoch < b.epochs {
		c := w.did("%s promises epoch %d", name(i), w.epoch+1)
		c.m[i].promised, c.m[i].leading = w.epoch+1, 0
		all = append(all, c)
	}
	for l := range modelMembers {
		from := &w.m[l]
		if l == i || from.leading == 0 || from.leading < f.promised || f.leading >= from.leading {
			continue
		}
		same := 0
		for same < len(f.log) && same < len(from.log) && f.log[same] == from.log[same] {
			same++
		}
		// What is not the leader's is taken back; then it gets one entry.
		n := min(same+1, len(from.log))
		if n == len(f.log) && same == n && int(from.match[i]) == n && f.promised == from.leading {
			continue
		}
		c := w.did("%s takes entry %d from %s in epoch %d", name(i), n, name(l), from.leading)
		c.m[i].log = bytes.Clone(from.log[:n])
		c.m[i].promised, c.m[i].leading = from.leading, 0
		c.m[l].match[i] = uint8(n)
		all = append(all, c)
	}
	return all
}

// choose lets a controller hear any of the members that promised.
func (w *world) choose(b bounds) (all []*world) {
	if w.epoch == b.epochs {
		return nil
	}
	r := Record{Epoch: uint64(w.epoch), Sync: w.sync}
	if w.last >= 0 {
		r.Last = name(int(w.last))
	}
	for heard := 1; heard < 1<<modelMembers; heard++ {
		var reports []Report
		for i, m := range w.m {
			if heard&(1<<i) == 0 {
				continue
			}
			p := Position{LSN: uint64(len(m.log))}
			if n := len(m.log); n > 0 {
				p.Timeline = uint64(m.log[n-1])
			}
			reports = append(reports, Report{Member: name(i), Promised: uint64(m.promised), Position: p})
		}
		choice := Choose(r, reports, true, "")
		if choice.Wait != "" {
			continue
		}
		c := w.did("%s is chosen for epoch %d", choice.Leader.Member, choice.Record.Epoch)
		c.epoch, c.sync = uint8(choice.Record.Epoch), choice.Record.Sync
		c.leader = index(choice.Leader.Member)
		c.last = c.leader
		all = append(all, c)
	}
	return all
}

// wrong says what must never be.
func (w *world) wrong() string {
	if w.leader < 0 {
		return ""
	}
	l := w.m[w.leader]
	if l.promised <= w.epoch && !bytes.HasPrefix(l.log, w.acked) {
		return fmt.Sprintf("%s leads in epoch %d with log %v, acknowledged is %v", name(int(w.leader)), w.epoch, l.log, w.acked)
	}
	return ""
}

// model is a world of either model.
type model interface {
	key() string     // equal for worlds that need not be told apart
	wrong() string   // what must never be, and is
	history() string // what led here
}

// explore visits every world that can follow.
func explore[W model](start W, next func(W) []W) (visited int, wrong string) {
	seen := map[string]bool{start.key(): true}
	todo := []W{start}
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if bad := w.wrong(); bad != "" {
			return len(seen), bad + w.history()
		}
		for _, n := range next(w) {
			if k := n.key(); !seen[k] {
				seen[k] = true
				todo = append(todo, n)
			}
		}
	}
	return len(seen), ""
}

// TestNoAcknowledgedRowIsLost explores every history of a synchronous set.
func TestNoAcknowledgedRowIsLost(t *testing.T) {
	b := bounds{epochs: 3, writes: 3}
	visited, wrong := explore(&world{leader: -1, last: -1, sync: Sync{Need: 1}}, func(w *world) []*world { return w.next(b) })
	if wrong != "" {
		t.Fatal(wrong)
	}
	t.Logf("%d worlds", visited)
}
