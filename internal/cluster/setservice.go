package cluster

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/cluster/convert"
	"holdfast.dev/holdfast/internal/cluster/netalloc"
	"holdfast.dev/holdfast/internal/cluster/sets"
)

// A stateful set is a service with labels holdfast.stateful.*. SwarmKit holds it
// with no replicas of its own; how many members it has is a label. Its members
// are services that the API leaves out of lists.

const ours = "holdfast.stateful."

// setFor says how many members a service shall have as a set, 0 for one that is
// no set, and refuses what a set cannot be.
func setFor(s *swarm.ServiceSpec) (members int, err error) {
	if !sets.IsSet(s.Labels) {
		for l := range s.Labels {
			if strings.HasPrefix(l, ours) {
				return 0, invalid("label %s without %s, which makes a set of a service", l, sets.LabelProfile)
			}
		}
		return 0, nil
	}
	if m := s.Mode; m.Global != nil || m.GlobalJob != nil || m.ReplicatedJob != nil {
		return 0, invalid("stateful set %s: a set is a replicated service", s.Name)
	}
	members = 1 // as services have it
	if r := s.Mode.Replicated; r != nil && r.Replicas != nil {
		members = int(min(*r.Replicas, 1000))
	}
	w, err := sets.ReadWish(s.Labels, members)
	if err != nil {
		return 0, invalid("stateful set %s: %s", s.Name, err)
	}
	if len(s.Name) > 40 {
		return 0, invalid("stateful set %s: its name has more than 40 letters", s.Name)
	}
	return w.Members, refuseSet(s)
}

// refuseSet names what a set's service asks for and this release does not do.
func refuseSet(s *swarm.ServiceSpec) error {
	c := s.TaskTemplate.ContainerSpec
	bad := func(what string) error {
		return unserved("stateful set %s: %s", s.Name, what)
	}
	if e := s.EndpointSpec; e != nil && len(e.Ports) > 0 {
		return bad("a published port (members listen on their nodes, at " + sets.LabelPort + ")")
	}
	if c == nil {
		return bad("a task that is no container")
	}
	switch {
	case len(c.Command) > 0:
		return bad("an entrypoint of its own")
	case c.User != "":
		return bad("a user of its own")
	case c.ReadOnly:
		return bad("a read-only root file system")
	case c.Healthcheck != nil:
		return bad("a health check")
	}
	volumes := 0
	for _, m := range c.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		volumes++
		if m.Source == "" || strings.Contains(m.Source, "{{") {
			return bad("a volume without a plain name")
		}
		if o := m.VolumeOptions; o != nil && o.DriverConfig != nil && o.DriverConfig.Name != "" && o.DriverConfig.Name != "local" {
			return bad("a volume of driver " + o.DriverConfig.Name)
		}
	}
	if volumes != 1 {
		return invalid("stateful set %s: a member has exactly one volume, for its data", s.Name)
	}
	return nil
}

// onNetwork says where a set's members find each other: at their nodes, or by name on
// a network of the swarm. Other networks are refused.
func onNetwork(ctx context.Context, c api.ControlClient, s *api.ServiceSpec) error {
	if !sets.IsSet(s.Annotations.Labels) {
		return nil
	}
	name := s.Annotations.Name
	if len(s.Task.Networks) != 1 {
		return unserved("stateful set %s: anything but one network: the node's own (--network host) or an overlay network", name)
	}
	n, err := findNetwork(ctx, c, s.Task.Networks[0].Target)
	if err != nil {
		return err
	}
	switch {
	case n.Spec.Annotations.Name == network.NetworkHost:
		delete(s.Annotations.Labels, sets.LabelNames)
		return nil
	case netalloc.Local(n) || n.Spec.Ingress:
		return unserved("stateful set %s: network %s, which is neither the node's own (host) nor an overlay network", name, n.Spec.Annotations.Name)
	case s.Endpoint != nil && s.Endpoint.Mode == api.ResolutionModeDNSRoundRobin:
		return unserved("stateful set %s: --endpoint-mode dnsrr: its name leads to one address, which follows the leader", name)
	}
	s.Annotations.Labels[sets.LabelNames] = "yes"
	return nil
}

// storeSet gives a set's service the form in which SwarmKit holds it.
func storeSet(s *api.ServiceSpec, members int) {
	s.Annotations.Labels = maps.Clone(s.Annotations.Labels)
	s.Annotations.Labels[sets.LabelMembers] = strconv.Itoa(members)
	s.Mode = &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{}}
}

// serviceFrom is a service as the API shows it.
func serviceFrom(s *api.Service) swarm.Service {
	out := convert.ServiceFrom(*s)
	showSet(&out.Spec)
	if out.PreviousSpec != nil {
		showSet(out.PreviousSpec)
	}
	return out
}

func showSet(s *swarm.ServiceSpec) {
	n, err := strconv.ParseUint(s.Labels[sets.LabelMembers], 10, 32)
	if err != nil || !sets.IsSet(s.Labels) {
		return
	}
	s.Labels = maps.Clone(s.Labels)
	delete(s.Labels, sets.LabelMembers)
	delete(s.Labels, sets.LabelNames)
	s.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
}

func hiddenMember(s *api.Service) bool { return s.Spec.Annotations.Labels[sets.LabelOf] != "" }

// notAMember refuses to change what belongs to a set.
func notAMember(s *api.Service) error {
	if hiddenMember(s) {
		return fault.New(errdefs.ErrFailedPrecondition, "service %s is a member of a stateful set: change the set", s.Spec.Annotations.Name)
	}
	return nil
}

// mayUpdateSet refuses changes that a set cannot follow.
func mayUpdateSet(now *api.Service, want *api.ServiceSpec, rollback bool) error {
	if err := notAMember(now); err != nil {
		return err
	}
	was, is := sets.IsSet(now.Spec.Annotations.Labels), sets.IsSet(want.Annotations.Labels)
	switch {
	case !was && !is:
		return nil
	case was != is:
		return invalid("service %s: a service cannot become a stateful set, nor a set a plain service", now.Spec.Annotations.Name)
	case rollback:
		return unserved("stateful set %s: rollback", now.Spec.Annotations.Name)
	}
	before, _ := strconv.Atoi(now.Spec.Annotations.Labels[sets.LabelMembers]) // ours
	after, _ := strconv.Atoi(want.Annotations.Labels[sets.LabelMembers])
	if after < before {
		return unserved("stateful set %s: fewer members", now.Spec.Annotations.Name)
	}
	a, b := now.Spec.Task.Copy(), want.Task.Copy()
	for _, t := range []*api.TaskSpec{a, b} {
		if c := t.GetContainer(); c != nil {
			c.PullOptions = nil
		}
		t.Networks = nil // by name in one and ID in the other
	}
	if a.String() != b.String() || now.Spec.Annotations.Labels[sets.LabelPort] != want.Annotations.Labels[sets.LabelPort] {
		return unserved("stateful set %s: a change of its containers", now.Spec.Annotations.Name)
	}
	return nil
}

// membersOf are the services of a set's members.
func membersOf(ctx context.Context, c api.ControlClient, s *api.Service) ([]*api.Service, error) {
	if !sets.IsSet(s.Spec.Annotations.Labels) {
		return nil, nil
	}
	r, err := c.ListServices(ctx, &api.ListServicesRequest{Filters: &api.ListServicesRequest_Filters{Labels: map[string]string{sets.LabelOf: s.ID}}})
	if err != nil {
		return nil, err
	}
	return r.Services, nil
}

// countMembers counts the tasks of sets: those of their members.
func countMembers(ctx context.Context, c api.ControlClient, all []*api.Service, out []swarm.Service) error {
	for i := range out {
		if !sets.IsSet(out[i].Spec.Labels) {
			continue
		}
		at := slices.IndexFunc(all, func(s *api.Service) bool { return s.ID == out[i].ID })
		members, err := membersOf(ctx, c, all[at])
		if err != nil {
			return err
		}
		st := &swarm.ServiceStatus{DesiredTasks: *out[i].Spec.Mode.Replicated.Replicas}
		if len(members) > 0 {
			ids := make([]string, 0, len(members))
			for _, m := range members {
				ids = append(ids, m.ID)
			}
			r, err := c.ListServiceStatuses(ctx, &api.ListServiceStatusesRequest{Services: ids})
			if err != nil {
				return err
			}
			for _, n := range r.Statuses {
				st.RunningTasks += n.RunningTasks
			}
		}
		out[i].ServiceStatus = st
	}
	return nil
}
