package stateful

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
)

// The simulator: three nodes with the agent, the observer and the rules that run, over
// a store, a network, disks and database servers that are made up. Unlike the models it
// has time, drift, silence and failsafe, and goes deep instead of everywhere: each seed
// is one history of minutes. HF_SIM_SEED does one again, HF_SIM_HISTORIES more than usual.

const (
	simNodes = 3
	simKey   = "set"
)

var simTerms = Terms{TTL: 5 * time.Second, Margin: time.Second, Drift: 1000}

// simRow is one committed row in a log.
type simRow struct {
	id       int
	timeline uint64
}

// simHelper is a member: what docs/design/stateful.md says of helpers, over a log.
type simHelper struct {
	n *simNode
	// On disk.
	promised, led, heldEpoch, timeline uint64
	chain                              Chain
	whole                              bool
	mark                               int
	log                                []simRow
	// Lost with the container.
	phase     Phase
	epoch     uint64
	lease     Lead // Epoch 0: none
	ack       Ack
	goal      int // entries when it began to ask for ack; -1: not known yet
	match     map[string]int
	upstream  *Follow
	holdUntil time.Time
	ready     time.Time // when what is under way is done: a start, a clone, a promotion
	frozen    bool      // the container
	thawed    []func()  // what was sent to it meanwhile
}

type simNode struct {
	s       *sim
	i       int
	rate    float64
	agent   *Agent
	obs     *Observer
	h       *simHelper
	term    uint64
	cut     bool
	frozen  bool
	renew   time.Time
	control time.Time
	busy    bool // an agent's step is under way
}

type sim struct {
	r        *rand.Rand
	now      time.Time
	nodes    [simNodes]*simNode
	set      Versioned[Set]
	leases   map[string]Versioned[NodeLease]
	electing time.Time // the managers have no leader until then
	depth    int
	acked    map[int]bool
	rows     int
	marks    int
	lost     bool // a disk was
	reigns   map[uint64]string
	newest   uint64       // the last of them that was not replaced when it began
	has      map[int]bool // what its leader had then
	said     []string
	wrong    string
}

var errSim = errors.New("no answer")

// died ends what a daemon was doing that was killed.
type died struct{}

func (s *sim) say(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf("%7.3f ", s.now.Sub(time.Unix(0, 0)).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.wrong == "" {
		s.wrong = fmt.Sprintf(format, args...)
		s.say("WRONG: %s", s.wrong)
	}
}

func (n *simNode) id() string     { return "n" + strconv.Itoa(n.i+1) }
func (n *simNode) member() string { return "db-" + strconv.Itoa(n.i+1) }

// clock is the node's own.
func (n *simNode) clock() time.Time {
	return time.Unix(1000*int64(n.i+1), int64(float64(n.s.now.Sub(time.Unix(0, 0)))*n.rate))
}

func newSim(seed uint64, mode Mode) *sim {
	s := &sim{
		r: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(0, 0), leases: map[string]Versioned[NodeLease]{}, acked: map[int]bool{}, reigns: map[uint64]string{}, //nolint:gosec // it is to be repeatable
		set: Versioned[Set]{Value: Set{Name: "db", Mode: mode, Port: 5432, Secret: "x", Homes: map[string]string{}}},
	}
	for i := range s.nodes {
		n := &simNode{s: s, i: i, rate: 1 + (s.r.Float64()*2-1)*0.001, obs: NewObserver(simTerms)}
		n.h = &simHelper{n: n, phase: Empty, mark: s.newMark()}
		n.boot()
		s.nodes[i] = n
		s.set.Value.Homes[n.member()] = n.id()
	}
	return s
}

func (s *sim) newMark() int { s.marks++; return s.marks }

// boot starts the node's daemon.
func (n *simNode) boot() {
	m := &simManagers{n: n}
	n.agent = NewAgent(AgentDeps{
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Managers: m, Terms: simTerms, Now: n.clock,
		Go: func(f func()) { f() }, Stand: func(string, string, Part) {}, SaveTerm: func(t uint64) error { n.term = t; return nil },
	})
	m.a = n.agent
	if n.term > 0 {
		n.agent.holder.Rejoined(n.term)
		n.agent.joined = true
	}
	n.agent.keep([]Local{n.local()})
	n.obs, n.busy = NewObserver(simTerms), false
}

func (n *simNode) local() Local {
	return Local{Set: simKey, Member: n.member(), Helper: simCaller{n.agent, n, n.h}}
}

// pass lets other things happen while a call is under way, for the agent that makes it.
func (s *sim) pass(n *simNode, a *Agent) {
	if s.depth < 3 && s.r.IntN(3) == 0 {
		s.depth++
		s.run(time.Duration(s.r.IntN(400)) * time.Millisecond)
		s.depth--
	}
	for n.frozen && n.agent == a && s.depth < 8 {
		s.depth++
		s.run(100 * time.Millisecond)
		s.depth--
	}
	if n.agent != a || n.frozen {
		panic(died{})
	}
}

// do runs what an agent does, to its end or that of its daemon.
func (s *sim) do(f func()) {
	depth := s.depth
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
			s.depth = depth
		}
	}()
	f()
}

// run lets time pass, in steps.
func (s *sim) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end) && s.wrong == ""; {
		s.now = s.now.Add(50 * time.Millisecond)
		for _, i := range s.r.Perm(simNodes) {
			s.turn(s.nodes[i])
		}
		s.judge()
	}
}

// turn is what a node does in a moment, in any order.
func (s *sim) turn(n *simNode) {
	if n.frozen {
		return
	}
	h := n.h
	for _, what := range s.r.Perm(5) {
		switch what {
		case 0:
			h.watch()
		case 1:
			h.work()
		case 2:
			if !h.frozen && h.phase == Leading && s.r.IntN(3) == 0 {
				s.rows++
				h.log = append(h.log, simRow{s.rows, h.timeline})
			}
			h.acknowledge()
		case 3:
			if !n.busy && s.r.IntN(2) == 0 {
				s.do(func() {
					n.busy = true
					a := n.agent
					a.step(context.Background(), n.local())
					for set, epoch := range a.silent() {
						s.say("%s gives epoch %d back: silent", n.member(), epoch)
						_ = a.release(context.Background(), set, epoch, "") // said again
					}
					n.busy = false
				})
				if s.depth == 0 {
					n.busy = false
				}
			}
			if a := n.agent; a.hosts() && !s.now.Before(n.renew) {
				n.renew = s.now.Add(time.Second)
				s.do(func() { _ = a.Renew(context.Background()) }) // tried again
			}
		case 4:
			if !s.now.Before(n.control) {
				n.control = s.now.Add(time.Duration(300+s.r.IntN(1000)) * time.Millisecond)
				s.do(func() { n.controls(n.agent) })
			}
		}
	}
}

// reaches says whether a node hears a manager.
func (n *simNode) reaches() bool { return !n.cut && !n.s.now.Before(n.s.electing) }

// controls is a controller's look. Any node may have one, and old news.
func (n *simNode) controls(a *Agent) {
	s := n.s
	if !n.reaches() {
		return
	}
	v, leases := s.set, maps.Clone(s.leases)
	s.pass(n, a)
	for node, l := range leases {
		n.obs.See(node, l.Value.Lease, n.clock())
	}
	node := v.Value.Record.Node
	switch Judge(v.Value, leases[node].Value.Lease, n.obs.Expired(node, n.clock())) {
	case Revoking:
		if seen, ok := n.obs.Seen(node); ok && seen == leases[node].Value.Lease && n.reaches() && s.leases[node].Version == leases[node].Version {
			s.swapLease(node, seen.Revoke())
			s.say("%s revokes the lease of %s", n.id(), node)
		}
	case Choosing:
		n.elects(a, v, leases)
	case Fine:
	}
}

func (n *simNode) elects(a *Agent, v Versioned[Set], leases map[string]Versioned[NodeLease]) {
	s := n.s
	c := NewController(ControllerDeps{Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Terms: simTerms, Now: n.clock})
	var got []State
	for _, i := range s.r.Perm(simNodes) {
		to := s.nodes[i]
		s.pass(n, a)
		if to != n && (n.cut || to.cut) || to.frozen || leases[to.id()].Value.Addr == "" {
			continue
		}
		if st, err := (simCaller{nil, to, to.h}).Promise(context.Background(), v.Value.Record.Epoch+1); err == nil {
			got = append(got, st)
		}
		s.pass(n, a)
		ch := c.elect(v.Value, got, Snapshot{Leases: leases}, false)
		if ch.Wait != "" || !n.reaches() || s.set.Version != v.Version {
			continue
		}
		s.say("%s chooses %s for epoch %d, over %+v", n.id(), ch.Leader.Member, ch.Record.Epoch, v.Value.Record.Sync)
		next := v.Value
		next.Record, next.Switch = ch.Record, nil
		s.set = Versioned[Set]{next, s.set.Version + 1}
		return
	}
}

func (s *sim) swapLease(node string, l Lease) {
	s.leases[node] = Versioned[NodeLease]{NodeLease{l, "a" + node}, s.leases[node].Version + 1}
}

// simManagers is the way of an agent to the store. A call may be lost on its way there,
// or its answer on the way back.
type simManagers struct {
	n *simNode
	a *Agent
}

func (m *simManagers) call(f func()) error {
	s := m.n.s
	s.pass(m.n, m.a)
	if !m.n.reaches() || s.r.IntN(50) == 0 {
		return errSim
	}
	f()
	s.pass(m.n, m.a)
	if !m.n.reaches() || s.r.IntN(50) == 0 {
		return errSim
	}
	return nil
}

func (m *simManagers) Rejoin(context.Context) (term uint64, err error) {
	id := m.n.id()
	err = m.call(func() {
		l := m.n.s.leases[id].Value.Rejoin()
		m.n.s.swapLease(id, l)
		term = l.Term
	})
	return term, err
}

func (m *simManagers) Renew(_ context.Context, term uint64) (r Renewal, err error) {
	s, id := m.n.s, m.n.id()
	err = m.call(func() {
		l, ok := s.leases[id].Value.Renew(term)
		if !ok {
			r.Over = true
			return
		}
		s.swapLease(id, l)
	})
	if err != nil || r.Over {
		return r, err
	}
	err = m.call(func() {
		v := View{Set: s.set.Value, Addrs: map[string]string{}}
		for member, home := range v.Homes {
			v.Addrs[member] = "a" + home
		}
		r.Views = map[string]View{simKey: v}
		r.Grants = Grants(id, term, map[string]Record{simKey: v.Record})
	})
	return r, err
}

// change is a change of the set by who leads it.
func (m *simManagers) change(epoch uint64, f func(*Set) bool) error {
	return m.call(func() {
		next := m.n.s.set.Value
		if r := next.Record; r.Leader != "" && r.Epoch == epoch && r.Node == m.n.id() && f(&next) {
			m.n.s.set = Versioned[Set]{next, m.n.s.set.Version + 1}
		}
	})
}

func (m *simManagers) Release(_ context.Context, _ string, epoch uint64, to string) error {
	return m.change(epoch, func(v *Set) bool {
		v.Record.Leader, v.Switch = "", nil
		if to != "" {
			v.Switch = &Switch{To: to, Epoch: epoch}
		}
		m.n.s.say("epoch %d is given back by %s", epoch, m.n.id())
		return true
	})
}

func (m *simManagers) Began(_ context.Context, _ string, epoch uint64, c Chain) error {
	return m.change(epoch, func(v *Set) bool { v.Chain = c; return true })
}

func (m *simManagers) Record(_ context.Context, _ string, epoch, turn uint64, sync Sync) error {
	return m.change(epoch, func(v *Set) bool {
		if v.Turn != turn {
			return false
		}
		m.n.s.say("%s records %+v in epoch %d", m.n.id(), sync, epoch)
		v.Record.Sync = sync
		v.Turn++
		return true
	})
}

func (m *simManagers) AskHold(ctx context.Context, to NodeAddr, set string, h Hold) error {
	s := m.n.s
	s.pass(m.n, m.a)
	for _, n := range s.nodes {
		if n.id() != to.ID || m.n.cut || n.cut || n.frozen {
			continue
		}
		if !n.agent.Knows(set, m.n.id(), h.Epoch) {
			return errSim
		}
		err := simCaller{nil, n, n.h}.Hold(ctx, h)
		s.pass(m.n, m.a)
		return err
	}
	return errSim
}

// simCaller is a helper as somebody calls it.
type simCaller struct {
	a *Agent // nil: it is another node, whose end does not matter here
	n *simNode
	h *simHelper
}

func (c simCaller) call(f func(*simHelper)) error {
	if c.a != nil {
		c.n.s.pass(c.n, c.a)
	}
	if c.n.h.frozen {
		c.n.h.thawed = append(c.n.h.thawed, func() { f(c.n.h) })
		return errSim
	}
	f(c.n.h)
	return nil
}

func (c simCaller) State(context.Context) (st State, err error) {
	err = c.call(func(h *simHelper) { st = h.state() })
	if err != nil {
		c.n.h.thawed = nil // a question that nobody waits for
	}
	return st, err
}

func (h *simHelper) identity() string { return Identity(h.n.member(), "m"+strconv.Itoa(h.mark)) }

func (h *simHelper) state() State {
	st := State{
		Member: h.n.member(), Identity: h.identity(), Empty: !h.whole, Promised: h.promised, Phase: h.phase, Epoch: h.epoch, Chain: h.chain,
		Position: h.chain.Position(h.timeline, uint64(len(h.log))), Ack: h.ack, InForce: true,
	}
	if h.lease.Epoch != h.led {
		st.Lost = h.led
	}
	if h.phase != Leading {
		return st
	}
	if h.goal < 0 {
		h.goal = len(h.log)
	}
	st.CaughtUp = true
	for _, m := range h.ack.Members {
		st.CaughtUp = st.CaughtUp && h.match[m] >= max(h.goal, 1)
	}
	for _, n := range h.n.s.nodes {
		f := n.h
		if n != h.n && f.streams(h) {
			st.Streams = append(st.Streams, Stream{Identity: f.identity(), Lag: uint64(len(h.log) - min(h.match[f.identity()], len(h.log)))})
		}
	}
	return st
}

// streams says whether a follower has a connection to a leader.
func (h *simHelper) streams(l *simHelper) bool {
	return h.phase == Following && h.upstream != nil && h.upstream.Host == "a"+l.n.id() && !h.n.cut && !l.n.cut && !h.n.frozen && !l.n.frozen && !h.frozen && !l.frozen
}

func (h *simHelper) stop() {
	h.phase, h.epoch, h.lease, h.match = Stopped, 0, Lead{}, nil
	h.ready = h.n.s.now.Add(time.Duration(200+h.n.s.r.IntN(800)) * time.Millisecond)
}

// rest ends an older leader, and reads nobody's log.
func (h *simHelper) rest(epoch uint64) {
	if h.lease.Epoch > 0 && h.lease.Epoch < epoch || h.lease.Epoch == 0 && (h.phase == Leading || h.phase == Promoting) {
		h.stop()
	}
	h.upstream, h.phase, h.epoch, h.ready = nil, Resting, 0, time.Time{}
}

func (c simCaller) Promise(_ context.Context, epoch uint64) (st State, err error) {
	cerr := c.call(func(h *simHelper) {
		switch {
		case h.lease.Epoch == epoch || h.epoch == epoch || epoch < h.promised,
			h.n.clock().Before(h.holdUntil) && epoch > h.heldEpoch:
			err = errSim
			return
		}
		h.promised = epoch
		if h.phase == Cloning {
			h.phase = Empty
		}
		if h.whole {
			h.rest(epoch)
		}
		st = h.state()
	})
	return st, errors.Join(err, cerr)
}

func (c simCaller) Lead(_ context.Context, o Lead) (err error) {
	cerr := c.call(func(h *simHelper) {
		if h.lease.Epoch == o.Epoch {
			return
		}
		if o.Epoch < h.promised || h.led >= o.Epoch || !h.whole && !o.First {
			err = errSim
			return
		}
		h.promised, h.led, h.lease, h.ack, h.goal, h.match = o.Epoch, o.Epoch, o, o.Ack, -1, map[string]int{}
		h.phase, h.epoch, h.upstream = Promoting, o.Epoch, nil
		h.ready = h.n.s.now.Add(time.Duration(h.n.s.r.IntN(1000)) * time.Millisecond)
	})
	return errors.Join(err, cerr)
}

func (c simCaller) Extend(_ context.Context, epoch uint64, until, stop time.Time) error {
	return c.call(func(h *simHelper) {
		if h.lease.Epoch == epoch && h.n.clock().Before(h.lease.Stop) && until.After(h.lease.Until) {
			h.lease.Until, h.lease.Stop = until, stop
		}
	})
}

func (c simCaller) Follow(_ context.Context, f Follow) (err error) {
	cerr := c.call(func(h *simHelper) {
		if h.epoch == f.Epoch && (h.phase == Following || h.phase == Cloning) {
			return
		}
		if f.Epoch < h.promised {
			err = errSim
			return
		}
		h.promised = f.Epoch
		if h.whole {
			h.rest(f.Epoch)
			if f.Chain.Leads(h.state().Position) {
				h.stream(f)
				return
			}
		}
		h.mark, h.log, h.chain, h.timeline, h.whole = h.n.s.newMark(), nil, nil, 0, false
		h.phase, h.epoch, h.upstream = Cloning, f.Epoch, &f
		h.ready = h.n.s.now.Add(time.Duration(200+h.n.s.r.IntN(3000)) * time.Millisecond)
	})
	return errors.Join(err, cerr)
}

func (h *simHelper) stream(f Follow) {
	h.chain, h.upstream, h.ack = f.Chain, &f, Ack{}
	h.phase, h.epoch, h.ready = Following, f.Epoch, time.Time{}
}

func (c simCaller) Acknowledge(_ context.Context, epoch uint64, a Ack) (err error) {
	cerr := c.call(func(h *simHelper) {
		if epoch < h.promised || h.lease.Epoch != epoch || h.phase != Leading {
			err = errSim
			return
		}
		h.ack, h.goal = a, -1
	})
	return errors.Join(err, cerr)
}

func (c simCaller) Hold(_ context.Context, o Hold) (err error) {
	cerr := c.call(func(h *simHelper) {
		switch {
		case o.Member != h.identity(), h.phase != Following, h.epoch != o.Epoch, h.promised > o.Epoch:
			err = errSim
		case o.For <= 0:
			h.holdUntil = time.Time{}
		default:
			h.heldEpoch = o.Epoch
			if until := h.n.clock().Add(o.For); until.After(h.holdUntil) {
				h.holdUntil = until
			}
		}
	})
	return errors.Join(err, cerr)
}

func (c simCaller) StepDown(_ context.Context, epoch uint64, clean bool) (st State, err error) {
	err = c.call(func(h *simHelper) {
		if h.lease.Epoch == 0 || h.lease.Epoch > epoch || clean && (h.lease.Epoch != epoch || h.phase != Leading) {
			return
		}
		for _, n := range h.n.s.nodes {
			for clean && n != h.n && n.h.streams(h) && n.h.pull(h) {
			}
		}
		h.acknowledge()
		h.stop()
		st = h.state()
	})
	return st, err
}

// watch ends a leader whose lease ends, by the helper's own clock.
func (h *simHelper) watch() {
	if !h.frozen && h.lease.Epoch > 0 && !h.n.clock().Before(h.lease.Stop) {
		h.n.s.say("%s ends: its lease of epoch %d does", h.n.member(), h.lease.Epoch)
		h.stop()
	}
}

// work goes on with what takes time, and reads the leader's log.
func (h *simHelper) work() {
	s := h.n.s
	if h.frozen || s.now.Before(h.ready) {
		return
	}
	switch h.phase {
	case Stopped:
		h.phase = Empty
		if h.whole {
			h.phase = Resting
		}
	case Promoting:
		h.timeline++
		h.whole = true
		h.chain = h.chain.With(Link{Epoch: h.lease.Epoch, Timeline: h.timeline, Start: uint64(len(h.log))})
		h.phase = Leading
		s.say("%s leads in epoch %d", h.identity(), h.epoch)
		if was := s.reigns[h.epoch]; was != "" {
			s.fail("epoch %d is led by %s and by %s", h.epoch, was, h.identity())
		}
		s.reigns[h.epoch] = h.identity()
		s.complete(h)
	case Cloning:
		for _, n := range s.nodes {
			from := n.h
			if "a"+n.id() == h.upstream.Host && !n.cut && !h.n.cut && !n.frozen && !from.frozen && from.whole {
				h.log, h.timeline, h.whole = slices.Clone(from.log), from.timeline, true
				h.stream(*h.upstream)
				return
			}
		}
		h.phase, h.epoch = Empty, 0 // asked for again
	case Following:
		for _, n := range s.nodes {
			if n != h.n && h.streams(n.h) {
				h.pull(n.h)
			}
		}
	case Empty, Starting, Resting, Leading:
	}
}

// pull takes what a leader has; it says whether that was something.
func (h *simHelper) pull(l *simHelper) bool {
	if l.phase != Leading && l.phase != Promoting {
		return false
	}
	at := len(h.log)
	if at > len(l.log) || at > 0 && h.log[at-1].id != l.log[at-1].id {
		if h.epoch == l.epoch {
			h.n.s.fail("%s follows %s in epoch %d and has what it has not", h.identity(), l.identity(), h.epoch)
		}
		return false
	}
	h.log = append(h.log, l.log[at:min(at+1+h.n.s.r.IntN(5), len(l.log))]...)
	h.timeline = max(h.timeline, l.timeline)
	if l.phase == Leading && h.epoch == l.epoch {
		l.match[h.identity()] = len(h.log)
	}
	return len(h.log) > at
}

// acknowledge tells clients which rows are committed.
func (h *simHelper) acknowledge() {
	if h.frozen || h.phase != Leading {
		return
	}
	for n := len(h.log); n > 0; n-- {
		if h.n.s.acked[h.log[n-1].id] {
			return
		}
		have := 0
		for _, m := range h.ack.Members {
			if h.match[m] >= n {
				have++
			}
		}
		if have < h.ack.Count {
			continue
		}
		for _, row := range h.log[:n] {
			h.n.s.acked[row.id] = true
			// One that was frozen may still say what its followers had before they promised.
			if h.epoch < h.n.s.newest && !h.n.s.has[row.id] && h.n.s.set.Value.Mode.Sync() {
				h.n.s.fail("%s acknowledges row %d in epoch %d, and the leader of epoch %d began without it", h.identity(), row.id, h.epoch, h.n.s.newest)
			}
		}
		return
	}
}

// complete holds a new leader against all that was acknowledged. One that was frozen
// while it was promoted, and replaced, may be without: nobody acknowledges for it.
func (s *sim) complete(h *simHelper) {
	if h.epoch < s.set.Value.Record.Epoch {
		return
	}
	s.newest, s.has = h.epoch, map[int]bool{}
	for _, row := range h.log {
		s.has[row.id] = true
	}
	for id := range s.acked {
		if !s.has[id] && s.set.Value.Mode.Sync() {
			s.fail("%s leads in epoch %d without row %d, which was acknowledged", h.identity(), h.epoch, id)
			return
		}
	}
}

// judge looks for two leaders that run: a frozen one finds out when it goes on.
func (s *sim) judge() {
	var leads []string
	for _, n := range s.nodes {
		if h := n.h; h.phase == Leading && !n.frozen && !h.frozen && n.clock().Before(h.lease.Until) {
			leads = append(leads, fmt.Sprintf("%s in epoch %d", h.identity(), h.epoch))
		}
	}
	if len(leads) > 1 {
		s.fail("two lead at once: %v", leads)
	}
}

// fault does something bad, or ends it.
func (s *sim) fault() {
	n := s.nodes[s.r.IntN(simNodes)]
	h := n.h
	restart := func() {
		h.stop()
		h.upstream, h.ack, h.holdUntil = nil, Ack{}, time.Time{}
		if h.heldEpoch > 0 && h.heldEpoch == h.promised {
			h.holdUntil = n.clock().Add(2 * simTerms.TTL)
		}
		if !h.whole {
			h.phase = Empty
		}
	}
	switch what := s.r.IntN(12); what {
	case 0, 1:
		s.say("%s: the server is killed", n.id())
		if !h.frozen && h.whole && h.phase != Cloning {
			h.stop()
			if h.upstream != nil {
				h.phase, h.epoch = Following, h.upstream.Epoch
			}
		}
	case 2:
		s.say("%s: the container is killed", n.id())
		h.frozen, h.thawed = false, nil
		restart()
	case 3:
		s.say("%s: the daemon is killed", n.id())
		n.boot()
	case 4:
		n.cut = !n.cut
		s.say("%s: cut off is %t", n.id(), n.cut)
	case 5, 6:
		n.frozen = !n.frozen
		s.say("%s: frozen is %t", n.id(), n.frozen)
	case 7, 8:
		if h.frozen {
			s.thaw(h)
		} else {
			s.say("%s: the container is frozen", n.id())
			h.frozen = true
		}
	case 9, 10:
		s.electing = s.now.Add(time.Duration(s.r.IntN(9000)) * time.Millisecond)
		s.say("the managers elect until %v", s.electing.Sub(time.Unix(0, 0)).Seconds())
	case 11:
		switch r := s.set.Value.Record; {
		case s.r.IntN(4) == 0:
			s.say("%s: the disk is lost", n.id())
			s.lost = true
			*h = simHelper{n: n, phase: Empty, mark: s.newMark()}
		case r.Leader != "" && s.set.Value.Chain.Epoch() == r.Epoch:
			s.say("a switchover is asked for")
			s.set.Value.Switch = &Switch{To: n.member(), Epoch: r.Epoch}
			s.set.Version++
		}
	}
}

func (s *sim) thaw(h *simHelper) {
	s.say("%s: the container goes on", h.n.id())
	h.frozen = false
	todo := h.thawed
	h.thawed = nil
	if s.r.IntN(2) == 0 {
		h.watch()
	}
	for _, f := range todo {
		f()
	}
}

// TestSimulatedHistories runs thousands of histories, each of another seed.
func TestSimulatedHistories(t *testing.T) {
	first, count := uint64(1), uint64(3000)
	if testing.Short() {
		count = 300
	}
	if os.Getenv("HF_SIM_SEED") != "" {
		count = 1
	}
	for name, to := range map[string]*uint64{"HF_SIM_SEED": &first, "HF_SIM_HISTORIES": &count} {
		if v := os.Getenv(name); v != "" {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			*to = n
		}
	}
	rows, epochs, held := 0, uint64(0), 0
	for seed := first; seed < first+count; seed++ {
		s := newSim(seed, []Mode{ModeOn, ModeStrict, ModeOff}[seed%3])
		s.run(10 * time.Second)
		for range 12 {
			s.fault()
			s.run(time.Duration(s.r.IntN(6000)) * time.Millisecond)
		}
		for _, n := range s.nodes {
			n.cut, n.frozen = false, false
			if n.h.frozen {
				s.thaw(n.h)
			}
		}
		s.electing = time.Time{}
		s.say("all is well again")
		leads := false
		for limit := s.now.Add(time.Minute); !leads && s.wrong == "" && s.now.Before(limit); {
			s.run(time.Second)
			r := s.set.Value.Record
			leads = slices.ContainsFunc(s.nodes[:], func(n *simNode) bool {
				return n.h.phase == Leading && n.h.epoch == r.Epoch && r.Leader == n.h.identity()
			})
		}
		if s.run(5 * time.Second); !leads && !s.lost {
			s.fail("nobody leads: %+v", s.set.Value.Record)
		}
		if s.wrong != "" {
			said := s.said[max(len(s.said)-60, 0):]
			for _, n := range s.nodes {
				said = append(said, fmt.Sprintf("%s %+v", n.id(), n.h.state()))
			}
			for _, line := range said {
				t.Log(line)
			}
			t.Fatalf("HF_SIM_SEED=%d: %s", seed, s.wrong)
		}
		rows, epochs = rows+len(s.acked), epochs+s.set.Value.Record.Epoch
		for _, n := range s.nodes {
			if n.h.heldEpoch > 0 {
				held++
			}
		}
	}
	t.Logf("%d histories: %d rows acknowledged, %d leaders, %d members held still", count, rows, epochs, held)
	if count > 1 && (rows == 0 || epochs < count*2 || held == 0) {
		t.Error("the histories are too dull to show anything")
	}
}

func (c simCaller) Discard(context.Context, uint64) error {
	return errSim // it is a lost disk that keeps its promise: less than what faults do
}
