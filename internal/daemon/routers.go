package daemon

import (
	"holdfast.dev/holdfast/internal/httpapi/route"
	containerrouter "holdfast.dev/holdfast/internal/httpapi/router/container"
)

// routers are the endpoints, in the order in which patterns are tried.
func (d *Daemon) routers() []route.Router {
	return []route.Router{
		containerrouter.New(d.containers, nil, d.facts.Cgroup.Version),
	}
}
