package storage

import (
	"net/http"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) prune(w http.ResponseWriter, r *http.Request) error {
	var in api.PruneRequest
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, s := range in.Steps {
		switch s.Kind {
		case api.PruneContainers, api.PruneNetworks, api.PruneVolumes, api.PruneImages:
			if s.All || s.Keep != 0 {
				return fault.New(errdefs.ErrInvalidArgument, "'all' and 'keep' are for the build cache; say it by a filter for kind %q", s.Kind)
			}
		case api.PruneCache:
		case api.PruneSnapshots, api.PruneTrash, api.PruneLogs:
			if s.All || s.Keep != 0 || len(s.Filters) > 0 {
				return fault.New(errdefs.ErrInvalidArgument, "kind %q takes no filters, 'all' or 'keep': 'only' says what is to go", s.Kind)
			}
		default:
			return fault.New(errdefs.ErrInvalidArgument, "unknown kind to prune: %q", s.Kind)
		}
		if seen[s.Kind] {
			return fault.New(errdefs.ErrInvalidArgument, "kind %q given twice", s.Kind)
		}
		seen[s.Kind] = true
	}
	if len(in.Steps) == 0 {
		return fault.New(errdefs.ErrInvalidArgument, "nothing to prune is named")
	}
	out, err := rt.b.Prune(r.Context(), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
