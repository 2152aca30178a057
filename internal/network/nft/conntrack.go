package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/ns"
)

// forgetUDPTo drops a sandbox's memory of UDP exchanges with backends that
// don't answer any more: the next packet finds another.
func forgetUDPTo(nsPath string, backends []netip.Addr) error {
	var filters []netlink.CustomConntrackFilter
	for _, b := range backends {
		c := &netlink.ConntrackFilter{}
		if err := errors.Join(c.AddProtocol(unix.IPPROTO_UDP), c.AddIP(netlink.ConntrackReplySrcIP, b.AsSlice())); err != nil {
			return fmt.Errorf("conntrack filter: %w", err)
		}
		filters = append(filters, c)
	}
	return ns.Do(nsPath, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open conntrack: %w", err)
		}
		defer h.Close()
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("forget UDP exchanges: %w", err)
		}
		return nil
	})
}

// forgetUDP drops the kernel's memory of UDP exchanges with the ports: without
// it a client that keeps sending would go on by the old rules for ever.
func (f *Firewall) forgetUDP(ports []network.PortRule) error {
	var v4, v6 []netlink.CustomConntrackFilter
	for _, p := range ports {
		if p.Proto != "udp" {
			continue
		}
		c := &netlink.ConntrackFilter{}
		if err := errors.Join(c.AddProtocol(unix.IPPROTO_UDP), c.AddPort(netlink.ConntrackOrigDstPort, p.Host.Port())); err != nil {
			return fmt.Errorf("conntrack filter: %w", err)
		}
		if p.Host.Addr().Is6() {
			v6 = append(v6, c)
		} else {
			v4 = append(v4, c)
		}
	}
	for family, filters := range map[netlink.InetFamily][]netlink.CustomConntrackFilter{unix.AF_INET: v4, unix.AF_INET6: v6} {
		if len(filters) == 0 {
			continue
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("forget UDP exchanges: %w", err)
		}
	}
	return nil
}
