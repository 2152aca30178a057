package httpapi

import (
	"context"
	"sync"
)

// busy knows the running handlers, those of hijacked connections included,
// which net/http forgets. (A WaitGroup may not be added to while somebody
// waits; this may.)
type busy struct {
	mu      sync.Mutex // guards the fields below
	running map[*response]context.CancelFunc
	waiters []chan struct{}
}

func (b *busy) add(w *response, cancel context.CancelFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running == nil {
		b.running = map[*response]context.CancelFunc{}
	}
	b.running[w] = cancel
}

func (b *busy) done(w *response) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[w]()
	delete(b.running, w)
	if len(b.running) == 0 {
		for _, c := range b.waiters {
			close(c)
		}
		b.waiters = nil
	}
}

// endStreams ends the contexts of the handlers that would go on for ever:
// those that have begun to stream.
func (b *busy) endStreams() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w, cancel := range b.running {
		if w.streaming.Load() {
			cancel()
		}
	}
}

// idle is closed once no handler runs.
func (b *busy) idle() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan struct{})
	if len(b.running) == 0 {
		close(c)
	} else {
		b.waiters = append(b.waiters, c)
	}
	return c
}
