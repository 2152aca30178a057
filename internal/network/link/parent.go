package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/network"
)

// EnsureParent implements network.Link. A VLAN that a daemon made and was killed
// before marking counts as the user's: rather one left than one of theirs removed.
func (l *Link) EnsureParent(_ context.Context, p network.Parent) error {
	k, err := l.h.LinkByName(p.Name)
	if err == nil {
		return l.finishParent(k, p)
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("look for it: %w", err)
	}
	switch {
	case p.Alone:
		err = l.makeAlone(p)
	case p.On != "":
		err = l.makeTagged(p)
	default:
		return fault.New(errdefs.ErrNotFound, "there is no such interface on the host, and its name has not the form NAME.ID of a VLAN of another, as eth0.10")
	}
	if err != nil {
		return err
	}
	if k, err = l.h.LinkByName(p.Name); err != nil {
		return fmt.Errorf("look for what was made: %w", err)
	}
	return l.mark(k, p)
}

func (l *Link) mark(k netlink.Link, p network.Parent) error {
	if err := l.h.LinkSetAlias(k, p.Owner); err != nil {
		return fmt.Errorf("mark it as ours: %w", err)
	}
	if err := l.h.LinkSetUp(k); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// finishParent ends what a daemon that was killed began: nobody else makes links
// under such a name.
func (l *Link) finishParent(k netlink.Link, p network.Parent) error {
	if p.Alone && k.Attrs().Alias == "" {
		return l.mark(k, p)
	}
	return nil
}

// makeAlone makes a link that leads nowhere: a dummy, or where the kernel has no
// such thing a pair that nobody listens at the end of.
func (l *Link) makeAlone(p network.Parent) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.Name
	err := l.h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return wrap(err, "make it")
	}
	end := "x" + p.Name[1:]
	if err := l.h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: end}); err != nil {
		return wrap(err, "make it")
	}
	peer, err := l.h.LinkByName(end)
	if err != nil {
		return fmt.Errorf("look for its end: %w", err)
	}
	return wrap(l.h.LinkSetUp(peer), "set its end up")
}

func wrap(err error, what string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (l *Link) makeTagged(p network.Parent) error {
	on, err := l.h.LinkByName(p.On)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return fault.New(errdefs.ErrNotFound, "-o parent interface was not found on the host: %s", p.On)
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", p.On, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = p.Name, on.Attrs().Index
	err = l.h.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: p.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fault.New(errdefs.ErrNotImplemented, "the kernel has no VLANs (802.1Q)")
	}
	return wrap(err, "make VLAN "+strconv.Itoa(p.ID)+" of "+p.On)
}

// seat makes an interface inside the sandbox that sits on a parent.
func (l *Link) seat(i network.Interface, parent netlink.Link, box *os.File) (string, error) {
	for n := 0; n < maxInterfaces; n++ {
		name := i.Name
		if name == "" {
			name = i.Prefix + strconv.Itoa(n)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, parent.Attrs().Index
		attrs.Namespace, attrs.HardwareAddr = netlink.NsFd(box.Fd()), i.MAC
		if i.MTU > 0 {
			attrs.MTU = i.MTU
		}
		err := l.h.LinkAdd(vlanLink(attrs, i.Vlan))
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, unix.EEXIST) && i.Name == "":
			continue
		case errors.Is(err, unix.EOPNOTSUPP):
			return "", fault.New(errdefs.ErrNotImplemented, "the kernel has no %s", i.Vlan.Driver)
		default:
			return "", fmt.Errorf("make %s interface %s on %s: %w", i.Vlan.Driver, name, i.Bridge, err)
		}
	}
	return "", fmt.Errorf("no free interface name %s0…", i.Prefix)
}

func vlanLink(attrs netlink.LinkAttrs, v network.Vlan) netlink.Link {
	if v.Driver == network.DriverMacvlan {
		return &netlink.Macvlan{LinkAttrs: attrs, Mode: map[string]netlink.MacvlanMode{
			"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
			"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
		}[v.Mode]}
	}
	return &netlink.IPVlan{
		LinkAttrs: attrs,
		Mode:      map[string]netlink.IPVlanMode{"l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S}[v.Mode],
		Flag:      map[string]netlink.IPVlanFlag{"bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE, "vepa": netlink.IPVLAN_FLAG_VEPA}[v.Flag],
	}
}

// attachVlan is Attach for interfaces on a parent.
func (l *Link) attachVlan(ctx context.Context, i network.Interface, parent netlink.Link, box *os.File) (string, error) {
	name, err := l.seat(i, parent, box)
	if err != nil {
		return "", err
	}
	return name, l.inside(i.Sandbox, func(h *netlink.Handle) error {
		dev, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := h.LinkSetAlias(dev, i.Host); err != nil { // Unseat finds it by that
			return fmt.Errorf("mark %s: %w", name, err)
		}
		// One with the same hardware address may be on its way out, with the
		// namespace of a container that a killed daemon left.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for {
			err := h.LinkSetUp(dev)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("set %s up: %w", name, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("set %s up: the hardware address is in use on %s: %w", name, i.Bridge, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
		return setUpInside(ctx, i, name)
	})
}

// Unseat implements network.Link.
func (l *Link) Unseat(_ context.Context, sandbox, mark string) error {
	if _, err := l.Sandbox(sandbox); errdefs.IsNotFound(err) {
		return nil
	}
	return l.inside(sandbox, func(h *netlink.Handle) error {
		links, err := linksOf(h)
		if err != nil {
			return err
		}
		for _, k := range links {
			if k.Attrs().Alias != mark {
				continue
			}
			if err := h.LinkDel(k); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove interface %s: %w", k.Attrs().Name, err)
			}
		}
		return nil
	})
}
