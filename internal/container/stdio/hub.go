package stdio

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/logs"
)

const (
	readSize = 64 << 10 // a pipe's content
	// stdinCloseLimit bounds the call that tells the runtime of a closed stdin.
	stdinCloseLimit = 10 * time.Second
)

// Config describes a process to its Hub.
type Config struct {
	TTY       bool
	OpenStdin bool
	StdinOnce bool        // stdin ends with the first client that brought some
	Log       logs.Logger // may be nil
	// CloseStdin tells the runtime to close its end of stdin; may be nil.
	CloseStdin func(context.Context) error
	Clock      clock.Clock
	Logger     *slog.Logger
}

// Hub joins one run of a process with its log and its clients. Clients may
// attach before Start; they wait for it.
type Hub struct {
	cfg     Config
	started chan struct{} // closed by Start
	drained chan struct{} // closed when every output stream ended and is logged
	closing chan struct{} // closed by Close
	input   chan []byte   // from clients to the stdin pump
	eof     chan struct{} // closed when stdin shall end
	work    sync.WaitGroup

	carried map[string]*carry // by output stream; set before Start, then its reader's

	mu      sync.Mutex // guards the fields below; never held across I/O
	streams Streams
	run     bool
	closed  bool
	noInput bool
	open    map[string]bool // output streams that have not ended
	clients map[*client]struct{}
}

// New makes a Hub for a process that does not run yet.
func New(cfg Config) *Hub {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	return &Hub{
		cfg:     cfg,
		started: make(chan struct{}),
		drained: make(chan struct{}),
		closing: make(chan struct{}),
		input:   make(chan []byte),
		eof:     make(chan struct{}),
		open:    map[string]bool{"stdout": true, "stderr": true},
		clients: map[*client]struct{}{},
	}
}

// SetLog sets the log, where it was not known to New. It must come before Start.
func (h *Hub) SetLog(l logs.Logger) { h.cfg.Log = l }

// Carry keeps in files beginning with path what must not be lost, or logged
// twice, when the daemon is killed. fresh says that a new run begins; else the
// files tell where an earlier daemon was. It must come before Start.
func (h *Hub) Carry(path string, fresh bool) error {
	h.carried = map[string]*carry{}
	for _, name := range []string{"stdout", "stderr"} {
		c, err := openCarry(path+name, fresh)
		if err != nil {
			return err
		}
		h.carried[name] = c
	}
	return nil
}

// Start takes over the process's streams and closes them in the end. It is
// called once; after Close it only closes them.
func (h *Hub) Start(s Streams) {
	h.mu.Lock()
	if h.run || h.closed {
		h.mu.Unlock()
		s.Close()
		return
	}
	h.run = true
	h.streams = s
	h.work.Add(3)
	h.mu.Unlock()

	// Before either stream is logged: that may rotate the log in which the other
	// one's messages are looked for.
	stdout, stderr := h.newLogWriter("stdout"), h.newLogWriter("stderr")
	var outputs sync.WaitGroup
	outputs.Add(2)
	go func() { defer h.work.Done(); defer outputs.Done(); h.copyOutput(stdout, s.Stdout) }()
	go func() { defer h.work.Done(); defer outputs.Done(); h.copyOutput(stderr, s.Stderr) }()
	go func() { defer h.work.Done(); h.pumpInput(s.Stdin) }()
	h.work.Add(1)
	go func() { defer h.work.Done(); outputs.Wait(); close(h.drained) }()
	close(h.started)
}

// Ended tells whether all output has ended. It has as soon as a client's Attach
// returns for that reason; Drained may come later.
func (h *Hub) Ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open) == 0
}

// Drained is closed when the output streams have ended and are logged.
func (h *Hub) Drained() <-chan struct{} { return h.drained }

// Close ends the streams, whether or not the process still writes, lets
// clients go once they have taken what was read, and waits for the log to be
// written. It may be called more than once.
func (h *Hub) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		h.work.Wait()
		return
	}
	h.closed = true
	ran := h.run
	s := h.streams
	close(h.closing)
	h.mu.Unlock()

	s.Close()
	h.work.Wait()
	if !ran {
		for _, c := range h.carried {
			c.close()
		}
		h.end("stdout")
		h.end("stderr")
		close(h.drained)
	}
}

// copyOutput is the only reader of one output stream.
func (h *Hub) copyOutput(w *logWriter, r io.Reader) {
	name := w.lines.stream
	defer h.end(name)
	if r == nil {
		w.carry.close()
		return
	}
	defer w.finish()
	src := newSource(r)
	defer src.close()
	if err := w.resume(src); err != nil {
		h.cfg.Logger.Warn("output may be logged twice", logkey.Name, name, logkey.Err, err)
	}
	for {
		p, err := src.next()
		if len(p) > 0 {
			w.write(p)
			h.broadcast(name, p)
			if err = src.done(); err == nil {
				w.carry.taken()
			}
		}
		if err != nil {
			// EOF, or closed by Close; any other error ends the stream as well.
			if !errors.Is(err, io.EOF) && !h.isClosing() {
				h.cfg.Logger.Warn("output stream broke", logkey.Name, name, logkey.Err, err)
			}
			return
		}
	}
}

func (h *Hub) isClosing() bool {
	select {
	case <-h.closing:
		return true
	default:
		return false
	}
}

// broadcast hands p to every client that wants the stream.
func (h *Hub) broadcast(name string, p []byte) {
	h.mu.Lock()
	var to []*client
	for c := range h.clients {
		if c.wants[name] {
			to = append(to, c)
		}
	}
	h.mu.Unlock()
	if len(to) == 0 {
		return
	}
	data := slices.Clone(p)
	for _, c := range to {
		c.push(piece{stream: name, data: data}, h)
	}
}

// end marks an output stream as ended, for the clients there are and those to come.
func (h *Hub) end(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, name)
	if len(h.open) > 0 {
		return // as with Docker, a client stays for a stream that is no more
	}
	for c := range h.clients {
		c.finish(nil)
	}
}

// pumpInput is the only writer of stdin.
func (h *Hub) pumpInput(w io.WriteCloser) {
	broken := w == nil
	for {
		select {
		case p := <-h.input:
			if broken {
				continue
			}
			if _, err := w.Write(p); err != nil {
				// The process closed its stdin or is gone. What clients still send
				// has nowhere to go.
				broken = true
			}
		case <-h.eof:
			h.closeStdin(w)
			h.discardInput()
			return
		case <-h.drained:
			return
		case <-h.closing:
			return
		}
	}
}

// discardInput takes what clients send after stdin was closed.
func (h *Hub) discardInput() {
	for {
		select {
		case <-h.input:
		case <-h.drained:
			return
		case <-h.closing:
			return
		}
	}
}

func (h *Hub) closeStdin(w io.WriteCloser) {
	if w == nil {
		return
	}
	if err := w.Close(); err != nil {
		h.cfg.Logger.Warn("stdin did not close", logkey.Err, err)
	}
	if h.cfg.CloseStdin == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stdinCloseLimit)
	defer cancel()
	if err := h.cfg.CloseStdin(ctx); err != nil {
		h.cfg.Logger.Debug("runtime did not close stdin", logkey.Err, err)
	}
}

// endInput asks the pump to close stdin after what it has taken so far.
func (h *Hub) endInput() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.noInput {
		h.noInput = true
		close(h.eof)
	}
}
