package keylock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

func TestOneHolderPerKey(t *testing.T) {
	var l Locker
	counts := make([]int, 3) // each guarded by its key: the race detector watches
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			unlock, err := l.Lock(context.Background(), fmt.Sprint(i%3))
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			counts[i%3]++
		})
	}
	wg.Wait()
	for i, n := range counts {
		if n != 100 {
			t.Errorf("key %d: %d", i, n)
		}
	}
	if len(l.held) != 0 {
		t.Errorf("%d entries left", len(l.held))
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	var l Locker
	unlock, err := l.Lock(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlockB, err := l.Lock(context.Background(), "b")
	if err != nil {
		t.Fatal(err)
	}
	unlockB()
	unlock()
	unlock() // once too many is harmless
	if len(l.held) != 0 {
		t.Errorf("%d entries left", len(l.held))
	}
}
