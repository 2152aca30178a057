package stateful

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// The model of leases: two nodes, one set, any number of controllers that know
// nothing of each other, messages that are late, lost and out of order, restarts
// of daemons under running leaders. A controller is at its most dangerous when it
// sees every renewal the moment it is stored: that is how they are here (that an
// Observer waits at least as long is TestObserver's). The one thing taken for
// granted is that a leader has stopped when its lease ends, which the helper in
// its container sees to.
const (
	modelNodes = 2
	tick       = time.Second
	modelSet   = "db"
	slots      = 2
	modelTTL   = 2 * tick
)

// leaseBounds are those of an exploration.
type leaseBounds struct {
	slots         int // renewals of one node under way
	epochs, terms uint64
}

type renewalStage uint8

const (
	none renewalStage = iota
	sent
	stored
	answered
	refused
)

type renewal struct {
	stage  renewalStage
	asked  time.Time
	term   uint64
	grants []Grant
}

type modelNode struct {
	h        *Holder
	until    time.Time // when what runs must have stopped
	running  uint64    // the epoch its leader runs in; 0: none does
	out      bool      // it was told that its term is over
	messages [slots]renewal
}

type leaseWorld struct {
	now   time.Time
	lease [modelNodes]Lease
	rec   Record
	node  [modelNodes]modelNode
	at    [modelNodes]time.Time // when the lease's turn was stored
	from  *leaseWorld
	how   func() string
}

func newLeaseWorld() *leaseWorld {
	w := &leaseWorld{now: time.Unix(1000, 0)}
	for i := range w.node {
		w.lease[i] = Lease{Term: 1}
		w.node[i].h = NewHolder(Terms{TTL: modelTTL})
		w.node[i].h.Rejoined(1)
	}
	return w
}

func (w *leaseWorld) did(how string, args ...any) *leaseWorld {
	c := *w
	c.from, c.how = w, func() string { return fmt.Sprintf(how, args...) }
	return &c
}

// holder is the node's, to be changed in this world alone.
func (w *leaseWorld) holder(i int) *Holder {
	h := *w.node[i].h
	h.granted, h.released = maps.Clone(h.granted), maps.Clone(h.released)
	w.node[i].h = &h
	return &h
}

func (w *leaseWorld) history() string {
	if w.from == nil {
		return ""
	}
	return w.from.history() + "\n  " + w.how()
}

// left is how many ticks remain until t, and none once it has passed: worlds that
// differ in when they are do not differ.
func (w *leaseWorld) left(t time.Time) byte {
	return byte(max(t.Sub(w.now)/tick, 0))
}

// key is equal for worlds that differ in the names of the nodes only.
func (w *leaseWorld) key() string {
	a, b := w.keyInOrder([modelNodes]int{0, 1}), w.keyInOrder([modelNodes]int{1, 0})
	return string(slices.MinFunc([][]byte{a, b}, bytes.Compare))
}

func (w *leaseWorld) keyInOrder(nodes [modelNodes]int) []byte {
	b := make([]byte, 0, 64)
	flag := func(v bool) {
		b = append(b, byte(rank(v)))
	}
	b = append(b, byte(w.rec.Epoch), byte(w.rec.Term))
	flag(w.rec.Leader != "")
	flag(w.rec.Node == node(nodes[0]))
	for _, i := range nodes {
		l, n := w.lease[i], &w.node[i]
		b = append(b, byte(l.Term), w.left(w.at[i].Add(modelTTL)), byte(n.h.term), w.left(n.h.until), byte(n.h.granted[modelSet]), byte(n.h.released[modelSet]), byte(n.running))
		flag(l.Revoked)
		flag(n.out)
		if n.running > 0 {
			b = append(b, w.left(n.until))
		}
		// Two messages are the same in either order.
		var m [slots][4]byte
		for k, r := range n.messages {
			if r.stage != none {
				m[k] = [4]byte{byte(r.stage), w.left(r.asked.Add(modelTTL)), byte(r.term), grantedEpoch(r.grants)}
			}
		}
		if bytes.Compare(m[0][:], m[1][:]) > 0 {
			m[0], m[1] = m[1], m[0]
		}
		b = append(append(b, m[0][:]...), m[1][:]...)
	}
	return b
}

func grantedEpoch(g []Grant) byte {
	if len(g) == 0 {
		return 0
	}
	return byte(g[0].Epoch)
}

func node(i int) string { return string(rune('0' + i)) }

func (w *leaseWorld) next(b leaseBounds) (all []*leaseWorld) {
	if c := w.did("a tick passes"); true {
		c.now = c.now.Add(tick)
		late := false
		for i := range c.node {
			n := &c.node[i]
			late = late || n.running > 0 && !c.now.Before(n.until)
		}
		if !late {
			all = append(all, c)
		}
	}
	for i := range modelNodes {
		all = append(all, w.asNode(i, b)...)
		all = append(all, w.messages(i)...)
	}
	return append(all, w.asController(b.epochs)...)
}

func (w *leaseWorld) asNode(i int, b leaseBounds) (all []*leaseWorld) {
	n := &w.node[i]
	for k, m := range n.messages[:b.slots] {
		if m.stage == none && !n.out {
			c := w.did("node %d asks to renew term %d", i, n.h.term)
			c.node[i].messages[k] = renewal{stage: sent, asked: w.now, term: n.h.term}
			all = append(all, c)
			break
		}
	}
	if epoch, until, ok := n.h.Leads(modelSet, w.now); ok && !n.out && n.running != epoch {
		c := w.did("node %d leads in epoch %d", i, epoch)
		c.node[i].running, c.node[i].until = epoch, until
		all = append(all, c)
	}
	if n.running > 0 {
		c := w.did("node %d stops", i)
		c.node[i].running = 0
		all = append(all, c)
	}
	if epoch := n.h.granted[modelSet]; epoch > 0 && n.running == 0 {
		c := w.did("node %d gives epoch %d back", i, epoch)
		c.holder(i).Release(modelSet, epoch)
		all = append(all, c)
	}
	if r := w.rec; r.Leader != "" && r.Node == node(i) && r.Term == n.h.term && n.h.released[modelSet] >= r.Epoch {
		c := w.did("the store takes epoch %d back", r.Epoch)
		c.rec.Leader = ""
		all = append(all, c)
	}
	if n.out && n.running == 0 && w.lease[i].Term < b.terms {
		lost := w.did("node %d takes a new lease, and does not hear of it", i)
		lost.lease[i], lost.at[i] = w.lease[i].Rejoin(), w.now
		c := w.did("node %d takes a new lease", i)
		c.lease[i], c.at[i] = lost.lease[i], w.now
		c.holder(i).Rejoined(c.lease[i].Term)
		c.node[i].out = false
		all = append(all, lost, c)
	}
	// A daemon that starts again knows its term, and what runs.
	c := w.did("daemon %d starts again", i)
	c.node[i].h = NewHolder(Terms{TTL: modelTTL})
	c.node[i].h.Rejoined(n.h.term)
	c.node[i].messages = [slots]renewal{}
	return append(all, c)
}

// messages lets the renewals under way go on, or be lost.
func (w *leaseWorld) messages(i int) (all []*leaseWorld) {
	for k, m := range w.node[i].messages {
		if m.stage == none {
			continue
		}
		c := w.did("a renewal of node %d is lost", i)
		c.node[i].messages[k] = renewal{}
		all = append(all, c)
		switch m.stage {
		case sent:
			lease, ok := w.lease[i].Renew(m.term)
			c := w.did("the store renews term %d of node %d: %t", m.term, i, ok)
			c.lease[i] = lease
			if ok {
				c.at[i] = w.now
			}
			c.node[i].messages[k].stage = refused
			if ok {
				c.node[i].messages[k].stage = stored
			}
			all = append(all, c)
		case stored:
			c := w.did("the records for node %d are read", i)
			c.node[i].messages[k].stage = answered
			c.node[i].messages[k].grants = Grants(node(i), m.term, map[string]Record{modelSet: w.rec})
			all = append(all, c)
		case answered:
			c := w.did("node %d hears that it is renewed, granted %v", i, m.grants)
			h := c.holder(i)
			h.Renewed(m.term, m.asked, m.grants)
			c.node[i].messages[k] = renewal{}
			if epoch, until, ok := h.Leads(modelSet, w.now); ok && epoch == c.node[i].running {
				c.node[i].until = until
			}
			all = append(all, c)
		case refused:
			c := w.did("node %d hears that term %d is over", i, m.term)
			c.node[i].messages[k] = renewal{}
			c.node[i].out = c.node[i].out || m.term == w.node[i].h.term
			all = append(all, c)
		case none:
		}
	}
	return all
}

func (w *leaseWorld) asController(epochs uint64) (all []*leaseWorld) {
	gone := w.rec.Leader == ""
	for i, l := range w.lease {
		gone = gone || w.rec.Node == node(i) && l.Over(w.rec.Term)
		if !w.now.Before(w.at[i].Add(modelTTL)) && !l.Revoked {
			c := w.did("a controller revokes lease %d", i)
			c.lease[i] = l.Revoke()
			all = append(all, c)
		}
	}
	if !gone || w.rec.Epoch == epochs {
		return all
	}
	for i, l := range w.lease {
		for term := uint64(1); term <= l.Term; term++ { // it may know an old one only
			c := w.did("a controller makes node %d leader of epoch %d in term %d", i, w.rec.Epoch+1, term)
			c.rec = Record{Epoch: w.rec.Epoch + 1, Leader: "m", Node: node(i), Term: term}
			all = append(all, c)
		}
	}
	return all
}

func (w *leaseWorld) wrong() string {
	if w.node[0].running > 0 && w.node[1].running > 0 {
		return "both nodes lead"
	}
	for i := range w.node {
		if n := &w.node[i]; n.running > 0 && !w.now.Before(n.until) {
			return "a leader outlives its lease"
		}
	}
	return ""
}

// TestTwoNodesNeverLead explores every history of two nodes' leases.
func TestTwoNodesNeverLead(t *testing.T) {
	for _, b := range []leaseBounds{
		{slots: 1, epochs: 3, terms: 2},
	} {
		visited, wrong := explore(newLeaseWorld(), func(w *leaseWorld) []*leaseWorld { return w.next(b) })
		if wrong != "" {
			t.Fatal(wrong)
		}
		t.Logf("%+v: %d worlds", b, visited)
	}
}

func TestObserver(t *testing.T) {
	terms := Terms{TTL: 5 * time.Second, Drift: 1000}
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	o := NewObserver(terms)
	if o.Expired("a", at(time.Hour)) {
		t.Error("a lease that was never seen has expired")
	}
	o.See("a", Lease{Turn: 1, Term: 1}, at(0))
	o.See("a", Lease{Turn: 1, Term: 1}, at(4*time.Second)) // the same turn: its time does not begin again
	// 5 s of a clock that is slow by 1000 ppm, on one that is fast by as much.
	if o.Expired("a", at(5009*time.Millisecond)) {
		t.Error("expired while a slow clock still holds it")
	}
	if !o.Expired("a", at(5010*time.Millisecond)) {
		t.Error("not expired")
	}
	o.See("a", Lease{Turn: 2, Term: 1}, at(6*time.Second))
	if o.Expired("a", at(10*time.Second)) {
		t.Error("a renewed lease has expired")
	}
	if l, ok := o.Seen("a"); !ok || l.Turn != 2 {
		t.Errorf("seen %+v", l)
	}
}

func TestHolderStopsBeforeItsEnd(t *testing.T) {
	h := NewHolder(Terms{TTL: 5 * time.Second, Margin: time.Second})
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	h.Rejoined(1)
	h.Renewed(1, at(0), []Grant{{"db", 4}})
	if e, until, ok := h.Leads("db", at(3999*time.Millisecond)); !ok || e != 4 || until != at(5*time.Second) {
		t.Errorf("%d %v %t", e, until, ok)
	}
	if _, _, ok := h.Leads("db", at(4*time.Second)); ok {
		t.Error("leads within the margin")
	}
	if _, _, ok := h.Leads("other", at(0)); ok {
		t.Error("leads what was not granted")
	}
	h.Renewed(1, at(3*time.Second), []Grant{{"db", 4}})
	h.Renewed(1, at(2*time.Second), nil) // late
	h.Renewed(2, at(9*time.Second), nil) // of another term
	if _, until, ok := h.Leads("db", at(6*time.Second)); !ok || until != at(8*time.Second) {
		t.Errorf("%v %t", until, ok)
	}
}
