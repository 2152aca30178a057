package daemon

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/cluster/attach"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/network"
)

// containerNetworks gives containers the network domain, and networks of the swarm.
// Requests and replies have the same fields on both sides, so that they convert;
// only their types differ, because domains don't know each other.
//
// A container that is no task's gets its address in a network of the swarm from
// the swarm, and the network comes to this node with it.
type containerNetworks struct {
	*network.Service
	d *Daemon
}

var _ container.Networks = containerNetworks{}

// Lookup implements container.Networks. A network that this node does not have may
// be the swarm's: a manager knows, a worker finds out by asking for an address.
func (n containerNetworks) Lookup(ctx context.Context, nameOrID string) (container.NetworkRef, error) {
	r, err := n.Service.Lookup(ctx, nameOrID)
	if !errdefs.IsNotFound(err) {
		return container.NetworkRef(r), err
	}
	switch n.d.swarm.Status() {
	case "active/manager":
		if in, serr := n.d.swarm.Network(ctx, nameOrID); serr == nil {
			return container.NetworkRef{ID: in.ID, Name: in.Name, Driver: in.Driver}, nil
		}
	case "active/worker":
		return container.NetworkRef{Name: nameOrID, Driver: network.DriverOverlay}, nil
	}
	return container.NetworkRef{}, err
}

// overlay tells whether a container that is no task's must ask the swarm for its
// place in a network: it is the swarm's, or this node has none of that name.
func (n containerNetworks) overlay(ctx context.Context, name string) (ref string, ask bool) {
	r, err := n.Service.Lookup(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		return name, true
	case err == nil && r.Driver == network.DriverOverlay:
		return r.ID, true
	}
	return "", false
}

// Validate implements container.Networks. What the swarm gives is asked for when
// the container starts, as with Docker.
func (n containerNetworks) Validate(ctx context.Context, r container.SandboxRequest) error {
	req := network.SandboxRequest(r)
	if !r.Task {
		req.Endpoints = maps.Clone(r.Endpoints)
		missing := ""
		for name, want := range r.Endpoints {
			ref, ask := n.overlay(ctx, name)
			if !ask {
				continue
			}
			if n.d.swarm.Status() == "inactive" {
				missing = name
			}
			if err := n.refuse(ctx, ref, name, want); err != nil {
				return err
			}
			delete(req.Endpoints, name)
		}
		if err := n.Service.Validate(ctx, req); err != nil || missing == "" {
			return err
		}
		return fault.New(errdefs.ErrNotFound, "network %s not found", missing)
	}
	return n.Service.Validate(ctx, req)
}

// refuseAttachment names what a container cannot have in a network of the swarm.
func refuseAttachment(name string, want *mobynet.EndpointSettings) error {
	switch {
	case want == nil:
		return nil
	case len(want.MacAddress) != 0:
		return fault.New(errdefs.ErrNotImplemented, "a MAC address of one's own on network %s of the swarm is not supported by this release of Holdfast", name)
	case want.IPAMConfig != nil && want.IPAMConfig.IPv6Address.IsValid():
		return fault.New(errdefs.ErrNotImplemented, "an IPv6 address on network %s of the swarm is not supported by this release of Holdfast", name)
	}
	return nil
}

// refuse names what a container cannot have in a network of the swarm, as far as this
// node knows: a manager says nothing to who asks for an address that it cannot give,
// and the wait for it ends only with its time.
func (n containerNetworks) refuse(ctx context.Context, ref, name string, want *mobynet.EndpointSettings) error {
	if err := refuseAttachment(name, want); err != nil || !wantedAddr(want).IsValid() {
		return err
	}
	err := n.Service.Validate(ctx, network.SandboxRequest{Endpoints: map[string]*mobynet.EndpointSettings{ref: want}})
	if errdefs.IsNotFound(err) {
		return nil // it comes to this node with its first container
	}
	return err
}

// wantedAddr is the address that is asked for; invalid: any.
func wantedAddr(want *mobynet.EndpointSettings) netip.Addr {
	if want == nil || want.IPAMConfig == nil {
		return netip.Addr{}
	}
	return want.IPAMConfig.IPv4Address.Unmap()
}

// given gets a container its place in a network of the swarm and returns what it is
// to be asked for there; nil if the network is none of the swarm's.
func (n containerNetworks) given(ctx context.Context, id, name string, want *mobynet.EndpointSettings) (string, *mobynet.EndpointSettings, error) {
	ref, ask := n.overlay(ctx, name)
	if !ask {
		return "", nil, nil
	}
	if err := n.refuse(ctx, ref, name, want); err != nil {
		return "", nil, err
	}
	if a := wantedAddr(want); a.IsValid() {
		if holder, ok := n.HolderOf(ref, a); ok && holder != id {
			return "", nil, fault.New(errdefs.ErrPermissionDenied, "address %s on network %s is in use by container %s", a, name, holder)
		}
	}
	out := &mobynet.EndpointSettings{}
	if want != nil {
		out = want.Copy()
	}
	if out.IPAMConfig == nil {
		out.IPAMConfig = &mobynet.EndpointIPAMConfig{}
	}
	place, err := n.d.attach.Attach(ctx, id, ref, out.IPAMConfig.IPv4Address)
	if errors.Is(err, attach.ErrNoSwarm) {
		return "", nil, nil // there is no such network at all
	}
	if err != nil {
		return "", nil, named(err, ref, name)
	}
	out.IPAMConfig.IPv4Address = place.Addr
	return place.ID, out, nil
}

// named puts the network's name, which the user knows, in place of its ID.
func named(err error, id, name string) error {
	if id == name {
		return err
	}
	for _, class := range []error{errdefs.ErrNotFound, errdefs.ErrPermissionDenied, errdefs.ErrInvalidArgument} {
		if errors.Is(err, class) {
			return fault.New(class, "%s", strings.ReplaceAll(err.Error(), id, name))
		}
	}
	return fault.New(errdefs.ErrUnavailable, "%s", strings.ReplaceAll(err.Error(), id, name))
}

// Join implements container.Networks.
func (n containerNetworks) Join(ctx context.Context, r container.SandboxRequest) (container.SandboxInfo, error) {
	req := network.SandboxRequest(r)
	if !r.Task {
		defer n.d.attach.Begin(r.Container)(ctx)
		req.Endpoints = map[string]*mobynet.EndpointSettings{}
		for name, want := range r.Endpoints {
			id, given, err := n.given(ctx, r.Container, name, want)
			if err != nil {
				return container.SandboxInfo{}, err
			}
			if given != nil {
				name, want = id, given
			}
			req.Endpoints[name] = want
		}
	}
	info, err := n.Service.Join(ctx, req)
	return container.SandboxInfo(info), err
}

// Leave implements container.Networks.
func (n containerNetworks) Leave(ctx context.Context, id string) error {
	defer n.d.attach.Begin(id)(ctx)
	return n.Service.Leave(ctx, id)
}

// HostFiles implements container.Networks.
func (n containerNetworks) HostFiles(ctx context.Context, r container.SandboxRequest) (container.SandboxInfo, error) {
	info, err := n.Service.HostFiles(ctx, network.SandboxRequest(r))
	return container.SandboxInfo(info), err
}

// Restore implements container.Networks.
func (n containerNetworks) Restore(ctx context.Context, r container.SandboxRequest, info container.SandboxInfo) error {
	return n.Service.Restore(ctx, network.SandboxRequest(r), network.SandboxInfo(info))
}

// Connect implements container.Networks.
func (n containerNetworks) Connect(ctx context.Context, id, net string, ep *mobynet.EndpointSettings) (*mobynet.EndpointSettings, error) {
	defer n.d.attach.Begin(id)(ctx)
	ref, given, err := n.given(ctx, id, net, ep)
	if err != nil {
		return nil, err
	}
	if given != nil {
		net, ep = ref, given
	}
	return n.Service.Connect(ctx, id, net, ep)
}

// Disconnect implements container.Networks.
func (n containerNetworks) Disconnect(ctx context.Context, id, net string) error {
	defer n.d.attach.Begin(id)(ctx)
	return n.Service.Disconnect(ctx, id, net)
}

// Rename implements container.Networks.
func (n containerNetworks) Rename(ctx context.Context, id, name string) error {
	defer n.d.attach.Begin(id)(ctx)
	return n.Service.Rename(ctx, id, name)
}
