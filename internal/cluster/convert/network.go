package convert

import (
	"maps"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/api"
)

// NetworkFrom is a network of the swarm as the API shows it.
func NetworkFrom(n *api.Network) network.Inspect {
	out := network.Inspect{Network: network.Network{
		ID: n.ID, Name: n.Spec.Annotations.Name, Scope: "swarm", EnableIPv4: true, EnableIPv6: n.Spec.Ipv6Enabled,
		Internal: n.Spec.Internal, Attachable: n.Spec.Attachable, Ingress: n.Spec.Ingress,
		IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}, Options: map[string]string{}, Labels: map[string]string{},
	}, Containers: map[string]network.EndpointResource{}}
	maps.Copy(out.Labels, n.Spec.Annotations.Labels)
	out.Created = timeFrom(n.Meta.CreatedAt)
	if d := n.DriverState; d != nil {
		out.Driver = d.Name
		maps.Copy(out.Options, d.Options)
	}
	return out
}
