package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/network"
)

// vxlanHeaders is what a tunnel adds to each packet: Ethernet, VXLAN, UDP, IPv4.
const vxlanHeaders = 50

// EnsureTunnel implements network.Link.
func (l *Link) EnsureTunnel(_ context.Context, t network.Tunnel) error {
	br, err := l.h.LinkByName(t.Bridge)
	if err != nil {
		return fmt.Errorf("look for bridge %s: %w", t.Bridge, err)
	}
	mtu, err := l.roomFor(t)
	if err != nil {
		return err
	}
	v, err := l.vxlan(t, mtu, br)
	if err != nil {
		return err
	}
	for _, set := range []struct {
		what string
		do   func() error
	}{
		{"mark it as ours", func() error { return l.h.LinkSetAlias(v, t.Owner) }},
		{"plug it in", func() error { return l.h.LinkSetMaster(v, br) }},
		{"let it learn nothing", func() error { return l.h.LinkSetLearning(v, false) }},
		{"flood nothing into it", func() error { return l.floods(v) }},
		{"answer for its neighbours", func() error { return l.h.LinkSetBrNeighSuppress(v, true) }},
		{"set its MTU", func() error { return l.h.LinkSetMTU(v, mtu) }},
		{"set its bridge's MTU", func() error { return l.h.LinkSetMTU(br, mtu) }},
		{"set it up", func() error { return l.h.LinkSetUp(v) }},
	} {
		if err := set.do(); err != nil {
			return fmt.Errorf("%s: %w", set.what, err)
		}
	}
	return nil
}

// floods keeps what has no known receiver out of the tunnel. Nobody at the other
// end is told of it either: there is no entry for such packets.
func (l *Link) floods(v netlink.Link) error { return l.h.LinkSetFlood(v, false) }

// roomFor is how long packets in the tunnel may be.
func (l *Link) roomFor(t network.Tunnel) (int, error) {
	room := 1500
	addrs, err := l.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if prefixOf(a.IPNet).Addr() != t.Local {
			continue
		}
		under, err := l.h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("look for the interface with %s: %w", t.Local, err)
		}
		room = under.Attrs().MTU
	}
	extra := vxlanHeaders
	if t.Local.Is6() {
		extra += 20
	}
	room = min(room, 65535) - extra
	if t.MTU > 0 {
		room = min(room, t.MTU)
	}
	return room, nil
}

// vxlan finds the device or makes it; one with other settings is made anew.
func (l *Link) vxlan(t network.Tunnel, mtu int, br netlink.Link) (netlink.Link, error) {
	have, err := l.h.LinkByName(t.Name)
	if err == nil {
		v, ok := have.(*netlink.Vxlan)
		if ok && v.VxlanId == int(t.VNI) && v.Port == int(t.Port) && sameAddr(v.SrcAddr, t.Local) {
			return have, nil
		}
		if err := l.h.LinkDel(have); err != nil {
			return nil, fmt.Errorf("remove tunnel %s: %w", t.Name, err)
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("look for tunnel %s: %w", t.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = t.Name, mtu, br.Attrs().Index
	err = l.h.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(t.VNI), Port: int(t.Port), SrcAddr: t.Local.AsSlice(), UDPCSum: true,
	})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, fault.New(errdefs.ErrNotImplemented, "the kernel has no VXLAN")
	case errors.Is(err, unix.EEXIST):
		return nil, fault.New(errdefs.ErrConflict, "another interface of this machine has tunnel number %d on port %d", t.VNI, t.Port)
	case err != nil:
		return nil, fmt.Errorf("make tunnel %s: %w", t.Name, err)
	}
	v, err := l.h.LinkByName(t.Name)
	if err != nil {
		return nil, fmt.Errorf("look for new tunnel %s: %w", t.Name, err)
	}
	return v, nil
}

func sameAddr(a net.IP, b netip.Addr) bool {
	have, ok := netip.AddrFromSlice(a)
	return ok && have.Unmap() == b
}

type mac [6]byte

// SetPeers implements network.Link. Three tables of the kernel say it: which node
// has a hardware address, that it is behind the tunnel, and who has an address.
func (l *Link) SetPeers(_ context.Context, tunnel, bridge string, peers []network.Peer) error {
	v, err := l.h.LinkByName(tunnel)
	if err != nil {
		return fmt.Errorf("look for tunnel %s: %w", tunnel, err)
	}
	br, err := l.h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("look for bridge %s: %w", bridge, err)
	}
	vi, bi := v.Attrs().Index, br.Attrs().Index
	fdb, err := l.neighbours(vi, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	arp, err := l.neighbours(bi, unix.AF_INET)
	if err != nil {
		return err
	}
	via, behind, who := map[mac]netip.Addr{}, map[mac]bool{}, map[netip.Addr]mac{}
	for _, n := range fdb {
		if len(n.HardwareAddr) != 6 {
			continue
		}
		m := mac(n.HardwareAddr)
		a, ok := netip.AddrFromSlice(n.IP)
		switch {
		case n.Flags&netlink.NTF_SELF != 0 && ok:
			via[m] = a.Unmap()
		case n.Flags&netlink.NTF_SELF == 0 && n.State&unix.NUD_NOARP != 0 && n.State&unix.NUD_PERMANENT == 0:
			behind[m] = true
		}
	}
	for _, n := range arp {
		if a, ok := netip.AddrFromSlice(n.IP); ok && n.State&unix.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			who[a.Unmap()] = mac(n.HardwareAddr)
		}
	}
	onNode := func(m mac, a netip.Addr) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: vi, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: a.AsSlice(), HardwareAddr: m[:]}
	}
	inTunnel := func(m mac) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: vi, Family: unix.AF_BRIDGE, State: unix.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: m[:]}
	}
	has := func(a netip.Addr, m mac) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: bi, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: m[:]}
	}
	var errs []error
	set := func(n *netlink.Neigh) {
		if err := l.h.NeighSet(n); err != nil {
			errs = append(errs, fmt.Errorf("tell of %s %s: %w", n.HardwareAddr, n.IP, err))
		}
	}
	del := func(n *netlink.Neigh) {
		if err := l.h.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("forget %s %s: %w", n.HardwareAddr, n.IP, err))
		}
	}
	for _, p := range peers {
		m := mac(p.MAC)
		if was, ok := via[m]; !ok || was != p.Via {
			set(onNode(m, p.Via))
		}
		if !behind[m] {
			set(inTunnel(m))
		}
		if was, ok := who[p.Addr]; !ok || was != m {
			set(has(p.Addr, m))
		}
		delete(via, m)
		delete(behind, m)
		delete(who, p.Addr)
	}
	for m, a := range via {
		del(onNode(m, a))
	}
	for m := range behind {
		del(inTunnel(m))
	}
	for a, m := range who {
		del(has(a, m))
	}
	return errors.Join(errs...)
}

func (l *Link) neighbours(index, family int) ([]netlink.Neigh, error) {
	out, err := l.h.NeighList(index, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	return out, nil
}
