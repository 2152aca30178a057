package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// An overlay network is one of the swarm. Each node that has containers in it
// has a bridge as other networks have, with the same gateway addresses on every
// node, and in the bridge a tunnel (VXLAN) to the other nodes. Nothing is flooded
// into the tunnel and nothing learnt from it: who is where is told by SetOverlay.

// Overlay is such a network as a node makes it.
type Overlay struct {
	ID, Name   string
	Created    time.Time
	Subnets    []mobynet.IPAMConfig // all with gateways
	Internal   bool
	Attachable bool
	Ingress    bool // serves published ports; has no names
	Options    map[string]string
	Labels     map[string]string
	Tunnel     TunnelInfo
}

// TunnelInfo is a node's end of a network's tunnel.
type TunnelInfo struct {
	VNI   uint32
	Port  uint16
	Local netip.Addr // the node's address in it
	// Own is the node's own address in the network, if it has one: what comes from
	// outside by a port of the swarm goes on from there.
	Own     netip.Addr
	Ingress bool
}

// Tunnel describes a VXLAN device.
type Tunnel struct {
	Name   string
	Owner  string // as Bridge.Owner
	Bridge string
	MTU    int // 0: what fits into the packets of the interface that has Local
	TunnelInfo
}

// Peer is a container on another node.
type Peer struct {
	Addr netip.Addr
	MAC  [6]byte
	Via  netip.Addr // the node
}

// VIP is a service's address in a network, and who answers for it.
type VIP struct {
	Addr     netip.Addr
	Backends []netip.Addr // sorted
}

// SwarmPort is a port of every node that leads to a service.
type SwarmPort struct {
	Proto   string // "tcp", "udp"
	Port    uint16
	Targets []netip.AddrPort // sorted
}

// OverlayView is what a node knows of an overlay network.
type OverlayView struct {
	Peers []Peer
	Names map[string][]netip.Addr // lower-case
	VIPs  []VIP
	Ports []SwarmPort
}

func (r *Record) overlay() bool { return r.Driver == DriverOverlay }

// bridged tells whether containers are plugged into a bridge of ours.
func (r *Record) bridged() bool { return r.Driver == DriverBridge || r.overlay() }

func tunnelName(id string) string { return "vx-" + short(id) }

// EnsureOverlay makes the network on this node, or brings it to what is wanted.
func (s *Service) EnsureOverlay(ctx context.Context, o Overlay) error {
	r := &Record{
		ID: o.ID, Name: o.Name, Driver: DriverOverlay, Created: o.Created, EnableIPv4: true,
		Internal: o.Internal, Attachable: o.Attachable, Options: o.Options, Labels: o.Labels,
		IPAM: mobynet.IPAM{Driver: "default", Config: o.Subnets}, UserSubnet: true,
		Bridge: "br-" + short(o.ID), Tunnel: &o.Tunnel,
	}
	r.Tunnel.Ingress = o.Ingress
	for _, c := range o.Subnets {
		if c.Subnet.Contains(o.Tunnel.Local) {
			return fault.New(errdefs.ErrFailedPrecondition, "subnet %s of network %s holds this node's own address %s", c.Subnet, o.Name, o.Tunnel.Local)
		}
	}
	s.create.Lock()
	defer s.create.Unlock()
	s.mu.Lock()
	old := s.nets[o.ID]
	s.mu.Unlock()
	if old == nil {
		if err := s.nameFree(r); err != nil {
			return err
		}
	}
	if old != nil && !old.removing && old.rec.Tunnel != nil && *old.rec.Tunnel == *r.Tunnel {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.d.Records.Put(r.ID, r); err != nil {
		return fmt.Errorf("record network %s: %w", r.Name, err)
	}
	s.mu.Lock()
	n := s.newNetw(r)
	if old != nil { // only the tunnel is another
		n.v4, n.endpoints, n.zone, n.seen = old.v4, old.endpoints, old.zone, old.seen
		for _, e := range n.endpoints {
			e.net = n
		}
	}
	s.nets[r.ID] = n
	s.mu.Unlock()
	err := s.ensureOverlay(ctx, r)
	if err == nil {
		err = s.sync(ctx)
	}
	if err != nil {
		if old == nil {
			s.discard(ctx, r)
		}
		return err
	}
	if old == nil {
		s.publish(r, events.ActionCreate, nil)
	}
	return nil
}

// ensureOverlay makes the links of the network.
func (s *Service) ensureOverlay(ctx context.Context, r *Record) error {
	if err := s.ensureBridge(ctx, r); err != nil {
		return err
	}
	err := s.d.Link.EnsureTunnel(ctx, Tunnel{
		Name: tunnelName(r.ID), Owner: s.owner(r.ID), Bridge: r.Bridge, MTU: r.mtu(), TunnelInfo: *r.Tunnel,
	})
	if err != nil {
		return fmt.Errorf("bring up the tunnel of network %s: %w", r.Name, err)
	}
	return nil
}

// DropOverlay takes the network from this node, if nobody is in it. It is no
// error if somebody is, or if there is no such network.
func (s *Service) DropOverlay(ctx context.Context, id string) error {
	s.create.Lock()
	defer s.create.Unlock()
	s.mu.Lock()
	n := s.nets[id]
	if n == nil || !n.rec.overlay() || len(n.endpoints) > 0 {
		s.mu.Unlock()
		return nil
	}
	n.removing = true
	s.mu.Unlock()
	s.discard(context.WithoutCancel(ctx), n.rec)
	s.publish(n.rec, events.ActionDestroy, nil)
	return nil
}

// Overlays are the IDs of the overlay networks that this node has.
func (s *Service) Overlays() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id, n := range s.nets {
		if n.rec.overlay() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// SetOverlay makes the node know what the view says, and no more. What fails is
// told after the rest was done, and is done by the next call.
func (s *Service) SetOverlay(ctx context.Context, id string, v OverlayView) error {
	s.seeing.Lock()
	defer s.seeing.Unlock()
	s.mu.Lock()
	n := s.nets[id]
	if n == nil || !n.rec.overlay() {
		s.mu.Unlock()
		return fault.New(errdefs.ErrNotFound, "network %s not found", id)
	}
	old := n.seen
	n.seen = &v
	if !n.rec.Tunnel.Ingress {
		n.zone.setFar(v.Names)
	}
	boxes := s.inside(n)
	s.mu.Unlock()
	var errs []error
	if old == nil || !slices.Equal(old.Peers, v.Peers) {
		// Before names: who has a name must be reached.
		if err := s.d.Link.SetPeers(ctx, tunnelName(id), n.rec.Bridge, v.Peers); err != nil {
			errs = append(errs, fmt.Errorf("peers of network %s: %w", n.rec.Name, err))
		}
	}
	if n.rec.Tunnel.Ingress {
		if old == nil || !slices.EqualFunc(old.Ports, v.Ports, samePort) {
			errs = append(errs, s.sync(ctx))
		}
	} else {
		for _, sb := range boxes {
			errs = append(errs, s.rebalance(ctx, sb))
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.mu.Lock()
		n.seen = old // so that the next call does it all
		s.mu.Unlock()
		return err
	}
	return nil
}

func samePort(a, b SwarmPort) bool {
	return a.Proto == b.Proto && a.Port == b.Port && slices.Equal(a.Targets, b.Targets)
}

func sameVIP(a, b VIP) bool { return a.Addr == b.Addr && slices.Equal(a.Backends, b.Backends) }

// inside are the sandboxes with an endpoint in a network. mu is held.
func (s *Service) inside(n *netw) []*sandbox {
	var out []*sandbox
	for id := range n.endpoints {
		if sb := s.sandboxes[id]; sb != nil {
			out = append(out, sb)
		}
	}
	return out
}

// rebalance makes a sandbox find the services of its networks.
func (s *Service) rebalance(ctx context.Context, sb *sandbox) error {
	sb.op.Lock()
	defer sb.op.Unlock()
	if sb.gone || sb.path == "" {
		return nil
	}
	return s.balance(ctx, sb)
}

// balance does so with op held.
func (s *Service) balance(ctx context.Context, sb *sandbox) error {
	s.mu.Lock()
	var want []VIP
	seen := sb.vips != nil
	for _, e := range sb.eps {
		if e.attached && e.net.rec.overlay() && e.net.seen != nil {
			seen = true
			want = append(want, e.net.seen.VIPs...)
		}
	}
	s.mu.Unlock()
	if !seen {
		return nil // what an earlier daemon left goes on until we know better
	}
	slices.SortFunc(want, func(a, b VIP) int { return a.Addr.Compare(b.Addr) })
	set, del := vipChange(sb.vips, want)
	if sb.vips != nil && len(set)+len(del) == 0 {
		return nil
	}
	if sb.vips == nil {
		set, del = want, nil
	}
	err := s.d.Firewall.Balance(ctx, sb.path, sb.vips == nil, set, del)
	if err != nil && sb.vips != nil { // whoever may do so in there has changed it
		err = s.d.Firewall.Balance(ctx, sb.path, true, want, nil)
	}
	if err != nil {
		sb.vips = nil // all of it, the next time
		return fmt.Errorf("balance services of container %s: %w", sb.req.Container, err)
	}
	sb.vips = append([]VIP{}, want...)
	return nil
}

// vipChange is what turns one list, sorted by address, into another: those to
// set, whole, and those to take away as they were.
func vipChange(have, want []VIP) (set, del []VIP) {
	was := map[netip.Addr]VIP{}
	for _, v := range have {
		was[v.Addr] = v
	}
	for _, v := range want {
		o, ok := was[v.Addr]
		delete(was, v.Addr)
		if ok && sameVIP(o, v) {
			continue
		}
		if ok {
			del = append(del, o)
		}
		set = append(set, v)
	}
	for _, o := range was {
		del = append(del, o)
	}
	slices.SortFunc(del, func(a, b VIP) int { return a.Addr.Compare(b.Addr) })
	return set, del
}

// swarmPorts are the ports of every node that this one serves. mu is held.
func (s *Service) swarmPorts() []SwarmPort {
	var out []SwarmPort
	for _, n := range s.nets {
		if n.rec.overlay() && n.rec.Tunnel.Ingress && n.seen != nil {
			out = append(out, n.seen.Ports...)
		}
	}
	slices.SortFunc(out, func(a, b SwarmPort) int {
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return strings.Compare(a.Proto, b.Proto)
	})
	return out
}

// OverlayMAC is the hardware address of a container by its address: any node can
// tell it.
func OverlayMAC(a netip.Addr) [6]byte { return [6]byte(net.HardwareAddr(macFor(a, netip.Addr{}))) }

// EndpointIn tells of a container's place in a network: its address and the names
// that it has there.
func (s *Service) EndpointIn(network, container string) (netip.Addr, []string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nets[network]
	if n == nil || n.endpoints[container] == nil {
		return netip.Addr{}, nil, false
	}
	e := n.endpoints[container]
	return e.set.IPAddress, slices.Clone(e.set.DNSNames), true
}

// HolderOf is the container of this node that has an address in a network.
func (s *Service) HolderOf(network string, a netip.Addr) (container string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nets[network]; n != nil {
		for id, e := range n.endpoints {
			if e.set.IPAddress == a {
				return id, true
			}
		}
	}
	return "", false
}

// InOverlays are the containers in overlay networks, by the network's ID.
func (s *Service) InOverlays() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]string{}
	for id, n := range s.nets {
		if n.rec.overlay() && len(n.endpoints) > 0 {
			out[id] = slices.Sorted(maps.Keys(n.endpoints))
		}
	}
	return out
}

// restoreOverlay brings a network up again. One that fails is no reason not to serve.
func (s *Service) restoreOverlay(ctx context.Context, r *Record) {
	if r.Tunnel == nil {
		s.d.Log.Error("network of the swarm without a tunnel", logkey.Network, r.Name)
		return
	}
	if err := s.ensureOverlay(ctx, r); err != nil {
		s.d.Log.Error("bring up network", logkey.Network, r.Name, logkey.Err, err)
	}
}

// setFar replaces the names that are the whole swarm's.
func (z *zone) setFar(names map[string][]netip.Addr) {
	old := z.data.Load()
	z.data.Store(&zoneData{names: old.names, reverse: old.reverse, far: maps.Clone(names)})
}
