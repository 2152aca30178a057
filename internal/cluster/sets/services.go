package sets

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/constraint"

	"holdfast.dev/holdfast/internal/stateful"
	"holdfast.dev/holdfast/internal/stateful/member"
)

// Labels of services. Users set the first three; the others are ours.
const (
	LabelProfile = "holdfast.stateful.profile"
	LabelSync    = "holdfast.stateful.synchronous"
	LabelPort    = "holdfast.stateful.port"
	LabelMembers = "holdfast.stateful.members" // how many, on the set's service

	LabelNames = "holdfast.stateful.names" // "yes": members find each other by name, on the set's network

	LabelVIPs   = "holdfast.stateful.vips"   // the set's addresses, on a member's: network=address,…
	LabelOf     = "holdfast.stateful.of"     // the set's service, on a member's
	LabelMember = "holdfast.stateful.member" // the member's name
)

// Wish is what a set's service asks for.
type Wish struct {
	Mode    stateful.Mode
	Port    int
	Members int
	ByName  bool // on a network of the swarm
}

// IsSet says whether labels ask for a set.
func IsSet(labels map[string]string) bool { return labels[LabelProfile] != "" }

// ReadWish reads labels; the number of members is the service's replicas.
func ReadWish(labels map[string]string, members int) (Wish, error) {
	w := Wish{Mode: stateful.ModeOn, Port: 5432, Members: members, ByName: labels[LabelNames] != ""}
	if p := labels[LabelProfile]; p != "postgres" {
		return w, fmt.Errorf("label %s: there is no profile %q (postgres is)", LabelProfile, p)
	}
	if v, ok := labels[LabelSync]; ok {
		w.Mode = stateful.Mode(v)
		if !slices.Contains([]stateful.Mode{stateful.ModeOn, stateful.ModeOff, stateful.ModeStrict}, w.Mode) {
			return w, fmt.Errorf("label %s is %q: it may be on, off or strict", LabelSync, v)
		}
	}
	if v, ok := labels[LabelPort]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 65535 {
			return w, fmt.Errorf("label %s is %q, which is no port", LabelPort, v)
		}
		w.Port = n
	}
	for k := range labels {
		known := []string{LabelProfile, LabelSync, LabelPort, LabelMembers, LabelNames}
		if strings.HasPrefix(k, "holdfast.stateful.") && !slices.Contains(known, k) {
			return w, fmt.Errorf("label %s is not known", k)
		}
	}
	switch {
	case members < 1:
		return w, errors.New("a set has at least one member")
	case members == 2 && w.Mode == stateful.ModeStrict:
		return w, errors.New("a strict set of two members would stop writing whenever either is down: give it three, or make it synchronous=on")
	case members > 9:
		return w, errors.New("a set has at most nine members")
	}
	return w, nil
}

// Homes gives members that have none a home: a node that has no other member of
// the set, by name. missing says how many found none.
func Homes(set string, n int, homes map[string]string, nodes []string) (out map[string]string, missing int) {
	out = maps.Clone(homes)
	if out == nil {
		out = map[string]string{}
	}
	taken := map[string]bool{}
	for _, h := range out {
		taken[h] = true
	}
	free := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return taken[n] })
	for i := 1; i <= n; i++ {
		m := fmt.Sprintf("%s-%d", set, i)
		switch {
		case out[m] != "":
		case len(free) == 0:
			missing++
		default:
			out[m], free = free[0], free[1:]
		}
	}
	return out, missing
}

// memberSpec is the service of one member.
func memberSpec(set *api.Service, w Wish, name, node string) api.ServiceSpec {
	spec := set.Spec.Copy()
	spec.Annotations = api.Annotations{Name: name, Labels: map[string]string{
		LabelOf: set.ID, LabelMember: name, LabelPort: strconv.Itoa(w.Port),
	}}
	if w.ByName {
		spec.Annotations.Labels[LabelVIPs] = writeVIPs(set)
	}
	spec.Mode = &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{Replicas: 1}}
	spec.Update = &api.UpdateConfig{Parallelism: 1, Order: api.UpdateConfig_STOP_FIRST}
	spec.Task.Placement = &api.Placement{Constraints: []string{"node.id==" + node}}
	spec.Task.Restart = &api.RestartPolicy{Condition: api.RestartOnAny, Delay: &gogotypes.Duration{Nanos: 500_000_000}}
	c := spec.Task.GetContainer()
	c.Init = &gogotypes.BoolValue{Value: true}                // the database's orphans are reaped
	c.Healthcheck = &api.HealthConfig{Test: []string{"NONE"}} // a member without a leader is not ill
	c.Args = append(slices.Clone(c.Command), c.Args...)
	c.Command = []string{member.Program}
	c.Env = append(c.Env, member.EnvMember+"="+name, member.EnvPort+"="+strconv.Itoa(w.Port), member.EnvSet+"="+set.ID)
	if c.StopGracePeriod == nil {
		c.StopGracePeriod = &gogotypes.Duration{Seconds: 60}
	}
	number := strings.TrimPrefix(name, set.Spec.Annotations.Name+"-")
	for i := range c.Mounts {
		if c.Mounts[i].Type == api.MountTypeVolume {
			c.Mounts[i].Source += "-" + number
		}
	}
	return *spec
}

// writeVIPs are a set's addresses in the form of a label.
func writeVIPs(set *api.Service) string {
	if set.Endpoint == nil {
		return ""
	}
	var out []string
	for _, v := range set.Endpoint.VirtualIPs {
		if p, err := netip.ParsePrefix(v.Addr); err == nil {
			out = append(out, v.NetworkID+"="+p.Addr().String())
		}
	}
	return strings.Join(out, ",")
}

// ReadVIPs reads a member's label, by network.
func ReadVIPs(label string) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for part := range strings.SplitSeq(label, ",") {
		id, text, _ := strings.Cut(part, "=")
		if a, err := netip.ParseAddr(text); err == nil {
			out[id] = a
		}
	}
	return out
}

// reconcile brings sets' records and members' services to what the sets' services
// say.
func (s *Sets) reconcile(ctx context.Context, st store) error {
	r, err := st.c.ListServices(ctx, &api.ListServicesRequest{})
	if err != nil {
		return err
	}
	a, err := st.all(ctx)
	if err != nil {
		return err
	}
	wished := map[string]*api.Service{}
	members := map[string]*api.Service{}
	for _, sv := range r.Services {
		switch labels := sv.Spec.Annotations.Labels; {
		case IsSet(labels):
			wished[sv.ID] = sv
		case labels[LabelOf] != "":
			members[sv.Spec.Annotations.Name] = sv
		}
	}
	var errs []error
	for name, m := range members {
		if wished[m.Spec.Annotations.Labels[LabelOf]] == nil {
			_, err := st.c.RemoveService(ctx, &api.RemoveServiceRequest{ServiceID: m.ID})
			errs = append(errs, err)
			delete(members, name)
		}
	}
	for id, o := range a.sets {
		if wished[id] == nil {
			_, err := st.c.RemoveResource(ctx, &api.RemoveResourceRequest{ResourceID: o.ID})
			errs = append(errs, err)
		}
	}
	for id, sv := range wished {
		errs = append(errs, s.reconcileSet(ctx, st, sv, a.sets[id], members))
	}
	return errors.Join(errs...)
}

func (s *Sets) reconcileSet(ctx context.Context, st store, sv *api.Service, o *api.Resource, members map[string]*api.Service) error {
	labels := sv.Spec.Annotations.Labels
	n, err := strconv.Atoi(labels[LabelMembers])
	if err != nil {
		return fmt.Errorf("set %s: label %s: %w", sv.Spec.Annotations.Name, LabelMembers, err)
	}
	w, err := ReadWish(labels, n)
	if err != nil {
		return fmt.Errorf("set %s: %w", sv.Spec.Annotations.Name, err)
	}
	set := stateful.Set{Name: sv.Spec.Annotations.Name}
	if o != nil {
		if set, err = decode[stateful.Set](o); err != nil {
			return err
		}
	} else {
		set.Secret = newSecret()
	}
	nodes, err := s.candidates(ctx, st, sv)
	if err != nil {
		return err
	}
	homes, missing := Homes(set.Name, n, set.Homes, nodes)
	s.setProblem(sv.ID, missing)
	if o == nil || set.Mode != w.Mode || set.Port != w.Port || set.ByName != w.ByName || !maps.Equal(homes, set.Homes) {
		set.Mode, set.Port, set.ByName, set.Homes = w.Mode, w.Port, w.ByName, homes
		if o == nil {
			err = st.create(ctx, kindSet, sv.ID, set)
		} else {
			err = st.swap(ctx, o, o.Meta.Version.Index, set)
		}
		if err != nil {
			return err // the next look goes on
		}
	}
	if w.ByName && writeVIPs(sv) == "" {
		return nil // its address is still to come
	}
	for name, node := range homes {
		if members[name] != nil {
			continue
		}
		spec := memberSpec(sv, w, name, node)
		if _, err := st.c.CreateService(ctx, &api.CreateServiceRequest{Spec: &spec}); err != nil {
			return fmt.Errorf("make member %s: %w", name, err)
		}
	}
	return nil
}

func (s *Sets) setProblem(set string, missing int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.problems, set)
	if missing > 0 {
		s.problems[set] = fmt.Sprintf("%d members wait for nodes: each needs one of its own", missing)
	}
}

func newSecret() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// candidates are the nodes that a set's members may live on, those by name.
func (s *Sets) candidates(ctx context.Context, st store, sv *api.Service) ([]string, error) {
	var want []constraint.Constraint
	if p := sv.Spec.Task.Placement; p != nil {
		var err error
		if want, err = constraint.Parse(p.Constraints); err != nil {
			return nil, err
		}
	}
	r, err := st.c.ListNodes(ctx, &api.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	nodes := slices.DeleteFunc(r.Nodes, func(n *api.Node) bool {
		return n.Status.State != api.NodeStatus_READY || n.Spec.Availability != api.NodeAvailabilityActive || !constraint.NodeMatches(want, n)
	})
	hostname := func(n *api.Node) string {
		if n.Description == nil {
			return ""
		}
		return n.Description.Hostname
	}
	slices.SortFunc(nodes, func(a, b *api.Node) int {
		return strings.Compare(hostname(a)+" "+a.ID, hostname(b)+" "+b.ID)
	})
	out := make([]string, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.ID)
	}
	return out, nil
}
