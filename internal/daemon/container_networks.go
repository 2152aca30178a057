package daemon

import (
	"context"

	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/network"
)

// containerNetworks gives containers the network domain. Requests and replies
// have the same fields on both sides, so that they convert; only their types
// differ, because domains don't know each other.
type containerNetworks struct{ *network.Service }

var _ container.Networks = containerNetworks{}

// Lookup implements container.Networks.
func (n containerNetworks) Lookup(ctx context.Context, nameOrID string) (container.NetworkRef, error) {
	r, err := n.Service.Lookup(ctx, nameOrID)
	return container.NetworkRef(r), err
}

// Validate implements container.Networks.
func (n containerNetworks) Validate(ctx context.Context, r container.SandboxRequest) error {
	return n.Service.Validate(ctx, network.SandboxRequest(r))
}

// Join implements container.Networks.
func (n containerNetworks) Join(ctx context.Context, r container.SandboxRequest) (container.SandboxInfo, error) {
	info, err := n.Service.Join(ctx, network.SandboxRequest(r))
	return container.SandboxInfo(info), err
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
	return n.Service.Connect(ctx, id, net, ep)
}
