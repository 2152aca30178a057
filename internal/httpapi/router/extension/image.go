package extension

import (
	"context"
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/image"
)

// Images is the image domain as this router needs it.
type Images interface {
	Outdated(ctx context.Context) ([]image.Outdated, error)
	Analyze(ctx context.Context, ref string, o image.AnalyzeOptions) (image.Analysis, error)
}

func (rt *Router) outdated(w http.ResponseWriter, r *http.Request) error {
	list, err := rt.images.Outdated(r.Context())
	if err != nil {
		return err
	}
	out := make([]api.OutdatedImage, len(list))
	for i, o := range list {
		out[i] = api.OutdatedImage(o)
	}
	return route.JSON(w, http.StatusOK, out)
}
