// Package container serves the container, exec and commit endpoints of the
// Docker Engine API. Handlers decode, make one call to the Backend, encode;
// what differs between versions of the API is settled while decoding.
package container

import (
	"net/http"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Router serves the endpoints.
type Router struct {
	containers Backend
	commits    Committer
	cgroups    int // version of the control groups, 1 or 2
}

// New makes the router. cgroupVersion is 1 or 2: a default that older clients
// expect depends on it.
func New(b Backend, c Committer, cgroupVersion int) *Router {
	return &Router{containers: b, commits: c, cgroups: cgroupVersion}
}

var _ route.Router = (*Router)(nil)

// Routes implements route.Router. The order matters: names may hold slashes, so
// that the more specific patterns come first.
func (rt *Router) Routes() []route.Route {
	const one = "/containers/{name:.*}"
	return []route.Route{
		{Method: http.MethodHead, Path: one + "/archive", Handler: rt.headArchive},

		{Method: http.MethodGet, Path: "/containers/json", Handler: rt.list},
		{Method: http.MethodGet, Path: one + "/export", Handler: rt.export},
		{Method: http.MethodGet, Path: one + "/changes", Handler: rt.changes},
		{Method: http.MethodGet, Path: one + "/json", Handler: rt.inspect},
		{Method: http.MethodGet, Path: one + "/top", Handler: rt.top},
		{Method: http.MethodGet, Path: one + "/logs", Handler: rt.logs},
		{Method: http.MethodGet, Path: one + "/stats", Handler: rt.stats},
		{Method: http.MethodGet, Path: one + "/attach/ws", Handler: rt.attachWebsocket},
		{Method: http.MethodGet, Path: "/exec/{id:.*}/json", Handler: rt.execInspect},
		{Method: http.MethodGet, Path: one + "/archive", Handler: rt.getArchive},

		{Method: http.MethodPost, Path: "/containers/create", Handler: rt.create},
		{Method: http.MethodPost, Path: "/containers/prune", Handler: rt.prune},
		{Method: http.MethodPost, Path: one + "/kill", Handler: rt.kill},
		{Method: http.MethodPost, Path: one + "/pause", Handler: rt.pause},
		{Method: http.MethodPost, Path: one + "/unpause", Handler: rt.unpause},
		{Method: http.MethodPost, Path: one + "/restart", Handler: rt.restart},
		{Method: http.MethodPost, Path: one + "/start", Handler: rt.start},
		{Method: http.MethodPost, Path: one + "/stop", Handler: rt.stop},
		{Method: http.MethodPost, Path: one + "/wait", Handler: rt.wait},
		{Method: http.MethodPost, Path: one + "/resize", Handler: rt.resize},
		{Method: http.MethodPost, Path: one + "/attach", Handler: rt.attach},
		{Method: http.MethodPost, Path: one + "/exec", Handler: rt.execCreate},
		{Method: http.MethodPost, Path: "/exec/{id:.*}/start", Handler: rt.execStart},
		{Method: http.MethodPost, Path: "/exec/{id:.*}/resize", Handler: rt.execResize},
		{Method: http.MethodPost, Path: one + "/rename", Handler: rt.rename},
		{Method: http.MethodPost, Path: one + "/update", Handler: rt.update},
		{Method: http.MethodPost, Path: "/commit", Handler: rt.commit},

		{Method: http.MethodPut, Path: one + "/archive", Handler: rt.putArchive},
		{Method: http.MethodDelete, Path: one, Handler: rt.remove},
	}
}
