package forward

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
)

const dialTimeout = 10 * time.Second

// tcpPort is a listening host port.
type tcpPort struct {
	f      *Forwarder
	l      *net.TCPListener
	target atomic.Pointer[netip.AddrPort]
	start  sync.Once
	tasks  sync.WaitGroup // the accept loop and every connection

	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
}

// Serve implements network.Held.
func (p *tcpPort) Serve(target netip.AddrPort) {
	p.target.Store(&target)
	p.start.Do(func() {
		p.tasks.Add(1)
		go p.accept()
	})
}

func (p *tcpPort) accept() {
	defer p.tasks.Done()
	for {
		c, err := p.l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: what waits is served when there are some.
			p.f.c.Log.Warn("accept on published port", logkey.Address, p.l.Addr().String(), logkey.Err, err)
			time.Sleep(50 * time.Millisecond) // Close waits that long at most
			continue
		}
		if !p.track(c) {
			return
		}
		p.tasks.Add(1)
		go func() {
			defer p.tasks.Done()
			p.carry(c)
		}()
	}
}

// carry joins a client to the container until both have said all.
func (p *tcpPort) carry(client *net.TCPConn) {
	defer p.drop(client)
	target := *p.target.Load()
	if !target.IsValid() {
		abort(client)
		return
	}
	c, err := net.DialTimeout("tcp", target.String(), dialTimeout)
	if err != nil {
		p.f.c.Log.Debug("connect to container", logkey.Address, target.String(), logkey.Err, err)
		abort(client)
		return
	}
	server := c.(*net.TCPConn)
	if !p.track(server) {
		return
	}
	defer p.drop(server)
	done := make(chan struct{})
	go func() {
		pipe(server, client)
		close(done)
	}()
	pipe(client, server)
	<-done
}

// pipe copies one direction (in the kernel, by splice) and passes its end on.
// An error on either side ends both directions.
func pipe(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		abort(to)
		abort(from)
		return
	}
	if err := to.CloseWrite(); err != nil { // the other side is gone already
		abort(from)
	}
}

// abort closes with a reset, so that the peer sees a failure and not an end.
// The connection is beyond caring for errors.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (p *tcpPort) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *tcpPort) drop(c net.Conn) {
	_ = c.Close() // often closed already
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Close implements network.Held.
func (p *tcpPort) Close() error {
	p.f.forget(p)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	err := p.l.Close()
	p.tasks.Wait()
	return err
}
