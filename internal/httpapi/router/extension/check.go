package extension

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Checker tries directories; see internal/volume/preflight.
type Checker interface {
	Check(ctx context.Context, r api.CheckRequest) (api.CheckReport, error)
}

func (rt *Router) check(w http.ResponseWriter, r *http.Request) error {
	var in api.CheckRequest
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	switch {
	case in.Volume == "" && in.Path == "", in.Volume != "" && in.Path != "":
		return fault.New(errdefs.ErrInvalidArgument, "a check needs a volume or a path")
	case in.Path != "" && !filepath.IsAbs(in.Path):
		return fault.New(errdefs.ErrInvalidArgument, "invalid path %q: it must be absolute", in.Path)
	}
	out, err := rt.checker.Check(r.Context(), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
