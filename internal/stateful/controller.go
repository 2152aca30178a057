package stateful

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// NodeLease is a node's lease and where the node is asked.
type NodeLease struct {
	Lease
	Addr string
}

// Store holds the records. All changes are by compare-and-swap: they fail where
// what they would change is not what the snapshot said.
type Store interface {
	Snapshot(ctx context.Context) (Snapshot, error)
	// SwapSet changes a set; version is the snapshot's.
	SwapSet(ctx context.Context, key string, s Set, version uint64) error
	// Revoke ends a term of a node's lease, unless it was renewed since.
	Revoke(ctx context.Context, node string, version uint64) error
}

// Snapshot is what the store held at one moment.
type Snapshot struct {
	Sets     map[string]Versioned[Set]
	Leases   map[string]Versioned[NodeLease] // by node
	NotReady map[string]bool                 // nodes that are down, or gone
}

// Versioned is a value and the version to change it by.
type Versioned[T any] struct {
	Value   T
	Version uint64
}

// Nodes is the way to the agents of other nodes.
type Nodes interface {
	// Promise asks a member on a node for its promise.
	Promise(ctx context.Context, n NodeAddr, member string, epoch uint64) (State, error)
	// Poke has a node renew at once.
	Poke(ctx context.Context, n NodeAddr)
}

// NodeAddr is a node and where it is reached.
type NodeAddr struct{ ID, Addr string }

// ControllerDeps are the parts a Controller works with; all are required.
type ControllerDeps struct {
	Clock clock.Clock
	Log   *slog.Logger
	Store Store
	Nodes Nodes
	Terms Terms
	// Observer has seen leases before this controller began, if it is not nil: with one
	// that has not, a lost leader is waited for a whole TTL from now.
	Observer *Observer
	// Now is the clock that leases of others are judged by: it is never set.
	Now func() time.Time
}

// Controller replaces leaders. Several at once do no harm.
type Controller struct {
	d    ControllerDeps
	obs  *Observer
	poke chan struct{}
	// began is when it looked first; it belongs to Step.
	began time.Time

	mu      sync.Mutex      // guards what follows; never held across I/O
	leads   map[string]bool // nodes with a leader
	waits   map[string]string
	ongoing map[string]bool
	wg      sync.WaitGroup
}

// NewController returns a controller that has seen nothing.
func NewController(d ControllerDeps) *Controller {
	obs := d.Observer
	if obs == nil {
		obs = NewObserver(d.Terms)
	}
	return &Controller{d: d, obs: obs, poke: make(chan struct{}, 1), waits: map[string]string{}, ongoing: map[string]bool{}}
}

// Timing of a Controller.
const (
	watchEvery   = 500 * time.Millisecond
	promiseLimit = 15 * time.Second
	// graceFor is how long nodes have to renew with a controller that has just begun:
	// there was no raft leader before it to renew with.
	graceFor = time.Second
	// settleFor is how long more answers are waited for once enough have come, where
	// a better leader might be among them.
	settleFor = time.Second
)

// Poke has it look at once.
func (c *Controller) Poke() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	defer c.wg.Wait()
	t := c.d.Clock.NewTimer(watchEvery)
	defer t.Stop()
	failing := false
	for {
		err := c.Step(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			c.d.Log.Warn("sets not looked after", logkey.Err, err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-c.poke:
		case <-t.C():
		}
		t.Reset(c.next())
	}
}

// next is when there may be something to do that nobody pokes for.
func (c *Controller) next() time.Duration {
	c.mu.Lock()
	leads := c.leads
	c.mu.Unlock()
	wait, now := watchEvery, c.d.Now()
	for node := range leads {
		if left, ok := c.obs.left(node, now); ok && left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}

// Watch notes all leases as they are now, for a controller that begins later.
func Watch(ctx context.Context, st Store, o *Observer, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	snap, err := st.Snapshot(ctx)
	if err != nil {
		return err
	}
	o.seeAll(snap, now())
	return nil
}

func (o *Observer) seeAll(snap Snapshot, now time.Time) {
	for node, l := range snap.Leases {
		o.See(node, l.Value.Lease, now)
	}
}

// Wait says what a set waits for that has no leader; "" if nothing.
func (c *Controller) Wait(set string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waits[set]
}

func (c *Controller) setWait(set, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits[set] = why
}

// Step looks at everything once and begins what is to be done.
func (c *Controller) Step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	snap, err := c.d.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	now := c.d.Now()
	c.obs.seeAll(snap, now)
	leads := map[string]bool{}
	for _, s := range snap.Sets {
		if r := s.Value.Record; r.Leader != "" {
			leads[r.Node] = true
		}
	}
	c.mu.Lock()
	c.leads = leads
	c.mu.Unlock()
	if c.began.IsZero() {
		c.began = now
		for node := range leads {
			if addr := snap.Leases[node].Value.Addr; addr != "" {
				c.d.Nodes.Poke(ctx, NodeAddr{node, addr})
			}
		}
	}
	for name, s := range snap.Sets {
		switch Judge(s.Value, snap.Leases[s.Value.Record.Node].Value.Lease, c.obs.Expired(s.Value.Record.Node, now)) {
		case Revoking:
			node := s.Value.Record.Node
			if now.Sub(c.began) < graceFor {
				continue
			}
			// What was seen may be older than the snapshot: the version is of the turn seen.
			if seen, ok := c.obs.Seen(node); !ok || seen != snap.Leases[node].Value.Lease {
				continue
			}
			if err := c.d.Store.Revoke(ctx, node, snap.Leases[node].Version); err != nil {
				c.d.Log.Info("lease of a node not revoked: it may be back", logkey.Name, node, logkey.Err, err)
				continue
			}
			c.d.Log.Info("lease of a node revoked", logkey.Name, node)
			c.Poke()
		case Choosing:
			c.begin(ctx, name, s, snap)
		case Fine:
			c.setWait(name, "")
			if next := s.Value; next.giveUp(c.d.Clock.Now()) {
				if err := c.d.Store.SwapSet(ctx, name, next, s.Version); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Verdict is what a controller does about a set.
type Verdict int

// The verdicts.
const (
	Fine     Verdict = iota
	Revoking         // the leader's lease has run out: end its term
	Choosing         // there is no leader
)

// Judge finds it. expired says that the lease of the leader's node has run out by
// the controller's own clock.
func Judge(s Set, l Lease, expired bool) Verdict {
	r := s.Record
	switch {
	case s.Paused || len(s.Homes) == 0:
		return Fine
	case r.Leader == "" || l.Over(r.Term):
		return Choosing
	case expired:
		return Revoking
	}
	return Fine
}

// begin chooses a leader beside everything else; one choice of a set at a time.
func (c *Controller) begin(ctx context.Context, name string, s Versioned[Set], snap Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ongoing[name] {
		return
	}
	c.ongoing[name] = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), promiseLimit)
	c.wg.Go(func() {
		defer cancel()
		err := c.choose(ctx, name, s, snap)
		if err != nil {
			c.d.Log.Warn("no leader chosen", logkey.Name, name, logkey.Err, err)
		}
		c.mu.Lock()
		delete(c.ongoing, name)
		c.mu.Unlock()
	})
}

type answer struct {
	member string
	state  State
	err    error
}

// choose asks all members for their promises and makes the leader of whom the
// rules allow.
func (c *Controller) choose(ctx context.Context, key string, v Versioned[Set], snap Snapshot) error {
	s := v.Value
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	members := s.Members()
	answers := make(chan answer, len(members))
	for _, m := range members {
		addr := snap.Leases[s.Homes[m]].Value.Addr
		go func() {
			st, err := State{}, fmt.Errorf("its node has not been heard of")
			if addr != "" {
				st, err = c.d.Nodes.Promise(ctx, NodeAddr{s.Homes[m], addr}, m, s.Record.Epoch+1)
			}
			answers <- answer{m, st, err}
		}()
	}
	var got []State
	var settled <-chan time.Time
	for open := len(members); ; {
		ch := c.elect(s, got, snap, open == 0)
		if ch.Wait == "" && (open == 0 || settled == nil && enoughHeard(s, got, ch)) {
			return c.appoint(ctx, key, v, ch, snap)
		}
		if ch.Wait == "" && settled == nil {
			t := c.d.Clock.NewTimer(settleFor)
			defer t.Stop()
			settled = t.C()
		}
		if open == 0 {
			c.setWait(key, ch.Wait)
			return nil // the next look asks again
		}
		select {
		case a := <-answers:
			open--
			if a.err == nil {
				got = append(got, a.state)
			} else {
				c.d.Log.Debug("no promise", logkey.Name, a.member, logkey.Err, a.err)
			}
			c.setWait(key, ch.Wait)
		case <-settled:
			return c.appoint(ctx, key, v, ch, snap)
		case <-ctx.Done():
			c.setWait(key, ch.Wait)
			return nil
		}
	}
}

// enoughHeard says that no further answer could matter: in synchronous mode
// whoever is needed has answered, and so has who is preferred.
func enoughHeard(s Set, got []State, ch Choice) bool {
	if !s.Mode.Sync() || s.fresh() {
		return false
	}
	if to := wish(s); to != "" {
		return MemberOf(ch.Leader.Member) == to
	}
	return true
}

// wish is the member that somebody asked for.
func wish(s Set) string {
	if s.Switch != nil && s.Switch.Epoch == s.Record.Epoch {
		return s.Switch.To
	}
	return ""
}

// elect is Choose over what members said. all says that no more answers come.
func (c *Controller) elect(s Set, got []State, snap Snapshot, all bool) Choice {
	if s.fresh() && len(got) < len(s.Homes) {
		// A set over volumes that already hold data: nobody knows yet whose is best.
		return Choice{Wait: "the first leader is chosen when all members have answered"}
	}
	if s.fresh() {
		s.Record.Last = "" // it led nothing
	}
	return Choose(s.Record, Reports(s, got, snap.Leases), s.Mode.Sync(), preferred(s, got))
}

func preferred(s Set, got []State) string {
	for _, st := range got {
		if st.Member == wish(s) {
			return st.Identity
		}
	}
	return ""
}

// Reports is what members said in the form that Choose takes. A member without
// data counts for the first leader only.
func Reports(s Set, got []State, leases map[string]Versioned[NodeLease]) []Report {
	var out []Report
	for _, st := range got {
		if st.Empty && !s.fresh() {
			continue
		}
		node := s.Homes[st.Member]
		r := Report{Member: st.Identity, Promised: st.Promised, Position: st.Position, Node: node, Term: leases[node].Value.Term, Unfit: st.Unfit}
		if leases[node].Value.Revoked {
			r.Unfit = "its node is coming back"
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Report) int { return byNumber(a.Member, b.Member) })
	return out
}

// appoint writes the choice down, which is what makes the leader.
func (c *Controller) appoint(ctx context.Context, key string, v Versioned[Set], ch Choice, snap Snapshot) error {
	s := v.Value
	from := s.Record.Last
	s.Record = ch.Record
	s.Switch = nil
	what := ch.Leader.Member + " leads"
	if from != "" {
		what += " after " + from
	}
	s.Note(c.d.Clock.Now(), what)
	if err := c.d.Store.SwapSet(ctx, key, s, v.Version); err != nil {
		return err
	}
	c.setWait(key, "")
	c.d.Log.Info("leader chosen", logkey.Name, s.Name, logkey.To, ch.Leader.Member, logkey.From, from)
	for _, node := range s.Homes {
		if addr := snap.Leases[node].Value.Addr; addr != "" {
			c.d.Nodes.Poke(ctx, NodeAddr{node, addr})
		}
	}
	return nil
}
