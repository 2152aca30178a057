package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock     clock.Clock
	Log       *slog.Logger
	Random    io.Reader // IDs are read from it
	Records   Records
	Events    Publisher
	Link      Link
	Firewall  Firewall
	Resolver  Resolver
	Forwarder Forwarder
	Settings  Settings
}

// Settings are the daemon's choices. Where a comment names a default, New
// fills it in; the rest mean what they say when zero.
type Settings struct {
	Instance      string       // tells our kernel objects from those of another daemon
	BridgeName    string       // default "holdfast0"
	NoBridge      bool         // there is no default bridge network
	BIP, BIP6     netip.Prefix // the default bridge's own addresses; invalid: chosen from the pools
	FixedCIDR     netip.Prefix // part of BIP's subnet that containers get addresses from
	DefaultPools  []Pool       // default Docker's
	MTU           int
	ICC           bool // containers on the default bridge may talk to each other
	IPMasq        bool
	IPForward     bool
	IPv6          bool // the default bridge has IPv6 too
	UserlandProxy bool // forward in our process what rules cannot
	HostBindIP    netip.Addr
	HostGateway   []netip.Addr // what host-gateway stands for; default: the default bridge's
	DNS           []netip.Addr
	DNSSearch     []string
	DNSOptions    []string
	ResolvConf    string // default /etc/resolv.conf
	HostsFile     string // default /etc/hosts
}

// Service is the network domain.
type Service struct {
	d Deps

	mu        sync.Mutex          // guards nets and all they hold, sandboxes; never held across I/O
	nets      map[string]*netw    // by ID
	sandboxes map[string]*sandbox // by container ID

	create sync.Mutex // serialises making and removing networks; taken before fw and mu
	seeing sync.Mutex // serialises SetOverlay; taken before op, fw and mu

	fw        sync.Mutex                  // serialises the Firewall; guards ports, swept, strangers, opened; taken before mu
	ports     map[netip.AddrPort]portPair // wanted port rules by host side
	swept     bool                        // the start-up is over: the tables must hold our rules and no others
	strangers []string                    // chains of others that were warned of
	opened    []LinkRule                  // what the firewall has of the links
	linked    atomic.Bool                 // a container has had links since the start

	ephemeral portCursor
}

// portPair are the rules of one host address and port.
type portPair struct {
	tcp, udp netip.AddrPort // targets; zero: none
}

// netw is a network and what is in it.
type netw struct {
	rec       *Record
	v4, v6    []*subnet
	zone      *zone
	endpoints map[string]*endpoint // by container ID
	removing  bool
	seen      *OverlayView // of an overlay network: what was told last; nil: nothing yet
}

// New makes a Service; nothing happens before Start.
func New(d Deps) (*Service, error) {
	if d.Clock == nil || d.Log == nil || d.Random == nil || d.Records == nil || d.Events == nil ||
		d.Link == nil || d.Firewall == nil || d.Resolver == nil || d.Forwarder == nil {
		return nil, errors.New("network service: a part is missing")
	}
	if d.Settings.BridgeName == "" {
		d.Settings.BridgeName = "holdfast0"
	}
	if len(d.Settings.DefaultPools) == 0 {
		d.Settings.DefaultPools = dockerPools()
	}
	if !slices.ContainsFunc(d.Settings.DefaultPools, func(p Pool) bool { return p.Base.Addr().Is6() }) {
		d.Settings.DefaultPools = append(slices.Clone(d.Settings.DefaultPools), ulaPool(d.Settings.Instance))
	}
	if d.Settings.ResolvConf == "" {
		d.Settings.ResolvConf = "/etc/resolv.conf"
	}
	if d.Settings.HostsFile == "" {
		d.Settings.HostsFile = "/etc/hosts"
	}
	return &Service{
		d:         d,
		nets:      map[string]*netw{},
		sandboxes: map[string]*sandbox{},
		ports:     map[netip.AddrPort]portPair{},
	}, nil
}

// Start loads the networks, makes what is missing of them in the kernel, and
// makes the predefined ones. Containers may be restored or join afterwards.
func (s *Service) Start(ctx context.Context) error {
	recs, err := s.d.Records.All()
	if err != nil {
		return fmt.Errorf("read networks: %w", err)
	}
	for _, r := range recs {
		s.nets[r.ID] = s.newNetw(r)
	}
	if s.d.Settings.IPForward {
		if err := s.d.Link.Forwarding(ctx, false); err != nil {
			return fmt.Errorf("let the host forward packets: %w", err)
		}
	}
	if err := s.ensurePredefined(ctx); err != nil {
		return err
	}
	for _, n := range s.networks() {
		ensure := s.ensureBridge
		if _, vlan := n.rec.vlan(); vlan {
			ensure = s.ensureParent
		} else if n.rec.overlay() {
			s.restoreOverlay(ctx, n.rec)
			continue
		} else if n.rec.Driver != DriverBridge {
			continue
		}
		if err := ensure(ctx, n.rec); err != nil {
			if n.rec.Predefined {
				return err
			}
			s.d.Log.Error("bring up network", logkey.Network, n.rec.Name, logkey.Err, err)
		}
	}
	if err := s.d.Link.Start(ctx); err != nil {
		return fmt.Errorf("ready namespaces: %w", err)
	}
	// Rules of an earlier daemon stay until Sweep: the containers they serve
	// are restored only after this.
	s.fw.Lock()
	defer s.fw.Unlock()
	there, err := s.d.Firewall.Present(ctx)
	if err != nil {
		return fmt.Errorf("look at the firewall: %w", err)
	}
	if !there {
		if err := s.d.Firewall.Sync(ctx, s.rulesLocked()); err != nil {
			return fmt.Errorf("set up the firewall: %w", err)
		}
	}
	return s.warnOfStrangers(ctx)
}

// warnOfStrangers tells once of each chain of others that drops what we let pass.
func (s *Service) warnOfStrangers(ctx context.Context) error {
	names, err := s.d.Firewall.Strangers(ctx)
	if err != nil {
		return fmt.Errorf("look at other firewall tables: %w", err)
	}
	for _, n := range names {
		if !slices.Contains(s.strangers, n) {
			s.d.Log.Error("another firewall drops forwarded packets by default: containers will not reach the outside, nor be reached, until it lets them", logkey.Name, n)
		}
	}
	s.strangers = names
	return nil
}

const (
	// settleTime is left to whoever changes our tables to be done with it, and
	// keeps us from a race with a program that doesn't want them at all.
	settleTime = 100 * time.Millisecond
	// lookAgain is how often we look where nobody tells us, or mending failed.
	lookAgain = 5 * time.Second
)

// Run mends our firewall tables when somebody flushed them, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	changed, err := s.d.Firewall.Watch(ctx)
	if err != nil {
		s.d.Log.Warn("firewall is looked at from time to time only", logkey.Err, err)
	}
	t := s.d.Clock.NewTimer(settleTime) // for what happened before the watch began
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changed:
			if !ok {
				changed = nil
			}
			t.Reset(settleTime)
			continue
		case <-t.C():
		}
		err := s.mend(ctx)
		if err != nil && ctx.Err() == nil {
			s.d.Log.Warn("mend firewall", logkey.Err, err)
		}
		if err != nil || changed == nil {
			t.Reset(lookAgain)
		}
	}
}

func (s *Service) mend(ctx context.Context) error {
	s.fw.Lock()
	defer s.fw.Unlock()
	if !s.swept {
		return nil
	}
	rules := s.rulesLocked()
	ok, err := s.d.Firewall.Intact(ctx, rules)
	if err != nil || ok {
		return err
	}
	if err := s.d.Firewall.Sync(ctx, rules); err != nil {
		return err
	}
	s.d.Log.Info("firewall rules restored", logkey.Why, "they were changed by somebody else")
	// Whoever flushed all rules has often new ones of its own.
	return s.warnOfStrangers(ctx)
}

// Close ends resolvers and forwarders. Kernel state stays, so that containers
// that outlive the daemon keep their network.
func (s *Service) Close() error {
	return errors.Join(s.d.Forwarder.Close(), s.d.Resolver.Close(), s.d.Link.Close())
}

// rulesLocked is what the firewall must hold now. fw is held.
func (s *Service) rulesLocked() Rules {
	var r Rules
	for _, n := range s.networks() {
		if n.rec.bridged() {
			r.Networks = append(r.Networks, networkRules(n.rec))
		}
	}
	s.mu.Lock()
	s.opened = s.openTo()
	r.Swarm = s.swarmPorts()
	s.mu.Unlock()
	r.Links = s.opened
	for host, p := range s.ports {
		r.Ports = append(r.Ports, p.rules(host)...)
	}
	slices.SortFunc(r.Ports, func(a, b PortRule) int {
		if c := a.Host.Compare(b.Host); c != 0 {
			return c
		}
		return strings.Compare(a.Proto, b.Proto)
	})
	return r
}

func (p portPair) rules(host netip.AddrPort) []PortRule {
	var out []PortRule
	if p.tcp.IsValid() {
		out = append(out, PortRule{Proto: "tcp", Host: host, Target: p.tcp})
	}
	if p.udp.IsValid() {
		out = append(out, PortRule{Proto: "udp", Host: host, Target: p.udp})
	}
	return out
}

// sync makes the firewall hold what it must.
func (s *Service) sync(ctx context.Context) error {
	s.fw.Lock()
	defer s.fw.Unlock()
	return s.d.Firewall.Sync(ctx, s.rulesLocked())
}

func (s *Service) networks() []*netw {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*netw, 0, len(s.nets))
	for _, n := range s.nets {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *netw) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	return out
}

// find looks a network up by name, ID or unambiguous ID prefix. mu is held.
func (s *Service) find(term string) (*netw, error) {
	if term == mobynet.NetworkDefault {
		term = mobynet.NetworkBridge
	}
	if n, ok := s.nets[term]; ok {
		return n, nil
	}
	var byPrefix []*netw
	for _, n := range s.nets {
		if n.rec.Name == term {
			return n, nil
		}
		if term != "" && strings.HasPrefix(n.rec.ID, term) {
			byPrefix = append(byPrefix, n)
		}
	}
	switch len(byPrefix) {
	case 0:
		return nil, fault.New(errdefs.ErrNotFound, "network %s not found", term)
	case 1:
		return byPrefix[0], nil
	}
	return nil, fault.New(errdefs.ErrInvalidArgument, "%d matches found based on ID prefix: network %s is ambiguous", len(byPrefix), term)
}

func (s *Service) newID() (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func (s *Service) publish(r *Record, a events.Action, more map[string]string) {
	attrs := map[string]string{"name": r.Name, "type": r.Driver}
	for k, v := range more {
		attrs[k] = v
	}
	s.d.Events.Publish(events.Message{
		Type: events.NetworkEventType, Action: a, Scope: r.scope(),
		Actor: events.Actor{ID: r.ID, Attributes: attrs},
	})
}
