package netalloc

import (
	"fmt"
	"net/netip"
)

// subnet hands out the addresses of one subnet.
type subnet struct {
	prefix netip.Prefix
	rng    netip.Prefix // where unasked-for addresses come from
	used   map[netip.Addr]string
	next   netip.Addr // where the search begins
}

func newSubnet(prefix, rng netip.Prefix) *subnet {
	if !rng.IsValid() {
		rng = prefix
	}
	return &subnet{prefix: prefix, rng: rng, used: map[netip.Addr]string{}, next: rng.Addr()}
}

// usable tells whether a host may have the address.
func (s *subnet) usable(a netip.Addr) bool {
	return a != s.prefix.Addr() && a != lastOf(s.prefix)
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// take gives the next free address to an owner.
func (s *subnet) take(owner string) (netip.Addr, bool) {
	a, wrapped := s.next, false
	for {
		if !a.IsValid() || !s.rng.Contains(a) {
			if wrapped {
				return netip.Addr{}, false
			}
			a, wrapped = s.rng.Addr(), true
		}
		if _, taken := s.used[a]; !taken && s.usable(a) {
			s.used[a] = owner
			s.next = a.Next()
			return a, true
		}
		a = a.Next()
		if wrapped && a == s.next {
			return netip.Addr{}, false
		}
	}
}

// reserve gives one address. The same owner may take it again.
func (s *subnet) reserve(a netip.Addr, owner string) error {
	if !s.prefix.Contains(a) || !s.usable(a) {
		return fmt.Errorf("address %s is not one of subnet %s", a, s.prefix)
	}
	if o, taken := s.used[a]; taken && o != owner {
		return fmt.Errorf("address %s is in use", a)
	}
	s.used[a] = owner
	// What a former leader gave last is not given first by the next.
	if s.rng.Contains(a) && !a.Less(s.next) {
		s.next = a.Next()
	}
	return nil
}

func (s *subnet) release(a netip.Addr, owner string) {
	if s.used[a] == owner {
		delete(s.used, a)
	}
}
