package stateful

import (
	"context"
	"time"
)

// Phase is what a member's server does.
type Phase string

// The phases. Only a Leading one takes writes.
const (
	Empty     Phase = "empty"     // it has no data
	Starting  Phase = "starting"  // it reads its log
	Resting   Phase = "resting"   // it reads nobody's log
	Cloning   Phase = "cloning"   // it fetches a copy
	Following Phase = "following" // it reads the leader's log
	Promoting Phase = "promoting"
	Leading   Phase = "leading"
	Stopped   Phase = "stopped"
)

// State is what a member says of itself.
type State struct {
	Member   string
	Identity string // what it is, or would be, in records
	Empty    bool   // it has no data
	Promised uint64
	Phase    Phase
	Epoch    uint64 // that it leads or follows in
	// Lost is the last epoch that it led and does not lead any more: its server
	// ended, or it was told to stop.
	Lost     uint64
	Position Position // as last looked at; exact in the answer to a promise
	Chain    Chain
	// Of a leader:
	Ack      Ack
	InForce  bool // every process of the server goes by Ack
	CaughtUp bool // all of Ack.Members have what was written when Ack came in force
	Streams  []Stream
	Problem  string
	// Unfit is why the member cannot lead; empty for one that can.
	Unfit string
}

// Stream is a follower as its leader sees it.
type Stream struct {
	Identity string
	Lag      uint64 // bytes that it does not have on disk
}

// Helper is the process in a member's container that holds its server. Its calls
// may be repeated. What a call says of an older epoch than was promised is refused.
type Helper interface {
	State(ctx context.Context) (State, error)
	// Promise returns when nothing of an older epoch reaches the member's disk any
	// more; the state's position is then where its log ends.
	Promise(ctx context.Context, epoch uint64) (State, error)
	// Lead makes the member leader until the given moment of its machine's clock, at
	// which it has stopped whatever anybody says. It returns before it leads.
	Lead(ctx context.Context, o Lead) error
	// Extend moves that moment, for the leader of the epoch. It waits for nothing.
	Extend(ctx context.Context, epoch uint64, until, stop time.Time) error
	// Follow has it read the log of a leader.
	Follow(ctx context.Context, f Follow) error
	// Acknowledge changes whom a leader asks.
	Acknowledge(ctx context.Context, epoch uint64, a Ack) error
	// Hold has a follower promise no newer epoch for a while; what it holds for is what
	// it follows.
	Hold(ctx context.Context, h Hold) error
	// Discard throws the data of a member away that does not lead. It is another member
	// then, and clones the leader's.
	Discard(ctx context.Context, epoch uint64) error
	// StepDown ends a leader. Clean waits until its followers have everything.
	StepDown(ctx context.Context, epoch uint64, clean bool) (State, error)
}

// Lead is what a member needs to lead.
type Lead struct {
	Epoch  uint64
	Until  time.Time
	Stop   time.Time // when stopping begins: Until less the margin
	Ack    Ack       // taken where it begins to lead
	Peers  []string  // names of the members that may follow
	Secret string
	// First allows an empty member to make a new database.
	First bool
}

// Follow is what a member needs to follow.
type Follow struct {
	Epoch      uint64
	Host       string
	Port       int
	Chain      Chain // the leader's
	Secret     string
	MayDiscard bool // what it has beyond the leader's history may be thrown away
}
