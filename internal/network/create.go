package network

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

// checkCreate turns a request into a record without addresses, or says what
// is wrong with it. It changes nothing.
func (s *Service) checkCreate(req mobynet.CreateRequest) (*Record, error) {
	if err := checkName(req.Name); err != nil {
		return nil, err
	}
	if err := checkServed(req); err != nil {
		return nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	r := &Record{
		ID: id, Name: req.Name, Driver: orElse(req.Driver, DriverBridge), Created: s.d.Clock.Now().UTC(),
		Internal: req.Internal, Attachable: req.Attachable,
		Options: maps.Clone(req.Options), Labels: maps.Clone(req.Labels),
		Bridge: "br-" + id[:12],
	}
	if r.EnableIPv4, err = enabled(req.EnableIPv4, req.Options, optEnableIPv4, true); err != nil {
		return nil, err
	}
	if r.EnableIPv6, err = enabled(req.EnableIPv6, req.Options, optEnableIPv6, false); err != nil {
		return nil, err
	}
	if !r.EnableIPv4 && !r.EnableIPv6 && r.Driver == DriverBridge {
		return nil, invalid("IPv4 or IPv6 must be enabled")
	}
	if err := checkOptions(req.Options); err != nil {
		return nil, err
	}
	if name := req.Options[optBridgeName]; name != "" {
		r.Bridge = name
	}
	if err := checkVlan(r); err != nil {
		return nil, err
	}
	if s.d.Settings.MTU > 0 && r.Options[optMTU] == "" {
		if r.Options == nil {
			r.Options = map[string]string{}
		}
		r.Options[optMTU] = strconv.Itoa(s.d.Settings.MTU)
	}
	if req.IPAM != nil && req.IPAM.Driver == ipamNull {
		if err := noAddresses(r); err != nil {
			return nil, err
		}
	}
	if req.IPAM != nil {
		if err := checkIPAM(req.IPAM.Config, r.EnableIPv6); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func enabled(field *bool, options map[string]string, key string, def bool) (bool, error) {
	if field != nil {
		return *field, nil
	}
	v, ok := options[key]
	if !ok {
		return def, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, invalid("driver-opt %q is not a valid bool", key)
	}
	return on, nil
}

func checkName(name string) error {
	switch name {
	case mobynet.NetworkBridge, mobynet.NetworkHost, mobynet.NetworkNone, mobynet.NetworkDefault:
		return fault.New(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network ", name)
	}
	if strings.TrimSpace(name) == "" {
		return invalid("invalid name: name is empty")
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return invalid("invalid network name %q: it contains control characters", name)
	}
	return nil
}

// checkServed refuses what this engine doesn't do, by its name.
func checkServed(req mobynet.CreateRequest) error {
	refuse := func(what string) error {
		return fault.New(errdefs.ErrNotImplemented, "%s is not supported by this engine", what)
	}
	switch req.Driver {
	case "", DriverBridge, DriverMacvlan, DriverIPvlan:
	case DriverHost, DriverNull:
		return fault.New(errdefs.ErrPermissionDenied, "only one instance of %q network is allowed", req.Driver)
	case "overlay":
		return refuse("network driver " + req.Driver)
	default:
		return fault.New(errdefs.ErrNotFound, "could not find plugin %s in v1 plugin registry: plugin not found", req.Driver)
	}
	switch {
	case req.ConfigOnly:
		return refuse("ConfigOnly (--config-only)")
	case req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return refuse("ConfigFrom (--config-from)")
	case req.Ingress:
		return refuse("Ingress (--ingress)")
	case req.Scope != "" && req.Scope != "local":
		return refuse("Scope " + strconv.Quote(req.Scope) + " (--scope)")
	}
	if req.IPAM == nil {
		return nil
	}
	if d := req.IPAM.Driver; d != "" && d != "default" && d != ipamNull {
		return refuse("IPAM driver " + d)
	}
	for k := range req.IPAM.Options {
		return refuse("IPAM option " + k)
	}
	return nil
}

// ipamNull is the IPAM driver that gives no addresses.
const ipamNull = "null"

func checkOptions(o map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		v := o[k]
		switch k {
		case optMasquerade, optICC, optDefault, optEnableIPv4, optEnableIPv6:
			if _, err := strconv.ParseBool(v); err != nil {
				return invalid("invalid value for %s: strconv.ParseBool: parsing %q: invalid syntax", k, v)
			}
			if b, _ := strconv.ParseBool(v); k == optDefault && b {
				return fault.New(errdefs.ErrPermissionDenied, "option %s is for the default network only", k)
			}
		case optMTU:
			if n, err := strconv.Atoi(v); err != nil || n < 0 || n > 65535 {
				return invalid("invalid MTU number: %s", v)
			}
		case optHostBinding:
			if a, err := netip.ParseAddr(v); err != nil || !a.Unmap().Is4() {
				return invalid("invalid value for %s: %q is not an IPv4 address", k, v)
			}
		case optGatewayMode4, optGatewayMode6:
			if v != "" && v != "nat" {
				return fault.New(errdefs.ErrNotImplemented, "option %s=%s is not supported by this engine", k, v)
			}
		case optBridgeName, optIfacePrefix:
			if err := checkLinkName(k, v); err != nil {
				return err
			}
		default:
			// What isn't ours to know is kept for whoever reads it back.
			if strings.HasPrefix(k, "com.docker.network.") {
				return fault.New(errdefs.ErrNotImplemented, "option %s is not supported by this engine", k)
			}
		}
	}
	return nil
}

func checkLinkName(key, name string) error {
	if key == optIfacePrefix {
		name += "0"
	}
	if name == "" || len(name) > 15 || name == "." || name == ".." || name == "lo" || strings.ContainsAny(name, "/: \t\n") {
		return invalid("invalid value for %s: %q is not a name for an interface", key, name)
	}
	return nil
}

func checkIPAM(configs []mobynet.IPAMConfig, ipv6 bool) error {
	var errs []string
	add := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	for _, c := range configs {
		c = unmapConfig(c)
		if !c.Subnet.IsValid() {
			if c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0 {
				add("a subnet is required with ip-range, gateway or auxiliary addresses")
			}
			continue
		}
		fam := family(c.Subnet.Addr())
		if fam == 6 && !ipv6 {
			continue
		}
		if c.Subnet != c.Subnet.Masked() {
			add("invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		}
		if r := c.IPRange; r.IsValid() {
			switch {
			case family(r.Addr()) != fam:
				add("invalid ip-range %s: parent subnet is an IPv%d block", r, fam)
			case r.Bits() < c.Subnet.Bits():
				add("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, c.Subnet)
			case r != r.Masked():
				add("invalid ip-range %s: it should be %s", r, r.Masked())
			case !c.Subnet.Overlaps(r):
				add("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, c.Subnet)
			}
		}
		if why := outside(c.Gateway, c.Subnet); why != "" {
			add("invalid gateway %s: %s", c.Gateway, why)
		}
		for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
			if why := outside(c.AuxAddress[name], c.Subnet); why != "" {
				add("invalid auxiliary address %s: %s", name, why)
			}
		}
	}
	if len(errs) > 0 {
		return invalid("invalid network config:\n%s", strings.Join(errs, "\n"))
	}
	return nil
}

func unmapConfig(c mobynet.IPAMConfig) mobynet.IPAMConfig {
	c.Subnet, c.IPRange, c.Gateway = unmapPrefix(c.Subnet), unmapPrefix(c.IPRange), c.Gateway.Unmap()
	if c.AuxAddress != nil {
		aux := make(map[string]netip.Addr, len(c.AuxAddress))
		for k, a := range c.AuxAddress {
			aux[k] = a.Unmap()
		}
		c.AuxAddress = aux
	}
	return c
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// outside says why an address can't be in a subnet; "" if it can or isn't set.
func outside(a netip.Addr, subnet netip.Prefix) string {
	switch {
	case !a.IsValid():
		return ""
	case family(a) != family(subnet.Addr()):
		return fmt.Sprintf("parent subnet is an IPv%d block", family(subnet.Addr()))
	case !subnet.Contains(a):
		return fmt.Sprintf("parent subnet %s doesn't contain this address", subnet)
	}
	return ""
}

// assignSubnets fills r.IPAM in: what was asked for, and for a family that
// nothing was asked for a subnet from the pools. create is held.
func (s *Service) assignSubnets(ctx context.Context, r *Record, want *mobynet.IPAM) error {
	r.IPAM = mobynet.IPAM{Driver: "default"}
	if want != nil {
		r.IPAM.Driver = orElse(want.Driver, "default")
		r.IPAM.Options = want.Options // none, or none by name: clients see the difference
	}
	taken := s.ownSubnets(r)
	have := map[int]bool{}
	if want != nil {
		for _, c := range want.Config {
			c = unmapConfig(c)
			if !c.Subnet.IsValid() {
				continue
			}
			fam := family(c.Subnet.Addr())
			if (fam == 4 && !r.EnableIPv4) || (fam == 6 && !r.EnableIPv6) {
				continue
			}
			if c.Subnet.Bits() == 0 || c.Subnet.Addr().IsUnspecified() {
				continue // Docker's way to say "any"
			}
			if have[fam] && r.Driver == DriverBridge {
				return fault.New(errdefs.ErrPermissionDenied, "bridge driver doesn't support multiple subnets")
			}
			if _, hit := overlapsAny(c.Subnet, taken); hit {
				return fault.New(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space")
			}
			have[fam] = true
			taken = append(taken, c.Subnet)
			r.UserSubnet = true
			if err := addConfig(r, c); err != nil {
				return err
			}
		}
	}
	defer func() { // IPv4 first, as everywhere
		slices.SortStableFunc(r.IPAM.Config, func(a, b mobynet.IPAMConfig) int { return family(a.Subnet.Addr()) - family(b.Subnet.Addr()) })
	}()
	for _, fam := range []int{4, 6} {
		if have[fam] || (fam == 4 && !r.EnableIPv4) || (fam == 6 && !r.EnableIPv6) {
			continue
		}
		occupied, err := s.d.Link.Occupied(ctx, r.Bridge)
		if err != nil {
			return fmt.Errorf("read the host's subnets: %w", err)
		}
		p, err := chooseSubnet(s.d.Settings.DefaultPools, fam == 6, append(occupied, taken...))
		if err != nil {
			return err
		}
		if err := addConfig(r, mobynet.IPAMConfig{Subnet: p}); err != nil {
			return err
		}
	}
	return nil
}

// addConfig takes a subnet into the record, with a gateway and reserved
// addresses that don't contradict each other.
func addConfig(r *Record, c mobynet.IPAMConfig) error {
	sn := newSubnet(c.Subnet, c.IPRange)
	if c.Gateway.IsValid() {
		if err := sn.reserve(c.Gateway, "gateway"); err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "failed to allocate gateway (%s)", c.Gateway)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
		if err := sn.reserve(c.AuxAddress[name], "aux "+name); err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "failed to allocate secondary ip address (%s:%s)", name, c.AuxAddress[name])
		}
	}
	// On a parent's wire the gateway is somebody else's machine: there is none
	// unless it is named.
	if !c.Gateway.IsValid() && r.Driver == DriverBridge {
		gw, err := sn.allocate("gateway", nil)
		if err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "failed to allocate gateway ()")
		}
		c.Gateway = gw
	}
	r.IPAM.Config = append(r.IPAM.Config, c)
	return nil
}

// ownSubnets lists the subnets of other networks that one must not overlap.
// Networks on parents may be parts of one wire.
func (s *Service) ownSubnets(r *Record) []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.Prefix
	_, wire := r.vlan()
	for _, n := range s.nets {
		if _, other := n.rec.vlan(); n.rec.ID == r.ID || (wire && other) {
			continue
		}
		for _, c := range n.rec.IPAM.Config {
			out = append(out, c.Subnet)
		}
	}
	return out
}

// ensurePredefined makes bridge, host and none where they are missing, and
// brings bridge to what the settings say now.
func (s *Service) ensurePredefined(ctx context.Context) error {
	for name, driver := range map[string]string{mobynet.NetworkHost: DriverHost, mobynet.NetworkNone: DriverNull} {
		if s.predefined(name) != nil {
			continue
		}
		id, err := s.newID()
		if err != nil {
			return err
		}
		r := &Record{
			ID: id, Name: name, Driver: driver, Created: s.d.Clock.Now().UTC(), EnableIPv4: true, Predefined: true,
			IPAM: mobynet.IPAM{Driver: "default"},
		}
		if err := s.keep(r); err != nil {
			return err
		}
	}
	if s.d.Settings.NoBridge {
		return s.dropDefaultBridge()
	}
	r, err := s.defaultBridge(ctx)
	if err != nil {
		return fmt.Errorf("default bridge: %w", err)
	}
	return s.keep(r)
}

// dropDefaultBridge forgets the network that an earlier daemon had; Sweep
// removes its bridge.
func (s *Service) dropDefaultBridge() error {
	r := s.predefined(mobynet.NetworkBridge)
	if r == nil {
		return nil
	}
	if err := s.d.Records.Delete(r.ID); err != nil {
		return fmt.Errorf("forget network %s: %w", r.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nets, r.ID)
	return nil
}

func (s *Service) keep(r *Record) error {
	if err := s.d.Records.Put(r.ID, r); err != nil {
		return fmt.Errorf("record network %s: %w", r.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nets[r.ID] = s.newNetw(r)
	return nil
}

func (s *Service) predefined(name string) *Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nets {
		if n.rec.Name == name {
			return n.rec
		}
	}
	return nil
}

// defaultBridge is the record of bridge. Subnets chosen once stay, so that
// running containers keep their addresses.
func (s *Service) defaultBridge(ctx context.Context) (*Record, error) {
	set := s.d.Settings
	r := &Record{
		Name: mobynet.NetworkBridge, Driver: DriverBridge, Created: s.d.Clock.Now().UTC(), Predefined: true,
		EnableIPv4: true, EnableIPv6: set.IPv6, Bridge: set.BridgeName,
		Options: map[string]string{
			optDefault: "true", optBridgeName: set.BridgeName,
			optICC: strconv.FormatBool(set.ICC), optMasquerade: strconv.FormatBool(set.IPMasq),
			optHostBinding: hostBinding(set.HostBindIP).String(),
		},
	}
	if set.MTU > 0 {
		r.Options[optMTU] = strconv.Itoa(set.MTU)
	}
	old := s.predefined(mobynet.NetworkBridge)
	if old != nil {
		r.ID, r.Created = old.ID, old.Created
	} else {
		id, err := s.newID()
		if err != nil {
			return nil, err
		}
		r.ID = id
	}
	want := &mobynet.IPAM{}
	if set.BIP.IsValid() {
		want.Config = append(want.Config, mobynet.IPAMConfig{Subnet: set.BIP.Masked(), Gateway: set.BIP.Addr(), IPRange: set.FixedCIDR})
	}
	if set.BIP6.IsValid() {
		want.Config = append(want.Config, mobynet.IPAMConfig{Subnet: set.BIP6.Masked(), Gateway: set.BIP6.Addr()})
	}
	if old != nil {
		for _, c := range old.IPAM.Config {
			if v6 := c.Subnet.Addr().Is6(); (v6 && !set.BIP6.IsValid()) || (!v6 && !set.BIP.IsValid()) {
				want.Config = append(want.Config, c)
			}
		}
	}
	if err := checkIPAM(want.Config, set.IPv6); err != nil {
		return nil, err
	}
	if err := s.assignSubnets(ctx, r, want); err != nil {
		return nil, err
	}
	r.UserSubnet = false
	if old != nil && !slices.EqualFunc(old.IPAM.Config, r.IPAM.Config, func(a, b mobynet.IPAMConfig) bool { return a.Subnet == b.Subnet }) {
		s.d.Log.Info("default network's subnet changed", logkey.Network, r.Name)
	}
	return r, nil
}

func hostBinding(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}
