package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// Records keeps network records durably. Put and Delete are atomic and are on
// disk when they return; All is called once, at start.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	All() ([]*Record, error)
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// Bridge describes a bridge link of the host.
type Bridge struct {
	Name    string
	Owner   string           // written to the link as its alias: how Sweep knows ours
	Addrs   []netip.Prefix   // the host's own addresses on it, the gateways of containers
	MAC     net.HardwareAddr // nil: one made of the first address
	MTU     int              // 0: the kernel's choice
	IPv6    bool
	Isolate bool // ports may talk to the bridge only, not to each other
}

// Interface describes one end of a container in a bridge, or on a parent.
type Interface struct {
	Sandbox string
	Bridge  string // or parent
	Vlan    Vlan   // how it sits on its parent; zero for bridges
	Host    string // name of the end in the bridge; a mark of the interface on a parent
	Name    string // name inside; empty: the first free one of Prefix
	Prefix  string // "eth"
	MAC     net.HardwareAddr
	Addrs   []netip.Prefix
	MTU     int
	Isolate bool
	// Sysctls are set inside, IFNAME in a key standing for the interface.
	Sysctls map[string]string
	Routes  []netip.Prefix // reached without a gateway
}

// Link makes bridges, namespaces and interfaces. A sandbox is a network
// namespace named by a container's ID; it holds a loopback link that is up.
// Removing what isn't there is no error.
type Link interface {
	// EnsureBridge makes the bridge or brings an existing one to what is wanted.
	EnsureBridge(ctx context.Context, b Bridge) error
	// EnsureParent finds the link that interfaces are to sit on, or makes it where
	// it is one that we make. errdefs.ErrNotFound where it is the user's and not there.
	EnsureParent(ctx context.Context, p Parent) error
	// EnsureTunnel makes the device in its bridge, whose MTU becomes the tunnel's.
	EnsureTunnel(ctx context.Context, t Tunnel) error
	// SetPeers makes the tunnel lead to these and to nobody else.
	SetPeers(ctx context.Context, tunnel, bridge string, peers []Peer) error
	// RemoveLink takes a bridge or parent away that we made; others stay.
	RemoveLink(ctx context.Context, name string) error
	// Occupied lists the subnets that the host has addresses in or routes to,
	// but for those of the named links.
	Occupied(ctx context.Context, except ...string) ([]netip.Prefix, error)
	// Filters tells whether packets from one end to another of the same bridge
	// pass the firewall.
	Filters() bool
	// Forwarding lets the host route packets of the family.
	Forwarding(ctx context.Context, ipv6 bool) error

	// MakeSandbox makes the namespace and sets the sysctls in it.
	MakeSandbox(ctx context.Context, id string, sysctls map[string]string) (path string, err error)
	// Sandbox tells the path of a namespace that exists. errdefs.ErrNotFound.
	Sandbox(id string) (path string, err error)
	// RemoveSandbox takes the namespace away with the host ends of its interfaces.
	RemoveSandbox(ctx context.Context, id string, hostEnds []string) error
	// Attach plugs a sandbox into a bridge and tells the interface's name inside.
	Attach(ctx context.Context, i Interface) (name string, err error)
	// Detach takes an interface away by the name of its host end.
	Detach(ctx context.Context, hostEnd string) error
	// Unseat takes an interface that sits on a parent out of its sandbox, by its mark.
	Unseat(ctx context.Context, sandbox, mark string) error
	// Gateways sets the default routes; a zero way takes the route away.
	Gateways(ctx context.Context, sandbox string, v4, v6 Way) error
	// Stats reads the counters of the interfaces inside, loopback left out.
	Stats(ctx context.Context, sandbox string) (map[string]container.NetworkStats, error)

	// Leftovers lists sandboxes, host ends and bridges of ours that exist.
	Leftovers(ctx context.Context) (sandboxes, hostEnds, bridges []string, err error)
	// Start readies namespaces ahead of use; Close gives them back.
	Start(ctx context.Context) error
	Close() error
}

// NetworkRules is what the firewall knows of a bridge.
type NetworkRules struct {
	Bridge     string
	Subnets    []netip.Prefix
	Internal   bool // nothing leaves or enters
	Masquerade bool
	ICC        bool // containers may talk to each other
	// Source, if valid, is the host's own address there, which what comes from
	// outside goes on from.
	Source netip.Addr
}

// PortRule sends a host port to a container. An unspecified Host address
// stands for every address of the host in its family.
type PortRule struct {
	Proto  string // "tcp", "udp"
	Host   netip.AddrPort
	Target netip.AddrPort
}

// LinkRule lets one container reach a port of another on a network that keeps
// containers apart.
type LinkRule struct {
	Proto string // "tcp", "udp"
	From  netip.Addr
	To    netip.AddrPort
}

// Rules is all that our tables hold.
type Rules struct {
	Networks []NetworkRules
	Ports    []PortRule
	Links    []LinkRule
	Swarm    []SwarmPort
}

// Firewall holds our rules in tables of our own; it never touches another.
// Calls are serialised by the caller.
type Firewall interface {
	// Sync makes the tables hold exactly r, in one transaction.
	Sync(ctx context.Context, r Rules) error
	// AddPorts and RemovePorts change single ports of what Sync set. Adding
	// what is there and removing what isn't are no errors.
	AddPorts(ctx context.Context, p []PortRule) error
	RemovePorts(ctx context.Context, p []PortRule) error
	// AddLinks and RemoveLinks do the same with links.
	AddLinks(ctx context.Context, l []LinkRule) error
	RemoveLinks(ctx context.Context, l []LinkRule) error
	// Present reports whether our tables are there at all.
	Present(ctx context.Context) (bool, error)
	// Intact reports whether the tables still hold r, counted, not compared rule by rule.
	Intact(ctx context.Context, r Rules) (bool, error)
	// Watch tells by the channel that somebody else may have changed our tables;
	// one message may stand for many changes. The channel is closed when ctx
	// ends, or when there is no more news to be had.
	Watch(ctx context.Context) (<-chan struct{}, error)
	// Strangers names base chains of others that drop forwarded packets by policy.
	Strangers(ctx context.Context) ([]string, error)
	// RedirectDNS sends DNS queries to 127.0.0.11 inside the namespace to the ports.
	RedirectDNS(ctx context.Context, nsPath string, udp, tcp uint16) error
	// Balance sends what the namespace sends to the addresses of services to their
	// backends: del as it was set goes, set comes, in one transaction. anew: what was
	// there before goes too.
	Balance(ctx context.Context, nsPath string, anew bool, set, del []VIP) error
	// Clear takes our tables away.
	Clear(ctx context.Context) error
}

// ErrPortInUse is returned by Forwarder.Hold where somebody has the port.
var ErrPortInUse = errors.New("address already in use")

// ErrPortAllocated is the ErrPortInUse of a port that the Forwarder itself holds.
var ErrPortAllocated = fmt.Errorf("port is already allocated: %w", ErrPortInUse)

// Forwarder holds host ports with bound sockets, so that others find them in
// use, and carries what arrives there in spite of the firewall's rules.
type Forwarder interface {
	// Hold binds the port. ErrPortInUse, or ErrPortAllocated where it is one of
	// those held here; errdefs.ErrUnavailable where the host
	// doesn't have the address family at all.
	Hold(ctx context.Context, proto string, host netip.AddrPort) (Held, error)
	// Close releases every port still held and waits for what was under way.
	Close() error
}

// Held is a host port.
type Held interface {
	// Serve sends what arrives to target from now on; before the first call it waits.
	Serve(target netip.AddrPort)
	// Close frees the port and ends what goes through it.
	Close() error
}

// Upstream is a DNS server to ask for what we don't know.
type Upstream struct {
	Addr      netip.AddrPort
	InSandbox bool // reached from inside the container's namespace
}

// View is what a container may look up. It is safe for concurrent use and
// takes no lock.
type View interface {
	// Lookup returns the addresses of a name and whether it is known at all.
	// The name is lower-case without a final dot; the slice is shared: don't change it.
	Lookup(name string) ([]netip.Addr, bool)
	// Reverse returns the fully qualified name of an address.
	Reverse(addr netip.Addr) (string, bool)
	// Upstreams are the servers for other names; none: such names are refused.
	Upstreams() []Upstream
}

// Resolver answers DNS queries inside sandboxes at 127.0.0.11.
type Resolver interface {
	// Open listens inside the namespace, on ports that the firewall's
	// RedirectDNS sends queries to.
	Open(ctx context.Context, sandbox, nsPath string, v View) (udp, tcp uint16, err error)
	// CloseSandbox stops listening there. Idempotent.
	CloseSandbox(sandbox string) error
	Close() error
}
