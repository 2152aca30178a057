package network

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// endpoint is a container in a network.
type endpoint struct {
	id   string
	net  *netw
	name string // the container's
	host string // the interface's end in the bridge

	// set is what was asked for and what was given. Guarded by Service.mu, but
	// for the fields that don't change after plan.
	set      *mobynet.EndpointSettings
	attached bool // changed under the sandbox's op
	live     bool // its names are in the zone; guarded by Service.mu
}

func (e *endpoint) addrs() []netip.Addr {
	var out []netip.Addr
	if e.set.IPAddress.IsValid() {
		out = append(out, e.set.IPAddress)
	}
	if e.set.GlobalIPv6Address.IsValid() {
		out = append(out, e.set.GlobalIPv6Address)
	}
	return out
}

func (e *endpoint) settings() *mobynet.EndpointSettings { return e.set.Copy() }

// Validate checks at create time what Join would be asked.
func (s *Service) Validate(_ context.Context, r SandboxRequest) error {
	if _, err := wantedPorts(r); err != nil {
		return err
	}
	if _, err := s.extraHosts(r.ExtraHosts); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, want := range r.Endpoints {
		n, err := s.find(name)
		if err != nil {
			return err
		}
		if err := checkEndpoint(n, want); err != nil {
			return err
		}
	}
	return nil
}

// checkEndpoint says whether a network can give what is wanted of it.
func checkEndpoint(n *netw, want *mobynet.EndpointSettings) error {
	if n.rec.overlay() && (want == nil || want.IPAMConfig == nil || !want.IPAMConfig.IPv4Address.IsValid()) {
		// Any address of ours may be one that the swarm gave to somebody on another node.
		return fault.New(errdefs.ErrFailedPrecondition, "network %s is one of the swarm, which gave no address in it", n.rec.Name)
	}
	if want == nil {
		return nil
	}
	var errs []string
	var v4, v6 netip.Addr
	if c := want.IPAMConfig; c != nil {
		v4, v6 = c.IPv4Address.Unmap(), c.IPv6Address
		for _, a := range c.LinkLocalIPs {
			if !a.Unmap().IsLinkLocalUnicast() {
				errs = append(errs, fmt.Sprintf("invalid link-local IP address: %s", a))
			}
		}
	}
	fixed := v4.IsValid() || v6.IsValid()
	switch {
	case fixed && n.rec.Predefined:
		errs = append(errs, "user-specified IP address is supported on user-defined networks only")
	case fixed && !n.rec.UserSubnet:
		for _, a := range []netip.Addr{v4, v6} {
			if a.IsValid() {
				errs = append(errs, fmt.Sprintf("no configured subnet contains IP address %s", a))
			}
		}
	case v6.Is4In6():
		errs = append(errs, fmt.Sprintf("invalid IPv6 address: %s", v6))
	default:
		errs = append(errs, inSubnets(v4, n.v4, 4)...)
		errs = append(errs, inSubnets(v6, n.v6, 6)...)
	}
	if len(want.Aliases) > 0 && n.rec.Predefined {
		errs = append(errs, "network-scoped aliases are only supported for user-defined networks")
	}
	if mac := want.MacAddress; len(mac) != 0 && (len(mac) != 6 || mac[0]&1 != 0) {
		errs = append(errs, fmt.Sprintf("invalid MAC address: %s", mac))
	}
	if len(want.MacAddress) != 0 && n.rec.Driver == DriverIPvlan {
		errs = append(errs, "ipvlan interfaces do not support custom mac address assignment")
	}
	if len(errs) > 0 {
		return invalid("invalid endpoint settings:\n%s", strings.Join(errs, "\n"))
	}
	for k, v := range want.DriverOpts {
		switch k {
		case optIfname:
			if err := checkLinkName(k, v); err != nil {
				return err
			}
		case optSysctls:
			if _, err := endpointSysctls(v); err != nil {
				return err
			}
		default:
			if strings.HasPrefix(k, "com.docker.network.") {
				return fault.New(errdefs.ErrNotImplemented, "driver option %s is not supported by this engine", k)
			}
		}
	}
	if len(want.Links) > 0 && n.rec.Predefined {
		return fault.New(errdefs.ErrNotImplemented, "links (--link) are not supported by this engine")
	}
	return nil
}

func inSubnets(a netip.Addr, sns []*subnet, fam int) []string {
	if !a.IsValid() {
		return nil
	}
	if family(a) != fam || a.IsUnspecified() {
		return []string{fmt.Sprintf("invalid IPv%d address: %s", fam, a)}
	}
	if slices.ContainsFunc(sns, func(sn *subnet) bool { return sn.prefix.Contains(a) }) {
		return nil
	}
	return []string{fmt.Sprintf("no configured subnet contains IP address %s", a)}
}

// endpointSysctls reads "net.ipv4.conf.IFNAME.log_martians=1,…".
func endpointSysctls(v string) (map[string]string, error) {
	out := map[string]string{}
	for kv := range strings.SplitSeq(v, ",") {
		k, val, _ := strings.Cut(kv, "=")
		parts := strings.SplitN(k, ".", 5)
		if len(parts) != 5 || parts[0] != "net" || (parts[1] != "ipv4" && parts[1] != "ipv6" && parts[1] != "mpls") || !strings.EqualFold(parts[3], "ifname") {
			return nil, invalid("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", kv)
		}
		parts[3] = "IFNAME"
		out[strings.Join(parts, ".")] = val
	}
	return out, nil
}

// plan makes an endpoint and reserves its addresses. mu is held.
func (s *Service) plan(r SandboxRequest, name string, want *mobynet.EndpointSettings) (*endpoint, error) {
	n, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if n.removing {
		return nil, fault.New(errdefs.ErrNotFound, "network %s not found", name)
	}
	if n.rec.Driver == DriverHost {
		return nil, fault.New(errdefs.ErrPermissionDenied, "container cannot be connected to host network: network mode must be set to host when it is created")
	}
	if err := checkEndpoint(n, want); err != nil {
		return nil, err
	}
	if _, ok := n.endpoints[r.Container]; ok {
		return nil, fault.New(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", r.Name, n.rec.Name)
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	id = endpointID(r.Container, id)
	e := &endpoint{id: id, net: n, name: r.Name, host: s.hostEnd(id), set: &mobynet.EndpointSettings{}}
	if want != nil {
		e.set = want.Copy()
	}
	e.set.NetworkID, e.set.EndpointID = n.rec.ID, id
	e.set.DNSNames = dnsNames(n.rec, r, e.set.Aliases)
	if err := s.assign(e); err != nil {
		return nil, err
	}
	n.endpoints[r.Container] = e
	return e, nil
}

// endpointID makes the first digits of a fresh ID the container's, so that its
// interfaces are found by eye. The name of the host end holds ten of the digits:
// there must be enough fresh ones among them to keep all endpoints apart.
func endpointID(container, fresh string) string {
	return (container + fresh)[:3] + fresh[3:]
}

// hostEnd names an endpoint's interface on the host: our mark, the daemon's
// and the endpoint's, in the 15 characters the kernel allows.
func (s *Service) hostEnd(endpointID string) string {
	return HostEndPrefix(s.d.Settings.Instance) + endpointID[:10]
}

// HostEndPrefix is what names of host ends begin with, 5 characters that tell
// the daemons of one machine apart.
func HostEndPrefix(instance string) string {
	sum := sha256.Sum256([]byte(instance))
	return "hf" + strings.ToLower(base32.HexEncoding.EncodeToString(sum[:])[:3])
}

// assign gives an endpoint its addresses. mu is held.
func (s *Service) assign(e *endpoint) error {
	set, n := e.set, e.net
	var v4, v6 netip.Addr
	if set.IPAMConfig != nil {
		v4, v6 = set.IPAMConfig.IPv4Address.Unmap(), set.IPAMConfig.IPv6Address
	}
	set.IPAddress, set.GlobalIPv6Address, set.Gateway, set.IPv6Gateway = netip.Addr{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
	set.IPPrefixLen, set.GlobalIPv6PrefixLen = 0, 0
	if !n.rec.linked() {
		set.MacAddress = nil
		return nil
	}
	sn, a, err := take(n.v4, v4, e.id, s.onOtherWires(n))
	if err != nil {
		return noAddress(err, 4, n.rec)
	}
	if sn != nil {
		set.IPAddress, set.IPPrefixLen = a, sn.prefix.Bits()
		if !n.rec.closed() && !n.rec.routed() {
			set.Gateway = sn.gateway
		}
	}
	sn, a, err = take(n.v6, v6, e.id, s.onOtherWires(n))
	if err != nil {
		s.unplan([]*endpoint{e})
		return noAddress(err, 6, n.rec)
	}
	if sn != nil {
		set.GlobalIPv6Address, set.GlobalIPv6PrefixLen = a, sn.prefix.Bits()
		if !n.rec.closed() && !n.rec.routed() {
			set.IPv6Gateway = sn.gateway
		}
	}
	if len(set.MacAddress) == 0 && n.rec.Driver != DriverIPvlan { // whose interfaces have their parent's
		set.MacAddress = macFor(set.IPAddress, set.GlobalIPv6Address)
	}
	return nil
}

func noAddress(err error, ver int, r *Record) error {
	if errdefs.IsUnavailable(err) {
		return fault.New(errdefs.ErrUnavailable, "no available IPv%d addresses on this network's address pools: %s (%s)", ver, r.Name, r.ID)
	}
	return err
}

// take reserves the wanted address, or any one, in the first subnet that has it.
// Without subnets it gives none.
func take(sns []*subnet, want netip.Addr, owner string, busy func(netip.Addr) bool) (*subnet, netip.Addr, error) {
	var err error
	for _, sn := range sns {
		if want.IsValid() {
			if !sn.prefix.Contains(want) {
				continue
			}
			if busy != nil && busy(want) {
				return nil, netip.Addr{}, fault.New(errdefs.ErrPermissionDenied, "Address already in use")
			}
			return sn, want, sn.reserve(want, owner)
		}
		var a netip.Addr
		if a, err = sn.allocate(owner, busy); err == nil {
			return sn, a, nil
		}
	}
	return nil, netip.Addr{}, err
}

// macFor derives a hardware address from the protocol address, so that
// whoever takes over an address doesn't meet stale neighbour entries.
func macFor(v4, v6 netip.Addr) mobynet.HardwareAddr {
	mac := net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0}
	switch {
	case v4.IsValid():
		b := v4.As4()
		copy(mac[2:], b[:])
	case v6.IsValid():
		b := v6.As16()
		sum := sha256.Sum256(b[:])
		mac[1] = 0x43
		copy(mac[2:], sum[:4])
	}
	return mobynet.HardwareAddr(mac)
}

// unplan gives reserved addresses back. mu is held.
func (s *Service) unplan(eps []*endpoint) {
	for _, e := range eps {
		for _, sn := range slices.Concat(e.net.v4, e.net.v6) {
			for _, a := range e.addrs() {
				sn.release(a, e.id)
			}
		}
		for cid, o := range e.net.endpoints {
			if o == e {
				delete(e.net.endpoints, cid)
			}
		}
	}
}

// attach makes the endpoint's interface. Networks without a link have none.
func (s *Service) attach(ctx context.Context, sb *sandbox, e *endpoint) error {
	r := e.net.rec
	if !r.linked() {
		return nil
	}
	vlan, _ := r.vlan()
	i := Interface{
		Sandbox: sb.req.Container, Bridge: r.Bridge, Vlan: vlan, Host: e.host, Name: e.set.DriverOpts[optIfname],
		Prefix: r.Options[optIfacePrefix], MAC: net.HardwareAddr(e.set.MacAddress), MTU: r.mtu(),
		Isolate: !optBool(r.Options, optICC, true),
	}
	if i.Prefix == "" {
		i.Prefix = "eth"
	}
	if e.set.IPAddress.IsValid() {
		i.Addrs = append(i.Addrs, netip.PrefixFrom(e.set.IPAddress, e.set.IPPrefixLen))
	}
	if e.set.GlobalIPv6Address.IsValid() {
		i.Addrs = append(i.Addrs, netip.PrefixFrom(e.set.GlobalIPv6Address, e.set.GlobalIPv6PrefixLen))
	}
	if c := e.set.IPAMConfig; c != nil {
		for _, a := range c.LinkLocalIPs {
			i.Addrs = append(i.Addrs, linkLocal(a))
		}
	}
	if r.overlay() {
		for _, c := range r.IPAM.Config {
			if !c.Subnet.Contains(e.set.IPAddress) {
				i.Routes = append(i.Routes, c.Subnet)
			}
		}
	}
	if v := e.set.DriverOpts[optSysctls]; v != "" {
		var err error
		if i.Sysctls, err = endpointSysctls(v); err != nil {
			return err
		}
	}
	e.attached = true // also when Attach fails half-way: its host end may be there
	if _, err := s.d.Link.Attach(ctx, i); err != nil {
		return fmt.Errorf("connect to network %s: %w", r.Name, err)
	}
	return nil
}

// linkLocal is a link-local address with its net.
func linkLocal(a netip.Addr) netip.Prefix {
	if a = a.Unmap(); a.Is4() {
		return netip.PrefixFrom(a, 16)
	}
	return netip.PrefixFrom(a, 64)
}

// dnsNames are the names others on the network find a container by; the first
// is the one that reverse queries get.
func dnsNames(r *Record, q SandboxRequest, aliases []string) []string {
	if !r.linked() || r.Predefined {
		return nil
	}
	var out []string
	for _, n := range slices.Concat([]string{q.Name}, aliases, []string{short(q.Container), q.Hostname}) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
