package cluster

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

const defaultPort = "2377"

// nic is a network interface as the choice of addresses sees it.
type nic struct {
	name  string
	addrs []netip.Addr
}

// nics lists the interfaces of this machine that are up, without our own
// bridges and containers' ends.
func nics(own func(name string) bool) ([]nic, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []nic
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || own(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		n := nic{name: i.Name}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				n.addrs = append(n.addrs, p.Addr())
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// splitAddr reads host and port; the port may be left out.
func splitAddr(addr, what string) (host, port string, err error) {
	if addr == "" {
		return "", defaultPort, nil
	}
	host, port, err = net.SplitHostPort(addr)
	if err != nil { // no port
		host, port = strings.Trim(addr, "[]"), defaultPort
		if _, _, err := net.SplitHostPort(net.JoinHostPort(host, port)); err != nil || strings.Count(host, ":") == 1 {
			return "", "", invalid("invalid %s %q", what, addr)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", invalid("invalid %s %q: the port must be between 1 and 65535", what, addr)
	}
	return host, port, nil
}

// ofInterface is the address of a named interface, IPv4 before IPv6.
func ofInterface(name string, all []nic) (netip.Addr, bool, error) {
	for _, n := range all {
		if n.name != name {
			continue
		}
		usable := slices.DeleteFunc(slices.Clone(n.addrs), func(a netip.Addr) bool { return a.IsLinkLocalUnicast() })
		v4 := slices.DeleteFunc(slices.Clone(usable), func(a netip.Addr) bool { return !a.Is4() })
		if len(v4) > 0 {
			usable = v4
		}
		switch len(usable) {
		case 0:
			return netip.Addr{}, true, invalid("interface %s has no usable IPv4 or IPv6 address", name)
		case 1:
			return usable[0], true, nil
		}
		return netip.Addr{}, true, invalid("interface %s has more than one address (%s and %s)", name, usable[0], usable[1])
	}
	return netip.Addr{}, false, nil
}

// listenAddr makes the address to listen on out of what was asked for.
func listenAddr(asked string, all []nic) (string, error) {
	host, port, err := splitAddr(asked, "listen address")
	if err != nil {
		return "", err
	}
	if host == "" {
		return net.JoinHostPort("0.0.0.0", port), nil
	}
	if a, ok, err := ofInterface(host, all); ok || err != nil {
		return net.JoinHostPort(a.String(), port), err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return "", invalid("listen address must be an IP address or network interface (with optional port number)")
	}
	return net.JoinHostPort(host, port), nil
}

// advertiseAddr makes the address that other nodes reach this one at. listen is
// listenAddr's answer; fallback, if valid, is what this machine uses towards the
// swarm it joins.
func advertiseAddr(asked, listen string, fallback netip.Addr, all []nic) (string, error) {
	lhost, lport, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if asked == "" {
		if l, err := netip.ParseAddr(lhost); err == nil && !l.IsUnspecified() {
			return listen, nil
		}
		if fallback.IsValid() {
			return net.JoinHostPort(fallback.String(), lport), nil
		}
		a, err := systemAddr(all)
		return net.JoinHostPort(a.String(), lport), err
	}
	host, port, err := net.SplitHostPort(asked)
	if err != nil { // without a port it is the one that is listened on
		host, port = strings.Trim(asked, "[]"), lport
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", invalid("invalid advertise address %q", asked)
	}
	if a, ok, err := ofInterface(host, all); ok || err != nil {
		return net.JoinHostPort(a.String(), port), err
	}
	a, err := netip.ParseAddr(host)
	if err != nil || a.IsUnspecified() {
		return "", invalid("advertise address must be a non-zero IP address or network interface (with optional port number)")
	}
	return net.JoinHostPort(host, port), nil
}

// systemAddr is the one address that this machine has, if it is but one.
func systemAddr(all []nic) (netip.Addr, error) {
	type found struct {
		a    netip.Addr
		name string
	}
	var v4, v6 []found
	for _, n := range all {
		for _, a := range n.addrs {
			switch {
			case a.IsLoopback() || !a.IsGlobalUnicast():
			case a.Is4():
				v4 = append(v4, found{a, n.name})
			default:
				v6 = append(v6, found{a, n.name})
			}
		}
	}
	use := v4
	if len(use) == 0 {
		use = v6
	}
	slices.SortStableFunc(use, func(a, b found) int { return cmp.Compare(a.name, b.name) })
	switch {
	case len(use) == 0:
		return netip.Addr{}, fault.New(errdefs.ErrInvalidArgument, "could not find the system's IP address - specify one with --advertise-addr")
	case len(use) == 1:
		return use[0].a, nil
	case use[0].name == use[1].name:
		return netip.Addr{}, invalid("could not choose an IP address to advertise since this system has multiple addresses on interface %s (%s and %s) - specify one with --advertise-addr", use[0].name, use[0].a, use[1].a)
	}
	return netip.Addr{}, invalid("could not choose an IP address to advertise since this system has multiple addresses on different interfaces (%s on %s and %s on %s) - specify one with --advertise-addr", use[0].a, use[0].name, use[1].a, use[1].name)
}
