package httpapi

import "sync"

// busy counts running handlers, hijacked connections included, which net/http
// forgets. A WaitGroup may not be added to while somebody waits; this may.
type busy struct {
	mu      sync.Mutex // guards n and waiters
	n       int
	waiters []chan struct{}
}

func (b *busy) add() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
}

func (b *busy) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	if b.n == 0 {
		for _, w := range b.waiters {
			close(w)
		}
		b.waiters = nil
	}
}

// idle is closed once no handler runs.
func (b *busy) idle() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := make(chan struct{})
	if b.n == 0 {
		close(w)
	} else {
		b.waiters = append(b.waiters, w)
	}
	return w
}
