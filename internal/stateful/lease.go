package stateful

import (
	"slices"
	"sync"
	"time"
)

// Terms are the times of a node's lease, the same on all nodes of a cluster.
type Terms struct {
	// TTL is how long a lease lasts, counted by its holder from before it asked,
	// and by everybody else from when they saw it renewed.
	TTL time.Duration
	// Margin is how long before its end the holder begins to stop its leaders. It
	// must be longer than stopping takes, however a leader resists.
	Margin time.Duration
	// Drift is by how much the rates of two clocks may differ, in parts per million.
	Drift int
}

// Lease is what the store holds of a node. It is changed by compare-and-swap only.
type Lease struct {
	// Turn grows with every renewal.
	Turn uint64
	// Term grows whenever the node takes the lease anew, which it does only while
	// it leads nothing.
	Term uint64
	// Revoked ends a term: it can not be renewed any more.
	Revoked bool
}

// Over says whether the term has ended for good: what was granted in it is void,
// whatever the node believes, as soon as its TTL has passed. Once true it stays so.
func (l Lease) Over(term uint64) bool {
	return l.Term > term || l.Term == term && l.Revoked
}

// Renew is the lease after a renewal in the given term; ok is false where the
// term has ended, and the node must stop its leaders and Rejoin.
func (l Lease) Renew(term uint64) (renewed Lease, ok bool) {
	if l.Term != term || l.Revoked {
		return l, false
	}
	l.Turn++
	return l, true
}

// Rejoin is the lease that a node takes that leads nothing.
func (l Lease) Rejoin() Lease {
	return Lease{Turn: l.Turn + 1, Term: l.Term + 1}
}

// Revoke is the lease after its term was ended.
func (l Lease) Revoke() Lease {
	l.Revoked = true
	return l
}

// Grant lets a node lead a set for one epoch. It is part of a renewal's answer.
type Grant struct {
	Set   string
	Epoch uint64
}

// Grants are those of the records' sets that the node leads in this term. The
// records must be read after the renewal, from a store in which it is stored: a
// release that the node sent before it asked is then seen, and one it sends later
// it remembers.
func Grants(node string, term uint64, sets map[string]Record) []Grant {
	var g []Grant
	for name, r := range sets {
		if r.Leader != "" && r.Node == node && r.Term == term {
			g = append(g, Grant{Set: name, Epoch: r.Epoch})
		}
	}
	return g
}

// Holder is a node's side of its lease. It belongs to one goroutine.
type Holder struct {
	terms    Terms
	term     uint64
	until    time.Time
	granted  map[string]uint64 // set → epoch
	released map[string]uint64 // set → last epoch given back in this term
	held     map[string]told   // set → until when its members hold still for its leader
}

// told is an epoch and until when it may be led.
type told struct {
	epoch uint64
	until time.Time
}

// NewHolder holds nothing yet.
func NewHolder(t Terms) *Holder { return &Holder{terms: t} }

// Rejoined begins a term. The caller leads nothing.
func (h *Holder) Rejoined(term uint64) {
	h.term, h.until = term, time.Time{}
	h.granted, h.released, h.held = nil, map[string]uint64{}, map[string]told{}
}

// Term is the one that renewals must name; 0 before the first Rejoined.
func (h *Holder) Term() uint64 { return h.term }

// Renewed takes the answer to a renewal that was asked for at asked, by this
// node's own monotonic clock, in the given term. Answers may come late, twice and
// out of order.
func (h *Holder) Renewed(term uint64, asked time.Time, grants []Grant) {
	if term != h.term {
		return
	}
	until := asked.Add(h.terms.TTL)
	if !until.After(h.until) {
		return // a newer answer is known
	}
	h.until = until
	h.granted = map[string]uint64{}
	for _, g := range grants {
		if g.Epoch > h.released[g.Set] {
			h.granted[g.Set] = g.Epoch
		}
	}
}

// Release gives a set back: it will not be led in this epoch again, whatever
// answer is still on its way. The caller stops the leader first.
func (h *Holder) Release(set string, epoch uint64) {
	h.released[set] = max(h.released[set], epoch)
	if h.granted[set] <= epoch {
		delete(h.granted, set)
	}
}

// Owed are the grants of an answer that were given back: the store does not know it
// yet, or the answer is older. To tell it again does no harm.
func (h *Holder) Owed(grants []Grant) []Grant {
	return slices.DeleteFunc(slices.Clone(grants), func(g Grant) bool { return g.Epoch > h.released[g.Set] })
}

// Held says that all who could make another leader of the set hold still for the one
// of this epoch: they were asked at the given moment.
func (h *Holder) Held(set string, epoch uint64, asked time.Time) {
	if h.held == nil {
		h.held = map[string]told{}
	}
	h.held[set] = told{epoch, asked.Add(h.terms.TTL)}
}

// Leads says whether the node may lead the set now, in which epoch, and until
// when: at that moment the leader must have stopped, so stopping begins Margin
// earlier, which is when Leads turns false.
func (h *Holder) Leads(set string, now time.Time) (epoch uint64, until time.Time, ok bool) {
	e, ok := h.granted[set]
	until = h.until
	if t := h.held[set]; t.epoch == e && t.until.After(until) {
		until = t.until
	}
	if !ok || !now.Before(until.Add(-h.terms.Margin)) {
		return 0, time.Time{}, false
	}
	return e, until, true
}

// Observer judges other nodes' leases by its own clock. A new one has seen
// nothing, so that no lease expires for it before a whole TTL. What it sees may be
// old: then a lease expires for it early, and can not be revoked, since it is not
// the one that is stored.
type Observer struct {
	terms Terms
	mu    sync.Mutex // guards seen
	seen  map[string]sighting
}

type sighting struct {
	lease Lease
	at    time.Time // when this turn was seen first
}

// NewObserver has seen nothing.
func NewObserver(t Terms) *Observer {
	return &Observer{terms: t, seen: map[string]sighting{}}
}

// See takes what the store says of a node's lease at now.
func (o *Observer) See(node string, l Lease, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s, ok := o.seen[node]; ok && s.lease.Term == l.Term && s.lease.Turn == l.Turn {
		o.seen[node] = sighting{lease: l, at: s.at}
		return
	}
	o.seen[node] = sighting{lease: l, at: now}
}

// Seen is the lease as it was last seen.
func (o *Observer) Seen(node string) (Lease, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.seen[node]
	return s.lease, ok
}

// Expired says whether what was granted up to the turn last seen has run out, by
// any clock within Drift of this one. The term may then be revoked, by
// compare-and-swap against the lease Seen, so that a renewal in between wins.
func (o *Observer) Expired(node string, now time.Time) bool {
	left, ok := o.left(node, now)
	return ok && left <= 0
}

// left is how long it takes until then, if nothing new is seen.
func (o *Observer) left(node string, now time.Time) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.seen[node]
	return s.at.Add(o.terms.wait()).Sub(now), ok
}

// HoldFor is how long a member that is asked to hold still does so, by its own clock:
// no less than TTL by that of whoever asked.
func (t Terms) HoldFor() time.Duration { return t.wait() }

// wait is TTL, longer by what the holder's clock may be slow and this one fast.
func (t Terms) wait() time.Duration {
	return t.TTL + time.Duration(int64(t.TTL)/1_000_000*int64(2*t.Drift))
}
