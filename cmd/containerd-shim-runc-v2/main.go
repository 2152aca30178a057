// Command containerd-shim-runc-v2 is containerd's shim for runc, for a daemon
// that starts it in one step: it finds its listening socket as file 3, and as
// file 4 the end of a pipe that the daemon holds while it lives. Beyond
// containerd's it does two things.
//
// It holds on to the output of a process until the process is deleted. The pipes
// between a container and the daemon are fifos, and the kernel drops what is in
// a fifo when nobody has it open any more. containerd's shim closes its ends
// when a container ends; if the daemon is away at that moment, the last output
// would be lost. Holding a reading end keeps it for the next daemon.
//
// It ends when the daemon does and no task was ever asked of it: nobody would
// come back for it.
package main

import (
	"context"
	"os"
	"syscall"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// lifeline is the number of the pipe's file.
const lifeline = 4

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTasks,
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"), func(c *shim.Config) {
		c.NoSetupLogger = true // standard error is the log
	})
}

func newTasks(ic *plugin.InitContext) (any, error) {
	p, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	s, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	inner, err := task.NewTaskService(ic.Context, fewEvents{p.(shim.Publisher)}, s.(shutdown.Service))
	if err != nil {
		return nil, err
	}
	h := newHolder(inner)
	// A file that does not block is waited for by the poller, another one by a
	// thread, whose stacks every container would pay for.
	_ = syscall.SetNonblock(lifeline, true) // fails where there is none
	go endWith(os.NewFile(lifeline, "lifeline"), h)
	return h, nil
}

// endWith ends the process when the daemon is gone, unless there is a task.
func endWith(life *os.File, h *holder) {
	if life == nil {
		return
	}
	_, _ = life.Read(make([]byte, 1)) // nothing is ever written: it returns at the end
	if h.retire() {
		os.Exit(0)
	}
}

// fewEvents passes on what the daemon cannot ask for: it waits for ends itself.
type fewEvents struct{ shim.Publisher }

// Publish implements events.Publisher.
func (f fewEvents) Publish(ctx context.Context, topic string, e events.Event) error {
	if _, ok := e.(*eventtypes.TaskOOM); !ok {
		return nil
	}
	return f.Publisher.Publish(ctx, topic, e)
}
