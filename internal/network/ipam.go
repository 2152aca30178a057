package network

import (
	"net/netip"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Pool is a space that subnets for networks are cut from.
type Pool struct {
	Base netip.Prefix
	Size int // length of the prefixes cut from it
}

// chooseSubnet returns the first subnet of the pools that overlaps none of taken.
func chooseSubnet(pools []Pool, v6 bool, taken []netip.Prefix) (netip.Prefix, error) {
	for _, pool := range pools {
		if pool.Base.Addr().Is6() != v6 || pool.Size < pool.Base.Bits() {
			continue
		}
		base := pool.Base.Masked()
		p := netip.PrefixFrom(base.Addr(), pool.Size)
		for p.IsValid() && base.Contains(p.Addr()) {
			o, hit := overlapsAny(p, taken)
			if !hit {
				return p, nil
			}
			if o.Bits() < p.Bits() { // leap over all of a larger one
				p = netip.PrefixFrom(last(o), pool.Size).Masked()
			}
			p = following(p)
		}
	}
	return netip.Prefix{}, fault.New(errdefs.ErrInvalidArgument, "all predefined address pools have been fully subnetted")
}

// subnet hands out the addresses of one subnet of a network. Its owner locks.
type subnet struct {
	prefix  netip.Prefix
	rng     netip.Prefix // where unasked-for addresses come from
	gateway netip.Addr   // invalid where the network has none
	used    map[netip.Addr]string
	hint    netip.Addr // no free address of rng is below it
}

func newSubnet(prefix, rng netip.Prefix) *subnet {
	if !rng.IsValid() {
		rng = prefix
	}
	return &subnet{prefix: prefix, rng: rng, used: map[netip.Addr]string{}, hint: rng.Addr()}
}

// usable tells whether an address may belong to a host: neither the subnet's
// own nor, in IPv4, its broadcast address. Tiny subnets have no such two.
func (s *subnet) usable(a netip.Addr) bool {
	if s.prefix.Bits() >= a.BitLen()-1 {
		return true
	}
	if a == s.prefix.Addr() {
		return false
	}
	return a.Is6() || a != last(s.prefix)
}

// allocate takes the lowest free address of the range that is not busy elsewhere.
func (s *subnet) allocate(owner string, busy func(netip.Addr) bool) (netip.Addr, error) {
	skipped := false
	for a := s.hint; a.IsValid() && s.rng.Contains(a); a = a.Next() {
		if _, taken := s.used[a]; taken || !s.usable(a) {
			continue
		}
		if busy != nil && busy(a) {
			skipped = true
			continue
		}
		s.used[a] = owner
		if !skipped {
			s.hint = a
		}
		return a, nil
	}
	return netip.Addr{}, fault.New(errdefs.ErrUnavailable, "no available addresses on this pool")
}

// reserve takes one address. The same owner may take it again.
func (s *subnet) reserve(a netip.Addr, owner string) error {
	if !s.prefix.Contains(a) || !s.usable(a) {
		return fault.New(errdefs.ErrInvalidArgument, "requested address is out of range")
	}
	if o, taken := s.used[a]; taken && o != owner {
		return fault.New(errdefs.ErrPermissionDenied, "Address already in use")
	}
	s.used[a] = owner
	return nil
}

// release frees an address that owner has; other addresses stay as they are.
func (s *subnet) release(a netip.Addr, owner string) {
	if o, taken := s.used[a]; !taken || o != owner {
		return
	}
	delete(s.used, a)
	if s.rng.Contains(a) && a.Less(s.hint) {
		s.hint = a
	}
}
