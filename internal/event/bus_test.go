package event

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
)

type fakeClock struct {
	clock.System
	now time.Time
}

func (c *fakeClock) Now() time.Time { return c.now }

func message(id string) events.Message {
	return events.Message{Type: events.VolumeEventType, Action: events.ActionCreate, Actor: events.Actor{ID: id}}
}

func TestPublishFillsIn(t *testing.T) {
	c := &fakeClock{now: time.Unix(100, 5)}
	b := NewBus(c)
	_, ch := b.Subscribe(t.Context(), 0, nil)
	b.Publish(message("a"))
	if m := <-ch; m.Time != 100 || m.TimeNano != 100*int64(time.Second)+5 || m.Scope != "local" {
		t.Errorf("got %+v", m)
	}
	c.now = time.Unix(50, 0) // the clock was set back
	b.Publish(message("b"))
	if m := <-ch; m.TimeNano != 100*int64(time.Second)+5 {
		t.Errorf("time went back: %+v", m)
	}
}

func TestReplay(t *testing.T) {
	c := &fakeClock{}
	b := NewBus(c)
	for i := range memory + 10 {
		c.now = time.Unix(int64(1000+i), 0)
		b.Publish(message(fmt.Sprint(i)))
	}
	past, _ := b.Subscribe(t.Context(), 1, nil)
	if len(past) != memory || past[0].Actor.ID != "10" || past[memory-1].Actor.ID != fmt.Sprint(memory+9) {
		t.Errorf("got %d messages", len(past))
	}
	past, _ = b.Subscribe(t.Context(), time.Unix(1000+memory+8, 0).UnixNano(), nil)
	if len(past) != 2 {
		t.Errorf("at or after: got %d messages", len(past))
	}
	past, _ = b.Subscribe(t.Context(), 1, func(m events.Message) bool { return m.Actor.ID == "77" })
	if len(past) != 1 {
		t.Errorf("filtered: got %d messages", len(past))
	}
	if past, _ = b.Subscribe(t.Context(), 0, nil); past != nil {
		t.Errorf("none wanted: got %d messages", len(past))
	}
}

func TestNoGapAndNoDuplicate(t *testing.T) {
	b := NewBus(clock.System{})
	const n = 500
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			b.Publish(message(fmt.Sprint(i)))
		}
	})
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			past, ch := b.Subscribe(ctx, 1, nil)
			for i := range n {
				var m events.Message
				if i < len(past) {
					m = past[i]
				} else {
					m = <-ch
				}
				if m.Actor.ID != fmt.Sprint(i) {
					t.Errorf("message %d is %s", i, m.Actor.ID)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSlowReaderIsDropped(t *testing.T) {
	b := NewBus(clock.System{})
	_, slow := b.Subscribe(t.Context(), 0, nil)
	for i := range backlog + 1 {
		b.Publish(message(fmt.Sprint(i)))
	}
	n := 0
	for range slow {
		n++
	}
	if n != backlog {
		t.Errorf("got %d messages before the close", n)
	}
	b.Publish(message("later")) // and nobody minds
}

func TestContextEndsTheStream(t *testing.T) {
	b := NewBus(clock.System{})
	ctx, cancel := context.WithCancel(t.Context())
	_, ch := b.Subscribe(ctx, 0, nil)
	cancel()
	for range ch {
		t.Error("a message after all")
	}
	b.Publish(message("later"))
}
