package event

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
)

const (
	// memory is how many messages are kept for readers that ask for the past.
	memory = 1024
	// backlog is how far a reader may fall behind before it is dropped.
	backlog = 1024
	// scopeLocal is the scope of everything one engine does.
	scopeLocal = "local"
)

var (
	_ Publisher  = (*Bus)(nil)
	_ Subscriber = (*Bus)(nil)
)

// Bus fills Publisher and Subscriber. It has no goroutine of its own: messages
// are handed over in the publisher's.
type Bus struct {
	clock clock.Clock

	mu   sync.Mutex // guards the fields below; never held across a blocking send
	ring []events.Message
	next int   // where the oldest is once the ring is full
	last int64 // TimeNano of the newest
	subs map[*subscription]struct{}
}

type subscription struct {
	ch   chan events.Message
	keep func(events.Message) bool
}

// NewBus returns an empty bus.
func NewBus(c clock.Clock) *Bus {
	return &Bus{clock: c, subs: map[*subscription]struct{}{}}
}

// Publish implements Publisher. A message without a time gets the present one,
// never before that of the message published before it, so that "since" of the
// last one seen loses nothing.
func (b *Bus) Publish(m events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.TimeNano == 0 {
		m.TimeNano = max(b.clock.Now().UnixNano(), b.last)
	}
	if m.Time == 0 {
		m.Time = m.TimeNano / int64(time.Second)
	}
	if m.Scope == "" {
		m.Scope = scopeLocal
	}
	b.last = max(b.last, m.TimeNano)
	b.remember(m)
	for s := range b.subs {
		if s.keep != nil && !s.keep(m) {
			continue
		}
		select {
		case s.ch <- m:
		default: // too slow: a closed stream is honest, a gap is not
			b.drop(s)
		}
	}
}

// Subscribe implements Subscriber. keep may be nil for everything; it must be
// quick and must not call the bus.
func (b *Bus) Subscribe(ctx context.Context, sinceNano int64, keep func(events.Message) bool) ([]events.Message, <-chan events.Message) {
	s := &subscription{ch: make(chan events.Message, backlog), keep: keep}
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []events.Message
	if sinceNano != 0 {
		past = b.since(sinceNano, keep)
	}
	b.subs[s] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(s)
	})
	return past, s.ch
}

// drop closes the subscription once. Called with mu held.
func (b *Bus) drop(s *subscription) {
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		close(s.ch)
	}
}

// remember keeps m in place of the oldest. Called with mu held.
func (b *Bus) remember(m events.Message) {
	if len(b.ring) < memory {
		b.ring = append(b.ring, m)
		return
	}
	b.ring[b.next] = m
	b.next = (b.next + 1) % memory
}

// since copies the remembered messages from then on. Called with mu held.
func (b *Bus) since(nano int64, keep func(events.Message) bool) []events.Message {
	var out []events.Message
	for i := range b.ring {
		m := b.ring[(b.next+i)%len(b.ring)]
		if m.TimeNano >= nano && (keep == nil || keep(m)) {
			out = append(out, m)
		}
	}
	return out
}

// Listeners counts the live subscriptions.
func (b *Bus) Listeners() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}
