package ctrd

import (
	"context"
	"sync"

	"holdfast.dev/holdfast/internal/container"
)

// queue holds what happened to processes, in order, until it is read. It fills
// from the start, so that nothing is missed before there is a reader.
type queue struct {
	done chan struct{}

	mu   sync.Mutex // guards list, wake
	list []container.TaskEvent
	wake chan struct{} // closed when the list grew
}

func newQueue() *queue { return &queue{done: make(chan struct{}), wake: make(chan struct{})} }

func (q *queue) put(e container.TaskEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, e)
	close(q.wake)
	q.wake = make(chan struct{})
}

// events delivers the queue until ctx ends.
func (q *queue) events(ctx context.Context) <-chan container.TaskEvent {
	out := make(chan container.TaskEvent)
	go func() {
		defer close(out)
		for {
			q.mu.Lock()
			batch, wake := q.list, q.wake
			q.list = nil
			q.mu.Unlock()
			for _, e := range batch {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-wake:
			case <-q.done:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (q *queue) close() { close(q.done) }
