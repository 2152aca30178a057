package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/cluster/sets"
	"holdfast.dev/holdfast/internal/stateful"
)

// StatefulSets lists the sets by name.
func (s *Service) StatefulSets(ctx context.Context) ([]api.StatefulSet, error) {
	out := []api.StatefulSet{}
	if _, err := s.conn(); err != nil {
		return nil, err
	}
	names := map[string]string{}
	err := s.read(ctx, func(ctx context.Context, c swarmapi.ControlClient) error {
		r, err := c.ListNodes(ctx, &swarmapi.ListNodesRequest{})
		if err == nil {
			names = sets.Hostnames(r.Nodes)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	shown, err := s.member().sets.Show(ctx)
	if err != nil {
		return nil, remote(err)
	}
	for id, v := range shown {
		out = append(out, showStateful(id, v, names))
	}
	slices.SortFunc(out, func(a, b api.StatefulSet) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// showStateful is a set as the API shows it.
func showStateful(id string, v sets.Shown, hostnames map[string]string) api.StatefulSet {
	r := v.Set.Record
	leader := stateful.MemberOf(r.Leader)
	out := api.StatefulSet{
		ID: id, Name: v.Set.Name, Profile: "postgres", Synchronous: string(v.Set.Mode), Port: v.Set.Port, Epoch: r.Epoch, Leader: leader,
		Writable: leader != "" && v.States[leader].Phase == stateful.Leading && v.States[leader].Epoch == r.Epoch,
		Paused:   v.Set.Paused, Waiting: v.Waiting, Members: []api.StatefulMember{},
	}
	out.Unprotected = v.Set.Unprotected(v.States)
	out.Protected = out.Unprotected == ""
	led := v.States[leader]
	for _, m := range v.Set.Members() {
		row := api.StatefulMember{Name: m, Node: hostnames[v.Set.Homes[m]], Address: v.Addrs[m], Phase: "unknown"}
		if st, ok := v.States[m]; ok {
			row.Phase, row.Epoch, row.Problem = string(st.Phase), st.Epoch, cmp.Or(st.Problem, st.Unfit)
			for _, f := range led.Streams {
				if f.Identity == st.Identity {
					row.Lag = &f.Lag
				}
			}
			row.Acknowledges = led.Ack.Count > 0 && slices.Contains(led.Ack.Members, st.Identity)
		}
		out.Members = append(out.Members, row)
	}
	for _, e := range v.Set.Events {
		out.History = append(out.History, api.StatefulEvent(e))
	}
	return out
}

// StatefulSet shows one set.
func (s *Service) StatefulSet(ctx context.Context, ref string) (api.StatefulSet, error) {
	all, err := s.StatefulSets(ctx)
	if err != nil {
		return api.StatefulSet{}, err
	}
	for _, v := range all {
		if v.Name == ref || v.ID == ref {
			return v, nil
		}
	}
	return api.StatefulSet{}, fault.New(errdefs.ErrNotFound, "stateful set %s not found", ref)
}

// SwitchStatefulSet asks for another leader.
func (s *Service) SwitchStatefulSet(ctx context.Context, ref, to string) error {
	v, err := s.StatefulSet(ctx, ref)
	if err != nil {
		return err
	}
	err = s.member().sets.Switch(context.WithoutCancel(ctx), v.ID, to)
	for _, refused := range []error{sets.ErrNoLeader, sets.ErrLeads, sets.ErrNotFollows} {
		if errors.Is(err, refused) {
			return fault.New(errdefs.ErrFailedPrecondition, "switch stateful set %s over: %s", v.Name, err)
		}
	}
	if errors.Is(err, sets.ErrNoMember) {
		return fault.New(errdefs.ErrNotFound, "switch stateful set %s over to %s: %s", v.Name, to, err)
	}
	return remote(err)
}

// RebuildStatefulMember has a member throw its data away and clone the leader's.
func (s *Service) RebuildStatefulMember(ctx context.Context, ref, member string) error {
	v, err := s.StatefulSet(ctx, ref)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(v.Members, func(m api.StatefulMember) bool { return m.Name == member })
	switch {
	case i < 0:
		return fault.New(errdefs.ErrNotFound, "rebuild %s of stateful set %s: %s", member, v.Name, sets.ErrNoMember)
	case member == v.Leader:
		return fault.New(errdefs.ErrFailedPrecondition, "rebuild %s of stateful set %s: it leads; switch over first", member, v.Name)
	case !v.Writable:
		return fault.New(errdefs.ErrFailedPrecondition, "rebuild %s of stateful set %s: %s", member, v.Name, sets.ErrNoLeader)
	}
	// Without its data the others must do for the next leader.
	for j, m := range v.Members {
		if j != i && m.Acknowledges {
			return remote(s.member().sets.Rebuild(context.WithoutCancel(ctx), v.ID, member))
		}
	}
	if v.Members[i].Acknowledges {
		return fault.New(errdefs.ErrFailedPrecondition, "rebuild %s of stateful set %s: no other follower has every acknowledged row", member, v.Name)
	}
	return remote(s.member().sets.Rebuild(context.WithoutCancel(ctx), v.ID, member))
}

// PauseStatefulSet has nobody replace a set's leader, or ends that.
func (s *Service) PauseStatefulSet(ctx context.Context, ref string, on bool) error {
	v, err := s.StatefulSet(ctx, ref)
	if err != nil {
		return err
	}
	return remote(s.member().sets.Pause(context.WithoutCancel(ctx), v.ID, on))
}
