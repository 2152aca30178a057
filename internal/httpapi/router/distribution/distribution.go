// Package distribution serves /distribution: what a registry says of an image
// that need not be here.
package distribution

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/registry"

	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/image"
)

// Backend is what the route needs of the image domain.
type Backend interface {
	Distribution(ctx context.Context, ref string, r image.Remote) (registry.DistributionInspect, error)
}

// Router serves /distribution.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b: b} }

var _ route.Router = (*Router)(nil)

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{{Method: http.MethodGet, Path: "/distribution/{name:.*}/json", Handler: rt.inspect}}
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	auth, _ := route.Registry(r)
	out, err := rt.b.Distribution(r.Context(), route.Var(r, "name"), image.Remote{Auth: auth})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
