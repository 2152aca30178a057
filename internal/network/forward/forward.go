// Package forward holds published host ports with sockets of the daemon and
// carries what reaches these sockets to containers. It fills network.Forwarder.
//
// The firewall sends nearly all traffic of a published port straight to the
// container, before it gets here. What arrives is what rules cannot serve:
// IPv6 through loopback, and one address family to a container that has only
// the other.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/network"
)

// Config says how.
type Config struct {
	// Off holds ports without carrying anything: what rules don't serve is refused.
	Off bool
	Log *slog.Logger
	// UDPIdle ends a client's exchange that has been silent so long; default 90 s.
	UDPIdle time.Duration
}

// Forwarder owns the sockets.
type Forwarder struct {
	c Config

	mu     sync.Mutex // guards held and closed
	held   map[network.Held]place
	closed bool
}

// place is where a held port is.
type place struct {
	proto string
	host  netip.AddrPort
}

// clashes says whether two places cannot be bound side by side.
func (p place) clashes(q place) bool {
	a, b := p.host.Addr(), q.host.Addr()
	return p.proto == q.proto && p.host.Port() == q.host.Port() && a.Is6() == b.Is6() &&
		(a == b || a.IsUnspecified() || b.IsUnspecified())
}

var _ network.Forwarder = (*Forwarder)(nil)

// New makes a Forwarder that holds nothing.
func New(c Config) *Forwarder {
	if c.UDPIdle == 0 {
		c.UDPIdle = 90 * time.Second
	}
	return &Forwarder{c: c, held: map[network.Held]place{}}
}

// Hold implements network.Forwarder.
func (f *Forwarder) Hold(ctx context.Context, proto string, host netip.AddrPort) (network.Held, error) {
	at := place{proto, host}
	h, err := f.bind(ctx, proto, host)
	if err = classify(err); errors.Is(err, network.ErrPortInUse) && f.holds(at) {
		return nil, network.ErrPortAllocated
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.Join(errors.New("forwarder is closed"), h.Close())
	}
	f.held[h] = at
	return h, nil
}

// holds says whether a port held here is in the way.
func (f *Forwarder) holds(at place) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.held {
		if p.clashes(at) {
			return true
		}
	}
	return false
}

func (f *Forwarder) bind(ctx context.Context, proto string, host netip.AddrPort) (network.Held, error) {
	if f.c.Off {
		return f.bindOnly(proto, host)
	}
	// The family is in the network's name: a socket on :: is for IPv6 alone.
	version := "4"
	if host.Addr().Is6() {
		version = "6"
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // splice doesn't know it
	switch proto {
	case "tcp":
		l, err := lc.Listen(ctx, "tcp"+version, host.String())
		if err != nil {
			return nil, err
		}
		return &tcpPort{f: f, l: l.(*net.TCPListener), conns: map[net.Conn]struct{}{}}, nil
	case "udp":
		c, err := lc.ListenPacket(ctx, "udp"+version, host.String())
		if err != nil {
			return nil, err
		}
		return newUDPPort(f, c.(*net.UDPConn))
	}
	return nil, fmt.Errorf("protocol %q: %w", proto, errdefs.ErrNotImplemented)
}

func classify(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return network.ErrPortInUse
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EADDRNOTAVAIL):
		return fault.Wrap(errdefs.ErrUnavailable, err, "bind")
	}
	return err
}

func (f *Forwarder) forget(h network.Held) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, h)
}

// Close implements network.Forwarder.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	f.closed = true
	var all []network.Held
	for h := range f.held {
		all = append(all, h)
	}
	f.mu.Unlock()
	var errs []error
	for _, h := range all {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// bound is a port that is only held.
type bound struct {
	f    *Forwarder
	once sync.Once
	fd   int
}

// bindOnly binds without listening, and without sharing: both would let
// somebody else have the port beside us.
func (f *Forwarder) bindOnly(proto string, host netip.AddrPort) (network.Held, error) {
	kind := unix.SOCK_STREAM
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(host.Port()), Addr: host.Addr().Unmap().As4()})
	if host.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(host.Port()), Addr: host.Addr().As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind: %w", err), unix.Close(fd))
	}
	return &bound{f: f, fd: fd}, nil
}

func (b *bound) Serve(netip.AddrPort) {}

func (b *bound) Close() (err error) {
	b.once.Do(func() {
		b.f.forget(b)
		err = unix.Close(b.fd)
	})
	return err
}
