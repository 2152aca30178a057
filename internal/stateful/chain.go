package stateful

import "slices"

// Link is where one epoch begins in a member's log. The database's own timelines
// are numbered by each member for itself: two leaders that knew nothing of each
// other may both begin timeline 2. Epochs are one for all.
type Link struct {
	Epoch    uint64
	Timeline uint64 // the database's name for it
	Start    uint64 // the LSN from which on the epoch's leader wrote
}

// Chain is the history of a log, oldest first.
type Chain []Link

// chainLimit bounds how much of it is kept: who was away for longer is cloned.
const chainLimit = 64

// Position is what the chain says of a log that ends at lsn, in the database's
// timeline.
func (c Chain) Position(timeline, lsn uint64) Position {
	p := Position{LSN: lsn}
	for _, l := range c {
		if l.Timeline <= timeline && l.Start <= lsn {
			p.Timeline = l.Epoch
		}
	}
	return p
}

// Leads says whether a log that ends at p is a beginning of the one whose history
// c is, so that its owner can follow without losing anything.
func (c Chain) Leads(p Position) bool {
	i := slices.IndexFunc(c, func(l Link) bool { return l.Epoch == p.Timeline })
	if i < 0 {
		return false
	}
	return i == len(c)-1 || p.LSN <= c[i+1].Start
}

// With is the chain after its owner became leader. What it followed and never received
// is no part of it: others would take the log to have it.
func (c Chain) With(l Link) Chain {
	has := slices.DeleteFunc(slices.Clone(c), func(k Link) bool { return k.Start > l.Start || k.Timeline >= l.Timeline })
	next := append(has, l)
	return next[max(len(next)-chainLimit, 0):]
}

// Epoch is the last one; 0 for an empty chain.
func (c Chain) Epoch() uint64 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].Epoch
}
