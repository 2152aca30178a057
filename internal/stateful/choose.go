package stateful

import (
	"cmp"
	"slices"
	"strings"
)

// Position is how far a member's history goes: the timeline of its end, and how
// many bytes of log. A later timeline is further, whatever its length.
type Position struct {
	Timeline uint64
	LSN      uint64
}

// Compare orders positions as cmp.Compare does.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.LSN, q.LSN))
}

// Report is what a member says when it is asked to promise.
type Report struct {
	Member string
	// Promised is the epoch below which it takes nothing from a leader any more,
	// and leads no more itself. It is on its disk before the report is sent.
	Promised uint64
	Position Position
	// Node and Term are of the lease its node holds.
	Node string
	Term uint64
	// Unfit is why the member cannot lead ("no-failover", "disk full"); empty for
	// one that can.
	Unfit string
	// Priority orders members that are equally far; the greater first.
	Priority int
}

// Choice is the outcome of Choose.
type Choice struct {
	Leader Report
	// Record is the set's next one.
	Record Record
	// Ack is what the new leader asks for first.
	Ack Ack
	// Wait says, when there is no leader yet, for what. It is for people.
	Wait string
}

// Choose finds the next leader of a set whose leader has gone: given back, or
// under a lease that is Over. sync says whether rows are acknowledged by others
// than the leader; where not, the furthest member that reports is taken, and what
// only the old leader had is lost. prefer names the member a user asked for.
func Choose(r Record, reports []Report, sync bool, prefer string) Choice {
	epoch := r.Epoch + 1
	var promised []Report
	for _, p := range reports {
		if p.Promised == epoch {
			promised = append(promised, p)
		}
	}
	if wait := enough(r, promised, sync); wait != "" {
		return Choice{Wait: wait}
	}
	byPosition := func(a, b Report) int { return a.Position.Compare(b.Position) }
	furthest := slices.MaxFunc(promised, byPosition)
	fit := slices.DeleteFunc(slices.Clone(promised), func(p Report) bool { return p.Unfit != "" })
	if !sync && len(fit) > 0 {
		furthest = slices.MaxFunc(fit, byPosition)
	}
	fit = slices.DeleteFunc(fit, func(p Report) bool { return p.Position != furthest.Position })
	if len(fit) == 0 {
		return Choice{Wait: furthest.Member + ", which is furthest, cannot lead: " + furthest.Unfit}
	}
	best := slices.MaxFunc(fit, func(a, b Report) int {
		return cmp.Or(
			cmp.Compare(rank(a.Member == prefer), rank(b.Member == prefer)),
			cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(b.Member, a.Member),
		)
	})
	next := Record{Epoch: epoch, Leader: best.Member, Last: best.Member, Node: best.Node, Term: best.Term}
	var ack Ack
	if sync {
		// All that may have rows are asked the next time, until the new leader knows
		// better; it acknowledges by any one of them.
		others := union(r.Sync.Members, []string{r.Last})
		others = slices.DeleteFunc(others, func(m string) bool { return m == "" || m == best.Member })
		next.Sync = Sync{Members: others, Need: max(len(others), 1)}
		ack = FirstAck(next)
	}
	return Choice{Leader: best, Record: next, Ack: ack}
}

// FirstAck is what a new leader of r asks for until it knows who follows it.
func FirstAck(r Record) Ack { return Ack{Members: r.Sync.Members, Count: 1} }

// enough says what is missing before the reports are sure to hold every
// acknowledged row; "" when nothing is.
func enough(r Record, promised []Report, sync bool) string {
	has := func(m string) bool {
		return slices.ContainsFunc(promised, func(p Report) bool { return p.Member == m })
	}
	if len(promised) == 0 {
		return "no member has answered"
	}
	if !sync || r.Last == "" || has(r.Last) {
		return ""
	}
	heard := 0
	var missing []string
	for _, m := range r.Sync.Members {
		if has(m) {
			heard++
		} else {
			missing = append(missing, m)
		}
	}
	if heard >= r.Sync.Need {
		return ""
	}
	if r.Sync.Need > len(r.Sync.Members) {
		return r.Last + " alone has all rows"
	}
	slices.Sort(missing)
	return "rows may be on " + strings.Join(missing, ", ") + " or on " + r.Last + " alone"
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}
