package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/term"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// clientBuffer is how far a client may be behind before the process waits for it.
	clientBuffer = 8 << 20
	// stallLimit is how long the process waits for a client that takes nothing.
	stallLimit = time.Minute
)

// Errors of Attach.
var (
	// ErrDetached says that the client sent its detach keys.
	ErrDetached = errors.New("read detach keys")
	// ErrStalled says that the client was dropped because it took no output.
	ErrStalled = errors.New("client took no output for too long")
)

// AttachConfig is one client. Stdin, Stdout and Stderr may be nil.
type AttachConfig struct {
	// Stdin is closed at the end where it is an io.Closer, and the read of it
	// waited for; a reader without Close may be read once more after Attach.
	Stdin io.Reader
	// Stdout and Stderr are written by one goroutine, in the order of arrival.
	// Their writes must fail or return soon after ctx ends.
	Stdout, Stderr io.Writer
	DetachKeys     string // "" is ctrl-p,ctrl-q; looked for on terminals only
	// Started is called once the client is joined, before anything is copied.
	Started func() error
}

// ParseDetachKeys turns a client's words ("ctrl-p,ctrl-q") into bytes.
func ParseDetachKeys(keys string) ([]byte, error) {
	if keys == "" {
		return []byte{16, 17}, nil
	}
	b, err := term.ToBytes(keys)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "Invalid detach keys (%s) provided", keys)
	}
	return b, nil
}

type piece struct {
	stream string
	data   []byte
}

// client is the output side of one attached client.
type client struct {
	wants map[string]bool
	wake  chan struct{} // one token: something changed for the deliverer
	taken chan struct{} // one token: the deliverer took something
	gone  chan struct{} // closed when Attach returns

	mu    sync.Mutex // guards the fields below; never held across I/O
	queue []piece
	size  int
	ended bool  // nothing more will be pushed
	err   error // why it was cut off
}

// Attach joins a client until all output has ended, wanted or not, its stdin says so
// (detach keys: ErrDetached; end of a stdin that does not end the process's: nil),
// its writers fail, or ctx ends.
func (h *Hub) Attach(ctx context.Context, a AttachConfig) error {
	keys, err := ParseDetachKeys(a.DetachKeys)
	if err != nil {
		return err
	}
	if !h.cfg.OpenStdin {
		a.Stdin = nil
	}
	c := h.join(a)
	defer h.leave(c)
	if a.Started != nil {
		if err := a.Started(); err != nil {
			return err
		}
	}
	if a.Stdin == nil && len(c.wants) == 0 {
		return nil
	}

	outDone := make(chan error, 1)
	go func() { outDone <- h.deliver(c, a) }()
	var inDone chan error
	if a.Stdin != nil {
		inDone = make(chan error, 1)
		go func() { inDone <- h.feed(c, a.Stdin, keys) }()
	}
	err = h.attended(ctx, c, outDone, inDone)
	if closer, ok := a.Stdin.(io.Closer); ok && a.Stdin != nil {
		_ = closer.Close() // only to end the read
		c.leave()
		_ = <-inDone
	}
	return err
}

// attended waits for the first reason to end and lets the deliverer finish.
func (h *Hub) attended(ctx context.Context, c *client, outDone, inDone chan error) error {
	once := h.cfg.StdinOnce && !h.cfg.TTY
	for {
		select {
		case err := <-outDone:
			return h.settle(inDone, err)
		case err := <-inDone:
			inDone <- err // Attach looks again
			if once {
				h.endInput()
			}
			switch {
			case errors.Is(err, ErrDetached):
				c.finish(nil)
				_ = <-outDone
				return ErrDetached
			case !once:
				c.finish(nil)
				return <-outDone
			}
			inDone = nil
		case <-ctx.Done():
			if once && inDone != nil {
				h.endInput()
			}
			c.finish(ctx.Err())
			_ = <-outDone
			return ctx.Err()
		}
	}
}

// settle ends a client whose output ended: a failed one takes its stdin along.
func (h *Hub) settle(inDone chan error, err error) error {
	if err != nil && inDone != nil && h.cfg.StdinOnce && !h.cfg.TTY {
		h.endInput()
	}
	return err
}

func (h *Hub) join(a AttachConfig) *client {
	c := &client{
		wants: map[string]bool{},
		wake:  make(chan struct{}, 1),
		taken: make(chan struct{}, 1),
		gone:  make(chan struct{}),
	}
	if a.Stdout != nil {
		c.wants["stdout"] = true
	}
	if a.Stderr != nil && !h.cfg.TTY {
		c.wants["stderr"] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients[c] = struct{}{}
	if len(h.open) == 0 {
		c.finish(nil)
	}
	return c
}

func (h *Hub) leave(c *client) {
	c.leave()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
}

func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
	default:
		close(c.gone)
	}
}

// finish lets the deliverer end: after the queue where err is nil, else at once.
func (c *client) finish(err error) {
	c.mu.Lock()
	c.ended = true
	if err != nil && c.err == nil {
		c.err = err
		c.queue, c.size = nil, 0
	}
	c.mu.Unlock()
	token(c.wake)
}

// push queues a piece. A full queue makes it wait until the client takes
// something, goes, stalls, or the hub closes.
func (c *client) push(p piece, h *Hub) {
	if !c.fits() && !c.waitRoom(h) {
		return
	}
	c.mu.Lock()
	if !c.ended {
		c.queue = append(c.queue, p)
		c.size += len(p.data)
	}
	c.mu.Unlock()
	token(c.wake)
}

func (c *client) fits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended || c.size < clientBuffer
}

func (c *client) waitRoom(h *Hub) bool {
	t := h.cfg.Clock.NewTimer(stallLimit)
	defer t.Stop()
	for !c.fits() {
		select {
		case <-c.taken:
			t.Stop()
			t = h.cfg.Clock.NewTimer(stallLimit)
		case <-c.gone:
			return false
		case <-h.closing:
			return true // the last pieces go over the limit rather than away
		case <-t.C():
			h.cfg.Logger.Warn("client dropped", logkey.Why, ErrStalled.Error())
			c.finish(ErrStalled)
			return false
		}
	}
	return true
}

// deliver writes the queue to the client until it ends.
func (h *Hub) deliver(c *client, a AttachConfig) error {
	for {
		c.mu.Lock()
		if c.err != nil {
			err := c.err
			c.mu.Unlock()
			return err
		}
		if len(c.queue) == 0 {
			ended := c.ended
			c.mu.Unlock()
			if ended {
				return nil
			}
			<-c.wake
			continue
		}
		p := c.queue[0]
		c.queue[0] = piece{}
		c.queue = c.queue[1:]
		c.size -= len(p.data)
		c.mu.Unlock()

		w := a.Stdout
		if p.stream == "stderr" {
			w = a.Stderr
		}
		if _, err := w.Write(p.data); err != nil {
			c.finish(err)
			return fmt.Errorf("write %s to client: %w", p.stream, err)
		}
		token(c.taken)
	}
}

// feed copies the client's stdin to the pump until it ends (nil) or the
// detach keys come.
func (h *Hub) feed(c *client, r io.Reader, keys []byte) error {
	if h.cfg.TTY {
		r = term.NewEscapeProxy(r, keys)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case h.input <- append([]byte(nil), buf[:n]...):
			case <-c.gone:
				return nil
			case <-h.drained:
				return nil
			case <-h.closing:
				return nil
			}
		}
		if errors.As(err, new(term.EscapeError)) {
			return ErrDetached
		}
		if err != nil {
			return nil // EOF, or a client that broke: the same for the process
		}
	}
}

// token leaves a wake-up that is not lost if nobody waits yet.
func token(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
