package executor

import (
	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/node/plugin"

	"holdfast.dev/holdfast/internal/base/fault"
)

// noPlugins is SwarmKit's view of an engine without managed plugins.
type noPlugins struct{}

// Get implements plugin.Getter.
func (noPlugins) Get(name, capability string) (plugin.Plugin, error) {
	return nil, fault.New(errdefs.ErrNotFound, "plugin %q (%s) not found", name, capability)
}

// GetAllManagedPluginsByCap implements plugin.Getter.
func (noPlugins) GetAllManagedPluginsByCap(string) []plugin.Plugin { return nil }
