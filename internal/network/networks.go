package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

func (s *Service) newNetw(r *Record) *netw {
	n := &netw{rec: r, zone: newZone(r.Name), endpoints: map[string]*endpoint{}}
	for _, c := range r.IPAM.Config {
		sn := newSubnet(c.Subnet, c.IPRange)
		sn.gateway = c.Gateway
		if c.Gateway.IsValid() {
			sn.used[c.Gateway] = "gateway"
		}
		for name, a := range c.AuxAddress {
			sn.used[a] = "aux " + name
		}
		if c.Subnet.Addr().Is4() {
			n.v4 = append(n.v4, sn)
		} else {
			n.v6 = append(n.v6, sn)
		}
	}
	return n
}

func networkRules(r *Record) NetworkRules {
	n := NetworkRules{
		Bridge: r.Bridge, Internal: r.Internal,
		ICC:        optBool(r.Options, optICC, true),
		Masquerade: optBool(r.Options, optMasquerade, true),
	}
	for _, c := range r.IPAM.Config {
		n.Subnets = append(n.Subnets, c.Subnet)
	}
	if r.Tunnel != nil {
		n.Source = r.Tunnel.Own
	}
	return n
}

// optBool reads an option that was checked when the network was made.
func optBool(o map[string]string, key string, def bool) bool {
	if v, err := strconv.ParseBool(o[key]); err == nil {
		return v
	}
	return def
}

func (r *Record) mtu() int {
	n, err := strconv.Atoi(r.Options[optMTU])
	if err != nil {
		return 0
	}
	return n
}

func (s *Service) owner(id string) string { return "holdfast " + s.d.Settings.Instance + " " + id }

func (s *Service) ensureBridge(ctx context.Context, r *Record) error {
	b := Bridge{
		Name: r.Bridge, Owner: s.owner(r.ID), MTU: r.mtu(), IPv6: r.EnableIPv6,
		Isolate: !optBool(r.Options, optICC, true),
	}
	for _, c := range r.IPAM.Config {
		if c.Gateway.IsValid() {
			b.Addrs = append(b.Addrs, netip.PrefixFrom(c.Gateway, c.Subnet.Bits()))
		}
	}
	if r.Tunnel != nil && r.Tunnel.Own.IsValid() {
		for _, c := range r.IPAM.Config {
			if c.Subnet.Contains(r.Tunnel.Own) {
				b.Addrs = append(b.Addrs, netip.PrefixFrom(r.Tunnel.Own, c.Subnet.Bits()))
				// Unlike the gateway's it is one that other nodes send to.
				mac := OverlayMAC(r.Tunnel.Own)
				b.MAC = mac[:]
			}
		}
	}
	if r.EnableIPv6 && s.d.Settings.IPForward {
		if err := s.d.Link.Forwarding(ctx, true); err != nil {
			return fmt.Errorf("let the host forward IPv6 packets: %w", err)
		}
	}
	if err := s.d.Link.EnsureBridge(ctx, b); err != nil {
		return fmt.Errorf("bring up bridge %s of network %s: %w", r.Bridge, r.Name, err)
	}
	return nil
}

// Create makes a network.
func (s *Service) Create(ctx context.Context, req mobynet.CreateRequest) (mobynet.CreateResponse, error) {
	r, err := s.checkCreate(req)
	if err != nil {
		return mobynet.CreateResponse{}, err
	}
	s.create.Lock()
	defer s.create.Unlock()
	if err := s.nameFree(r); err != nil {
		return mobynet.CreateResponse{}, err
	}
	if err := s.assignSubnets(ctx, r, req.IPAM); err != nil {
		return mobynet.CreateResponse{}, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.d.Records.Put(r.ID, r); err != nil {
		return mobynet.CreateResponse{}, fmt.Errorf("record network %s: %w", r.Name, err)
	}
	s.mu.Lock()
	s.nets[r.ID] = s.newNetw(r)
	s.mu.Unlock()
	if err := s.bringUp(ctx, r); err != nil {
		s.discard(ctx, r)
		return mobynet.CreateResponse{}, err
	}
	s.publish(r, events.ActionCreate, nil)
	return mobynet.CreateResponse{ID: r.ID}, nil
}

func (s *Service) bringUp(ctx context.Context, r *Record) error {
	if _, vlan := r.vlan(); vlan {
		return s.ensureParent(ctx, r)
	}
	if err := s.ensureBridge(ctx, r); err != nil {
		return err
	}
	return s.sync(ctx)
}

// discard takes back what a failed Create or a Remove leaves.
func (s *Service) discard(ctx context.Context, r *Record) {
	s.mu.Lock()
	delete(s.nets, r.ID)
	s.mu.Unlock()
	if r.overlay() {
		if err := s.d.Link.RemoveLink(ctx, tunnelName(r.ID)); err != nil {
			s.d.Log.Warn("remove tunnel", logkey.Network, r.Name, logkey.Err, err)
		}
	}
	if !s.shared(r) {
		if err := s.d.Link.RemoveLink(ctx, r.Bridge); err != nil {
			s.d.Log.Warn("remove link", logkey.Network, r.Name, logkey.Err, err)
		}
	}
	if err := errors.Join(failpoint.Hit("network.remove.afterLink"), s.sync(ctx)); err != nil {
		s.d.Log.Warn("remove firewall rules", logkey.Network, r.Name, logkey.Err, err)
	}
	err := failpoint.Hit("network.remove.beforeRecord")
	if err == nil {
		err = s.d.Records.Delete(r.ID)
	}
	if err != nil {
		s.d.Log.Error("delete network record", logkey.Network, r.Name, logkey.Err, err)
	}
}

func (s *Service) nameFree(r *Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []*Record
	for _, n := range s.nets {
		if n.rec.Name == r.Name {
			return fault.New(errdefs.ErrConflict, "network with name %s already exists", r.Name)
		}
		if n.rec.Bridge == r.Bridge && n.rec.Driver == r.Driver && r.Driver == DriverBridge {
			return fault.New(errdefs.ErrPermissionDenied, "cannot create network %s: conflicts with network %s (%s): networks have same bridge name", r.Name, n.rec.ID, n.rec.Name)
		}
		others = append(others, n.rec)
	}
	return parentFree(r, others)
}

// Remove deletes a network that no container is in.
func (s *Service) Remove(ctx context.Context, term string) error {
	s.create.Lock()
	defer s.create.Unlock()
	s.mu.Lock()
	n, err := s.find(term)
	if err == nil {
		err = n.removable()
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	n.removing = true // Join refuses it from here on
	s.mu.Unlock()
	s.discard(context.WithoutCancel(ctx), n.rec)
	s.publish(n.rec, events.ActionDestroy, nil)
	return nil
}

func (n *netw) removable() error {
	if n.rec.Predefined {
		return fault.New(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", n.rec.Name)
	}
	if len(n.endpoints) == 0 {
		return nil
	}
	var who []string
	for _, e := range n.endpoints {
		who = append(who, fmt.Sprintf("name:%q id:%q", e.name, short(e.id)))
	}
	slices.Sort(who)
	return fault.New(errdefs.ErrPermissionDenied, "error while removing network: network %s has active endpoints (%s)", n.rec.Name, strings.Join(who, ", "))
}

// short is the form of an ID that people read.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// Lookup checks a network by name, ID or ID prefix.
func (s *Service) Lookup(_ context.Context, nameOrID string) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(nameOrID)
	if err != nil {
		return Ref{}, err
	}
	return Ref{ID: n.rec.ID, Name: n.rec.Name, Driver: n.rec.Driver}, nil
}

// Ref names a network.
type Ref struct {
	ID     string
	Name   string
	Driver string
}

// Inspect describes a network and who is in it.
func (s *Service) Inspect(_ context.Context, nameOrID string) (mobynet.Inspect, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(nameOrID)
	if err != nil {
		return mobynet.Inspect{}, err
	}
	out := mobynet.Inspect{Network: n.rec.api(), Containers: map[string]mobynet.EndpointResource{}}
	for cid, e := range n.endpoints {
		out.Containers[cid] = mobynet.EndpointResource{
			Name: e.name, EndpointID: e.id, MacAddress: e.set.MacAddress,
			IPv4Address: prefixOrZero(e.set.IPAddress, e.set.IPPrefixLen),
			IPv6Address: prefixOrZero(e.set.GlobalIPv6Address, e.set.GlobalIPv6PrefixLen),
		}
	}
	if n.rec.linked() {
		out.Status = n.status()
	}
	return out, nil
}

func prefixOrZero(a netip.Addr, bits int) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, bits)
}

// status counts addresses as Docker does: reserved ones are in use.
func (n *netw) status() *mobynet.Status {
	st := &mobynet.Status{IPAM: mobynet.IPAMStatus{Subnets: mobynet.SubnetStatuses{}}}
	for _, sn := range slices.Concat(n.v4, n.v6) {
		inUse := uint64(len(sn.used))
		inRange := uint64(0)
		for a := range sn.used {
			if sn.rng.Contains(a) {
				inRange++
			}
		}
		size := ^uint64(0)
		if host := sn.rng.Addr().BitLen() - sn.rng.Bits(); host < 64 {
			size = 1 << host
		}
		for _, a := range []netip.Addr{sn.prefix.Addr(), last(sn.prefix)} {
			if !sn.usable(a) {
				inUse++
				if sn.rng.Contains(a) {
					inRange++
				}
			}
		}
		st.IPAM.Subnets[sn.prefix] = mobynet.SubnetStatus{IPsInUse: inUse, DynamicIPsAvailable: size - min(size, inRange)}
	}
	return st
}

func (r *Record) scope() string {
	if r.overlay() {
		return "swarm"
	}
	return "local"
}

func (r *Record) api() mobynet.Network {
	ipam := mobynet.IPAM{Driver: r.IPAM.Driver, Options: maps.Clone(r.IPAM.Options), Config: slices.Clone(r.IPAM.Config)}
	if ipam.Config == nil {
		ipam.Config = []mobynet.IPAMConfig{}
	}
	out := mobynet.Network{
		Name: r.Name, ID: r.ID, Created: r.Created, Scope: r.scope(), Driver: r.Driver,
		EnableIPv4: r.EnableIPv4, EnableIPv6: r.EnableIPv6, IPAM: ipam,
		Internal: r.Internal, Attachable: r.Attachable,
		Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels),
	}
	if out.Options == nil {
		out.Options = map[string]string{}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	return out
}
