package sets

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/cluster/peers"
	"holdfast.dev/holdfast/internal/stateful"
)

// Shown is a set as it is now.
type Shown struct {
	Set    stateful.Set
	States map[string]stateful.State // of the members whose nodes answer
	Addrs  map[string]string         // of the members' nodes
	// Waiting says what is missing, as far as this manager knows: only the raft
	// leader chooses leaders.
	Waiting string
}

// showLimit is how long nodes are waited for.
const showLimit = time.Second

// Show returns all sets, by service.
func (s *Sets) Show(ctx context.Context) (map[string]Shown, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	snap, err := st.Snapshot(ctx)
	if err != nil || len(snap.Sets) == 0 {
		return nil, err
	}
	states := s.states(ctx, snap)
	out := map[string]Shown{}
	for key, v := range snap.Sets {
		w := Shown{Set: v.Value, States: map[string]stateful.State{}, Addrs: map[string]string{}}
		for m, home := range v.Value.Homes {
			w.Addrs[m] = snap.Leases[home].Value.Addr
			if got, ok := states[home][m]; ok {
				w.States[m] = got
			}
		}
		s.mu.Lock()
		w.Waiting = s.problems[key]
		if s.controller != nil && w.Waiting == "" && v.Value.Record.Leader == "" {
			w.Waiting = s.controller.Wait(key)
		}
		s.mu.Unlock()
		out[key] = w
	}
	return out, nil
}

// states asks all nodes with members at once.
func (s *Sets) states(ctx context.Context, snap stateful.Snapshot) map[string]map[string]stateful.State {
	ctx, cancel := context.WithTimeout(ctx, showLimit)
	defer cancel()
	homes := map[string]string{}
	for _, v := range snap.Sets {
		for _, home := range v.Value.Homes {
			homes[home] = snap.Leases[home].Value.Addr
		}
	}
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex // guards out
		out = map[string]map[string]stateful.State{}
	)
	for id, addr := range homes {
		wg.Go(func() {
			var got map[string]stateful.State
			if id == s.d.Self() {
				got = s.agent.States()
			} else {
				var r result
				if addr == "" || s.d.Peers().Call(ctx, peers.Member{ID: id, Addr: addr}, pathStates, message{}, &r) != nil {
					return // shown as unknown
				}
				got = r.States
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = got
		})
	}
	wg.Wait()
	return out
}

// What a switchover or a pause is refused for.
var (
	ErrNoLeader   = errors.New("the set has no leader that takes writes")
	ErrNoMember   = errors.New("the set has no such member")
	ErrLeads      = errors.New("that member leads already")
	ErrNotFollows = errors.New("that member does not follow closely enough to take over without a loss")
)

// Switch asks for another leader. Its node sees to it.
func (s *Sets) Switch(ctx context.Context, key, to string) error {
	st, err := s.store()
	if err != nil {
		return err
	}
	err = st.changeSet(ctx, key, func(v *stateful.Set) (bool, error) {
		r := v.Record
		switch {
		case r.Leader == "" || v.Chain.Epoch() != r.Epoch || v.Paused:
			return false, ErrNoLeader
		case to != "" && v.Homes[to] == "":
			return false, ErrNoMember
		case to != "" && stateful.MemberOf(r.Leader) == to:
			return false, ErrLeads
		case to != "" && v.Mode.Sync() && !hasMember(r.Sync.Members, to):
			return false, ErrNotFollows
		}
		v.Switch = &stateful.Switch{To: to, Epoch: r.Epoch, Until: s.d.Clock.Now().Add(stateful.SwitchFor)}
		v.Note(s.d.Clock.Now(), "a switchover was asked for")
		return true, nil
	})
	if err == nil {
		s.pokeMembers(ctx, st, key)
	}
	return err
}

func hasMember(identities []string, name string) bool {
	for _, id := range identities {
		if stateful.MemberOf(id) == name {
			return true
		}
	}
	return false
}

// Rebuild has a member throw its data away. Its node has it clone the leader's.
func (s *Sets) Rebuild(ctx context.Context, key, member string) error {
	st, err := s.store()
	if err != nil {
		return err
	}
	snap, err := st.Snapshot(ctx)
	if err != nil {
		return err
	}
	v := snap.Sets[key].Value
	ctx, cancel := context.WithTimeout(ctx, promiseLimit)
	defer cancel()
	if home := v.Homes[member]; home == s.d.Self() {
		err = s.discard(ctx, key, member, v.Record.Epoch)
	} else {
		to := peers.Member{ID: home, Addr: snap.Leases[home].Value.Addr}
		err = s.d.Peers().Call(ctx, to, pathDiscard, message{Set: key, Member: member, Epoch: v.Record.Epoch}, nil)
	}
	if err != nil {
		return err
	}
	return st.changeSet(ctx, key, func(v *stateful.Set) (bool, error) {
		v.Note(s.d.Clock.Now(), member+" is rebuilt")
		return true, nil
	})
}

// Pause has nobody replace a leader, or ends that.
func (s *Sets) Pause(ctx context.Context, key string, on bool) error {
	st, err := s.store()
	if err != nil {
		return err
	}
	err = st.changeSet(ctx, key, func(v *stateful.Set) (bool, error) {
		if v.Paused == on {
			return false, nil
		}
		v.Paused = on
		v.Note(s.d.Clock.Now(), map[bool]string{true: "paused", false: "resumed"}[on])
		return true, nil
	})
	s.pokeController(ctx)
	return err
}

// Hostnames are what nodes are called.
func Hostnames(nodes []*api.Node) map[string]string {
	out := map[string]string{}
	for _, n := range nodes {
		out[n.ID] = n.ID
		if n.Description != nil && n.Description.Hostname != "" {
			out[n.ID] = n.Description.Hostname
		}
	}
	return out
}
