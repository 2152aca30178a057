package daemon

import (
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/httpapi/route"
	backupsrouter "holdfast.dev/holdfast/internal/httpapi/router/backups"
	buildrouter "holdfast.dev/holdfast/internal/httpapi/router/build"
	containerrouter "holdfast.dev/holdfast/internal/httpapi/router/container"
	distributionrouter "holdfast.dev/holdfast/internal/httpapi/router/distribution"
	extensionrouter "holdfast.dev/holdfast/internal/httpapi/router/extension"
	imagerouter "holdfast.dev/holdfast/internal/httpapi/router/image"
	networkrouter "holdfast.dev/holdfast/internal/httpapi/router/network"
	pluginrouter "holdfast.dev/holdfast/internal/httpapi/router/plugin"
	statefulrouter "holdfast.dev/holdfast/internal/httpapi/router/stateful"
	storagerouter "holdfast.dev/holdfast/internal/httpapi/router/storage"
	swarmrouter "holdfast.dev/holdfast/internal/httpapi/router/swarm"
	systemrouter "holdfast.dev/holdfast/internal/httpapi/router/system"
	volumerouter "holdfast.dev/holdfast/internal/httpapi/router/volume"
	volumesrouter "holdfast.dev/holdfast/internal/httpapi/router/volumes"
)

// routers are the endpoints, in the order in which patterns are tried.
func (d *Daemon) routers() []route.Router {
	return []route.Router{
		systemrouter.New(systemBackend{d}, d.events, d.clock),
		containerrouter.New(d.containers, committer{d}, d.facts.Cgroup.Version),
		imagerouter.New(swarmImages{d.images, d}),
		buildrouter.New(d.builder),
		extensionrouter.New(d.images, checker{d.volumes}),
		storagerouter.New(storageBackend{d}),
		volumesrouter.New(d.volumes, pools{d.pools}, groups{d}, tars{}, volumeFiles{d.volumes}, volumeArtifacts{imagestore.NewArtifacts(d.imageStore)}, d.clock),
		distributionrouter.New(swarmDistribution{d}),
		backupsrouter.New(backupsBackend{d.backups}),
		volumerouter.New(d.volumes, d.swarm),
		pluginrouter.New(d.managed),
		networkrouter.New(allNetworks{d}, d.containers, d.swarm),
		swarmrouter.New(swarmBackend{d.swarm}),
		statefulrouter.New(d.swarm),
	}
}
