package swarm

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) configs(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	ss, err := rt.b.Configs(r.Context(), f)
	return answer(w, http.StatusOK, ss, err)
}

func (rt *Router) config(w http.ResponseWriter, r *http.Request) error {
	s, err := rt.b.Config(r.Context(), id(r))
	return answer(w, http.StatusOK, s, err)
}

func (rt *Router) createConfig(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.ConfigSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	cid, err := rt.b.CreateConfig(r.Context(), spec)
	return answer(w, http.StatusCreated, swarm.ConfigCreateResponse{ID: cid}, err)
}

func (rt *Router) removeConfig(w http.ResponseWriter, r *http.Request) error {
	return done(w, http.StatusNoContent, rt.b.RemoveConfig(r.Context(), id(r)))
}

func (rt *Router) updateConfig(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.ConfigSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	v, err := version(r, "config")
	if err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.UpdateConfig(r.Context(), id(r), v, spec))
}
