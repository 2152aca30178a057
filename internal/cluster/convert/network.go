package convert

import (
	"maps"
	"net/netip"
	"strings"

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
	} else if d := n.Spec.DriverConfig; d != nil {
		out.Driver = d.Name
		maps.Copy(out.Options, d.Options)
	}
	ipam := n.IPAM
	if ipam == nil {
		ipam = n.Spec.IPAM
	}
	if ipam != nil {
		for _, c := range ipam.Configs {
			out.IPAM.Config = append(out.IPAM.Config, ipamFrom(c))
		}
	}
	return out
}

// ipamFrom leaves out what cannot be read: a manager checked it.
func ipamFrom(c *api.IPAMConfig) network.IPAMConfig {
	var out network.IPAMConfig
	out.Subnet, _ = netip.ParsePrefix(c.Subnet)
	out.IPRange, _ = netip.ParsePrefix(c.Range)
	gw, _, _ := strings.Cut(c.Gateway, "/")
	out.Gateway, _ = netip.ParseAddr(gw)
	for k, v := range c.Reserved {
		if a, err := netip.ParseAddr(v); err == nil {
			if out.AuxAddress == nil {
				out.AuxAddress = map[string]netip.Addr{}
			}
			out.AuxAddress[k] = a
		}
	}
	return out
}

// NetworkTo is the spec of a network that a client asks for.
func NetworkTo(r network.CreateRequest) api.NetworkSpec {
	out := api.NetworkSpec{
		Annotations:  api.Annotations{Name: r.Name, Labels: maps.Clone(r.Labels)},
		DriverConfig: &api.Driver{Name: r.Driver, Options: maps.Clone(r.Options)},
		Internal:     r.Internal, Attachable: r.Attachable, Ingress: r.Ingress,
		IPAM: &api.IPAMOptions{Driver: &api.Driver{Name: "default"}},
	}
	if r.IPAM == nil {
		return out
	}
	for _, c := range r.IPAM.Config {
		to := &api.IPAMConfig{Family: api.IPAMConfig_IPV4}
		if c.Subnet.IsValid() {
			to.Subnet = c.Subnet.String()
		}
		if c.IPRange.IsValid() {
			to.Range = c.IPRange.String()
		}
		if c.Gateway.IsValid() {
			to.Gateway = c.Gateway.String()
		}
		for k, a := range c.AuxAddress {
			if to.Reserved == nil {
				to.Reserved = map[string]string{}
			}
			to.Reserved[k] = a.String()
		}
		out.IPAM.Configs = append(out.IPAM.Configs, to)
	}
	return out
}
