package daemon

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	networkrouter "holdfast.dev/holdfast/internal/httpapi/router/network"
	"holdfast.dev/holdfast/internal/network"
)

// allNetworks are this node's networks and the swarm's as one, for the API.
type allNetworks struct{ d *Daemon }

var _ networkrouter.Backend = allNetworks{}

// List implements the network router's Backend. Where the swarm cannot be asked
// its networks are those that this node has.
func (b allNetworks) List(ctx context.Context, filters map[string][]string) ([]mobynet.Summary, error) {
	out, err := b.d.networks.List(ctx, filters)
	if err != nil {
		return nil, err
	}
	all, err := b.d.swarm.Networks(ctx, filters)
	if err != nil {
		b.d.log.Debug("networks of the swarm not listed", logkey.Err, err)
		return out, nil
	}
	for _, n := range all {
		if !slices.ContainsFunc(out, func(o mobynet.Summary) bool { return o.ID == n.ID }) {
			out = append(out, mobynet.Summary{Network: n.Network})
		}
	}
	slices.SortStableFunc(out, func(a, b mobynet.Summary) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Inspect implements the network router's Backend: of a network of the swarm it
// shows what the swarm says, and who is in it here.
func (b allNetworks) Inspect(ctx context.Context, name string) (mobynet.Inspect, error) {
	out, err := b.d.networks.Inspect(ctx, name)
	if err == nil && out.Driver != network.DriverOverlay {
		return out, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return out, err
	}
	ref := name
	if err == nil {
		ref = out.ID
	}
	all, serr := b.d.swarm.Network(ctx, ref)
	if serr != nil { // a worker, or nobody leads: what is here is all there is to tell
		return out, err
	}
	if err == nil {
		all.Containers = out.Containers
	}
	return all, nil
}

// Create implements the network router's Backend.
func (b allNetworks) Create(ctx context.Context, req mobynet.CreateRequest) (mobynet.CreateResponse, error) {
	if req.Driver != network.DriverOverlay && req.Scope != "swarm" && !req.Ingress {
		return b.d.networks.Create(ctx, req)
	}
	if req.Driver == "" {
		req.Driver = network.DriverOverlay
	}
	if req.Driver != network.DriverOverlay {
		return mobynet.CreateResponse{}, fault.New(errdefs.ErrNotImplemented, "network driver %s in a swarm is not supported by this release of Holdfast", req.Driver)
	}
	if _, err := b.d.networks.Lookup(ctx, req.Name); err == nil {
		return mobynet.CreateResponse{}, fault.New(errdefs.ErrConflict, "network with name %s already exists", req.Name)
	}
	return b.d.swarm.CreateNetwork(ctx, req)
}

// Remove implements the network router's Backend.
func (b allNetworks) Remove(ctx context.Context, name string) error {
	ref, err := b.d.networks.Lookup(ctx, name)
	switch {
	case err == nil && ref.Driver != network.DriverOverlay:
		return b.d.networks.Remove(ctx, name)
	case err == nil:
		name = ref.ID
	case !errdefs.IsNotFound(err):
		return err
	}
	if b.d.swarm.Status() != "active/manager" && err != nil {
		return err
	}
	_, err = b.d.swarm.RemoveNetwork(ctx, name)
	return err
}

// Prune implements the network router's Backend: on a manager also networks of
// the swarm that nobody uses.
func (b allNetworks) Prune(ctx context.Context, filters map[string][]string) (mobynet.PruneReport, error) {
	rep, err := b.d.networks.Prune(ctx, filters)
	if err != nil || b.d.swarm.Status() != "active/manager" || len(filters) > 0 {
		return rep, err
	}
	all, err := b.d.swarm.Networks(ctx, nil)
	if err != nil {
		b.d.log.Debug("networks of the swarm not pruned", logkey.Err, err)
		return rep, nil
	}
	for _, n := range all {
		if n.Ingress {
			continue
		}
		if _, err := b.d.swarm.RemoveNetwork(ctx, n.ID); err != nil { // somebody uses it
			b.d.log.Debug("network of the swarm not pruned", logkey.Network, n.Name, logkey.Err, err)
			continue
		}
		rep.NetworksDeleted = append(rep.NetworksDeleted, n.Name)
	}
	return rep, nil
}
