package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// SandboxRequest asks for a container's network. Its fields are those of
// container.SandboxRequest, so that one converts to the other.
type SandboxRequest struct {
	Container  string
	Name       string
	Hostname   string
	Domainname string
	Endpoints  map[string]*mobynet.EndpointSettings
	Ports      mobynet.PortMap
	Exposed    mobynet.PortSet
	PublishAll bool
	DNS        []netip.Addr
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string
	Sysctls    map[string]string
	Dir        string
	// Links are IDs of containers whose ports stay open to this one on the default
	// network where it keeps containers apart. Guarded by Service.mu once joined.
	Links []string
	// Task says that it is a task of the swarm. It makes no difference here: who comes
	// into an overlay network brings an address that the swarm gave.
	Task bool
	// After, if not nil, is closed when the events of Join may be told.
	After <-chan struct{}
}

// SandboxInfo is a joined network, convertible as SandboxRequest is.
type SandboxInfo struct {
	NetNS          string
	Endpoints      map[string]*mobynet.EndpointSettings
	Ports          mobynet.PortMap
	HostsPath      string
	ResolvConfPath string
}

// sandbox is a container's network while it runs.
type sandbox struct {
	op sync.Mutex // serialises the verbs on this container; held across I/O, taken before Service.mu

	req   SandboxRequest
	path  string
	view  *view
	dns   bool        // the resolver is open
	gone  bool        // left: a verb that waited for op finds this
	vips  []VIP       // what the namespace was told last; nil: nothing yet; guarded by op
	eps   []*endpoint // in the order of their gateway priority; changed under op and mu both
	ports []*binding  // changed under op
}

// Join makes the namespace, endpoints, addresses, DNS names and published
// ports of a container. All or nothing.
func (s *Service) Join(ctx context.Context, r SandboxRequest) (SandboxInfo, error) {
	if err := s.Leave(ctx, r.Container); err != nil { // what an earlier run failed to undo
		return SandboxInfo{}, err
	}
	sb, err := s.reserve(r)
	if err != nil {
		return SandboxInfo{}, err
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	if err := s.build(ctx, sb); err != nil {
		return SandboxInfo{}, errors.Join(err, s.teardown(context.WithoutCancel(ctx), sb))
	}
	if r.After != nil {
		<-r.After
	}
	s.publishConnects(sb.eps, r.Container, events.ActionConnect)
	return s.info(sb), nil
}

// reserve plans the sandbox: its endpoints have addresses when it returns.
func (s *Service) reserve(r SandboxRequest) (*sandbox, error) {
	if _, err := wantedPorts(r); err != nil {
		return nil, err
	}
	sb := &sandbox{req: r, view: &view{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.Endpoints)) {
		e, err := s.plan(r, name, r.Endpoints[name])
		if err != nil {
			s.unplan(sb.eps)
			return nil, err
		}
		sb.eps = append(sb.eps, e)
	}
	if err := s.checkLinks(sb); err != nil {
		s.unplan(sb.eps)
		return nil, err
	}
	if len(r.Links) > 0 {
		s.linked.Store(true)
	}
	sortEndpoints(sb.eps)
	s.sandboxes[r.Container] = sb
	return sb, nil
}

// build does the kernel's side of Join. op is held.
func (s *Service) build(ctx context.Context, sb *sandbox) error {
	var err error
	if sb.path, err = s.d.Link.MakeSandbox(ctx, sb.req.Container, sb.req.Sysctls); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	for _, e := range sb.eps {
		if err := s.attach(ctx, sb, e); err != nil {
			return err
		}
	}
	if err := s.route(ctx, sb); err != nil {
		return err
	}
	s.showNames(sb)
	if err := s.openResolver(ctx, sb); err != nil {
		return err
	}
	if err := s.balance(ctx, sb); err != nil {
		return err
	}
	if err := s.publishPorts(ctx, sb); err != nil {
		return err
	}
	if err := s.relink(ctx); err != nil {
		return err
	}
	return s.writeFiles(sb)
}

// Leave undoes Join. Idempotent.
func (s *Service) Leave(ctx context.Context, id string) error {
	s.mu.Lock()
	sb, ok := s.sandboxes[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	if sb.gone {
		return nil
	}
	eps := slices.Clone(sb.eps)
	if err := s.teardown(context.WithoutCancel(ctx), sb); err != nil {
		return err
	}
	s.publishConnects(eps, id, events.ActionDisconnect)
	return nil
}

// teardown takes a sandbox apart, however much of it there is. What fails is
// told, and the rest is done; a second call tries again. op is held.
func (s *Service) teardown(ctx context.Context, sb *sandbox) error {
	s.hideNames(sb)
	var errs []error
	errs = append(errs, s.unpublishPorts(ctx, sb))
	if sb.dns {
		errs = append(errs, s.d.Resolver.CloseSandbox(sb.req.Container))
		sb.dns = false
	}
	var hostEnds []string
	for _, e := range sb.eps {
		if _, vlan := e.net.rec.vlan(); vlan && e.attached {
			// Not left to the namespace's end, which the kernel gets to later: until
			// then the next one with this hardware address would be refused.
			errs = append(errs, s.d.Link.Unseat(ctx, sb.req.Container, e.host))
		} else if e.attached {
			hostEnds = append(hostEnds, e.host)
		}
	}
	if err := s.d.Link.RemoveSandbox(ctx, sb.req.Container, hostEnds); err != nil {
		return errors.Join(append(errs, fmt.Errorf("remove network namespace: %w", err))...)
	}
	sb.gone = true
	s.mu.Lock()
	s.unplan(sb.eps)
	sb.eps = nil
	if s.sandboxes[sb.req.Container] == sb {
		delete(s.sandboxes, sb.req.Container)
	}
	s.mu.Unlock()
	return errors.Join(append(errs, s.relink(ctx))...)
}

// lookup returns the sandbox with its op lock taken.
func (s *Service) lookup(id string) (*sandbox, error) {
	s.mu.Lock()
	sb, ok := s.sandboxes[id]
	s.mu.Unlock()
	if ok {
		sb.op.Lock()
		if !sb.gone {
			return sb, nil
		}
		sb.op.Unlock()
	}
	return nil, fault.New(errdefs.ErrNotFound, "network sandbox for container %s not found", id)
}

// Connect adds an endpoint to a joined sandbox and returns it filled in.
func (s *Service) Connect(ctx context.Context, id, network string, want *mobynet.EndpointSettings) (*mobynet.EndpointSettings, error) {
	sb, err := s.lookup(id)
	if err != nil {
		return nil, err
	}
	defer sb.op.Unlock()
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	e, err := s.plan(sb.req, network, want)
	if err == nil {
		sb.eps = append(slices.Clone(sb.eps), e)
		sortEndpoints(sb.eps)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := s.plug(ctx, sb, e); err != nil {
		return nil, errors.Join(err, s.unplug(ctx, sb, e))
	}
	s.publishConnects([]*endpoint{e}, id, events.ActionConnect)
	return e.settings(), nil
}

// plug brings one more endpoint of a running sandbox to life.
func (s *Service) plug(ctx context.Context, sb *sandbox, e *endpoint) error {
	if err := s.attach(ctx, sb, e); err != nil {
		return err
	}
	if err := s.route(ctx, sb); err != nil {
		return err
	}
	s.showNames(sb)
	if err := s.openResolver(ctx, sb); err != nil {
		return err
	}
	if err := s.balance(ctx, sb); err != nil {
		return err
	}
	// A container that had only internal networks has published nothing so far.
	publish := s.retarget
	if len(sb.ports) == 0 {
		publish = s.publishPorts
	}
	if err := publish(ctx, sb); err != nil {
		return err
	}
	if err := s.relink(ctx); err != nil {
		return err
	}
	return s.updateFiles(sb, e, true)
}

// unplug takes one endpoint out of a running sandbox.
func (s *Service) unplug(ctx context.Context, sb *sandbox, e *endpoint) error {
	s.mu.Lock()
	if e.live {
		e.net.zone.remove(e.addrs())
		e.live = false
	}
	sb.eps = slices.DeleteFunc(slices.Clone(sb.eps), func(o *endpoint) bool { return o == e })
	s.mu.Unlock()
	s.showNames(sb)
	var errs []error
	if e.attached {
		errs = append(errs, s.detach(ctx, sb, e))
		e.attached = false
	}
	s.mu.Lock()
	s.unplan([]*endpoint{e})
	s.mu.Unlock()
	return errors.Join(append(errs, s.route(ctx, sb), s.balance(ctx, sb), s.retarget(ctx, sb), s.relink(ctx), s.updateFiles(sb, e, false))...)
}

func (s *Service) detach(ctx context.Context, sb *sandbox, e *endpoint) error {
	if _, vlan := e.net.rec.vlan(); vlan {
		return s.d.Link.Unseat(ctx, sb.req.Container, e.host)
	}
	return s.d.Link.Detach(ctx, e.host)
}

// Disconnect takes a container out of a network while it runs.
func (s *Service) Disconnect(ctx context.Context, id, network string) error {
	sb, err := s.lookup(id)
	if err != nil {
		return err
	}
	defer sb.op.Unlock()
	s.mu.Lock()
	n, err := s.find(network)
	var e *endpoint
	if err == nil {
		e = n.endpoints[id]
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if e == nil {
		return fault.New(errdefs.ErrPermissionDenied, "container %s is not connected to network %s", id, n.rec.Name)
	}
	if err := s.unplug(context.WithoutCancel(ctx), sb, e); err != nil {
		return err
	}
	s.publishConnects([]*endpoint{e}, id, events.ActionDisconnect)
	return nil
}

// Rename changes the container's DNS name.
func (s *Service) Rename(_ context.Context, id, name string) error {
	sb, err := s.lookup(id)
	if err != nil {
		return err
	}
	defer sb.op.Unlock()
	sb.req.Name = name
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range sb.eps {
		e.name = name
		e.set.DNSNames = dnsNames(e.net.rec, sb.req, e.set.Aliases)
		if e.live {
			e.net.zone.remove(e.addrs())
			e.net.zone.add(e.set.DNSNames, e.addrs())
		}
	}
	return nil
}

// Stats returns interface counters by name inside the sandbox.
func (s *Service) Stats(ctx context.Context, id string) (map[string]container.NetworkStats, error) {
	return s.d.Link.Stats(ctx, id)
}

// info describes the sandbox for the container's record. op is held.
func (s *Service) info(sb *sandbox) SandboxInfo {
	out := SandboxInfo{
		NetNS: sb.path, Endpoints: map[string]*mobynet.EndpointSettings{}, Ports: portMap(sb),
		HostsPath: hostsPath(sb.req.Dir), ResolvConfPath: resolvPath(sb.req.Dir),
	}
	for _, e := range sb.eps {
		out.Endpoints[e.net.rec.Name] = e.settings()
	}
	return out
}

func (s *Service) publishConnects(eps []*endpoint, id string, a events.Action) {
	for _, e := range eps {
		s.publish(e.net.rec, a, map[string]string{"container": id})
	}
}

// showNames lets others find the container's names and the container those of
// its networks. It is safe to repeat.
func (s *Service) showNames(sb *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var zones []*zone
	var ls []links
	for _, e := range sb.eps {
		if !e.net.named() || !e.attached {
			continue
		}
		if !e.live {
			e.net.zone.add(e.set.DNSNames, e.addrs())
			e.live = true
		}
		zones = append(zones, e.net.zone)
		if len(e.set.Links) > 0 {
			ls = append(ls, linksOf(e))
		}
	}
	sb.view.zones.Store(&zones)
	sb.view.links.Store(&ls)
	var up []Upstream
	if slices.ContainsFunc(sb.eps, func(e *endpoint) bool { return !e.net.rec.closed() }) {
		up = s.upstreams(sb.req)
	}
	sb.view.upstreams.Store(&up)
}

func (s *Service) hideNames(sb *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range sb.eps {
		if e.live {
			e.net.zone.remove(e.addrs())
			e.live = false
		}
	}
}

// openResolver starts the DNS server in a sandbox with a user-defined network.
func (s *Service) openResolver(ctx context.Context, sb *sandbox) error {
	if sb.dns || !usesResolver(sb) {
		return nil
	}
	udp, tcp, err := s.d.Resolver.Open(ctx, sb.req.Container, sb.path, sb.view)
	if err != nil {
		return fmt.Errorf("open DNS server: %w", err)
	}
	sb.dns = true
	if err := s.d.Firewall.RedirectDNS(ctx, sb.path, udp, tcp); err != nil {
		return fmt.Errorf("redirect DNS: %w", err)
	}
	return nil
}

func usesResolver(sb *sandbox) bool {
	return slices.ContainsFunc(sb.eps, func(e *endpoint) bool { return e.net.named() })
}

// named tells whether containers find each other by name there.
func (n *netw) named() bool {
	return n.rec.linked() && !n.rec.Predefined && (n.rec.Tunnel == nil || !n.rec.Tunnel.Ingress)
}

// sortEndpoints puts first what gives the default route.
func sortEndpoints(eps []*endpoint) {
	slices.SortStableFunc(eps, func(a, b *endpoint) int {
		if c := b.set.GwPriority - a.set.GwPriority; c != 0 {
			return c
		}
		return strings.Compare(a.net.rec.Name, b.net.rec.Name)
	})
}

// route sets the default routes by the endpoints there are. op is held.
func (s *Service) route(ctx context.Context, sb *sandbox) error {
	var v4, v6 Way
	if e := gatewayOf(sb, false); e != nil {
		v4 = e.wayOf(false)
	}
	if e := gatewayOf(sb, true); e != nil {
		v6 = e.wayOf(true)
	}
	if err := s.d.Link.Gateways(ctx, sb.req.Container, v4, v6); err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	return nil
}

// gatewayOf is the endpoint that leads out of a sandbox; nil if none does.
func gatewayOf(sb *sandbox, v6 bool) *endpoint {
	for _, e := range sb.eps {
		if e.attached && e.wayOf(v6) != (Way{}) {
			return e
		}
	}
	return nil
}

// natOf is the endpoint that leads out and that rules can lead in by: the host
// has no part in what happens on a parent's wire.
func natOf(sb *sandbox, v6 bool) *endpoint {
	if e := gatewayOf(sb, v6); e != nil && e.net.rec.bridged() {
		return e
	}
	return nil
}
