package container

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// ConnectNetwork joins a container to one more network, at once where it runs.
func (s *Service) ConnectNetwork(ctx context.Context, networkRef, name string, ep *network.EndpointSettings) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	if r.Phase == Removing || r.Phase == Dead {
		return conflict("Container %s is marked for removal and cannot be connected or disconnected to the network", r.ID)
	}
	n, err := s.d.Networks.Lookup(ctx, networkRef)
	if err != nil {
		return err
	}
	if ep == nil {
		ep = &network.EndpointSettings{}
	}
	mode := r.HostConfig.NetworkMode
	switch {
	case len(ep.Aliases) > 0 && !container.NetworkMode(n.Name).IsUserDefined():
		return invalid("invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks")
	case n.Driver == network.NetworkHost && !mode.IsHost():
		return invalid("cannot connect container to host network - container must be created in host network mode")
	case mode.IsContainer(), mode.IsHost():
		return invalid("container sharing network namespace with another container or host cannot be connected to any other network")
	case mode.IsNone(), n.Driver == "null":
		return invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	for have, e := range endpoints(&r) {
		if have == n.Name || (e.NetworkID != "" && e.NetworkID == n.ID) || have == n.ID {
			return fault.New(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", r.Name, n.Name)
		}
	}
	ctx = context.WithoutCancel(ctx)
	wishes := maps.Clone(r.Endpoints)
	if wishes == nil {
		wishes = map[string]*network.EndpointSettings{}
	}
	wishes[n.Name] = ep.Copy()
	if !r.Phase.alive() {
		next := r
		next.Endpoints = wishes
		if err := s.d.Networks.Validate(ctx, s.sandboxRequest(&next)); err != nil {
			return err
		}
		return s.saveNetworks(c, wishes, r.Sandbox)
	}
	given, err := s.d.Networks.Connect(ctx, r.ID, n.Name, ep.Copy())
	if err != nil {
		return err
	}
	if err := s.saveNetworks(c, wishes, withEndpoint(r.Sandbox, n.Name, given)); err != nil {
		return errors.Join(err, s.d.Networks.Disconnect(ctx, r.ID, n.Name))
	}
	return nil
}

// DisconnectNetwork takes a container off a network. force forgets an endpoint
// whose container is gone.
func (s *Service) DisconnectNetwork(ctx context.Context, networkRef, name string, force bool) error {
	n, err := s.d.Networks.Lookup(ctx, networkRef)
	if force && errdefs.IsNotFound(err) {
		return s.forgetNetwork(networkRef, name)
	}
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	c, err := s.lookup(name)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return s.d.Networks.Disconnect(ctx, name, n.Name)
		}
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	if r.Phase == Removing || r.Phase == Dead {
		return conflict("Container %s is marked for removal and cannot be connected or disconnected to the network", r.ID)
	}
	if n.Driver == network.NetworkHost && r.HostConfig.NetworkMode.IsHost() {
		return invalid("cannot disconnect container from host network - container was created in host network mode")
	}
	wishes := maps.Clone(r.Endpoints)
	key := ""
	for _, k := range []string{n.Name, n.ID} {
		if _, ok := wishes[k]; ok {
			key = k
		}
	}
	if key == "" && r.Phase.alive() {
		return fmt.Errorf("container %s is not connected to network %s", r.ID, n.Name)
	}
	if key == "" {
		return fmt.Errorf("container %s is not connected to the network %s", r.ID, n.Name)
	}
	delete(wishes, key)
	box := r.Sandbox
	if r.Phase.alive() {
		if err := s.d.Networks.Disconnect(ctx, r.ID, n.Name); err != nil {
			return err
		}
		box = withEndpoint(box, n.Name, nil)
	}
	return s.saveNetworks(c, wishes, box)
}

// forgetNetwork takes a network that is gone out of a container's wishes.
func (s *Service) forgetNetwork(network, name string) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	if _, ok := r.Endpoints[network]; !ok {
		return fmt.Errorf("container %s is not connected to the network %s", r.ID, network)
	}
	wishes := maps.Clone(r.Endpoints)
	delete(wishes, network)
	return s.saveNetworks(c, wishes, r.Sandbox)
}

// withEndpoint returns a copy of the sandbox with the endpoint put in, or taken out where it is nil.
func withEndpoint(box *SandboxInfo, name string, ep *network.EndpointSettings) *SandboxInfo {
	out := SandboxInfo{}
	if box != nil {
		out = *box
	}
	out.Endpoints = maps.Clone(out.Endpoints)
	if out.Endpoints == nil {
		out.Endpoints = map[string]*network.EndpointSettings{}
	}
	if ep == nil {
		delete(out.Endpoints, name)
	} else {
		out.Endpoints[name] = ep
	}
	return &out
}

func (s *Service) saveNetworks(c *Container, wishes map[string]*network.EndpointSettings, box *SandboxInfo) error {
	c.mu.Lock()
	old, oldBox := c.rec.Endpoints, c.rec.Sandbox
	c.rec.Endpoints, c.rec.Sandbox = wishes, box
	c.mu.Unlock()
	err := s.save(c)
	if err != nil {
		c.mu.Lock()
		c.rec.Endpoints, c.rec.Sandbox = old, oldBox
		c.mu.Unlock()
	}
	return err
}
