package network

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Networks of the drivers macvlan and ipvlan have no bridge: containers get
// interfaces on top of a link of the host, the parent, and are neighbours of
// whatever is on its wire. Our firewall has no part in it.

// Options of the two drivers.
const (
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIPvlanMode  = "ipvlan_mode"
	optIPvlanFlag  = "ipvlan_flag"
)

// Vlan says how an interface sits on its parent.
type Vlan struct {
	Driver string // DriverMacvlan or DriverIPvlan
	Mode   string // bridge, private, vepa, passthru; l2, l3, l3s
	Flag   string // of ipvlan: bridge, private, vepa
}

// Parent describes a link of the host that interfaces sit on.
type Parent struct {
	Name  string
	Owner string // as Bridge.Owner, for one that we make
	// Alone asks for a link that leads nowhere.
	Alone bool
	// On and ID ask for a VLAN (802.1Q) of another link, where On is not empty.
	On string
	ID int
}

// vlan tells how interfaces of the network sit on its parent; false where the
// network has another driver.
func (r *Record) vlan() (Vlan, bool) {
	switch r.Driver {
	case DriverMacvlan:
		return Vlan{Driver: r.Driver, Mode: orElse(r.Options[optMacvlanMode], "bridge")}, true
	case DriverIPvlan:
		return Vlan{Driver: r.Driver, Mode: orElse(r.Options[optIPvlanMode], "l2"), Flag: orElse(r.Options[optIPvlanFlag], "bridge")}, true
	}
	return Vlan{}, false
}

func orElse(v, def string) string {
	if v == "" {
		return def
	}
	return v
}

// linked tells whether containers have an interface in the network.
func (r *Record) linked() bool {
	_, vlan := r.vlan()
	return vlan || r.bridged()
}

// routed tells whether the network leads out by its interface, without a gateway.
func (r *Record) routed() bool {
	v, ok := r.vlan()
	return ok && (v.Mode == "l3" || v.Mode == "l3s") && !r.closed()
}

// closed tells whether nothing leads out of the network.
func (r *Record) closed() bool {
	_, vlan := r.vlan()
	return r.Internal || (vlan && r.Options[optParent] == "")
}

// checkVlan checks the drivers' own options, and gives the record its parent.
func checkVlan(r *Record) error {
	v, ok := r.vlan()
	if !ok {
		return nil
	}
	modes := []string{"bridge", "private", "vepa", "passthru"}
	prefix := "dm-"
	if v.Driver == DriverIPvlan {
		modes, prefix = []string{"l2", "l3", "l3s"}, "di-"
	}
	if !slices.Contains(modes, v.Mode) {
		return invalid("requested %s mode '%s' is not valid, '%s' mode is the %s driver default", v.Driver, v.Mode, modes[0], v.Driver)
	}
	if flags := []string{"bridge", "private", "vepa"}; v.Flag != "" && !slices.Contains(flags, v.Flag) {
		return invalid("requested ipvlan flag '%s' is not valid, 'bridge' is the ipvlan driver default", v.Flag)
	}
	switch p := r.Options[optParent]; p {
	case "":
		r.Bridge = prefix + short(r.ID)
	case "lo":
		return invalid("loopback interface is not a valid %s parent link", v.Driver)
	default:
		if err := checkLinkName(optParent, p); err != nil {
			return err
		}
		r.Bridge = p
	}
	for _, k := range slices.Sorted(maps.Keys(r.Options)) {
		if k == optParent || (v.Driver == DriverMacvlan && k == optMacvlanMode) ||
			(v.Driver == DriverIPvlan && (k == optIPvlanMode || k == optIPvlanFlag)) || !strings.Contains(k, "vlan_") {
			continue
		}
		return fault.New(errdefs.ErrNotImplemented, "option %s of driver %s is not supported by this engine", k, v.Driver)
	}
	return nil
}

// parentFree tells whether a new network may sit on its parent beside those
// that do already.
func parentFree(r *Record, others []*Record) error {
	v, ok := r.vlan()
	if !ok {
		return nil
	}
	for _, o := range others {
		ov, ok := o.vlan()
		if !ok || o.Bridge != r.Bridge || o.ID == r.ID {
			continue
		}
		switch {
		case ov.Driver != v.Driver, v.Driver == DriverIPvlan:
			// The kernel has one kind of interface on a link at a time, and one mode of ipvlan.
			return fault.New(errdefs.ErrPermissionDenied, "network %s is already using parent interface %s", o.Name, r.Bridge)
		case v.Mode == "passthru":
			return fault.New(errdefs.ErrPermissionDenied, "cannot use mode passthru, macvlan network %s is already using parent interface %s", o.Name, r.Bridge)
		case ov.Mode == "passthru":
			return fault.New(errdefs.ErrPermissionDenied, "macvlan network %s is already using parent interface %s in mode passthru", o.Name, r.Bridge)
		}
	}
	return nil
}

// parentOf is what must be there for a network, and how it is made if it isn't.
func (s *Service) parentOf(r *Record) Parent {
	p := Parent{Name: r.Bridge, Owner: s.owner(r.ID), Alone: r.Options[optParent] == ""}
	on, id, ok := strings.Cut(p.Name, ".")
	if n, err := strconv.Atoi(id); !p.Alone && ok && err == nil {
		p.On, p.ID = on, n
	}
	return p
}

func (s *Service) ensureParent(ctx context.Context, r *Record) error {
	p := s.parentOf(r)
	if p.On != "" && (p.ID < 1 || p.ID > 4094) {
		return invalid("vlan id must be between 1-4094, received: %d", p.ID)
	}
	if err := s.d.Link.EnsureParent(ctx, p); err != nil {
		return fmt.Errorf("parent interface %s of network %s: %w", p.Name, r.Name, err)
	}
	return nil
}

// shared tells whether another network sits on the same link.
func (s *Service) shared(r *Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nets {
		if n.rec.ID != r.ID && n.rec.Bridge != "" && n.rec.Bridge == r.Bridge {
			return true
		}
	}
	return false
}

// onOtherWires tells of addresses that containers of other networks on parents
// have: whatever the records say, it may be the same wire. mu is held.
func (s *Service) onOtherWires(n *netw) func(netip.Addr) bool {
	if _, wire := n.rec.vlan(); !wire {
		return nil
	}
	return func(a netip.Addr) bool {
		for _, o := range s.nets {
			if _, wire := o.rec.vlan(); !wire || o == n {
				continue
			}
			for _, e := range o.endpoints {
				if slices.Contains(e.addrs(), a) {
					return true
				}
			}
		}
		return false
	}
}

// noAddresses is what the IPAM driver null amounts to.
func noAddresses(r *Record) error {
	switch {
	case r.EnableIPv4:
		return invalid("ipv4 pool is empty")
	case r.EnableIPv6:
		return invalid("ipv6 pool is empty")
	}
	return nil
}

// Way is a default route: by a neighbour, or, where there is none, straight out
// of the interface that has the address.
type Way struct {
	Via netip.Addr
	Out netip.Addr
}

func (w Way) String() string {
	if w.Via.IsValid() {
		return "by " + w.Via.String()
	}
	return "out of the interface with " + w.Out.String()
}

// wayOf is the endpoint's way out of the sandbox; zero if it has none.
func (e *endpoint) wayOf(v6 bool) Way {
	via, own := e.set.Gateway, e.set.IPAddress
	if v6 {
		via, own = e.set.IPv6Gateway, e.set.GlobalIPv6Address
	}
	if e.net.rec.routed() {
		return Way{Out: own}
	}
	return Way{Via: via}
}
