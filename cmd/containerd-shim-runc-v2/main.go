// Command containerd-shim-runc-v2 is containerd's shim for runc with one
// addition: it holds on to the output of a process until the process is deleted.
//
// The pipes between a container and the daemon are fifos, and the kernel drops
// what is in a fifo when nobody has it open any more. containerd's shim closes
// its ends when a container ends; if the daemon is away at that moment, the last
// output would be lost. Holding a reading end keeps it for the next daemon.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			p, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			s, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			inner, err := task.NewTaskService(ic.Context, p.(shim.Publisher), s.(shutdown.Service))
			if err != nil {
				return nil, err
			}
			return newHolder(inner), nil
		},
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
