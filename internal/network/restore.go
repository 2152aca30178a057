package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Restore adopts the sandbox of a container that ran while the daemon was
// away: namespace, addresses and ports stay; resolver and forwarders are
// opened again. All or nothing in memory; the kernel's side is never undone here.
func (s *Service) Restore(ctx context.Context, r SandboxRequest, info SandboxInfo) error {
	path, err := s.d.Link.Sandbox(r.Container)
	if err != nil {
		return err
	}
	sb := &sandbox{req: r, path: path, view: &view{}}
	sb.op.Lock()
	defer sb.op.Unlock()
	if err := s.adopt(sb, info); err != nil {
		return err
	}
	if err := s.reopen(ctx, sb, info); err != nil {
		s.forget(sb)
		return err
	}
	return nil
}

// adopt takes the endpoints' addresses as they are.
func (s *Service) adopt(sb *sandbox, info SandboxInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.sandboxes[sb.req.Container]; ok {
		return fault.New(errdefs.ErrAlreadyExists, "network sandbox for container %s exists already", sb.req.Container)
	}
	for _, name := range slices.Sorted(maps.Keys(info.Endpoints)) {
		set := info.Endpoints[name]
		n, err := s.find(set.NetworkID)
		if err != nil {
			n, err = s.find(name)
		}
		if err == nil && len(set.EndpointID) != 64 {
			err = invalid("endpoint of container %s in network %s has no ID", sb.req.Container, name)
		}
		if err != nil {
			s.unplan(sb.eps)
			return err
		}
		e := &endpoint{
			id: set.EndpointID, net: n, name: sb.req.Name, host: s.hostEnd(set.EndpointID),
			set: set.Copy(), attached: n.rec.linked(),
		}
		sb.eps = append(sb.eps, e)
		if err := n.adopt(sb.req.Container, e); err != nil {
			s.unplan(sb.eps)
			return fault.Wrap(errdefs.ErrFailedPrecondition, err, "restore endpoint of container %s in network %s", sb.req.Container, name)
		}
	}
	if len(sb.req.Links) > 0 {
		s.linked.Store(true)
	}
	sortEndpoints(sb.eps)
	s.sandboxes[sb.req.Container] = sb
	return nil
}

func (n *netw) adopt(id string, e *endpoint) error {
	for _, a := range e.addrs() {
		i := slices.IndexFunc(slices.Concat(n.v4, n.v6), func(sn *subnet) bool { return sn.prefix.Contains(a) })
		if i < 0 {
			return invalid("no configured subnet contains IP address %s", a)
		}
		if err := slices.Concat(n.v4, n.v6)[i].reserve(a, e.id); err != nil {
			return err
		}
	}
	n.endpoints[id] = e
	return nil
}

// reopen brings back what lived in the daemon's process. A host port that
// somebody took meanwhile doesn't fail the container: the kernel's rule goes
// on serving it.
func (s *Service) reopen(ctx context.Context, sb *sandbox, info SandboxInfo) error {
	s.showNames(sb)
	if err := s.openResolver(ctx, sb); err != nil {
		return err
	}
	for _, p := range slices.SortedFunc(maps.Keys(info.Ports), comparePorts) {
		for _, b := range info.Ports[p] {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || !b.HostIP.IsValid() {
				return invalid("restore port %s: %q is not a host port", p, b.HostPort)
			}
			host := netip.AddrPortFrom(b.HostIP, uint16(n))
			h, err := s.d.Forwarder.Hold(ctx, string(p.Proto()), host)
			if err != nil {
				s.d.Log.Error("hold host port again", logkey.Container, sb.req.Container, logkey.Address, host.String(), logkey.Err, err)
				h = lost{}
			}
			sb.ports = append(sb.ports, &binding{port: p, host: host, held: h})
		}
	}
	return s.retarget(ctx, sb)
}

func comparePorts(a, b mobynet.Port) int {
	if c := int(a.Num()) - int(b.Num()); c != 0 {
		return c
	}
	return strings.Compare(string(a.Proto()), string(b.Proto()))
}

// lost stands for a host port that couldn't be held again.
type lost struct{}

func (lost) Serve(netip.AddrPort) {}
func (lost) Close() error         { return nil }

// forget drops a sandbox from memory and closes what is the process's own.
func (s *Service) forget(sb *sandbox) {
	s.hideNames(sb)
	errs := []error{s.d.Resolver.CloseSandbox(sb.req.Container)}
	for _, b := range sb.ports {
		errs = append(errs, b.held.Close())
	}
	sb.ports, sb.gone = nil, true
	if err := errors.Join(errs...); err != nil {
		s.d.Log.Warn("close what was reopened", logkey.Container, sb.req.Container, logkey.Err, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unplan(sb.eps)
	delete(s.sandboxes, sb.req.Container)
}

// Sweep ends the start-up: what is ours in the kernel and belongs to no known
// container or network goes, and the firewall holds what it must and nothing
// else. Containers that were restored count as known.
func (s *Service) Sweep(ctx context.Context, known []string) error {
	boxes, ends, bridges, err := s.d.Link.Leftovers(ctx)
	if err != nil {
		return fmt.Errorf("list network leftovers: %w", err)
	}
	keepBox, keepEnd, keepBridge := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, id := range known {
		keepBox[id] = true
		for _, e := range ends { // of one that runs but couldn't be restored
			if len(id) >= 8 && strings.HasPrefix(e, HostEndPrefix(s.d.Settings.Instance)+id[:8]) {
				keepEnd[e] = true
			}
		}
	}
	s.mu.Lock()
	for id, sb := range s.sandboxes {
		keepBox[id] = true
		for _, e := range sb.eps {
			keepEnd[e.host] = true
		}
	}
	for _, n := range s.nets {
		keepBridge[n.rec.Bridge] = true
		if n.rec.overlay() {
			keepBridge[tunnelName(n.rec.ID)] = true
		}
	}
	s.mu.Unlock()
	// What cannot be removed now is tried at the next start; it is no reason not to serve.
	removing := func(what string, err error) {
		if err != nil {
			s.d.Log.Warn("orphan not removed", logkey.Name, what, logkey.Err, err)
		}
	}
	for _, name := range ends {
		if !keepEnd[name] {
			s.d.Log.Info("removing orphan", logkey.Name, name)
			removing(name, s.d.Link.Detach(ctx, name))
		}
	}
	for _, id := range boxes {
		if !keepBox[id] {
			s.d.Log.Info("removing orphan", logkey.Container, id)
			removing(id, s.d.Link.RemoveSandbox(ctx, id, nil))
		}
	}
	for _, name := range bridges {
		if !keepBridge[name] {
			s.d.Log.Info("removing orphan", logkey.Name, name)
			removing(name, s.d.Link.RemoveLink(ctx, name))
		}
	}
	s.fw.Lock()
	defer s.fw.Unlock()
	s.swept = true
	return s.d.Firewall.Sync(ctx, s.rulesLocked())
}
