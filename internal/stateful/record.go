package stateful

import "slices"

// Record is what the store holds of a set. It is changed by compare-and-swap only.
type Record struct {
	// Epoch grows with every leader.
	Epoch uint64
	// Leader is the member that leads in Epoch; empty after it gave the set back.
	Leader string
	// Node and Term say under which lease it leads.
	Node string
	Term uint64
	// Last is the member that led in Epoch, also after it gave the set back.
	Last string
	// Sync says where every acknowledged row is.
	Sync Sync
}

// Sync says where the acknowledged rows of a set are, beside its last leader: of
// any Need of the Members, the one that is furthest has all of them. Where Need is
// more than there are Members nobody but the last leader has.
type Sync struct {
	Members []string
	Need    int
}

// Ack is when a leader may acknowledge a commit: as soon as any Count of the
// Members have it on disk.
type Ack struct {
	Members []string
	Count   int
}

// Covers says whether rows that are acknowledged by a are where s says: any Count
// of a.Members and any Need of s.Members have a member in common.
func (s Sync) Covers(a Ack) bool {
	if s.Need > len(s.Members) || a.Count > len(a.Members) {
		return true // nobody is promoted, or nothing acknowledged
	}
	onlyA, onlyS, both := 0, 0, 0
	for _, m := range a.Members {
		if slices.Contains(s.Members, m) {
			both++
		} else {
			onlyA++
		}
	}
	onlyS = len(s.Members) - both
	// The most that the two can do to avoid each other is to take their own first.
	return max(a.Count-onlyA, 0)+max(s.Need-onlyS, 0) > both
}

// SyncFor is the record for what a acknowledges, once every row acknowledged
// before is on all of a.Members: the smallest Need that covers a.
func SyncFor(a Ack) Sync {
	if a.Count == 0 {
		return Sync{Need: 1}
	}
	return Sync{Members: slices.Clone(a.Members), Need: len(a.Members) - a.Count + 1}
}

// Step is the next thing a leader does to come from the acknowledgements it asks
// for now to those it wants. Exactly one of the fields is set, or none when it is
// there.
type Step struct {
	Record *Sync // write this to the record
	Ack    *Ack  // ask for this from now on
	Wait   bool  // until the wanted members have all that was written so far
}

// NextStep keeps the record true at every moment of a change: it is widened
// before the leader asks for less or for others, and narrowed after the members
// it then names have everything. caughtUp says that all of want.Members have on
// disk what the leader had written when it began to ask for want.
func NextStep(record Sync, now, want Ack, caughtUp bool) Step {
	if !sameAck(now, want) {
		if record.Covers(want) {
			return Step{Ack: &want}
		}
		wide := SyncFor(want)
		if want.Count > 0 {
			// All that ever acknowledged are asked, so that nothing can be missed.
			all := union(record.Members, want.Members)
			wide = Sync{Members: all, Need: len(all)}
		}
		return Step{Record: &wide}
	}
	final := SyncFor(want)
	switch {
	case sameSync(record, final):
		return Step{}
	case want.Count > 0 && !caughtUp:
		return Step{Wait: true}
	}
	return Step{Record: &final}
}

func union(a, b []string) []string {
	u := slices.Concat(a, b)
	slices.Sort(u)
	return slices.Compact(u)
}

func sameMembers(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(m string) bool { return !slices.Contains(b, m) })
}

func sameAck(a, b Ack) bool   { return a.Count == b.Count && sameMembers(a.Members, b.Members) }
func sameSync(a, b Sync) bool { return a.Need == b.Need && sameMembers(a.Members, b.Members) }
