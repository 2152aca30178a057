// Package storage serves what Holdfast tells about disk space, and does to free
// it, beyond Docker's API.
package storage

import (
	"context"
	"net/http"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Backend is the engine as this router needs it.
type Backend interface {
	// Usage tells all measured sizes; fresh measures them first.
	// With a kind it is of those alone, and only what may have changed is measured.
	Usage(ctx context.Context, fresh bool, kind string) (api.UsageReport, error)
	// Prune plans and, unless it is a dry run, removes. Steps are of known kinds,
	// each given once.
	Prune(ctx context.Context, r api.PruneRequest) (api.PruneReport, error)
	// Policy judges everything unused; RunPolicy removes what goes; Log tells the
	// last runs, newest first.
	Policy(ctx context.Context) (api.StoragePolicy, error)
	RunPolicy(ctx context.Context) (api.StorageRun, error)
	Log(ctx context.Context) ([]api.StorageRun, error)
	// Top tells who grew over the span, most first.
	Top(ctx context.Context, span time.Duration) ([]api.StorageGrowth, error)
	// Host compares with the disk; Repair removes what belongs to nobody.
	Host(ctx context.Context) (api.HostReport, error)
	Repair(ctx context.Context, dryRun bool) ([]api.HostOrphan, error)
	// Explain tells what an absolute path, container, volume or image takes.
	Explain(ctx context.Context, what string) (api.StorageExplanation, error)
}

// Router serves storage.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: api.PathUsage, Handler: rt.usage},
		{Method: http.MethodPost, Path: api.PathPrune, Handler: rt.prune},
		{Method: http.MethodGet, Path: api.PathStoragePolicy, Handler: rt.policy},
		{Method: http.MethodPost, Path: api.PathStorageRun, Handler: rt.runPolicy},
		{Method: http.MethodGet, Path: api.PathStorageLog, Handler: rt.log},
		{Method: http.MethodGet, Path: api.PathStorageTop, Handler: rt.top},
		{Method: http.MethodGet, Path: api.PathStorageExplain, Handler: rt.explain},
		{Method: http.MethodGet, Path: api.PathStorageHost, Handler: rt.host},
		{Method: http.MethodPost, Path: api.PathStorageRepair, Handler: rt.repair},
	}
}

func (rt *Router) usage(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Usage(r.Context(), route.Bool(r, "fresh"), r.FormValue("kind"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
