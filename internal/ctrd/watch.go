package ctrd

import (
	"context"
	"log/slog"
	"sync"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/typeurl/v2"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container"
)

// watcher turns the shims' events into ours, in order. It listens from the
// start, so that nothing is missed between a task's start and the first reader.
type watcher struct {
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // guards queue, wake
	queue []container.TaskEvent
	wake  chan struct{} // closed when the queue grew
}

func newWatcher(ctx context.Context, ex *exchange.Exchange, first func(procKey, int, container.Exit) bool, log *slog.Logger) *watcher {
	ctx, stop := context.WithCancel(in(context.WithoutCancel(ctx)))
	w := &watcher{stop: stop, done: make(chan struct{}), wake: make(chan struct{})}
	ch, errs := ex.Subscribe(ctx, `topic=="/tasks/exit"`, `topic=="/tasks/oom"`)
	go w.run(ch, errs, first, log)
	return w
}

func (w *watcher) run(ch <-chan *events.Envelope, errs <-chan error, first func(procKey, int, container.Exit) bool, log *slog.Logger) {
	defer close(w.done)
	for {
		select {
		case env := <-ch:
			v, err := typeurl.UnmarshalAny(env.Event)
			if err != nil {
				log.Error("event of a shim not understood", logkey.Err, err)
				continue
			}
			w.put(v, first)
		case err := <-errs:
			if err != nil {
				log.Debug("event subscription ended", logkey.Err, err)
			}
			return
		}
	}
}

func (w *watcher) put(v any, first func(procKey, int, container.Exit) bool) {
	var e container.TaskEvent
	switch m := v.(type) {
	case *eventtypes.TaskExit:
		e = container.TaskEvent{
			Container: m.ContainerID, Kind: container.TaskExited, Pid: int(m.Pid),
			Exit: container.Exit{Code: int(m.ExitStatus), At: m.ExitedAt.AsTime()},
		}
		if m.ID != m.ContainerID {
			e.Exec = m.ID
		}
		if !first(procKey{e.Container, e.Exec}, e.Pid, e.Exit) {
			return
		}
	case *eventtypes.TaskOOM:
		e = container.TaskEvent{Container: m.ContainerID, Kind: container.TaskOOM}
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, e)
	close(w.wake)
	w.wake = make(chan struct{})
}

// events delivers the queue until ctx ends.
func (w *watcher) events(ctx context.Context) <-chan container.TaskEvent {
	out := make(chan container.TaskEvent)
	go func() {
		defer close(out)
		for {
			w.mu.Lock()
			batch, wake := w.queue, w.wake
			w.queue = nil
			w.mu.Unlock()
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
			case <-w.done:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (w *watcher) close() {
	w.stop()
	<-w.done
}
