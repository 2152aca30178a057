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
	"sync"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

// wantedPort is one published port of a container, as asked for.
type wantedPort struct {
	port     mobynet.Port
	hostIP   netip.Addr // invalid: the network's default
	from, to uint16     // host ports to choose from; 0: any free one
}

// binding is a host port of a container.
type binding struct {
	port mobynet.Port
	host netip.AddrPort
	held Held
	rule netip.AddrPort // target of the firewall's rule; zero: there is none
}

// wantedPorts reads the request: fixed ports first, then ranges, then any free
// ones, so that these don't take what those need.
func wantedPorts(r SandboxRequest) ([]wantedPort, error) {
	var out []wantedPort
	add := func(p mobynet.Port, b mobynet.PortBinding) error {
		if p.Proto() != mobynet.TCP && p.Proto() != mobynet.UDP {
			return fault.New(errdefs.ErrNotImplemented, "publishing %s: protocol %s is not supported by this engine", p, p.Proto())
		}
		if p.Num() == 0 {
			return invalid("invalid port specification: %q", p.String())
		}
		from, to, err := hostPorts(b.HostPort)
		if err != nil {
			return err
		}
		out = append(out, wantedPort{port: p, hostIP: b.HostIP.Unmap(), from: from, to: to})
		return nil
	}
	for p, bs := range r.Ports {
		if len(bs) == 0 {
			bs = []mobynet.PortBinding{{}}
		}
		for _, b := range bs {
			if err := add(p, b); err != nil {
				return nil, err
			}
		}
	}
	if r.PublishAll {
		for p := range r.Exposed {
			if _, ok := r.Ports[p]; ok {
				continue
			}
			if err := add(p, mobynet.PortBinding{}); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(out, func(a, b wantedPort) int {
		for _, c := range []int{
			a.choice() - b.choice(), int(a.from) - int(b.from), int(a.port.Num()) - int(b.port.Num()),
			strings.Compare(string(a.port.Proto()), string(b.port.Proto())), a.hostIP.Compare(b.hostIP),
		} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return out, nil
}

// choice grows with the freedom that a wanted port leaves.
func (w wantedPort) choice() int {
	if w.from == 0 {
		return 1 << 17
	}
	return int(w.to) - int(w.from)
}

func hostPorts(v string) (from, to uint16, err error) {
	if v == "" || v == "0" {
		return 0, 0, nil
	}
	lo, hi, isRange := strings.Cut(v, "-")
	if !isRange {
		hi = lo
	}
	a, err1 := strconv.ParseUint(lo, 10, 16)
	b, err2 := strconv.ParseUint(hi, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || b < a {
		return 0, 0, invalid("invalid port specification: %q", v)
	}
	return uint16(a), uint16(b), nil
}

// publishPorts holds the host's ports and leads them to the container.
func (s *Service) publishPorts(ctx context.Context, sb *sandbox) error {
	wanted, err := wantedPorts(sb.req)
	if err != nil {
		return err
	}
	e := publisherOf(sb)
	if len(wanted) == 0 || e == nil {
		return nil
	}
	for _, w := range wanted {
		held, err := s.hold(ctx, w, s.hostAddrs(e, w.hostIP))
		if err != nil {
			return fault.Wrap(errdefs.ErrInternal, err, "driver failed programming external connectivity on endpoint %s (%s)", e.name, e.id)
		}
		sb.ports = append(sb.ports, held...)
	}
	return s.retarget(ctx, sb)
}

// publisherOf is the endpoint whose network's settings rule publishing.
func publisherOf(sb *sandbox) *endpoint {
	if e := natOf(sb, false); e != nil {
		return e
	}
	return natOf(sb, true)
}

// hostAddrs are the host addresses that a wanted port is bound on.
func (s *Service) hostAddrs(e *endpoint, asked netip.Addr) []netip.Addr {
	if asked.IsValid() {
		return []netip.Addr{asked}
	}
	bind, err := netip.ParseAddr(e.net.rec.Options[optHostBinding])
	if err != nil {
		bind = hostBinding(s.d.Settings.HostBindIP)
	}
	if bind.Unmap() != netip.IPv4Unspecified() {
		return []netip.Addr{bind.Unmap()}
	}
	out := []netip.Addr{netip.IPv4Unspecified()}
	if s.d.Settings.UserlandProxy || e.set.GlobalIPv6Address.IsValid() {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// hold binds one wanted port on all its host addresses, trying the next number
// where somebody has it and there is a choice.
func (s *Service) hold(ctx context.Context, w wantedPort, addrs []netip.Addr) ([]*binding, error) {
	var err error
	for n := range s.candidates(w) {
		var got []*binding
		if got, err = s.holdAll(ctx, w.port, addrs, n); err == nil {
			return got, nil
		}
		if !errors.Is(err, ErrPortInUse) {
			return nil, err
		}
	}
	return nil, err
}

func (s *Service) holdAll(ctx context.Context, p mobynet.Port, addrs []netip.Addr, n uint16) ([]*binding, error) {
	var got []*binding
	for i, a := range addrs {
		host := netip.AddrPortFrom(a, n)
		h, err := s.d.Forwarder.Hold(ctx, string(p.Proto()), host)
		if err == nil {
			got = append(got, &binding{port: p, host: host, held: h})
			continue
		}
		if i > 0 && errdefs.IsUnavailable(err) { // a host without IPv6 does with IPv4
			continue
		}
		for _, b := range got {
			if e := b.held.Close(); e != nil {
				err = errors.Join(err, e)
			}
		}
		if errors.Is(err, ErrPortAllocated) {
			return nil, fault.New(ErrPortInUse, "Bind for %s:%d failed: port is already allocated", a, n)
		}
		return nil, fmt.Errorf("failed to bind host port %s/%s: %w", host, p.Proto(), err)
	}
	return got, nil
}

// candidates yields the host ports to try for a wanted one.
func (s *Service) candidates(w wantedPort) func(yield func(uint16) bool) {
	return func(yield func(uint16) bool) {
		if w.from == 0 {
			for range ephemeralHigh - ephemeralLow + 1 {
				if !yield(s.ephemeral.next()) {
					return
				}
			}
			return
		}
		for n := int(w.from); n <= int(w.to); n++ {
			if !yield(uint16(n)) {
				return
			}
		}
	}
}

// The ports given where none is asked for: Linux's own choice of the range.
const (
	ephemeralLow  = 32768
	ephemeralHigh = 60999
)

// portCursor goes round the ephemeral ports, so that a port just freed isn't
// the next one given.
type portCursor struct {
	mu   sync.Mutex // guards last
	last uint16
}

func (c *portCursor) next() uint16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last < ephemeralLow || c.last >= ephemeralHigh {
		c.last = ephemeralLow - 1
	}
	c.last++
	return c.last
}

// target is where a host port leads: the address of the host's family where
// the container has one, else the other, which only the forwarder can reach.
func target(sb *sandbox, b *binding) (netip.AddrPort, bool) {
	var v4, v6 netip.Addr
	if e := natOf(sb, false); e != nil {
		v4 = e.set.IPAddress
	}
	if e := natOf(sb, true); e != nil {
		v6 = e.set.GlobalIPv6Address
	}
	same, other := v4, v6
	if b.host.Addr().Is6() {
		same, other = v6, v4
	}
	switch {
	case same.IsValid():
		return netip.AddrPortFrom(same, b.port.Num()), true
	case other.IsValid():
		return netip.AddrPortFrom(other, b.port.Num()), false
	}
	return netip.AddrPort{}, false
}

// retarget leads the held ports to where the container is now. op is held.
func (s *Service) retarget(ctx context.Context, sb *sandbox) error {
	var add, del []PortRule
	for _, b := range sb.ports {
		to, byRule := target(sb, b)
		b.held.Serve(to)
		rule := netip.AddrPort{}
		if byRule {
			rule = to
		}
		if rule == b.rule {
			continue
		}
		if b.rule.IsValid() {
			del = append(del, b.portRule())
		}
		if b.rule = rule; rule.IsValid() {
			add = append(add, b.portRule())
		}
	}
	return s.changeRules(ctx, add, del)
}

func (b *binding) portRule() PortRule {
	return PortRule{Proto: string(b.port.Proto()), Host: b.host, Target: b.rule}
}

// changeRules edits the firewall and what it must hold. Tables that somebody
// damaged are made anew.
func (s *Service) changeRules(ctx context.Context, add, del []PortRule) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	s.fw.Lock()
	defer s.fw.Unlock()
	for _, r := range del {
		s.setPort(r.Host, r.Proto, netip.AddrPort{})
	}
	for _, r := range add {
		s.setPort(r.Host, r.Proto, r.Target)
	}
	err := s.d.Firewall.RemovePorts(ctx, del)
	if err == nil {
		err = s.d.Firewall.AddPorts(ctx, add)
	}
	if err == nil {
		return nil
	}
	if e := s.d.Firewall.Sync(ctx, s.rulesLocked()); e != nil {
		return fmt.Errorf("change firewall rules: %w", errors.Join(err, e))
	}
	return nil
}

// setPort notes a wanted rule; a zero target takes it away. fw is held.
func (s *Service) setPort(host netip.AddrPort, proto string, to netip.AddrPort) {
	p := s.ports[host]
	if proto == "udp" {
		p.udp = to
	} else {
		p.tcp = to
	}
	if p == (portPair{}) {
		delete(s.ports, host)
		return
	}
	s.ports[host] = p
}

// unpublishPorts takes the container's host ports back. op is held.
func (s *Service) unpublishPorts(ctx context.Context, sb *sandbox) error {
	var del []PortRule
	var errs []error
	for _, b := range sb.ports {
		if b.rule.IsValid() {
			del = append(del, b.portRule())
		}
	}
	errs = append(errs, s.changeRules(ctx, nil, del))
	for _, b := range sb.ports {
		errs = append(errs, b.held.Close())
	}
	sb.ports = nil
	return errors.Join(errs...)
}

// portMap is what inspect shows: bindings, and nil for what is only exposed.
func portMap(sb *sandbox) mobynet.PortMap {
	out := mobynet.PortMap{}
	for p := range maps.Keys(sb.req.Exposed) {
		out[p] = nil
	}
	for _, b := range sb.ports {
		out[b.port] = append(out[b.port], mobynet.PortBinding{HostIP: b.host.Addr(), HostPort: strconv.Itoa(int(b.host.Port()))})
	}
	return out
}
