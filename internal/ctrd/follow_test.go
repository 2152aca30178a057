package ctrd

import (
	"context"
	"log/slog"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"

	"holdfast.dev/holdfast/internal/container"
)

// silentShim never answers Wait: its connection ends instead.
type silentShim struct {
	taskapi.TTRPCTaskService
	asked, gone chan struct{}
}

func (s *silentShim) Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	close(s.asked)
	<-s.gone
	return nil, ttrpc.ErrClosed
}

// A task whose main process ended is deleted, and its shim with it, while the end
// of an exec is still asked for. Who waits for the exec must hear of it: a client
// that was attached to one waited for ever.
func TestExecOfADeletedTaskHasAnEnd(t *testing.T) {
	for name, ended := range map[string]bool{"the task ended": true, "the daemon goes": false} {
		t.Run(name, func(t *testing.T) {
			s := &silentShim{asked: make(chan struct{}), gone: make(chan struct{})}
			r := &Runtime{queue: newQueue(), log: slog.New(slog.DiscardHandler), tasks: map[string]*task{}}
			x := newTask("c")
			x.shim = &shim{api: s}
			main, _ := x.add("", 1<<22)
			exec, _ := x.add("e", 1<<22)
			if ended {
				x.finish(main, container.Exit{At: time.Now()})
			}
			r.follow(t.Context(), x, exec)
			<-s.asked
			x.leave()
			close(s.gone)
			r.follows.Wait()
			if exec.ended() != ended {
				t.Fatalf("ended %v, want %v", exec.ended(), ended)
			}
			if ended && exec.exit.Code != 137 {
				t.Errorf("code %d", exec.exit.Code)
			}
		})
	}
}
