package network

import (
	"time"

	mobynet "github.com/moby/moby/api/types/network"
)

// Drivers of networks.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
	DriverOverlay = "overlay"
	DriverHost    = "host"
	DriverNull    = "null"
)

// Record is a network as it is kept across restarts. It doesn't change after
// it was made, so that it may be shared without a lock.
type Record struct {
	ID         string
	Name       string
	Driver     string
	Created    time.Time
	EnableIPv4 bool
	EnableIPv6 bool
	Internal   bool
	Predefined bool // bridge, host, none
	// IPAM is as clients see it: chosen subnets and gateways are filled in.
	IPAM mobynet.IPAM
	// UserSubnet tells, per entry of IPAM.Config, whether the subnet was asked
	// for; fixed addresses are given on such networks only.
	UserSubnet bool
	Options    map[string]string
	Labels     map[string]string
	Attachable bool        // kept for clients; every local network can be attached to
	Bridge     string      // name of the link: the bridge, or the parent of macvlan and ipvlan
	Tunnel     *TunnelInfo `json:",omitempty"` // of an overlay network
}

// Options of the bridge driver.
const (
	optBridgeName   = "com.docker.network.bridge.name"
	optDefault      = "com.docker.network.bridge.default_bridge"
	optMasquerade   = "com.docker.network.bridge.enable_ip_masquerade"
	optICC          = "com.docker.network.bridge.enable_icc"
	optHostBinding  = "com.docker.network.bridge.host_binding_ipv4"
	optGatewayMode4 = "com.docker.network.bridge.gateway_mode_ipv4"
	optGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
	optMTU          = "com.docker.network.driver.mtu"
	optIfacePrefix  = "com.docker.network.container_iface_prefix"
	optEnableIPv4   = "com.docker.network.enable_ipv4"
	optEnableIPv6   = "com.docker.network.enable_ipv6"
)

// Options of an endpoint.
const (
	optIfname  = "com.docker.network.endpoint.ifname"
	optSysctls = "com.docker.network.endpoint.sysctls"
)
