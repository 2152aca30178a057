package sets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/peers"
	"holdfast.dev/holdfast/internal/stateful"
)

// What nodes ask each other.
const (
	pathRejoin  = peers.SetsPath + "rejoin"  // of managers, by any node for itself
	pathRenew   = peers.SetsPath + "renew"   // of managers, by any node for itself
	pathRelease = peers.SetsPath + "release" // of managers, by the leader's node
	pathBegan   = peers.SetsPath + "began"   // of managers, by the leader's node
	pathRecord  = peers.SetsPath + "record"  // of managers, by the leader's node
	pathPromise = peers.SetsPath + "promise" // of any node, by managers
	pathPoke    = peers.SetsPath + "poke"    // of any node, by managers
	pathHold    = peers.SetsPath + "hold"    // of any node, by the leader's node
	pathDiscard = peers.SetsPath + "discard" // of any node, by managers
	pathStates  = peers.SetsPath + "states"  // of any node, by managers
)

// message is any of these questions.
type message struct {
	Set    string         `json:",omitempty"`
	Member string         `json:",omitempty"`
	Term   uint64         `json:",omitempty"`
	Epoch  uint64         `json:",omitempty"`
	Turn   uint64         `json:",omitempty"`
	To     string         `json:",omitempty"`
	Chain  stateful.Chain `json:",omitempty"`
	Sync   stateful.Sync
	For    time.Duration `json:",omitempty"`
}

// result is any answer.
type result struct {
	Term    uint64 `json:",omitempty"`
	Renewal stateful.Renewal
	State   stateful.State
	States  map[string]stateful.State `json:",omitempty"`
}

// ServeHTTP answers other nodes. Who asks is told by the connection's certificate.
func (s *Sets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, manager := peers.Caller(r)
	var in message
	if err := json.NewDecoder(io.LimitReader(r.Body, peers.CallLimit)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, err := s.answer(r.Context(), r.URL.Path, node, manager, in)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.d.Log.Debug("node not answered", logkey.Name, node, logkey.Err, err)
	}
}

var errNotForYou = errors.New("only a manager may ask for this")

func (s *Sets) answer(ctx context.Context, path, node string, manager bool, in message) (result, error) {
	switch path {
	case pathPromise, pathPoke, pathStates, pathDiscard:
		if !manager {
			return result{}, errNotForYou
		}
	}
	switch path {
	case pathPromise:
		st, err := s.promise(ctx, in.Member, in.Epoch)
		return result{State: st}, err
	case pathPoke:
		s.agent.Poke()
		return result{}, nil
	case pathDiscard:
		return result{}, s.discard(ctx, in.Set, in.Member, in.Epoch)
	case pathHold:
		return result{}, s.hold(ctx, node, in.Set, stateful.Hold{Member: in.Member, Epoch: in.Epoch, For: in.For})
	case pathStates:
		return result{States: s.agent.States()}, nil
	}
	st, err := s.store()
	if err != nil {
		return result{}, err
	}
	return s.answerFromStore(ctx, st, path, node, in)
}

// answerFromStore is a manager's part. node is who asks, and nobody speaks for
// another.
func (s *Sets) answerFromStore(ctx context.Context, st store, path, node string, in message) (out result, err error) {
	leads := func(v *stateful.Set) bool {
		r := v.Record
		return r.Leader != "" && r.Epoch == in.Epoch && r.Node == node
	}
	switch path {
	case pathRejoin:
		out.Term, err = st.rejoin(ctx, node)
	case pathRenew:
		out.Renewal, err = st.renew(ctx, node, in.Term)
	case pathRelease:
		err = st.changeSet(ctx, in.Set, func(v *stateful.Set) (bool, error) {
			if !leads(v) {
				return false, nil // it was released, or somebody else leads
			}
			what := v.Record.Leader + " gave the set back"
			v.Record.Leader, v.Switch = "", nil
			if in.To != "" {
				v.Switch = &stateful.Switch{To: in.To, Epoch: in.Epoch}
			}
			v.Note(s.d.Clock.Now(), what)
			return true, nil
		})
		s.pokeController(ctx)
	case pathBegan:
		err = st.changeSet(ctx, in.Set, func(v *stateful.Set) (bool, error) {
			if !leads(v) || in.Chain.Epoch() != in.Epoch {
				return false, fmt.Errorf("epoch %d of the set is not led by this node", in.Epoch)
			}
			v.Chain = in.Chain
			v.Note(s.d.Clock.Now(), v.Record.Leader+" takes writes")
			return true, nil
		})
		if err == nil {
			s.pokeMembers(ctx, st, in.Set)
		}
	case pathRecord:
		err = st.changeSet(ctx, in.Set, func(v *stateful.Set) (bool, error) {
			if !leads(v) || v.Turn != in.Turn {
				return false, errConflict
			}
			v.Record.Sync = in.Sync
			v.Turn++
			return true, nil
		})
	default:
		err = errors.New("this node does not know the question")
	}
	return out, err
}

// pokeMembers has the nodes of a set renew at once.
func (s *Sets) pokeMembers(ctx context.Context, st store, set string) {
	snap, err := st.Snapshot(ctx)
	if err != nil {
		return // they renew every second anyway
	}
	for _, home := range snap.Sets[set].Value.Homes {
		s.Poke(ctx, stateful.NodeAddr{ID: home, Addr: snap.Leases[home].Value.Addr})
	}
}

// managers implements stateful.Managers: by this node's own store if it is a
// manager, else by the managers in turn.
type managers struct{ s *Sets }

var _ stateful.Managers = managers{}

func (m managers) ask(ctx context.Context, path string, in message) (out result, err error) {
	if st, serr := m.s.store(); serr == nil {
		try, cancel := context.WithTimeout(ctx, askLimit)
		out, err = m.s.answerFromStore(try, st, path, m.s.d.Self(), in)
		cancel()
		if err == nil || ctx.Err() != nil {
			return out, err
		}
	}
	others := m.s.d.Managers()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	errs := []error{err}
	for _, p := range others {
		if p.ID == m.s.d.Self() {
			continue
		}
		out = result{}
		// One that does not answer leaves time for another.
		try, cancel := context.WithTimeout(ctx, askLimit)
		err := m.s.d.Peers().Call(try, p, path, in, &out)
		cancel()
		if err == nil {
			return out, nil
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// Rejoin implements stateful.Managers.
func (m managers) Rejoin(ctx context.Context) (uint64, error) {
	r, err := m.ask(ctx, pathRejoin, message{})
	return r.Term, err
}

// Renew implements stateful.Managers.
func (m managers) Renew(ctx context.Context, term uint64) (stateful.Renewal, error) {
	r, err := m.ask(ctx, pathRenew, message{Term: term})
	return r.Renewal, err
}

// Release implements stateful.Managers.
func (m managers) Release(ctx context.Context, set string, epoch uint64, to string) error {
	_, err := m.ask(ctx, pathRelease, message{Set: set, Epoch: epoch, To: to})
	return err
}

// Began implements stateful.Managers.
func (m managers) Began(ctx context.Context, set string, epoch uint64, c stateful.Chain) error {
	_, err := m.ask(ctx, pathBegan, message{Set: set, Epoch: epoch, Chain: c})
	return err
}

// Record implements stateful.Managers.
func (m managers) Record(ctx context.Context, set string, epoch, turn uint64, sync stateful.Sync) error {
	_, err := m.ask(ctx, pathRecord, message{Set: set, Epoch: epoch, Turn: turn, Sync: sync})
	return err
}

// AskHold implements stateful.Managers, and asks the member's node.
func (m managers) AskHold(ctx context.Context, n stateful.NodeAddr, set string, h stateful.Hold) error {
	if n.ID == m.s.d.Self() || n.Addr == "" {
		return fmt.Errorf("%s is not on another node that is known", h.Member)
	}
	return m.s.d.Peers().Call(ctx, peers.Member{ID: n.ID, Addr: n.Addr}, pathHold, message{Set: set, Member: h.Member, Epoch: h.Epoch, For: h.For}, nil)
}

// hold asks a member on this node, for the node that leads its set.
func (s *Sets) hold(ctx context.Context, node, set string, h stateful.Hold) error {
	if !s.agent.Knows(set, node, h.Epoch) {
		return fmt.Errorf("epoch %d of the set is not known to be led by this node", h.Epoch)
	}
	l, err := s.local(ctx, set, stateful.MemberOf(h.Member))
	if err != nil {
		return err
	}
	return l.Helper.Hold(ctx, h)
}

// discard has a member on this node throw its data away.
func (s *Sets) discard(ctx context.Context, set, member string, epoch uint64) error {
	l, err := s.local(ctx, set, member)
	if err != nil {
		return err
	}
	return l.Helper.Discard(ctx, epoch)
}

// local is a member on this node.
func (s *Sets) local(ctx context.Context, set, member string) (stateful.Local, error) {
	locals, err := s.d.Locals(ctx)
	if err != nil {
		return stateful.Local{}, err
	}
	for _, l := range locals {
		if l.Set == set && l.Member == member {
			return l, nil
		}
	}
	return stateful.Local{}, fmt.Errorf("%s does not run on this node", member)
}

// promise asks a member on this node.
func (s *Sets) promise(ctx context.Context, member string, epoch uint64) (stateful.State, error) {
	locals, err := s.d.Locals(ctx)
	if err != nil {
		return stateful.State{}, err
	}
	errs := []error{}
	for _, l := range locals {
		if l.Member != member {
			continue
		}
		st, err := l.Helper.Promise(ctx, epoch)
		if err == nil {
			return st, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return stateful.State{}, fmt.Errorf("%s does not run on this node", member)
	}
	return stateful.State{}, errors.Join(errs...)
}

// Promise implements stateful.Nodes.
func (s *Sets) Promise(ctx context.Context, n stateful.NodeAddr, member string, epoch uint64) (stateful.State, error) {
	if n.ID == s.d.Self() {
		return s.promise(ctx, member, epoch)
	}
	var out result
	ctx, cancel := context.WithTimeout(ctx, promiseLimit)
	defer cancel()
	err := s.d.Peers().Call(ctx, peers.Member{ID: n.ID, Addr: n.Addr}, pathPromise, message{Member: member, Epoch: epoch}, &out)
	return out.State, err
}

// Poke implements stateful.Nodes. It waits for nobody.
func (s *Sets) Poke(ctx context.Context, n stateful.NodeAddr) {
	if n.ID == s.d.Self() {
		s.agent.Poke()
		return
	}
	if n.Addr == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	go func() {
		defer cancel()
		if err := s.d.Peers().Call(ctx, peers.Member{ID: n.ID, Addr: n.Addr}, pathPoke, message{}, nil); err != nil {
			s.d.Log.Debug("node not told of a change", logkey.Name, n.ID, logkey.Err, err)
		}
	}()
}
