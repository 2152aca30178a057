package netalloc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
)

func fresh(t *testing.T) *Allocator {
	t.Helper()
	a, err := New(&networkallocator.Config{DefaultAddrPool: []string{"10.0.0.0/8"}, SubnetSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func netOf(id string, subnets ...string) *api.Network {
	n := &api.Network{ID: id, Spec: api.NetworkSpec{Annotations: api.Annotations{Name: id}, DriverConfig: &api.Driver{Name: Driver}}}
	if len(subnets) > 0 {
		n.Spec.IPAM = &api.IPAMOptions{}
		for _, s := range subnets {
			n.Spec.IPAM.Configs = append(n.Spec.IPAM.Configs, &api.IPAMConfig{Subnet: s})
		}
	}
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func taskIn(id string, nets ...*api.Network) *api.Task {
	t := &api.Task{ID: id}
	for _, n := range nets {
		t.Networks = append(t.Networks, &api.NetworkAttachment{Network: n})
	}
	return t
}

func TestNetworksDoNotOverlap(t *testing.T) {
	a := fresh(t)
	var got []string
	for i := range 3 {
		n := netOf(fmt.Sprint("n", i))
		must(t, a.Allocate(n))
		v, err := VNI(n)
		must(t, err)
		got = append(got, fmt.Sprint(v, " ", n.IPAM.Configs[0].Subnet, " ", n.IPAM.Configs[0].Gateway))
	}
	if want := []string{"4097 10.0.0.0/24 10.0.0.1", "4098 10.0.1.0/24 10.0.1.1", "4099 10.0.2.0/24 10.0.2.1"}; !slices.Equal(got, want) {
		t.Errorf("networks %v", got)
	}
	big := netOf("big", "10.0.4.0/22", "192.168.7.0/24")
	must(t, a.Allocate(big))
	next := []string{}
	for i := range 2 {
		n := netOf(fmt.Sprint("m", i))
		must(t, a.Allocate(n))
		next = append(next, n.IPAM.Configs[0].Subnet)
	}
	if want := []string{"10.0.3.0/24", "10.0.8.0/24"}; !slices.Equal(next, want) {
		t.Errorf("around a large subnet: %v", next)
	}
	for text, n := range map[string]*api.Network{
		"overlaps with 192.168.7.0/24": netOf("x", "192.168.0.0/16"),
		"overlaps with 172.16.0.0/24":  netOf("x", "172.16.0.0/24", "172.16.0.0/25"),
		`invalid subnet "10.9.9.9/24"`: netOf("x", "10.9.9.9/24"),
		"tunnel number 4097 is in use": func() *api.Network {
			n := netOf("x")
			n.Spec.DriverConfig.Options = map[string]string{OptVNIs: "4097"}
			return n
		}(),
	} {
		if err := a.Allocate(n); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want an error with %q, have %v", text, err)
		}
	}
	// What goes is free for others.
	must(t, a.Deallocate(big))
	n := netOf("again", "10.0.4.0/24")
	must(t, a.Allocate(n))
}

// A new leader knows nothing, and gets to know all from the objects themselves.
func TestNextLeaderGivesNothingTwice(t *testing.T) {
	old := fresh(t)
	n := netOf("net")
	must(t, old.Allocate(n))
	ingress := netOf("ingress")
	ingress.Spec.Ingress = true
	must(t, old.Allocate(ingress))
	s := &api.Service{ID: "s", Spec: api.ServiceSpec{
		Task:     api.TaskSpec{Networks: []*api.NetworkAttachmentConfig{{Target: "net"}}},
		Endpoint: &api.EndpointSpec{Ports: []*api.PortConfig{{TargetPort: 80, PublishMode: api.PublishModeIngress}}},
	}}
	if old.IsServiceAllocated(s) {
		t.Error("a service without addresses counts as allocated")
	}
	must(t, old.AllocateService(s))
	if !old.IsServiceAllocated(s) || len(s.Endpoint.VirtualIPs) != 2 {
		t.Fatalf("service has %v", s.Endpoint.VirtualIPs)
	}
	task := taskIn("t", ingress, n)
	must(t, old.AllocateTask(task))
	node := &api.Node{ID: "node"}
	at := &api.NetworkAttachment{Network: ingress}
	must(t, old.AllocateAttachment(node, at))

	a := fresh(t)
	for _, x := range []*api.Network{ingress, n} {
		if a.IsAllocated(x) {
			t.Error("a new leader knows a network before it was told")
		}
		before := x.Copy()
		must(t, a.Allocate(x))
		if !slices.EqualFunc(before.IPAM.Configs, x.IPAM.Configs, func(a, b *api.IPAMConfig) bool { return a.Subnet == b.Subnet && a.Gateway == b.Gateway }) || before.DriverState.Options[OptVNIs] != x.DriverState.Options[OptVNIs] {
			t.Errorf("network %s became another", x.ID)
		}
	}
	want := fmt.Sprint(s.Endpoint.VirtualIPs, task.Networks[0].Addresses, task.Networks[1].Addresses, at.Addresses)
	must(t, a.AllocateService(s))
	must(t, a.AllocateTask(task))
	must(t, a.AllocateAttachment(node, at))
	if got := fmt.Sprint(s.Endpoint.VirtualIPs, task.Networks[0].Addresses, task.Networks[1].Addresses, at.Addresses); got != want {
		t.Errorf("addresses became %s, were %s", got, want)
	}
	given := map[string]bool{}
	for _, addr := range []string{s.Endpoint.VirtualIPs[0].Addr, s.Endpoint.VirtualIPs[1].Addr, task.Networks[0].Addresses[0], task.Networks[1].Addresses[0], at.Addresses[0]} {
		given[addr] = true
	}
	for i := range 100 {
		more := taskIn(fmt.Sprint("more", i), ingress, n)
		must(t, a.AllocateTask(more))
		for _, x := range more.Networks {
			if given[x.Addresses[0]] {
				t.Fatalf("%s was given twice", x.Addresses[0])
			}
			given[x.Addresses[0]] = true
		}
	}
}

func TestServicesFollowTheirSpec(t *testing.T) {
	a := fresh(t)
	must(t, a.Allocate(netOf("a")))
	must(t, a.Allocate(netOf("b")))
	s := &api.Service{ID: "s"}
	on := func(nets ...string) {
		s.Spec.Task.Networks = nil
		for _, n := range nets {
			s.Spec.Task.Networks = append(s.Spec.Task.Networks, &api.NetworkAttachmentConfig{Target: n})
		}
	}
	vips := func() string {
		var out []string
		if s.Endpoint != nil {
			for _, v := range s.Endpoint.VirtualIPs {
				out = append(out, v.NetworkID+"="+v.Addr)
			}
		}
		return strings.Join(out, " ")
	}
	for i, step := range []struct {
		nets []string
		mode api.EndpointSpec_ResolutionMode
		want string
	}{
		{nil, 0, ""},
		{[]string{"a"}, 0, "a=10.0.0.2/24"},
		{[]string{"a", "b"}, 0, "a=10.0.0.2/24 b=10.0.1.2/24"},
		{[]string{"b"}, 0, "b=10.0.1.2/24"},
		{[]string{"b"}, api.ResolutionModeDNSRoundRobin, ""},
		{[]string{"b"}, 0, "b=10.0.1.3/24"}, // not soon the same
		{[]string{"host"}, 0, ""},
	} {
		on(step.nets...)
		s.Spec.Endpoint = &api.EndpointSpec{Mode: step.mode}
		must(t, a.AllocateService(s))
		if got := vips(); got != step.want || !a.IsServiceAllocated(s) {
			t.Errorf("step %d: %q, want %q; allocated %v", i, got, step.want, a.IsServiceAllocated(s))
		}
	}
}

func TestTasks(t *testing.T) {
	a := fresh(t)
	n := netOf("n", "10.7.0.0/29") // 6 addresses, one the gateway's
	must(t, a.Allocate(n))
	var all []*api.Task
	for i := range 5 {
		x := taskIn(fmt.Sprint("t", i), n)
		must(t, a.AllocateTask(x))
		all = append(all, x)
	}
	if err := a.AllocateTask(taskIn("t6", n)); err == nil || !strings.Contains(err.Error(), "no address is left") {
		t.Errorf("one too many: %v", err)
	}
	must(t, a.DeallocateTask(all[3]))
	x := taskIn("t7", n)
	must(t, a.AllocateTask(x))
	if x.Networks[0].Addresses[0] != all[3].Networks[0].Addresses[0] {
		t.Errorf("the free address is %s, given was %s", all[3].Networks[0].Addresses[0], x.Networks[0].Addresses[0])
	}
	wish := taskIn("t8", n)
	wish.Networks[0].Addresses = []string{"10.7.0.3"}
	if err := a.AllocateTask(wish); err == nil || !strings.Contains(err.Error(), "address 10.7.0.3 is in use") {
		t.Errorf("an address that another has: %v", err)
	}
	local := &api.Network{ID: "l", Spec: api.NetworkSpec{Annotations: api.Annotations{Name: "bridge", Labels: map[string]string{networkallocator.PredefinedLabel: "true"}}, DriverConfig: &api.Driver{Name: "bridge"}}}
	must(t, a.Allocate(local))
	y := taskIn("t9", local)
	must(t, a.AllocateTask(y))
	if len(y.Networks[0].Addresses) != 0 || !a.IsTaskAllocated(y) {
		t.Errorf("on a node's own network: %v", y.Networks[0].Addresses)
	}
}

func FuzzPool(f *testing.F) {
	f.Add("10.0.0.0/8", "10.0.0.0/24", "10.0.0.7", uint32(24))
	f.Add("x", "::/0", "", uint32(200))
	f.Fuzz(func(_ *testing.T, pool, subnet, gateway string, size uint32) {
		a, err := New(&networkallocator.Config{DefaultAddrPool: []string{pool}, SubnetSize: size})
		if err != nil {
			return
		}
		n := netOf("n", subnet)
		n.Spec.IPAM.Configs[0].Gateway = gateway
		if a.Allocate(n) != nil {
			return
		}
		p := netip.MustParsePrefix(n.IPAM.Configs[0].Subnet)
		x := taskIn("t", n)
		if a.AllocateTask(x) == nil {
			got := netip.MustParsePrefix(x.Networks[0].Addresses[0])
			if !p.Contains(got.Addr()) || got.Bits() != p.Bits() {
				panic(fmt.Sprint(got, " is not of ", p))
			}
		}
	})
}
