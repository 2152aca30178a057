package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/ns"
)

// sparePrefix begins the names of namespaces made ahead of use. No container
// ID does.
const sparePrefix = "spare-"

// Start implements network.Link: it sweeps the spares of an earlier daemon and
// begins to make new ones.
func (l *Link) Start(ctx context.Context) error {
	if err := os.MkdirAll(l.c.Dir, 0o755); err != nil {
		return fmt.Errorf("make directory for namespaces: %w", err)
	}
	dir, err := os.ReadDir(l.c.Dir)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range dir {
		if strings.HasPrefix(e.Name(), sparePrefix) {
			if err := drop(filepath.Join(l.c.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if l.c.Spare <= 0 {
		return nil
	}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.tasks.Add(1)
	go func() {
		defer l.tasks.Done()
		l.fill(ctx)
	}()
	return nil
}

// fill keeps spares ready until ctx ends, then gives them back.
func (l *Link) fill(ctx context.Context) {
	for n := 0; ; n++ {
		path := filepath.Join(l.c.Dir, sparePrefix+strconv.Itoa(n))
		if err := l.makeNS(path); err != nil {
			l.c.Log.Warn("make spare network namespace", logkey.Err, err)
			<-ctx.Done() // containers make their own, and tell if that fails too
			break
		}
		select {
		case l.spares <- path:
			continue
		case <-ctx.Done():
			l.discard(path)
		}
		break
	}
	for {
		select {
		case path := <-l.spares:
			l.discard(path)
		default:
			return
		}
	}
}

func (l *Link) discard(path string) {
	if err := drop(path); err != nil {
		l.c.Log.Warn("remove spare network namespace", logkey.Path, path, logkey.Err, err)
	}
}

// Close implements network.Link. Namespaces of containers stay.
func (l *Link) Close() error {
	l.stop()
	l.tasks.Wait()
	l.h.Close()
	l.reaper.Close()
	return nil
}

// makeNS makes a namespace at path: loopback up, IPv6 off on interfaces until
// one gets an address, nothing to wait for.
func (l *Link) makeNS(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make mount point for namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = ns.New(func() error {
		if err := insideSysctls(); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		defer h.Close()
		if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
			return fmt.Errorf("set loopback up: %w", err)
		}
		if err := unix.Mount(ns.Self, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount namespace at %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	if l.c.Prepare == nil {
		return nil
	}
	if err := l.c.Prepare(path); err != nil {
		return errors.Join(err, drop(path))
	}
	return nil
}

func insideSysctls() error {
	for _, kv := range [][2]string{
		{"net/ipv6/conf/default/disable_ipv6", "1"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		// What Docker sets, so that ping and low ports need no privilege.
		{"net/ipv4/ping_group_range", "0 2147483647"},
		{"net/ipv4/ip_unprivileged_port_start", "0"},
	} {
		if err := setSysctl(kv[0], kv[1]); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return nil
}

// drop unmounts and removes a namespace's mount point.
func drop(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

func (l *Link) path(id string) string { return filepath.Join(l.c.Dir, id) }

// MakeSandbox implements network.Link.
func (l *Link) MakeSandbox(_ context.Context, id string, sysctls map[string]string) (string, error) {
	if id == "" || strings.ContainsRune(id, '/') || strings.HasPrefix(id, sparePrefix) {
		return "", fmt.Errorf("%q cannot name a namespace", id)
	}
	path := l.path(id)
	if err := drop(path); err != nil {
		return "", err
	}
	if err := l.claim(path); err != nil {
		return "", err
	}
	if len(sysctls) > 0 {
		err := ns.Do(path, func() error {
			for k, v := range sysctls {
				if err := setSysctl(sysctlPath(k), v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return "", errors.Join(fault.Wrap(errdefs.ErrInvalidArgument, err, "network sysctls"), drop(path))
		}
	}
	return path, nil
}

// sysctlPath turns a key's dots into slashes, unless it is written with slashes already.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.ReplaceAll(key, ".", "/")
}

// claim puts a spare namespace at path, or makes one there.
func (l *Link) claim(path string) error {
	var spare string
	select {
	case spare = <-l.spares:
	default:
		if err := os.MkdirAll(l.c.Dir, 0o755); err != nil {
			return fmt.Errorf("make directory for namespaces: %w", err)
		}
		return l.makeNS(path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return errors.Join(fmt.Errorf("make mount point for namespace: %w", err), drop(spare))
	}
	if err := f.Close(); err != nil {
		return err
	}
	// A second mount of the same namespace: moving is refused where the
	// directory's mount is shared.
	if err := unix.Mount(spare, path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("mount namespace at %s: %w", path, err), os.Remove(path), drop(spare))
	}
	return drop(spare)
}

// Sandbox implements network.Link.
func (l *Link) Sandbox(id string) (string, error) {
	path := l.path(id)
	var st unix.Statfs_t
	const nsfs = 0x6e736673
	if err := unix.Statfs(path, &st); err != nil || st.Type != nsfs {
		return "", fault.New(errdefs.ErrNotFound, "network namespace of container %s not found", id)
	}
	return path, nil
}

// RemoveSandbox implements network.Link. The host ends are out of their
// bridges when it returns, so that addresses can be given anew; the kernel is
// rid of them a little later.
func (l *Link) RemoveSandbox(_ context.Context, id string, hostEnds []string) error {
	var errs []error
	for _, name := range hostEnds {
		k, err := l.h.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err == nil {
			err = l.h.LinkSetNoMaster(k)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("take interface %s from its bridge: %w", name, err))
			continue
		}
		l.tasks.Add(1)
		go func() {
			defer l.tasks.Done()
			if err := l.reaper.LinkDel(k); err != nil && !errors.Is(err, unix.ENODEV) {
				l.c.Log.Warn("remove interface", logkey.Name, name, logkey.Err, err)
			}
		}()
	}
	return errors.Join(append(errs, drop(l.path(id)))...)
}

// Attach implements network.Link.
func (l *Link) Attach(ctx context.Context, i network.Interface) (string, error) {
	br, err := l.h.LinkByName(i.Bridge)
	if err != nil {
		return "", fmt.Errorf("interface %s: %w", i.Bridge, err)
	}
	box, err := os.Open(l.path(i.Sandbox))
	if err != nil {
		return "", fmt.Errorf("open namespace: %w", err)
	}
	defer box.Close()
	if i.Vlan != (network.Vlan{}) {
		return l.attachVlan(ctx, i, br, box)
	}
	name, err := l.addVeth(i, br, int(box.Fd()))
	if err != nil {
		return "", err
	}
	if err := l.h.LinkSetHairpin(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: i.Host}}, true); err != nil {
		return "", fmt.Errorf("let %s send back to where packets came from: %w", i.Host, err)
	}
	if i.Isolate && !l.Filters() {
		if err := l.h.LinkSetIsolated(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: i.Host}}, true); err != nil {
			return "", fmt.Errorf("isolate %s: %w", i.Host, err)
		}
	}
	if err := ns.Do(l.path(i.Sandbox), func() error { return setUpInside(ctx, i, name) }); err != nil {
		return "", err
	}
	return name, errors.Join(awaitUp(ctx, l.h, i.Host), awaitUp(ctx, l.h, i.Bridge))
}

// awaitUp waits until the kernel has noticed that a link has a carrier. Until
// then it drops what is sent, and the first lost packet costs the container a
// second. Newer kernels notice when asked, so there is seldom a wait.
func awaitUp(ctx context.Context, h *netlink.Handle, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		k, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look at %s: %w", name, err)
		}
		if s := k.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // it will do without us, or it is the user's bridge and down
		case <-time.After(time.Millisecond):
		}
	}
}

// Filters implements network.Link.
func (*Link) Filters() bool {
	b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// maxInterfaces bounds the search for a free name.
const maxInterfaces = 1024

// addVeth makes the pair with its ends in place: the host's in the bridge and
// up, the other inside under its name. Without a wished name it is the first
// free one of the prefix.
func (l *Link) addVeth(i network.Interface, br netlink.Link, boxFd int) (string, error) {
	mtu := i.MTU
	if mtu == 0 {
		mtu = br.Attrs().MTU
	}
	for n := 0; n < maxInterfaces; n++ {
		name := i.Name
		if name == "" {
			name = i.Prefix + strconv.Itoa(n)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = i.Host, mtu
		attrs.MasterIndex = br.Attrs().Index
		err := l.h.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: name, PeerMTU: uint32(mtu),
			PeerHardwareAddr: i.MAC, PeerNamespace: netlink.NsFd(boxFd),
		})
		switch {
		case err == nil:
			host, err := l.h.LinkByName(i.Host)
			if err != nil {
				return "", fmt.Errorf("find %s: %w", i.Host, err)
			}
			if err := l.h.LinkSetUp(host); err != nil {
				return "", fmt.Errorf("set %s up: %w", i.Host, err)
			}
			return name, nil
		case errors.Is(err, unix.EEXIST) && i.Name == "":
			if _, e := l.h.LinkByName(i.Host); e == nil {
				return "", fmt.Errorf("make interface %s: %w", i.Host, err)
			}
		default:
			return "", fmt.Errorf("make interface %s: %w", i.Host, err)
		}
	}
	return "", fmt.Errorf("no free interface name %s0…", i.Prefix)
}

// setUpInside runs in the namespace: addresses, up, sysctls.
func setUpInside(ctx context.Context, i network.Interface, name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	dev, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, p := range i.Addrs {
		if p.Addr().Is6() {
			if err := setSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0"); err != nil {
				return err
			}
		}
		if err := h.AddrAdd(dev, addr(p)); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, name, err)
		}
	}
	if len(i.Routes) > 0 {
		if err := h.LinkSetUp(dev); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	for _, p := range i.Routes {
		r := &netlink.Route{LinkIndex: dev.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: addr(p).IPNet}
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("add route to %s by %s: %w", p, name, err)
		}
	}
	for k, v := range i.Sysctls {
		if err := setSysctl(strings.ReplaceAll(sysctlPath(k), "IFNAME", name), v); err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "interface sysctls")
		}
	}
	if err := h.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return awaitUp(ctx, h, name)
}

// Detach implements network.Link.
func (l *Link) Detach(_ context.Context, hostEnd string) error {
	k, err := l.h.LinkByName(hostEnd)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = l.h.LinkDel(k)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", hostEnd, err)
	}
	return nil
}

// inside runs do in a sandbox's namespace, with rtnetlink of that.
func (l *Link) inside(sandbox string, do func(*netlink.Handle) error) error {
	return ns.Do(l.path(sandbox), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		defer h.Close()
		return do(h)
	})
}

// linksOf lists links. A list that changed while it was read is good enough.
func linksOf(h *netlink.Handle) ([]netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

// Gateways implements network.Link.
func (l *Link) Gateways(_ context.Context, sandbox string, v4, v6 network.Way) error {
	return l.inside(sandbox, func(h *netlink.Handle) error {
		return errors.Join(gateway(h, netlink.FAMILY_V4, v4), gateway(h, netlink.FAMILY_V6, v6))
	})
}

// gateway makes the way the only default route of a family.
func gateway(h *netlink.Handle, family int, way network.Way) error {
	want := netlink.Route{Family: family}
	switch {
	case way.Via.IsValid():
		want.Gw = way.Via.AsSlice()
	case way.Out.IsValid():
		index, err := holderOf(h, family, way.Out)
		if err != nil {
			return err
		}
		want.LinkIndex, want.Scope = index, netlink.SCOPE_LINK
		want.Dst = prefixNet(family)
	}
	routes, err := h.RouteListFiltered(family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list default routes: %w", err)
	}
	set := false
	for _, r := range routes {
		have, ok := netip.AddrFromSlice(r.Gw)
		if (ok && have.Unmap() == way.Via) || (!ok && want.LinkIndex != 0 && r.LinkIndex == want.LinkIndex) {
			set = true
			continue
		}
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove default route: %w", err)
		}
	}
	if set || way == (network.Way{}) {
		return nil
	}
	if err := h.RouteAdd(&want); err != nil {
		return fmt.Errorf("add default route %s: %w", way, err)
	}
	return nil
}

// prefixNet is everything, as routes by an interface want it spelt.
func prefixNet(family int) *net.IPNet {
	if family == netlink.FAMILY_V6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
}

// holderOf is the interface that has an address.
func holderOf(h *netlink.Handle, family int, a netip.Addr) (int, error) {
	addrs, err := h.AddrList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, have := range addrs {
		if prefixOf(have.IPNet).Addr() == a {
			return have.LinkIndex, nil
		}
	}
	return 0, fmt.Errorf("no interface has the address %s", a)
}

// Stats implements network.Link.
func (l *Link) Stats(_ context.Context, sandbox string) (map[string]container.NetworkStats, error) {
	out := map[string]container.NetworkStats{}
	err := l.inside(sandbox, func(h *netlink.Handle) error {
		links, err := linksOf(h)
		if err != nil {
			return err
		}
		for _, k := range links {
			s := k.Attrs().Statistics
			if (k.Type() != "veth" && k.Type() != "macvlan" && k.Type() != "ipvlan") || s == nil {
				continue
			}
			out[k.Attrs().Name] = container.NetworkStats{
				RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
				TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
			}
		}
		return nil
	})
	return out, err
}
