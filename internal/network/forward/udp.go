package forward

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// maxSessions bounds the clients of one UDP port, each of which costs a socket.
const maxSessions = 4096

// udpPort is a bound host port. Each client has a session: a socket of its own
// towards the container, so that answers find back.
type udpPort struct {
	f      *Forwarder
	c      *net.UDPConn
	target atomic.Pointer[netip.AddrPort]
	start  sync.Once
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards sessions and closed
	sessions map[netip.AddrPort]*session
	closed   bool
}

type session struct {
	conn *net.UDPConn
	// oob tells the kernel to answer from the address the client wrote to.
	oob []byte
}

func newUDPPort(f *Forwarder, c *net.UDPConn) (*udpPort, error) {
	raw, err := c.SyscallConn()
	if err == nil {
		var e error
		err = raw.Control(func(fd uintptr) {
			if c.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
				e = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			} else {
				e = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		err = errors.Join(err, e)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &udpPort{f: f, c: c, sessions: map[netip.AddrPort]*session{}}, nil
}

// Serve implements network.Held. Sessions go on to where they began.
func (p *udpPort) Serve(target netip.AddrPort) {
	p.target.Store(&target)
	p.start.Do(func() {
		p.tasks.Add(1)
		go p.receive()
	})
}

func (p *udpPort) receive() {
	defer p.tasks.Done()
	buf := make([]byte, 1<<16)
	oob := make([]byte, 128)
	for {
		n, on, _, client, err := p.c.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a client's ICMP error
			continue
		}
		s := p.session(client, oob[:on])
		if s == nil {
			continue
		}
		// Datagrams may be lost, so an error is no news to anybody.
		_, _ = s.conn.Write(buf[:n])
	}
}

// session finds or makes the client's; nil where there can be none.
func (p *udpPort) session(client netip.AddrPort, oob []byte) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sessions[client]; ok {
		return s
	}
	target := *p.target.Load()
	if p.closed || !target.IsValid() || len(p.sessions) >= maxSessions {
		return nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target))
	if err != nil {
		p.f.c.Log.Debug("connect to container", logkey.Address, target.String(), logkey.Err, err)
		return nil
	}
	s := &session{conn: conn, oob: append([]byte(nil), oob...)}
	p.sessions[client] = s
	p.tasks.Add(1)
	go p.answer(client, s)
	return s
}

// answer carries the container's datagrams to the client until it is silent.
func (p *udpPort) answer(client netip.AddrPort, s *session) {
	defer p.tasks.Done()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sessions, client)
		_ = s.conn.Close() // Close may have been first
	}()
	buf := make([]byte, 1<<16)
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(p.f.c.UDPIdle)); err != nil {
			return
		}
		n, err := s.conn.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody listens in the container yet
		}
		if err != nil {
			return
		}
		_, _, _ = p.c.WriteMsgUDPAddrPort(buf[:n], s.oob, client)
	}
}

// Close implements network.Held.
func (p *udpPort) Close() error {
	p.f.forget(p)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, s := range p.sessions {
		_ = s.conn.Close()
	}
	p.mu.Unlock()
	err := p.c.Close()
	p.tasks.Wait()
	return err
}
