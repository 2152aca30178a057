package logs

import (
	"context"
	"io/fs"
	"slices"
	"sync"
)

// ring makes a log non-blocking: messages wait in memory for the driver, and
// the newest are dropped while it is full.
type ring struct {
	to    Logger
	limit int64
	wake  chan struct{}
	done  chan struct{}

	mu      sync.Mutex // guards the fields below; never held across I/O
	queue   []Message
	size    int64
	dropped int
	closed  bool
}

func newRing(to Logger, limit int64) *ring {
	r := &ring{to: to, limit: limit, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *ring) Name() string { return r.to.Name() }

func (r *ring) Log(m Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fs.ErrClosed
	}
	// One message always fits, however small the buffer is.
	if n := int64(len(m.Line)); r.size+n > r.limit && r.size > 0 {
		r.dropped++
		return nil
	}
	m.Line = slices.Clone(m.Line)
	r.queue = append(r.queue, m)
	r.size += int64(len(m.Line))
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// run is the only writer to the driver.
func (r *ring) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		batch, closed := r.queue, r.closed
		r.queue, r.size = nil, 0
		r.mu.Unlock()
		if len(batch) > 0 {
			// A driver that fails loses these messages: that is what the user
			// chose over waiting.
			if err := LogAll(r.to, batch, nil); err != nil {
				r.mu.Lock()
				r.dropped += len(batch)
				r.mu.Unlock()
			}
			continue
		}
		if closed {
			return
		}
		<-r.wake
	}
}

func (r *ring) Read(ctx context.Context, o ReadOptions, emit func(Message) error) error {
	return r.to.Read(ctx, o, emit)
}

func (r *ring) Close() error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
	<-r.done
	return r.to.Close()
}
