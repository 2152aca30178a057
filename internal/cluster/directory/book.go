package directory

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// keepWay is how long a node that is gone can still be sent packets to.
const keepWay = time.Minute

// patience is how long a missing number may still come by itself.
const patience = 300 * time.Millisecond

// stamp orders what a node says. Epoch is that of the writing daemon's start.
type stamp struct {
	Epoch uint64 `json:"e"`
	Seq   uint64 `json:"s"`
}

func (s stamp) compare(o stamp) int {
	return cmp.Or(cmp.Compare(s.Epoch, o.Epoch), cmp.Compare(s.Seq, o.Seq))
}

// delta is one change of a node's list.
type delta struct {
	Node string `json:"n"`
	stamp
	Via netip.Addr `json:"v"`
	Put []Entry    `json:"p,omitempty"`
	Del []string   `json:"d,omitempty"`
	// Large tells that the change did not fit: it must be asked for.
	Large bool `json:"l,omitempty"`
}

// list is all that a node says, as of its stamp.
type list struct {
	Node string `json:"n"`
	stamp
	Via     netip.Addr `json:"v"`
	Entries []Entry    `json:"E,omitempty"`
}

// book is what one node knows of all.
type book struct {
	self  string
	nodes map[string]*shelf
}

// shelf is what is known of one node.
type shelf struct {
	stamp   // all changes up to here are in
	via     netip.Addr
	entries map[string]numbered
	// ahead are changes after a missing one; deleted their removals, so that what
	// they removed does not come back with the missing one.
	ahead   map[uint64]bool
	deleted map[string]uint64
	known   uint64    // the last number heard of
	missing time.Time // since when one is; zero: none is
	alive   bool
	died    time.Time // when it was seen to be gone, or first heard of
}

type numbered struct {
	Entry
	seq uint64
}

func newBook(self string) *book { return &book{self: self, nodes: map[string]*shelf{}} }

func newShelf(s stamp) *shelf {
	return &shelf{stamp: s, entries: map[string]numbered{}, ahead: map[uint64]bool{}, deleted: map[string]uint64{}}
}

// on finds a node's shelf for what was said in an epoch; nil if a later one was
// heard of.
func (b *book) on(node string, epoch uint64, now time.Time) *shelf {
	sh := b.nodes[node]
	switch {
	case sh == nil:
		sh = newShelf(stamp{Epoch: epoch})
		sh.died = now
	case sh.Epoch > epoch:
		return nil
	case sh.Epoch < epoch: // its daemon started anew: what it said before is void
		fresh := newShelf(stamp{Epoch: epoch})
		fresh.alive, fresh.died, fresh.via = sh.alive, sh.died, sh.via
		sh = fresh
	}
	b.nodes[node] = sh
	return sh
}

// apply takes a change in and tells whether it changed anything.
func (b *book) apply(d delta, now time.Time) bool {
	if d.Node == b.self || d.Node == "" || d.Seq == 0 {
		return false
	}
	sh := b.on(d.Node, d.Epoch, now)
	if sh == nil || d.Seq <= sh.Seq || sh.ahead[d.Seq] {
		return false
	}
	changed := false
	sh.known = max(sh.known, d.Seq)
	if d.Large {
		sh.missing = now.Add(-patience) // ask at once
		return false
	}
	if d.Via.IsValid() && d.Via != sh.via {
		sh.via, changed = d.Via, true
	}
	for _, e := range d.Put {
		if sh.deleted[e.ID] > d.Seq || sh.entries[e.ID].seq > d.Seq {
			continue
		}
		changed = changed || !sh.entries[e.ID].equal(e)
		sh.entries[e.ID] = numbered{e, d.Seq}
	}
	for _, id := range d.Del {
		if e, ok := sh.entries[id]; ok && e.seq < d.Seq {
			delete(sh.entries, id)
			changed = true
		}
		sh.deleted[id] = max(sh.deleted[id], d.Seq)
	}
	sh.ahead[d.Seq] = true
	sh.closeRanks(now)
	return changed
}

// closeRanks moves the stamp over changes that are in.
func (sh *shelf) closeRanks(now time.Time) {
	for sh.ahead[sh.Seq+1] {
		delete(sh.ahead, sh.Seq+1)
		sh.Seq++
	}
	switch {
	case sh.Seq >= sh.known:
		sh.missing = time.Time{}
		clear(sh.deleted)
	case sh.missing.IsZero():
		sh.missing = now
	}
}

// replace takes a node's whole list in. Changes after it that came already stay.
func (b *book) replace(l list, now time.Time) bool {
	if l.Node == b.self || l.Node == "" {
		return false
	}
	old := b.nodes[l.Node]
	sh := b.on(l.Node, l.Epoch, now)
	if sh == nil || (l.Seq < sh.Seq) || (sh == old && l.Seq == sh.Seq && sh.missing.IsZero()) {
		return false
	}
	changed := old != sh && old != nil && len(old.entries) > 0
	if l.Via.IsValid() && l.Via != sh.via {
		sh.via, changed = l.Via, true
	}
	said := map[string]bool{}
	for _, e := range l.Entries {
		said[e.ID] = true
		if have, ok := sh.entries[e.ID]; (ok && have.seq > l.Seq) || sh.deleted[e.ID] > l.Seq {
			continue
		} else if !ok || !have.equal(e) {
			changed = true
		}
		sh.entries[e.ID] = numbered{e, l.Seq}
	}
	for id, e := range sh.entries {
		if !said[id] && e.seq <= l.Seq {
			delete(sh.entries, id)
			changed = true
		}
	}
	sh.Seq = l.Seq
	for n := range sh.ahead {
		if n <= sh.Seq {
			delete(sh.ahead, n)
		}
	}
	sh.missing = time.Time{}
	sh.closeRanks(now)
	return changed
}

// heard compares with another node's digest: of whom it knows more.
func (b *book) heard(digest map[string]stamp) []string {
	var out []string
	for node, s := range digest {
		if node == b.self {
			continue
		}
		if sh := b.nodes[node]; sh == nil || sh.compare(s) < 0 {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// wanting are the nodes of which a change has been missing for too long, and
// when the next one will have been; zero if none will.
func (b *book) wanting(now time.Time) (nodes []string, next time.Time) {
	for node, sh := range b.nodes {
		if sh.missing.IsZero() {
			continue
		}
		if at := sh.missing.Add(patience); !at.After(now) {
			sh.missing = now // ask again, if no answer comes
			nodes = append(nodes, node)
		}
		if at := sh.missing.Add(patience); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	slices.Sort(nodes)
	return nodes, next
}

// mark notes that a node is there or gone.
func (b *book) mark(node string, alive bool, now time.Time) bool {
	sh := b.nodes[node]
	if sh == nil {
		if !alive {
			return false
		}
		sh = newShelf(stamp{})
		b.nodes[node] = sh
	}
	if sh.alive == alive {
		return false
	}
	sh.alive, sh.died = alive, now
	return true
}

// expire forgets nodes that have been gone for long, and tells when the next is due.
func (b *book) expire(now time.Time) (changed bool, next time.Time) {
	for node, sh := range b.nodes {
		if sh.alive || node == b.self {
			continue
		}
		at := sh.died.Add(keepWay)
		if !at.After(now) {
			delete(b.nodes, node)
			changed = changed || len(sh.entries) > 0
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return changed, next
}

// lists are the lists to send to one who joins: of nodes that are there. Of others
// nobody tells, or word of the dead would go round for ever.
func (b *book) lists(only func(node string) bool) []list {
	var out []list
	for _, node := range slices.Sorted(maps.Keys(b.nodes)) {
		sh := b.nodes[node]
		if !sh.alive || sh.Epoch == 0 || !only(node) {
			continue
		}
		l := list{Node: node, stamp: sh.stamp, Via: sh.via}
		for _, id := range slices.Sorted(maps.Keys(sh.entries)) {
			if e := sh.entries[id]; e.seq <= sh.Seq { // later ones are not the list's yet
				l.Entries = append(l.Entries, e.Entry)
			}
		}
		out = append(out, l)
	}
	return out
}

func (b *book) digest() map[string]stamp {
	out := map[string]stamp{}
	for node, sh := range b.nodes {
		if sh.alive && sh.Epoch != 0 {
			out[node] = sh.stamp
		}
	}
	return out
}

// all is everything, sorted. Where two entries have one address of a network, the
// one that is live goes first, then the healthy one, then the newer daemon's.
func (b *book) all() []Located {
	var out []Located
	for node, sh := range b.nodes {
		for _, e := range sh.entries {
			out = append(out, Located{Entry: e.Entry, Node: node, Via: sh.via, Live: sh.alive})
		}
	}
	rank := func(l Located) int {
		r := 0
		if !l.Live {
			r += 2
		}
		if !l.Healthy {
			r++
		}
		return r
	}
	slices.SortFunc(out, func(a, c Located) int {
		return cmp.Or(cmp.Compare(a.Network, c.Network), a.Addr.Compare(c.Addr), cmp.Compare(rank(a), rank(c)), cmp.Compare(a.ID, c.ID), cmp.Compare(a.Node, c.Node))
	})
	return out
}
