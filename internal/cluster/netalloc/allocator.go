package netalloc

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
)

// Driver is the driver of networks across nodes.
const Driver = "overlay"

// Options of the driver.
const (
	OptVNIs      = "com.docker.network.driver.overlay.vxlanid_list"
	OptEncrypted = "encrypted"
	OptMTU       = "com.docker.network.driver.mtu"
)

const (
	firstVNI = 4097
	lastVNI  = 1<<24 - 1
)

// Allocator is the state of the leader.
type Allocator struct {
	pools []netip.Prefix
	size  int

	mu      sync.Mutex // guards what follows
	nets    map[string]*net
	nextVNI uint32
	// done are the services and tasks that this leader has seen to.
	services, tasks, nodes map[string]bool
}

type net struct {
	vni     uint32
	ingress bool
	subnets []*subnet
}

var _ networkallocator.NetworkAllocator = (*Allocator)(nil)

// New returns an allocator that takes subnets from the pools of the swarm.
func New(c *networkallocator.Config) (*Allocator, error) {
	a := &Allocator{
		size: 24, nets: map[string]*net{}, nextVNI: firstVNI,
		services: map[string]bool{}, tasks: map[string]bool{}, nodes: map[string]bool{},
	}
	if c != nil {
		for _, s := range c.DefaultAddrPool {
			p, err := netip.ParsePrefix(s)
			if err != nil || !p.Addr().Is4() {
				return nil, fmt.Errorf("address pool %q of the swarm is not an IPv4 network", s)
			}
			a.pools = append(a.pools, p.Masked())
		}
		if c.SubnetSize != 0 {
			a.size = int(c.SubnetSize)
		}
	}
	if len(a.pools) == 0 {
		a.pools = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8)}
	}
	return a, nil
}

// Local tells a network of each node's own, which needs nothing.
func Local(n *api.Network) bool {
	return n.Spec.Annotations.Labels[networkallocator.PredefinedLabel] == "true"
}

// IsAllocated implements networkallocator.NetworkAllocator.
func (a *Allocator) IsAllocated(n *api.Network) bool {
	if Local(n) {
		return n.DriverState != nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nets[n.ID] != nil && n.DriverState != nil && n.IPAM != nil
}

// Allocate implements networkallocator.NetworkAllocator.
func (a *Allocator) Allocate(n *api.Network) error {
	if Local(n) {
		n.DriverState = &api.Driver{Name: n.Spec.DriverConfig.Name}
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nets[n.ID] != nil {
		return fmt.Errorf("network %s is allocated already", n.ID)
	}
	out := &net{ingress: networkallocator.IsIngressNetwork(n)}
	var err error
	if out.vni, err = a.vni(n); err != nil {
		return fmt.Errorf("network %s: %w", n.Spec.Annotations.Name, err)
	}
	configs, err := a.subnets(n, out)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Spec.Annotations.Name, err)
	}
	a.nets[n.ID] = out
	a.nextVNI = max(a.nextVNI, out.vni+1)
	state := &api.Driver{Name: Driver, Options: map[string]string{}}
	if n.Spec.DriverConfig != nil {
		for k, v := range n.Spec.DriverConfig.Options {
			state.Options[k] = v
		}
	}
	state.Options[OptVNIs] = strconv.FormatUint(uint64(out.vni), 10)
	n.DriverState = state
	n.IPAM = &api.IPAMOptions{Driver: &api.Driver{Name: "default"}, Configs: configs}
	return nil
}

// VNI reads the number of a network's tunnel.
func VNI(n *api.Network) (uint32, error) {
	if n.DriverState == nil {
		return 0, fmt.Errorf("network %s is not allocated", n.ID)
	}
	return parseVNI(n.DriverState.Options[OptVNIs])
}

func parseVNI(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 || v > lastVNI {
		return 0, fmt.Errorf("%s=%q is not one number of a tunnel", OptVNIs, s)
	}
	return uint32(v), nil
}

// vni is what the network has, or else asks for, or else the next one. mu is held.
func (a *Allocator) vni(n *api.Network) (uint32, error) {
	want := ""
	if n.DriverState != nil {
		want = n.DriverState.Options[OptVNIs]
	} else if n.Spec.DriverConfig != nil {
		want = n.Spec.DriverConfig.Options[OptVNIs]
	}
	taken := func(v uint32) bool {
		for _, o := range a.nets {
			if o.vni == v {
				return true
			}
		}
		return false
	}
	if want != "" {
		v, err := parseVNI(want)
		if err == nil && taken(v) {
			err = fmt.Errorf("tunnel number %d is in use", v)
		}
		return v, err
	}
	for range lastVNI {
		if a.nextVNI > lastVNI {
			a.nextVNI = firstVNI
		}
		v := a.nextVNI
		a.nextVNI++
		if !taken(v) {
			return v, nil
		}
	}
	return 0, fmt.Errorf("all numbers of tunnels are in use")
}

// subnets fills in the subnets that the network has, or else asks for, or else
// one of the pools. mu is held.
func (a *Allocator) subnets(n *api.Network, out *net) ([]*api.IPAMConfig, error) {
	var want []*api.IPAMConfig
	switch {
	case n.IPAM != nil:
		want = n.IPAM.Configs
	case n.Spec.IPAM != nil:
		want = n.Spec.IPAM.Configs
	}
	if len(want) == 0 {
		want = []*api.IPAMConfig{{Family: api.IPAMConfig_IPV4}}
	}
	var configs []*api.IPAMConfig
	for _, w := range want {
		c := w.Copy()
		sn, err := a.subnet(c, out)
		if err != nil {
			return nil, err
		}
		out.subnets = append(out.subnets, sn)
		configs = append(configs, c)
	}
	return configs, nil
}

func (a *Allocator) subnet(c *api.IPAMConfig, own *net) (*subnet, error) {
	var p, rng netip.Prefix
	var err error
	switch c.Subnet {
	case "", "0.0.0.0/0":
		if p, err = a.choose(own); err != nil {
			return nil, err
		}
		c.Subnet = p.String()
	default:
		if p, err = netip.ParsePrefix(c.Subnet); err != nil || !p.Addr().Is4() || p != p.Masked() || p.Bits() > 30 {
			return nil, fmt.Errorf("invalid subnet %q", c.Subnet)
		}
		if o, hit := a.overlaps(p, own); hit {
			return nil, fmt.Errorf("invalid pool request: subnet %s overlaps with %s of another network", p, o)
		}
	}
	if c.Range != "" {
		if rng, err = netip.ParsePrefix(c.Range); err != nil || !p.Contains(rng.Addr()) || rng.Bits() < p.Bits() {
			return nil, fmt.Errorf("invalid ip-range %q of subnet %s", c.Range, p)
		}
		rng = rng.Masked()
	}
	sn := newSubnet(p, rng)
	if c.Gateway != "" {
		gw, err := parseAddr(c.Gateway)
		if err == nil {
			err = sn.reserve(gw, "gateway")
		}
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	for name, s := range c.Reserved {
		r, err := parseAddr(s)
		if err == nil {
			err = sn.reserve(r, "reserved "+name)
		}
		if err != nil {
			return nil, fmt.Errorf("auxiliary address %s: %w", name, err)
		}
	}
	if c.Gateway == "" {
		gw, ok := sn.take("gateway")
		if !ok {
			return nil, fmt.Errorf("no address for a gateway in subnet %s", p)
		}
		c.Gateway = gw.String()
	}
	return sn, nil
}

func (a *Allocator) overlaps(p netip.Prefix, own *net) (netip.Prefix, bool) {
	all := []*net{own}
	for _, o := range a.nets {
		all = append(all, o)
	}
	for _, o := range all {
		for _, sn := range o.subnets {
			if sn.prefix.Overlaps(p) {
				return sn.prefix, true
			}
		}
	}
	return netip.Prefix{}, false
}

// choose takes the first free subnet of the pools.
func (a *Allocator) choose(own *net) (netip.Prefix, error) {
	for _, pool := range a.pools {
		size := max(a.size, pool.Bits())
		for p := netip.PrefixFrom(pool.Addr(), size); pool.Contains(p.Addr()); {
			o, hit := a.overlaps(p, own)
			if !hit {
				return p, nil
			}
			if o.Bits() > p.Bits() {
				o = p
			}
			next := lastOf(o).Next()
			if !next.IsValid() {
				break
			}
			p = netip.PrefixFrom(next, size)
		}
	}
	return netip.Prefix{}, fmt.Errorf("no subnet is left in the swarm's address pools")
}

// parseAddr reads an address, with or without the length of its subnet.
func parseAddr(s string) (netip.Addr, error) {
	s, _, _ = strings.Cut(s, "/")
	return netip.ParseAddr(s)
}

// Deallocate implements networkallocator.NetworkAllocator.
func (a *Allocator) Deallocate(n *api.Network) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.nets, n.ID)
	return nil
}

// give sets the addresses of an attachment: those that it has or asks for, or
// else one. mu is held.
func (a *Allocator) give(network string, have []string, owner string) ([]string, error) {
	n := a.nets[network]
	if n == nil {
		return nil, fmt.Errorf("network %s is not allocated", network)
	}
	var out []string
	for _, s := range have {
		addr, err := parseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", s, err)
		}
		i := slices.IndexFunc(n.subnets, func(sn *subnet) bool { return sn.prefix.Contains(addr) })
		if i < 0 {
			return nil, fmt.Errorf("no subnet of network %s contains address %s", network, addr)
		}
		if err := n.subnets[i].reserve(addr, owner); err != nil {
			return nil, err
		}
		out = append(out, netip.PrefixFrom(addr, n.subnets[i].prefix.Bits()).String())
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, sn := range n.subnets {
		if addr, ok := sn.take(owner); ok {
			return []string{netip.PrefixFrom(addr, sn.prefix.Bits()).String()}, nil
		}
	}
	return nil, fmt.Errorf("no address is left in network %s", network)
}

func (a *Allocator) takeBack(network string, addrs []string, owner string) {
	n := a.nets[network]
	if n == nil {
		return
	}
	for _, s := range addrs {
		if addr, err := parseAddr(s); err == nil {
			for _, sn := range n.subnets {
				sn.release(addr, owner)
			}
		}
	}
}

// wanted are the networks on which a service has an address of its own, sorted.
// mu is held.
func (a *Allocator) wanted(s *api.Service) []string {
	if s.Spec.Endpoint != nil && s.Spec.Endpoint.Mode == api.ResolutionModeDNSRoundRobin {
		return nil
	}
	var out []string
	nets := s.Spec.Task.Networks
	if len(nets) == 0 {
		nets = s.Spec.Networks
	}
	for _, n := range nets {
		if a.nets[n.Target] != nil { // others are local, or gone
			out = append(out, n.Target)
		}
	}
	if networkallocator.IsIngressNetworkNeeded(s) {
		for id, n := range a.nets {
			if n.ingress {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// IsServiceAllocated implements networkallocator.NetworkAllocator.
func (a *Allocator) IsServiceAllocated(s *api.Service, _ ...func(*networkallocator.ServiceAllocationOpts)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	want := a.wanted(s)
	var have []string
	if s.Endpoint != nil {
		for _, v := range s.Endpoint.VirtualIPs {
			if v.Addr == "" {
				return false
			}
			have = append(have, v.NetworkID)
		}
	}
	slices.Sort(have)
	if len(want) == 0 && len(have) == 0 {
		return true
	}
	return a.services[s.ID] && slices.Equal(want, have)
}

// AllocateService implements networkallocator.NetworkAllocator.
func (a *Allocator) AllocateService(s *api.Service) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	want := a.wanted(s)
	if s.Endpoint == nil {
		if len(want) == 0 {
			return nil
		}
		s.Endpoint = &api.Endpoint{}
	}
	if s.Spec.Endpoint != nil {
		s.Endpoint.Spec = s.Spec.Endpoint.Copy()
	}
	var vips []*api.Endpoint_VirtualIP
	for _, v := range s.Endpoint.VirtualIPs {
		if !slices.Contains(want, v.NetworkID) {
			a.takeBack(v.NetworkID, []string{v.Addr}, s.ID)
		} else if v.Addr != "" {
			vips = append(vips, v)
		}
	}
	for _, id := range want {
		i := slices.IndexFunc(vips, func(v *api.Endpoint_VirtualIP) bool { return v.NetworkID == id })
		var have []string
		if i >= 0 {
			have = []string{vips[i].Addr}
		}
		addrs, err := a.give(id, have, s.ID)
		if err != nil {
			return fmt.Errorf("address of service %s: %w", s.Spec.Annotations.Name, err)
		}
		if i < 0 {
			vips = append(vips, &api.Endpoint_VirtualIP{NetworkID: id, Addr: addrs[0]})
		}
	}
	s.Endpoint.VirtualIPs = vips
	a.services[s.ID] = true
	return nil
}

// DeallocateService implements networkallocator.NetworkAllocator.
func (a *Allocator) DeallocateService(s *api.Service) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.Endpoint != nil {
		for _, v := range s.Endpoint.VirtualIPs {
			a.takeBack(v.NetworkID, []string{v.Addr}, s.ID)
		}
		s.Endpoint.VirtualIPs = nil
	}
	delete(a.services, s.ID)
	return nil
}

// IsTaskAllocated implements networkallocator.NetworkAllocator.
func (a *Allocator) IsTaskAllocated(t *api.Task) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.tasks[t.ID] {
		return false
	}
	return !slices.ContainsFunc(t.Networks, func(n *api.NetworkAttachment) bool {
		return !Local(n.Network) && len(n.Addresses) == 0
	})
}

// AllocateTask implements networkallocator.NetworkAllocator.
func (a *Allocator) AllocateTask(t *api.Task) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, n := range t.Networks {
		if Local(n.Network) {
			continue
		}
		addrs, err := a.give(n.Network.ID, n.Addresses, t.ID)
		if err != nil {
			for _, m := range t.Networks[:i] {
				a.takeBack(m.Network.ID, m.Addresses, t.ID)
			}
			return fmt.Errorf("address of task %s: %w", t.ID, err)
		}
		n.Addresses = addrs
	}
	a.tasks[t.ID] = true
	return nil
}

// DeallocateTask implements networkallocator.NetworkAllocator.
func (a *Allocator) DeallocateTask(t *api.Task) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range t.Networks {
		a.takeBack(n.Network.ID, n.Addresses, t.ID)
	}
	delete(a.tasks, t.ID)
	return nil
}

// A node has an address of its own on the ingress network only: elsewhere
// containers find services by themselves.
func needed(n *api.NetworkAttachment) bool {
	return n.Network != nil && networkallocator.IsIngressNetwork(n.Network)
}

func attachment(node *api.Node, n *api.NetworkAttachment) string { return node.ID + " " + n.Network.ID }

// IsAttachmentAllocated implements networkallocator.NetworkAllocator.
func (a *Allocator) IsAttachmentAllocated(node *api.Node, n *api.NetworkAttachment) bool {
	if !needed(n) {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(n.Addresses) > 0 && a.nodes[attachment(node, n)]
}

// AllocateAttachment implements networkallocator.NetworkAllocator.
func (a *Allocator) AllocateAttachment(node *api.Node, n *api.NetworkAttachment) error {
	if !needed(n) {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	addrs, err := a.give(n.Network.ID, n.Addresses, node.ID)
	if err != nil {
		return fmt.Errorf("address of node %s: %w", node.ID, err)
	}
	n.Addresses = addrs
	a.nodes[attachment(node, n)] = true
	return nil
}

// DeallocateAttachment implements networkallocator.NetworkAllocator.
func (a *Allocator) DeallocateAttachment(node *api.Node, n *api.NetworkAttachment) error {
	if !needed(n) {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takeBack(n.Network.ID, n.Addresses, node.ID)
	delete(a.nodes, attachment(node, n))
	return nil
}
