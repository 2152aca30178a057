package extension

import (
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Router serves the extensions.
type Router struct {
	images  Images
	checker Checker
}

// New returns the router.
func New(images Images, checker Checker) *Router { return &Router{images, checker} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: api.PathOpenAPI, Handler: rt.openAPI},
		{Method: http.MethodGet, Path: api.PathOutdated, Handler: rt.outdated},
		{Method: http.MethodPost, Path: api.PathAnalyze, Handler: rt.analyze},
		{Method: http.MethodPost, Path: api.PathCheck, Handler: rt.check},
	}
}

// openAPI serves the document that describes the extensions.
func (rt *Router) openAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(api.OpenAPI)
	return err
}
