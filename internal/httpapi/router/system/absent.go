package system

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/plugin"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// absent lists the endpoints of Docker's that this release doesn't have.
func absent() []route.Route {
	var out []route.Route
	add := func(h route.Handler, method string, paths ...string) {
		for _, p := range paths {
			out = append(out, route.Route{Method: method, Path: p, Handler: h})
		}
	}
	add(noPlugins, http.MethodGet, "/plugins")
	add(noSuchPlugin, http.MethodGet, "/plugins/{name:.*}/json")
	add(noSuchPlugin, http.MethodDelete, "/plugins/{name:.*}")
	add(noSuchPlugin, http.MethodPost, "/plugins/{name:.*}/enable", "/plugins/{name:.*}/disable", "/plugins/{name:.*}/push", "/plugins/{name:.*}/set", "/plugins/{name:.*}/upgrade")
	plugins := refuse(errdefs.ErrNotImplemented, "plugins are not supported by this release of Holdfast")
	add(plugins, http.MethodGet, "/plugins/privileges")
	add(plugins, http.MethodPost, "/plugins/pull", "/plugins/create")

	checkpoints := refuse(errdefs.ErrNotImplemented, "checkpoints are not supported by this release of Holdfast")
	add(checkpoints, http.MethodGet, "/containers/{name}/checkpoints")
	add(checkpoints, http.MethodPost, "/containers/{name}/checkpoints")
	add(checkpoints, http.MethodDelete, "/containers/{name}/checkpoints/{checkpoint}")
	return out
}

func refuse(class error, text string) route.Handler {
	return func(http.ResponseWriter, *http.Request) error { return fault.New(class, "%s", text) }
}

func noPlugins(w http.ResponseWriter, _ *http.Request) error {
	return route.JSON(w, http.StatusOK, []plugin.Plugin{})
}

func noSuchPlugin(_ http.ResponseWriter, r *http.Request) error {
	return fault.New(errdefs.ErrNotFound, "plugin %q not found", route.Var(r, "name"))
}
