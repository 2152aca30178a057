package stateful

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// View is what a node with a member of a set is told of the set.
type View struct {
	Set
	Addrs map[string]string // of the members' nodes
}

// Renewal is the answer to a renewal.
type Renewal struct {
	Over   bool // the term has ended: stop, and rejoin
	Grants []Grant
	Views  map[string]View // of the sets with a member on the node
}

// Managers is the way to the store. Any call may fail though it was done.
type Managers interface {
	// Rejoin takes the lease anew; it returns the term.
	Rejoin(ctx context.Context) (uint64, error)
	Renew(ctx context.Context, term uint64) (Renewal, error)
	// Release gives a set back that the node led in an epoch. to is the member that
	// shall lead next, if there is a wish.
	Release(ctx context.Context, set string, epoch uint64, to string) error
	// Began tells that the leader of an epoch takes writes, with its history.
	Began(ctx context.Context, set string, epoch uint64, c Chain) error
	// Record changes the sync of the record, as its leader.
	// turn is Set.Turn as the leader knew it.
	Record(ctx context.Context, set string, epoch, turn uint64, s Sync) error
	// AskHold asks a member on another node to hold still, see Failsafe. It is no manager
	// who is asked.
	AskHold(ctx context.Context, n NodeAddr, set string, h Hold) error
}

// Hold asks a member of a set to promise no newer epoch for a while: its leader cannot
// renew its lease.
type Hold struct {
	Member string // its identity
	Epoch  uint64
	For    time.Duration // by the clock of who is asked; 0: no longer
}

// Failsafe says whether the leader of a set may go on without a lease while the held
// members hold still: too few others are left to make another leader. pending are
// changes of the record that the leader asked for and does not know the end of; the
// record is any of them. A leader that alone has every row needs nobody.
func Failsafe(v View, pending []Sync, held []string) bool {
	if !v.Mode.Sync() || v.Record.Leader == "" || v.Chain.Epoch() != v.Record.Epoch {
		return false
	}
	for _, s := range append([]Sync{v.Record.Sync}, pending...) {
		left := 0
		for _, m := range s.Members {
			if !slices.Contains(held, m) {
				left++
			}
		}
		if left >= s.Need {
			return false
		}
	}
	return true
}

// Local is a member on this node.
type Local struct {
	Set    string
	Member string
	Helper Helper
}

// AgentDeps are the parts an Agent works with; all are required.
type AgentDeps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Managers Managers
	Terms    Terms
	// Now is a clock of this machine that runs on while it sleeps and is never set;
	// the members' helpers read the same.
	Now func() time.Time
	// Go runs what may wait for another node.
	Go func(func())
	// Stand tells of a local member's part, when it changes.
	Stand func(set, member string, p Part)
	// Locals are the members whose containers run here.
	Locals func(ctx context.Context) ([]Local, error)
	// Term keeps the term over restarts of the daemon; 0: none.
	LoadTerm func() (uint64, error)
	SaveTerm func(uint64) error
}

// Part is what a member does for those who use its set.
type Part int

// The parts.
const (
	Nothing Part = iota
	Leads        // it takes writes
	Follows      // it can be read, and is as far as its lag says
)

// partOf finds it. led says that the node may lead the set in the record's epoch.
func partOf(v View, st State, led bool) Part {
	switch {
	case st.Epoch != v.Record.Epoch:
	case st.Phase == Leading && led && v.Record.Leader == st.Identity:
		return Leads
	case st.Phase == Following:
		return Follows
	}
	return Nothing
}

func (a *Agent) stand(set, member string, p Part) {
	a.mu.Lock()
	was := a.parts[member]
	a.parts[member] = p
	a.mu.Unlock()
	if was != p {
		a.d.Stand(set, member, p)
	}
}

// Timing of an Agent.
const (
	renewEvery = time.Second
	lookEvery  = 100 * time.Millisecond
	callLimit  = 2 * time.Second
	renewLimit = 1500 * time.Millisecond
	holdLimit  = 600 * time.Millisecond
	// aloneAfter is how long a leader waits for a follower before it goes on alone,
	// where the set allows that.
	aloneAfter = 5 * time.Second
	// silentAfter is how long a helper that does not answer may still be told to lead on.
	silentAfter = 1500 * time.Millisecond
)

// Agent is a node's side of all sets: it holds the node's lease and has the local
// members do what the records say.
type Agent struct {
	d    AgentDeps
	poke chan struct{}

	mu      sync.Mutex // guards what follows; never held across I/O
	holder  *Holder
	views   map[string]View
	over    bool
	joined  bool
	states  map[string]State // by member, as last seen
	locals  []Local
	alone   map[string]time.Time
	seen    map[string]time.Time // by member: when its helper answered last
	told    map[string]told      // by set: the last end that a helper may have heard of
	pending map[string]pending   // by set: changes of the record that were asked for
	held    map[string]bool      // by set: its members may hold still
	parts   map[string]Part      // by member: as told last
	wishes  map[string]string    // by set: who was to lead when it was given back last
}

// NewAgent returns an agent: call Run.
func NewAgent(d AgentDeps) *Agent {
	return &Agent{
		d: d, poke: make(chan struct{}, 1), holder: NewHolder(d.Terms),
		views: map[string]View{}, states: map[string]State{}, alone: map[string]time.Time{},
		seen: map[string]time.Time{}, told: map[string]told{}, held: map[string]bool{}, parts: map[string]Part{}, pending: map[string]pending{}, wishes: map[string]string{},
	}
}

// Poke has the agent renew at once: something has changed that concerns it.
func (a *Agent) Poke() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. Leaders are left as they are: their helpers stop them
// when the lease ends, and the next daemon goes on before that.
func (a *Agent) Run(ctx context.Context) {
	if term, err := a.d.LoadTerm(); err != nil {
		a.d.Log.Error("lease of this node not read", logkey.Err, err)
	} else if term > 0 {
		a.holder.Rejoined(term)
		a.joined = true
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.renewals(ctx) })
	running := map[string]chan struct{}{}
	for {
		locals, err := a.d.Locals(ctx)
		if err != nil && ctx.Err() == nil {
			a.d.Log.Warn("members on this node not listed", logkey.Err, err)
		}
		for _, l := range locals {
			// One slow member does not hold up the others.
			if done, ok := running[l.Member]; ok {
				select {
				case <-done:
				default:
					continue
				}
			}
			done := make(chan struct{})
			running[l.Member] = done
			wg.Go(func() {
				defer close(done)
				a.step(ctx, l)
			})
		}
		a.keep(locals)
		for set, epoch := range a.silent() {
			a.d.Log.Warn("leader does not answer and its lease has ended: the set is given back", logkey.Name, set, logkey.Epoch, epoch)
			wg.Go(func() {
				if err := a.release(ctx, set, epoch, ""); err != nil && ctx.Err() == nil {
					a.d.Log.Warn("set not given back yet", logkey.Name, set, logkey.Err, err)
				}
			})
		}
		if clock.Sleep(ctx, a.d.Clock, lookEvery) != nil {
			return
		}
	}
}

// keep remembers who is here and forgets who is not any more.
func (a *Agent) keep(locals []Local) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.locals = locals
	for m := range a.states {
		if !slices.ContainsFunc(locals, func(l Local) bool { return l.Member == m }) {
			delete(a.states, m)
			delete(a.parts, m)
		}
	}
}

// hosts says whether the node has a member, and so needs a lease.
func (a *Agent) hosts() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.states) > 0
}

func (a *Agent) renewals(ctx context.Context) {
	t := a.d.Clock.NewTimer(renewEvery)
	defer t.Stop()
	failing := false
	for {
		if a.hosts() {
			err := a.Renew(ctx)
			if err != nil && !failing && ctx.Err() == nil {
				a.d.Log.Warn("lease of this node not renewed", logkey.Err, err)
			}
			failing = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-a.poke:
		case <-t.C():
		}
		t.Reset(renewEvery)
	}
}

// Renew renews the lease once, or takes it anew where the node leads nothing.
func (a *Agent) Renew(ctx context.Context) error {
	life := ctx
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	a.mu.Lock()
	term, joined, over, busy := a.holder.Term(), a.joined, a.over, a.leads()
	a.mu.Unlock()
	if !joined || over {
		if busy {
			return errors.New("the term is over; leaders are being stopped")
		}
		term, err := a.d.Managers.Rejoin(ctx)
		if err != nil {
			return err
		}
		if err := a.d.SaveTerm(term); err != nil {
			return err // a term that a restart would not know is no term
		}
		a.mu.Lock()
		a.holder.Rejoined(term)
		a.joined, a.over = true, false
		a.mu.Unlock()
		return a.renew(ctx, term)
	}
	err := a.renew(ctx, term)
	if err != nil {
		return errors.Join(err, a.failsafe(life))
	}
	return nil
}

// failsafe has the members of each set that is led here hold still, while no manager
// renews the lease: a leader that reaches them all goes on.
func (a *Agent) failsafe(ctx context.Context) error {
	a.mu.Lock()
	asked := a.d.Now()
	led := map[string]View{}
	for set, v := range a.views {
		if epoch, _, ok := a.holder.Leads(set, asked); ok && !a.over && epoch == v.Record.Epoch && v.Chain.Epoch() == epoch {
			led[set] = v
		}
	}
	locals := slices.Clone(a.locals)
	a.mu.Unlock()
	if len(led) == 0 {
		return nil
	}
	var errs []error
	for set, v := range led {
		pending := a.pendingOf(set, v.Turn)
		members := v.Record.Sync.Members
		for _, s := range pending {
			members = union(members, s.Members)
		}
		held, err := a.hold(ctx, set, v, members, a.d.Terms.HoldFor())
		if !Failsafe(v, pending, held) {
			errs = append(errs, fmt.Errorf("set %s: %w", v.Name, errors.Join(errTooFew, err)))
			continue
		}
		a.mu.Lock()
		a.holder.Held(set, v.Record.Epoch, asked)
		a.held[set] = true
		a.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	return errors.Join(append(errs, a.extend(ctx, locals))...)
}

var errTooFew = errors.New("too few members hold still for the leader to go on without a lease")

// pendingOf are the changes of a set's record that may be made yet, or be made and not
// known: those asked for since the record was as it is known.
func (a *Agent) pendingOf(set string, turn uint64) []Sync {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pending[set]; p.turn == turn {
		return slices.Clone(p.syncs)
	}
	return nil
}

// covered says whether rows that are acknowledged by k are where the record says also if
// it was changed and that is not known yet.
func covered(pending []Sync, k Ack) bool {
	return !slices.ContainsFunc(pending, func(s Sync) bool { return !s.Covers(k) })
}

// pending are changes of a record that were asked for.
type pending struct {
	turn  uint64
	syncs []Sync
}

func (a *Agent) notePending(set string, turn uint64, s Sync) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pending[set]
	if p.turn != turn {
		p = pending{turn: turn}
	}
	if !slices.ContainsFunc(p.syncs, func(o Sync) bool { return sameSync(o, s) }) {
		p.syncs = append(slices.Clone(p.syncs), s)
	}
	a.pending[set] = p
}

// hold asks members at once, and says who agreed.
func (a *Agent) hold(ctx context.Context, set string, v View, members []string, d time.Duration) (held []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	errs := make([]error, len(members))
	done := make(chan int, len(members))
	for i, m := range members {
		home := v.Homes[MemberOf(m)]
		a.d.Go(func() {
			errs[i] = a.d.Managers.AskHold(ctx, NodeAddr{home, v.Addrs[MemberOf(m)]}, set, Hold{Member: m, Epoch: v.Record.Epoch, For: d})
			done <- i
		})
	}
	for range members {
		if i := <-done; errs[i] == nil {
			held = append(held, members[i])
		}
	}
	return held, errors.Join(errs...)
}

// letGo ends what members hold still for: the leader has ended.
func (a *Agent) letGo(ctx context.Context, set string, epoch uint64) {
	a.mu.Lock()
	held, v := a.held[set], a.views[set]
	delete(a.held, set)
	a.mu.Unlock()
	if held && v.Record.Epoch == epoch {
		if _, err := a.hold(ctx, set, v, v.Record.Sync.Members, 0); err != nil {
			a.d.Log.Debug("members hold still for a while yet", logkey.Name, v.Name, logkey.Err, err)
		}
	}
}

func (a *Agent) renew(ctx context.Context, term uint64) error {
	asked := a.d.Now()
	r, err := a.d.Managers.Renew(ctx, term)
	if err != nil {
		return err
	}
	a.mu.Lock()
	if r.Over {
		a.over = a.over || term == a.holder.Term()
		a.mu.Unlock()
		return nil
	}
	a.holder.Renewed(term, asked, r.Grants)
	a.views = r.Views
	locals := slices.Clone(a.locals)
	owed := a.holder.Owed(r.Grants)
	a.mu.Unlock()
	errs := []error{a.extend(ctx, locals)}
	for _, g := range owed {
		errs = append(errs, a.d.Managers.Release(ctx, g.Set, g.Epoch, a.wish(g.Set)))
	}
	return errors.Join(errs...)
}

func (a *Agent) wish(set string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wishes[set]
}

// silent are the sets that are led here by members whose helpers do not answer, and
// whose last end has passed: they are stopped, or frozen and will find that it has.
func (a *Agent) silent() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.d.Now()
	out := map[string]uint64{}
	for set, v := range a.views {
		epoch, _, ok := a.holder.Leads(set, now)
		if !ok || epoch != v.Record.Epoch || now.Sub(a.seen[MemberOf(v.Record.Leader)]) <= silentAfter {
			continue
		}
		if a.told[set].epoch != epoch {
			// What the helper heard from this daemon's forerunner is not known here.
			a.told[set] = told{epoch, now.Add(a.d.Terms.TTL)}
		}
		if !now.Before(a.told[set].until) {
			out[set] = epoch
			a.holder.Release(set, epoch) // said once
		}
	}
	return out
}

// tell notes what a helper is about to hear; false for one that is silent, which
// would hear it whenever it goes on.
func (a *Agent) tell(l Local, epoch uint64, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.d.Now().Sub(a.seen[l.Member]) > silentAfter {
		return false
	}
	if t := a.told[l.Set]; t.epoch != epoch || until.After(t.until) {
		a.told[l.Set] = told{epoch, until}
	}
	return true
}

// extend moves the end of what leads here. It waits for no step of a member: one
// that writes out its data to step down goes on leading meanwhile.
func (a *Agent) extend(ctx context.Context, locals []Local) error {
	var errs []error
	for _, l := range locals {
		a.mu.Lock()
		st := a.states[l.Member]
		epoch, until, ok := a.holder.Leads(l.Set, a.d.Now())
		a.mu.Unlock()
		if ok && (st.Phase == Leading || st.Phase == Promoting) && st.Epoch == epoch && a.tell(l, epoch, until) {
			errs = append(errs, l.Helper.Extend(ctx, epoch, until, until.Add(-a.d.Terms.Margin)))
		}
	}
	return errors.Join(errs...)
}

// leads says whether a member here leads, or may. Called with mu held.
func (a *Agent) leads() bool {
	for _, s := range a.states {
		if s.Phase == Leading || s.Phase == Promoting {
			return true
		}
	}
	return false
}

// step looks at one member and has it do the next thing.
func (a *Agent) step(ctx context.Context, l Local) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	st, err := l.Helper.State(ctx)
	if err != nil {
		a.mu.Lock()
		quiet := a.d.Now().Sub(a.seen[l.Member]) > silentAfter
		a.mu.Unlock()
		if quiet {
			a.stand(l.Set, l.Member, Nothing)
		}
		return // the container is starting or gone: its task says why
	}
	a.mu.Lock()
	a.states[l.Member] = st
	a.seen[l.Member] = a.d.Now()
	v, known := a.views[l.Set]
	now := a.d.Now()
	epoch, until, granted := a.holder.Leads(l.Set, now)
	over := a.over || !a.joined
	if len(st.Streams) > 0 || st.Phase != Leading {
		a.alone[l.Member] = now
	}
	alone := now.Sub(a.alone[l.Member]) > aloneAfter
	a.mu.Unlock()
	if !known {
		return
	}
	var g *Lead
	if granted && !over {
		g = &Lead{Epoch: epoch, Until: until, Stop: until.Add(-a.d.Terms.Margin)}
	}
	a.stand(l.Set, l.Member, partOf(v, st, g != nil && g.Epoch == v.Record.Epoch))
	act := NextAct(v, st, g, alone)
	if act.Ack != nil && !covered(a.pendingOf(l.Set, v.Turn), *act.Ack) {
		a.Poke() // the record is another by now, or may be
		return
	}
	if err := a.apply(ctx, l, v, act); err != nil && ctx.Err() == nil {
		a.d.Log.Warn("member not brought where it belongs", logkey.Name, l.Member, logkey.Part, act.String(), logkey.Err, err)
	}
}

func (a *Agent) apply(ctx context.Context, l Local, v View, act Act) error {
	m := a.d.Managers
	switch {
	case act.Lead != nil:
		if !a.tell(l, act.Lead.Epoch, act.Lead.Until) {
			return nil // it answers again before it leads
		}
		return l.Helper.Lead(ctx, *act.Lead)
	case act.Stop > 0:
		if _, err := l.Helper.StepDown(ctx, act.Stop, false); err != nil {
			return err
		}
		a.letGo(ctx, l.Set, act.Stop)
		return nil
	case act.Switch > 0:
		// It finishes, whatever becomes of this step.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchLimit)
		defer cancel()
		if _, err := l.Helper.StepDown(ctx, act.Switch, true); err != nil {
			return err
		}
		return a.release(ctx, l.Set, act.Switch, v.Switch.To)
	case act.Release > 0:
		return a.release(ctx, l.Set, act.Release, "")
	case act.Began != nil:
		return m.Began(ctx, l.Set, act.Began.Epoch(), act.Began)
	case act.Record != nil:
		a.notePending(l.Set, v.Turn, *act.Record)
		err := m.Record(ctx, l.Set, v.Record.Epoch, v.Turn, *act.Record)
		a.Poke()
		return err
	case act.Ack != nil:
		return l.Helper.Acknowledge(ctx, v.Record.Epoch, *act.Ack)
	case act.Follow != nil:
		return l.Helper.Follow(ctx, *act.Follow)
	}
	return nil
}

// switchLimit bounds a clean step down: a server writes out what it has.
const switchLimit = 60 * time.Second

// release gives a set back. What was given back is remembered first: an answer
// that still grants it may be under way.
func (a *Agent) release(ctx context.Context, set string, epoch uint64, to string) error {
	a.mu.Lock()
	a.holder.Release(set, epoch)
	a.wishes[set] = to
	a.mu.Unlock()
	a.letGo(ctx, set, epoch)
	return a.d.Managers.Release(ctx, set, epoch, to)
}

// Knows says whether a node leads a set in an epoch, as far as was heard here.
func (a *Agent) Knows(set, node string, epoch uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.views[set].Record
	return r.Leader != "" && r.Node == node && r.Epoch == epoch
}

// States are the members here, as last seen.
func (a *Agent) States() map[string]State {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]State{}
	for m, s := range a.states {
		out[m] = s
	}
	return out
}
