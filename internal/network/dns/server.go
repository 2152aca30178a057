// Package dns answers the DNS queries of containers. It fills network.Resolver.
//
// Each sandbox has a server of its own, on sockets inside the namespace. Names
// of containers are answered from a network.View, without a lock and without a
// goroutine; what it doesn't know goes on to other servers.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/ns"
)

// Limits of one sandbox's server.
const (
	maxForwards  = 1024 // queries under way to other servers
	maxConns     = 128  // TCP clients
	idleTimeout  = 10 * time.Second
	writeTimeout = 5 * time.Second
	// backlog is what queries that wait may take of the kernel's memory, which
	// counts twice as much and most of a kilobyte for each. The usual limit holds
	// some 250 queries: a burst of more would lose the rest.
	backlog = 4 << 20
)

var listenAddr = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// Resolver owns the servers.
type Resolver struct {
	log *slog.Logger

	mu      sync.Mutex // guards servers
	servers map[string]*server
}

var _ network.Resolver = (*Resolver)(nil)

// New makes a Resolver without servers.
func New(log *slog.Logger) *Resolver {
	return &Resolver{log: log, servers: map[string]*server{}}
}

// Open implements network.Resolver.
func (r *Resolver) Open(_ context.Context, sandbox, nsPath string, v network.View) (udpPort, tcpPort uint16, err error) {
	s := &server{
		log: r.log.With(logkey.Container, sandbox), view: v, path: nsPath,
		forwards: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns),
	}
	err = ns.Do(nsPath, func() error {
		addr := netip.AddrPortFrom(listenAddr, 0)
		if s.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr)); err != nil {
			return err
		}
		if err = s.makeRoom(); err != nil {
			return errors.Join(err, s.udp.Close())
		}
		if s.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr)); err != nil {
			return errors.Join(err, s.udp.Close())
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("listen on %s: %w", listenAddr, err)
	}
	r.mu.Lock()
	old := r.servers[sandbox]
	r.servers[sandbox] = s
	r.mu.Unlock()
	if old != nil {
		old.close()
	}
	s.start()
	return s.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), s.tcp.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// CloseSandbox implements network.Resolver.
func (r *Resolver) CloseSandbox(sandbox string) error {
	r.mu.Lock()
	s := r.servers[sandbox]
	delete(r.servers, sandbox)
	r.mu.Unlock()
	if s != nil {
		s.close()
	}
	return nil
}

// Close implements network.Resolver.
func (r *Resolver) Close() error {
	r.mu.Lock()
	all := r.servers
	r.servers = map[string]*server{}
	r.mu.Unlock()
	for _, s := range all {
		s.close()
	}
	return nil
}

// server answers for one sandbox.
type server struct {
	log  *slog.Logger
	view network.View
	path string
	udp  *net.UDPConn
	tcp  *net.TCPListener

	turn     atomic.Uint32 // round robin
	forwards chan struct{}
	conns    chan struct{}

	ctx    context.Context //nolint:containedctx // ends with the server, which is no request
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// makeRoom lets queries wait instead of being lost.
func (s *server) makeRoom() error {
	raw, err := s.udp.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, backlog)
		if errors.Is(inner, unix.EPERM) { // then the kernel's limit holds
			inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, backlog)
		}
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("make room for queries: %w", err)
	}
	return nil
}

func (s *server) start() {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.tasks.Add(2)
	go s.serveUDP()
	go s.serveTCP()
}

func (s *server) close() {
	s.cancel()
	_ = s.udp.Close() // the loops end by it; there is nothing to lose
	_ = s.tcp.Close()
	s.tasks.Wait()
}

func (s *server) serveUDP() {
	defer s.tasks.Done()
	buf := make([]byte, 1<<16)
	for {
		n, client, err := s.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a client's ICMP error
			continue
		}
		reply, forward := s.answer(buf[:n], true)
		if reply != nil {
			s.send(reply, client)
		}
		if forward == nil {
			continue
		}
		select {
		case s.forwards <- struct{}{}:
		default:
			s.send(forward.fail(), client)
			continue
		}
		s.tasks.Add(1)
		go func() {
			defer s.tasks.Done()
			defer func() { <-s.forwards }()
			s.send(s.ask(s.ctx, forward), client)
		}()
	}
}

func (s *server) send(b []byte, client netip.AddrPort) {
	if len(b) == 0 {
		return
	}
	if _, err := s.udp.WriteToUDPAddrPort(b, client); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("answer DNS query", logkey.Err, err)
	}
}

func (s *server) serveTCP() {
	defer s.tasks.Done()
	for {
		c, err := s.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn("accept DNS client", logkey.Err, err)
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			_ = c.Close() // the client asks again
			continue
		}
		s.tasks.Add(1)
		go func() {
			defer s.tasks.Done()
			defer func() { <-s.conns }()
			stop := context.AfterFunc(s.ctx, func() { _ = c.Close() })
			defer stop()
			defer c.Close()
			s.serveConn(c)
		}()
	}
}

// serveConn answers one TCP client's queries in turn.
func (s *server) serveConn(c *net.TCPConn) {
	for {
		if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		reply, forward := s.answer(q, false)
		if forward != nil {
			reply = s.ask(s.ctx, forward)
		}
		if len(reply) == 0 || len(reply) > 0xffff {
			return
		}
		if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
