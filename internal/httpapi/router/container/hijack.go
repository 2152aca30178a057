package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

// lingerLimit is how long a finished connection waits for its client to close,
// so that what the client still sends does not make the kernel throw away what
// it has not read yet.
const lingerLimit = 2 * time.Second

// raw is a client's connection as the standard streams of attach and exec. It
// is a plain HTTP exchange until open.
type raw struct {
	w      http.ResponseWriter
	req    *http.Request
	mux    bool
	cancel context.CancelFunc // the client is gone

	conn   net.Conn
	early  *bufio.Reader // what the client sent before open
	watch  sync.WaitGroup
	opened bool
}

// open takes the connection over and answers the request.
func (c *raw) open(ctx context.Context) error {
	conn, early, err := route.Hijack(c.w)
	if err != nil {
		return err
	}
	c.conn, c.early, c.opened = conn, early, true
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	contentType := types.MediaTypeRawStream
	head := "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"
	if _, ok := c.req.Header["Upgrade"]; ok {
		if c.mux && route.AtLeast(ctx, "1.42") {
			contentType = types.MediaTypeMultiplexedStream
		}
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := fmt.Fprintf(conn, head, contentType); err != nil {
		return err
	}
	awaitTaken(conn)
	return nil
}

// takenLimit is how long the first output waits for a client to take the header.
const takenLimit = 200 * time.Millisecond

// awaitTaken waits until the client of a Unix socket has taken what was sent.
// Some clients, docker-py among them, read the header through a buffer that they
// then drop: output that came along in the same read would be lost.
func awaitTaken(conn net.Conn) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	limit := time.NewTimer(takenLimit)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for {
		unread := 0
		if rc.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil || unread == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return
		}
	}
}

// Write sends output to the client.
func (c *raw) Write(p []byte) (int, error) { return c.conn.Write(p) }

// interrupt makes reads and writes fail from now on.
func (c *raw) interrupt() {
	if c.conn != nil {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	}
}

// close ends the connection: output first, then, once the client has seen
// that, all of it.
func (c *raw) close() {
	if !c.opened {
		return
	}
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // ends a watch
	c.watch.Wait()
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.conn.SetReadDeadline(time.Now().Add(lingerLimit))
		_, _ = io.Copy(io.Discard, c.conn)
	}
	_ = c.conn.Close()
}

// watchGone cancels when the client has closed the connection in both
// directions. It reads nothing: a client may well have closed only its sending
// side, and that says nothing.
func (c *raw) watchGone() {
	conn := c.conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn() // under TLS
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	c.watch.Add(1)
	go func() {
		defer c.watch.Done()
		// Read calls the function again at each event of the descriptor.
		err := rc.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd)}} // hang-up and error are always told
			n, err := unix.Poll(p, 0)
			return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
		if err == nil {
			c.cancel()
		}
	}()
}

// stdin is the input side of a raw connection. Close ends a read that waits.
type stdin struct {
	c    *raw
	once sync.Once
}

func (s *stdin) Read(p []byte) (int, error) {
	// Not through early's own reader once that is empty: it belongs to the HTTP
	// server, which takes the end of the client's sending for the end of the
	// client, and ends the request's context.
	if n := s.c.early.Buffered(); n > 0 {
		return s.c.early.Read(p[:min(n, len(p))])
	}
	n, err := s.c.conn.Read(p)
	if errors.Is(err, io.EOF) {
		s.once.Do(s.c.watchGone)
	}
	return n, err
}

// Close implements io.Closer.
func (s *stdin) Close() error {
	if s.c.conn == nil {
		return nil
	}
	return s.c.conn.SetReadDeadline(time.Unix(1, 0))
}
