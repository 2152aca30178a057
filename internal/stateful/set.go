package stateful

import (
	"slices"
	"strings"
	"time"
)

// Mode says when a leader acknowledges a commit.
type Mode string

// The modes, see docs/design/stateful.md.
const (
	ModeOn     Mode = "on"     // by a follower; alone where there is none
	ModeOff    Mode = "off"    // alone
	ModeStrict Mode = "strict" // by a follower, or not at all
)

// Sync says whether rows may be acknowledged by others than the leader.
func (m Mode) Sync() bool { return m != ModeOff }

// Set is what the store holds of a set: its record, and what goes with it. It is
// changed by compare-and-swap only.
type Set struct {
	Name string // the service's
	Mode Mode
	Port int // where members listen, on their nodes
	// ByName says that members are on a network on which they find each other by name.
	ByName bool `json:",omitempty"`
	Record Record
	// Turn grows with every change of Record.Sync by the leader, so that a late one
	// is told from a new one.
	Turn uint64
	// Chain is the leader's history; its last epoch is the record's once the leader
	// takes writes.
	Chain Chain
	// Homes are the nodes that hold the members' volumes, by member. They are chosen
	// once.
	Homes map[string]string
	// Secret is what members tell each other.
	Secret string
	Paused bool
	// Switch is a planned change of the leader that somebody asked for.
	Switch *Switch
	Events []Event
}

// Switch is a wish for another leader.
type Switch struct {
	To    string // a member's name; empty: whoever is best
	Epoch uint64 // that it ends
	// Until is when it is given up, if the leader has not begun to step down; zero: never.
	Until time.Time
}

// SwitchFor is how long a wish is kept.
const SwitchFor = time.Minute

// giveUp drops a wish that did not come true in time: a leader that changes an hour
// later, when nobody looks any more, is no service. It says whether there was one.
func (s *Set) giveUp(now time.Time) bool {
	w := s.Switch
	if w == nil || s.Record.Leader == "" || w.Until.IsZero() || now.Before(w.Until) {
		return false
	}
	s.Switch = nil
	s.Note(now, "the switchover did not happen in time and is given up")
	return true
}

// Event is a moment in a set's life, for people.
type Event struct {
	Time  time.Time
	Epoch uint64
	What  string
}

const eventLimit = 100

// Note adds an event.
func (s *Set) Note(now time.Time, what string) {
	s.Events = append(slices.Clone(s.Events), Event{Time: now, Epoch: s.Record.Epoch, What: what})
	s.Events = s.Events[max(len(s.Events)-eventLimit, 0):]
}

// fresh says that no leader has taken writes yet: before that is known nobody is asked
// for acknowledgements, and so nothing is acknowledged.
func (s *Set) fresh() bool { return len(s.Chain) == 0 }

// Members are the members' names, in order.
func (s *Set) Members() []string {
	var out []string
	for m := range s.Homes {
		out = append(out, m)
	}
	slices.SortFunc(out, byNumber)
	return out
}

// byNumber orders db-2 before db-10.
func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// A member's identity is its name and a mark of its data: data that was lost, or
// changed by anything but following, makes another member of it. What the old one
// had acknowledged the new one need not have.

// Identity makes one.
func Identity(member, mark string) string { return member + "." + mark }

// MemberOf is the member's name in an identity.
func MemberOf(identity string) string {
	name, _, _ := strings.Cut(identity, ".")
	return name
}
