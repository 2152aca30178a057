// Package keylock gives each key a lock of its own.
package keylock

import (
	"context"
	"sync"
)

// Locker is a set of locks by key. The zero value is ready.
type Locker struct {
	mu   sync.Mutex // guards held; never held while waiting for a key
	held map[string]*entry
}

type entry struct {
	free  chan struct{} // holds one token while nobody has the key
	users int           // holder and waiters, guarded by Locker.mu
}

// Lock waits for the key until ctx ends. The returned function gives it back,
// once.
func (l *Locker) Lock(ctx context.Context, key string) (unlock func(), err error) {
	e := l.enter(key)
	select {
	case <-e.free:
		return sync.OnceFunc(func() {
			e.free <- struct{}{}
			l.leave(key, e)
		}), nil
	case <-ctx.Done():
		l.leave(key, e)
		return nil, ctx.Err()
	}
}

func (l *Locker) enter(key string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*entry{}
	}
	e := l.held[key]
	if e == nil {
		e = &entry{free: make(chan struct{}, 1)}
		e.free <- struct{}{}
		l.held[key] = e
	}
	e.users++
	return e
}

func (l *Locker) leave(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.held, key)
	}
}
