package cluster

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/attach"
	"holdfast.dev/holdfast/internal/cluster/convert"
	"holdfast.dev/holdfast/internal/cluster/netalloc"
)

// localNetworks are the networks of each node's own that a service can be on.
var localNetworks = []networkallocator.PredefinedNetworkData{
	{Name: network.NetworkBridge, Driver: "bridge"},
	{Name: network.NetworkHost, Driver: "host"},
}

// provider hands out what networks need, where this node leads the swarm.
type provider struct{}

var _ networkallocator.Provider = provider{}

// PredefinedNetworks implements networkallocator.Provider.
func (provider) PredefinedNetworks() []networkallocator.PredefinedNetworkData {
	return slices.Clone(localNetworks)
}

// SetDefaultVXLANUDPPort implements networkallocator.Provider: nodes read the port
// where they are configured.
func (provider) SetDefaultVXLANUDPPort(uint32) error { return nil }

// ValidateIPAMDriver implements networkallocator.Provider.
func (provider) ValidateIPAMDriver(d *api.Driver) error {
	if d == nil || d.Name == "" || d.Name == "default" {
		return nil
	}
	return status.Errorf(codes.Unimplemented, "IPAM driver %s is not supported by this release of Holdfast", d.Name)
}

// ValidateIngressNetworkDriver implements networkallocator.Provider.
func (p provider) ValidateIngressNetworkDriver(d *api.Driver) error {
	return p.ValidateNetworkDriver(d)
}

// ValidateNetworkDriver implements networkallocator.Provider.
func (provider) ValidateNetworkDriver(d *api.Driver) error {
	if d == nil || d.Name == "" || d.Name == netalloc.Driver {
		return nil
	}
	return status.Errorf(codes.Unimplemented, "network driver %s in a swarm is not supported by this release of Holdfast", d.Name)
}

// NewAllocator implements networkallocator.Provider.
func (provider) NewAllocator(c *networkallocator.Config) (networkallocator.NetworkAllocator, error) {
	return netalloc.New(c)
}

// Allocator is a manager as this node's agent reaches it, to have addresses from.
// It waits for a node that is still coming up.
func (s *Service) Allocator(ctx context.Context) (attach.Allocator, error) {
	m := s.member()
	if m == nil {
		return nil, attach.ErrNoSwarm
	}
	if err := m.wait(ctx); err != nil {
		return nil, err
	}
	if n := m.current(); n != nil {
		if a := n.Agent(); a != nil {
			return a.ResourceAllocator(), nil
		}
	}
	return nil, errPreparing
}

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

// resolveNetworks puts IDs in place of names, as SwarmKit wants them, and refuses
// what does not go together.
func resolveNetworks(ctx context.Context, c api.ControlClient, s *api.ServiceSpec) error {
	var nets []*api.Network
	for _, n := range s.Task.Networks {
		found, err := findNetwork(ctx, c, n.Target)
		if err != nil {
			return err
		}
		n.Target = found.ID
		nets = append(nets, found)
	}
	return goTogether(nets, s.Endpoint)
}

// goTogether refuses a network of each node's own beside one of the swarm.
func goTogether(nets []*api.Network, e *api.EndpointSpec) error {
	i := slices.IndexFunc(nets, netalloc.Local)
	if i < 0 {
		return nil
	}
	name := nets[i].Spec.Annotations.Name
	if len(nets) > 1 {
		return unserved("a service on network %s, which is each node's own, and on another one", name)
	}
	if e != nil {
		for _, p := range e.Ports {
			if p.PublishMode == api.PublishModeIngress {
				return unserved("port %d published in ingress mode by a service on network %s (publish it with mode=host)", p.TargetPort, name)
			}
		}
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

// Networks lists the networks of the swarm that the filters keep. Each node's own
// ones are not among them.
func (s *Service) Networks(ctx context.Context, filters map[string][]string) ([]network.Inspect, error) {
	if s.member() == nil {
		return nil, nil
	}
	f := filter.Args(filters)
	var out []network.Inspect
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.ListNetworks(ctx, &api.ListNetworksRequest{Filters: &api.ListNetworksRequest_Filters{
			IDPrefixes: f["id"], Labels: labelFilter(f["label"]),
		}})
		if err != nil {
			return err
		}
		for _, n := range r.Networks {
			one := convert.NetworkFrom(n)
			if !netalloc.Local(n) && keepNetwork(f, one) {
				out = append(out, one)
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b network.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

func keepNetwork(f filter.Args, n network.Inspect) bool {
	has := func(key string, match func(string) bool) bool {
		return len(f[key]) == 0 || slices.ContainsFunc(f[key], match)
	}
	return has("driver", func(v string) bool { return v == n.Driver }) &&
		has("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
		has("scope", func(v string) bool { return v == n.Scope }) &&
		has("type", func(v string) bool { return v == "custom" }) &&
		has("dangling", func(v string) bool { return v == "false" || v == "0" })
}

// CreateNetwork makes a network across nodes.
func (s *Service) CreateNetwork(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error) {
	var out network.CreateResponse
	if _, err := s.conn(); err != nil {
		return out, err
	}
	if err := refuseNetwork(r); err != nil {
		return out, err
	}
	spec := convert.NetworkTo(r)
	err := s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		have, err := c.ListNetworks(ctx, &api.ListNetworksRequest{Filters: &api.ListNetworksRequest_Filters{Names: []string{r.Name}}})
		if err != nil {
			return err
		}
		if len(have.Networks) > 0 {
			return fault.New(errdefs.ErrConflict, "network with name %s already exists", r.Name)
		}
		n, err := c.CreateNetwork(ctx, &api.CreateNetworkRequest{Spec: &spec})
		if err == nil {
			out.ID = n.Network.ID
		}
		return err
	})
	return out, err
}

// refuseNetwork names what a network across nodes cannot be.
func refuseNetwork(r network.CreateRequest) error {
	switch {
	case r.ConfigOnly:
		return unserved("ConfigOnly (--config-only)")
	case r.ConfigFrom != nil && r.ConfigFrom.Network != "":
		return unserved("ConfigFrom (--config-from)")
	case r.EnableIPv6 != nil && *r.EnableIPv6:
		return unserved("IPv6 (--ipv6) on an overlay network")
	case r.EnableIPv4 != nil && !*r.EnableIPv4:
		return unserved("an overlay network without IPv4")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Options)) {
		v := r.Options[k]
		switch k {
		case netalloc.OptEncrypted:
			if v == "" || v == "true" || v == "1" {
				return unserved("option encrypted of the driver overlay (this engine does not encrypt what it sends between nodes)")
			}
		case netalloc.OptMTU:
			if n, err := strconv.Atoi(v); err != nil || n < 576 || n > 65535 {
				return invalid("invalid MTU number: %s", v)
			}
		case netalloc.OptVNIs:
			if strings.Contains(v, ",") {
				return unserved("more than one number in option %s", k)
			}
		default:
			if strings.HasPrefix(k, "com.docker.network.") {
				return unserved("option %s of the driver overlay", k)
			}
		}
	}
	if r.IPAM == nil {
		return nil
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return unserved("IPAM driver %s of an overlay network", d)
	}
	for k := range r.IPAM.Options {
		return unserved("IPAM option %s of an overlay network", k)
	}
	for _, c := range r.IPAM.Config {
		switch {
		case c.Subnet.IsValid() && !c.Subnet.Addr().Is4():
			return unserved("IPv6 subnet %s of an overlay network", c.Subnet)
		case c.Subnet.IsValid() && c.Subnet != c.Subnet.Masked():
			return invalid("invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		case c.Subnet.IsValid() && c.Gateway.IsValid() && !c.Subnet.Contains(c.Gateway):
			return invalid("invalid gateway %s: subnet %s doesn't contain it", c.Gateway, c.Subnet)
		}
	}
	return nil
}

// RemoveNetwork removes a network across nodes. Who uses it keeps it.
func (s *Service) RemoveNetwork(ctx context.Context, ref string) (network.Inspect, error) {
	var out network.Inspect
	err := s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		n, err := findNetwork(ctx, c, ref)
		if err != nil {
			return err
		}
		out = convert.NetworkFrom(n)
		_, err = c.RemoveNetwork(ctx, &api.RemoveNetworkRequest{NetworkID: n.ID})
		return err
	})
	return out, err
}
