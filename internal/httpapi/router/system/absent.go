package system

import (
	"net/http"

	"github.com/containerd/errdefs"

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
	checkpoints := refuse(errdefs.ErrNotImplemented, "checkpoints are not supported by this release of Holdfast")
	add(checkpoints, http.MethodGet, "/containers/{name}/checkpoints")
	add(checkpoints, http.MethodPost, "/containers/{name}/checkpoints")
	add(checkpoints, http.MethodDelete, "/containers/{name}/checkpoints/{checkpoint}")
	return out
}

func refuse(class error, text string) route.Handler {
	return func(http.ResponseWriter, *http.Request) error { return fault.New(class, "%s", text) }
}
