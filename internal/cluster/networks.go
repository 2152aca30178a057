package cluster

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

// localNetworks are the networks of each node's own that a service can be on.
var localNetworks = []networkallocator.PredefinedNetworkData{
	{Name: network.NetworkBridge, Driver: "bridge"},
	{Name: network.NetworkHost, Driver: "host"},
}

// provider tells SwarmKit of those, and that there are no others: what they
// need is on each node already, so that nothing is ever allocated.
type provider struct{ networkallocator.InertProvider }

var _ networkallocator.Provider = provider{}

// PredefinedNetworks implements networkallocator.Provider.
func (provider) PredefinedNetworks() []networkallocator.PredefinedNetworkData {
	return slices.Clone(localNetworks)
}

// NewAllocator implements networkallocator.Provider.
func (provider) NewAllocator(*networkallocator.Config) (networkallocator.NetworkAllocator, error) {
	return allocator{}, nil
}

type allocator struct{ networkallocator.Inert }

func predefined(n *api.Network) bool {
	return n.Spec.Annotations.Labels[networkallocator.PredefinedLabel] == "true"
}

// Allocate implements networkallocator.NetworkAllocator.
func (a allocator) Allocate(n *api.Network) error {
	if !predefined(n) {
		return a.Inert.Allocate(n)
	}
	n.DriverState = &api.Driver{Name: n.Spec.DriverConfig.Name}
	return nil
}

// IsAllocated implements networkallocator.NetworkAllocator.
func (a allocator) IsAllocated(n *api.Network) bool {
	if predefined(n) {
		return n.DriverState != nil
	}
	return a.Inert.IsAllocated(n)
}

// AllocateService implements networkallocator.NetworkAllocator. What a service
// names was looked at when it was made.
func (allocator) AllocateService(*api.Service) error { return nil }

// IsServiceAllocated implements networkallocator.NetworkAllocator.
func (allocator) IsServiceAllocated(*api.Service, ...func(*networkallocator.ServiceAllocationOpts)) bool {
	return true
}

// AllocateTask implements networkallocator.NetworkAllocator.
func (allocator) AllocateTask(*api.Task) error { return nil }

// IsTaskAllocated implements networkallocator.NetworkAllocator.
func (allocator) IsTaskAllocated(t *api.Task) bool { return len(t.Networks) >= len(t.Spec.Networks) }

func findNetwork(ctx context.Context, c api.ControlClient, ref string) (*api.Network, error) {
	return find(ctx, "network", ref,
		func(ctx context.Context, id string) (*api.Network, error) {
			r, err := c.GetNetwork(ctx, &api.GetNetworkRequest{NetworkID: id})
			if err != nil {
				return nil, err
			}
			return r.Network, nil
		},
		func(ctx context.Context, s selection) ([]*api.Network, error) {
			r, err := c.ListNetworks(ctx, &api.ListNetworksRequest{Filters: &api.ListNetworksRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
			if err != nil {
				return nil, err
			}
			return r.Networks, nil
		})
}

// resolveNetworks puts IDs in place of names, as SwarmKit wants them.
func resolveNetworks(ctx context.Context, c api.ControlClient, t *api.TaskSpec) error {
	for _, n := range t.Networks {
		found, err := findNetwork(ctx, c, n.Target)
		if err != nil {
			return err
		}
		n.Target = found.ID
	}
	return nil
}

// Network shows a network of the swarm.
func (s *Service) Network(ctx context.Context, ref string) (network.Inspect, error) {
	var out network.Inspect
	if s.member() == nil {
		return out, fault.New(errdefs.ErrNotFound, "network %s not found", ref)
	}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		n, err := findNetwork(ctx, c, ref)
		if err == nil {
			out = convert.NetworkFrom(n)
		}
		return err
	})
	return out, err
}

// oneLocalNetwork refuses what needs an overlay network. Which networks there
// are is the store's to say.
func oneLocalNetwork(nets []swarm.NetworkAttachmentConfig) error {
	if len(nets) > 1 {
		return unserved("a service on more than one network (overlay networks)")
	}
	return nil
}
