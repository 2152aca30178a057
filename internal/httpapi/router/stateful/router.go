// Package stateful serves stateful sets.
package stateful

import (
	"context"
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Backend is the swarm as this router needs it.
type Backend interface {
	StatefulSets(ctx context.Context) ([]api.StatefulSet, error)
	StatefulSet(ctx context.Context, ref string) (api.StatefulSet, error)
	SwitchStatefulSet(ctx context.Context, ref, to string) error
	RebuildStatefulMember(ctx context.Context, ref, member string) error
	PauseStatefulSet(ctx context.Context, ref string, on bool) error
}

// Router serves stateful sets.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: api.PathSets, Handler: rt.list},
		{Method: http.MethodGet, Path: api.PathSet, Handler: rt.inspect},
		{Method: http.MethodPost, Path: api.PathSetSwitch, Handler: rt.switchover},
		{Method: http.MethodPost, Path: api.PathSetRebuild, Handler: rt.rebuild},
		{Method: http.MethodPost, Path: api.PathSetPause, Handler: rt.pause(true)},
		{Method: http.MethodPost, Path: api.PathSetResume, Handler: rt.pause(false)},
	}
}

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	all, err := rt.b.StatefulSets(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, all)
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	s, err := rt.b.StatefulSet(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, s)
}

func (rt *Router) switchover(w http.ResponseWriter, r *http.Request) error {
	var in api.StatefulSwitchover
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	if err := rt.b.SwitchStatefulSet(r.Context(), route.Var(r, "name"), in.To); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) rebuild(w http.ResponseWriter, r *http.Request) error {
	var in api.StatefulRebuild
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	if err := rt.b.RebuildStatefulMember(r.Context(), route.Var(r, "name"), in.Member); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) pause(on bool) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := rt.b.PauseStatefulSet(r.Context(), route.Var(r, "name"), on); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}
