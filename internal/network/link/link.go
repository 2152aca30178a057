// Package link makes bridges, network namespaces and the interfaces between
// them by rtnetlink. It fills network.Link.
//
// Namespaces are bind mounts under one directory, each named by its container.
// Some are made ahead of use, because making one takes longer than all the
// rest of a container's network.
package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
)

// Config says where and how.
type Config struct {
	Dir      string // for namespaces: <exec-root>/netns
	Instance string // as network.Settings.Instance
	Spare    int    // namespaces kept ready; 0: none
	// Prepare, if set, does to a new namespace what else belongs there.
	Prepare func(nsPath string) error
	Log     *slog.Logger
}

// Link is the kernel's links, through one namespace: the one New was called in.
type Link struct {
	c Config
	h *netlink.Handle
	// reaper removes interfaces. A handle does one thing at a time, and the
	// kernel takes some 20 ms to be rid of an interface.
	reaper *netlink.Handle

	spares chan string // paths
	stop   context.CancelFunc
	tasks  sync.WaitGroup // the filler of spares, and removals under way
}

var _ network.Link = (*Link)(nil)

// New opens the netlink socket. Close gives it back.
func New(c Config) (*Link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	reaper, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &Link{c: c, h: h, reaper: reaper, spares: make(chan string, max(c.Spare, 0)), stop: func() {}}, nil
}

// EnsureBridge implements network.Link.
func (l *Link) EnsureBridge(_ context.Context, b network.Bridge) error {
	br, err := l.bridge(b)
	if err != nil {
		return err
	}
	if b.MTU > 0 && br.Attrs().MTU != b.MTU {
		if err := l.h.LinkSetMTU(br, b.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", b.MTU, err)
		}
	}
	if b.MAC != nil && !bytes.Equal(br.Attrs().HardwareAddr, b.MAC) {
		if err := l.h.LinkSetHardwareAddr(br, b.MAC); err != nil {
			return fmt.Errorf("set hardware address %s: %w", b.MAC, err)
		}
	}
	if err := l.bridgeSysctls(b); err != nil {
		return err
	}
	if err := l.bridgeAddrs(br, b.Addrs); err != nil {
		return err
	}
	if err := l.h.LinkSetUp(br); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// bridge finds the link or makes it. One that the user made is taken over as it is.
func (l *Link) bridge(b network.Bridge) (netlink.Link, error) {
	br, err := l.h.LinkByName(b.Name)
	if err == nil {
		if br.Type() != "bridge" {
			return nil, fmt.Errorf("interface %s exists and is not a bridge", b.Name)
		}
		// One of ours whose maker was killed before it could mark it: nobody else
		// makes bridges with this address, and it was never up.
		if a := br.Attrs(); a.Alias == "" && a.Flags&net.FlagUp == 0 && bytes.Equal(a.HardwareAddr, bridgeMAC(b)) {
			if err := l.h.LinkSetAlias(br, b.Owner); err != nil {
				return nil, fmt.Errorf("mark bridge as ours: %w", err)
			}
		}
		return br, nil
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("look for bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	// With an address of its own a bridge doesn't change it with its members.
	attrs.HardwareAddr = bridgeMAC(b)
	if err := l.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("make bridge: %w", err)
	}
	if br, err = l.h.LinkByName(b.Name); err != nil {
		return nil, fmt.Errorf("look for new bridge: %w", err)
	}
	if err := l.h.LinkSetAlias(br, b.Owner); err != nil {
		return nil, fmt.Errorf("mark bridge as ours: %w", err)
	}
	return br, nil
}

func bridgeMAC(b network.Bridge) net.HardwareAddr {
	if b.MAC != nil {
		return b.MAC
	}
	mac := net.HardwareAddr{0x02, 0x42, 0, 0, 0, 1}
	for _, a := range b.Addrs {
		if s := a.Addr().AsSlice(); len(s) >= 4 {
			copy(mac[2:], s[len(s)-4:])
			break
		}
	}
	return mac
}

func (l *Link) bridgeSysctls(b network.Bridge) error {
	v6 := "1"
	if b.IPv6 {
		v6 = "0"
	}
	// route_localnet lets replies to connections made through 127.0.0.1 come
	// back; the firewall drops what else comes for such addresses.
	for _, kv := range [][2]string{
		{"net/ipv4/conf/" + b.Name + "/route_localnet", "1"},
		{"net/ipv6/conf/" + b.Name + "/accept_ra", "0"},
		{"net/ipv6/conf/" + b.Name + "/accept_dad", "0"},
		{"net/ipv6/conf/" + b.Name + "/disable_ipv6", v6},
		// Where bridged packets don't pass the firewall, Isolate works by port flags.
		{"net/bridge/bridge-nf-call-iptables", "1"},
		{"net/bridge/bridge-nf-call-ip6tables", "1"},
	} {
		if err := setSysctl(kv[0], kv[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func setSysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", key), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

// bridgeAddrs gives the bridge the wanted addresses, and takes away those that
// an earlier configuration left.
func (l *Link) bridgeAddrs(br netlink.Link, want []netip.Prefix) error {
	have, err := l.h.AddrList(br, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	there := map[netip.Prefix]bool{}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		if p.Addr().IsLinkLocalUnicast() {
			continue
		}
		there[p] = true
		if !contains(want, p) {
			if err := l.h.AddrDel(br, &a); err != nil {
				return fmt.Errorf("remove address %s: %w", p, err)
			}
		}
	}
	for _, p := range want {
		if there[p] {
			continue
		}
		if err := l.h.AddrAdd(br, addr(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

func contains(list []netip.Prefix, p netip.Prefix) bool {
	for _, o := range list {
		if o == p {
			return true
		}
	}
	return false
}

// addr is an address that can be used at once: no detection of duplicates.
func addr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}

// RemoveLink implements network.Link.
func (l *Link) RemoveLink(_ context.Context, name string) error {
	br, err := l.h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for link %s: %w", name, err)
	}
	if !strings.HasPrefix(br.Attrs().Alias, l.ownerMark()) {
		return nil
	}
	if err := l.h.LinkDel(br); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func (l *Link) ownerMark() string { return "holdfast " + l.c.Instance + " " }

// Occupied implements network.Link.
func (l *Link) Occupied(_ context.Context, except ...string) ([]netip.Prefix, error) {
	skip := map[int]bool{}
	for _, name := range except {
		if br, err := l.h.LinkByName(name); err == nil {
			skip[br.Attrs().Index] = true
		}
	}
	var out []netip.Prefix
	addrs, err := l.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p := prefixOf(a.IPNet); p.IsValid() && !skip[a.LinkIndex] && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Masked())
		}
	}
	routes, err := l.h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		p := prefixOf(r.Dst)
		if p.IsValid() && p.Bits() > 0 && !skip[r.LinkIndex] && !p.Addr().IsMulticast() && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Masked())
		}
	}
	// Name servers must stay reachable even if they are only behind the default route.
	return append(out, nameServers("/etc/resolv.conf")...), nil
}

func nameServers(path string) []netip.Prefix {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
			}
		}
	}
	return out
}

// Forwarding implements network.Link. A host that takes its IPv6 routes from
// router advertisements keeps doing so.
func (l *Link) Forwarding(_ context.Context, ipv6 bool) error {
	if !ipv6 {
		return setSysctl("net/ipv4/ip_forward", "1")
	}
	const all = "/proc/sys/net/ipv6/conf/all/forwarding"
	if now, err := os.ReadFile(all); err != nil || strings.TrimSpace(string(now)) != "0" {
		if errors.Is(err, os.ErrNotExist) {
			return nil // no IPv6 on this host
		}
		return err
	}
	confs, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return fmt.Errorf("list IPv6 settings: %w", err)
	}
	for _, c := range confs {
		key := "net/ipv6/conf/" + c.Name() + "/accept_ra"
		now, err := os.ReadFile(filepath.Join("/proc/sys", key))
		if err != nil || c.Name() == "all" || c.Name() == "default" || strings.TrimSpace(string(now)) != "1" {
			continue
		}
		if err := setSysctl(key, strconv.Itoa(2)); err != nil {
			return err
		}
	}
	return setSysctl("net/ipv6/conf/all/forwarding", "1")
}

// Leftovers implements network.Link.
func (l *Link) Leftovers(context.Context) (boxes, ends, bridges []string, err error) {
	dir, err := os.ReadDir(l.c.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range dir {
		if !strings.HasPrefix(e.Name(), sparePrefix) {
			boxes = append(boxes, e.Name())
		}
	}
	links, err := linksOf(l.h)
	if err != nil {
		return nil, nil, nil, err
	}
	prefix := network.HostEndPrefix(l.c.Instance)
	for _, k := range links {
		switch a := k.Attrs(); {
		case k.Type() == "veth" && strings.HasPrefix(a.Name, prefix):
			ends = append(ends, a.Name)
		case strings.HasPrefix(a.Alias, l.ownerMark()): // and parents
			bridges = append(bridges, a.Name)
		}
	}
	return boxes, ends, bridges, nil
}
