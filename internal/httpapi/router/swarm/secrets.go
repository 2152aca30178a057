package swarm

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) secrets(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	ss, err := rt.b.Secrets(r.Context(), f)
	return answer(w, http.StatusOK, ss, err)
}

func (rt *Router) secret(w http.ResponseWriter, r *http.Request) error {
	s, err := rt.b.Secret(r.Context(), id(r))
	return answer(w, http.StatusOK, s, err)
}

func (rt *Router) createSecret(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.SecretSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	sid, err := rt.b.CreateSecret(r.Context(), spec)
	return answer(w, http.StatusCreated, swarm.SecretCreateResponse{ID: sid}, err)
}

func (rt *Router) removeSecret(w http.ResponseWriter, r *http.Request) error {
	return done(w, http.StatusNoContent, rt.b.RemoveSecret(r.Context(), id(r)))
}

func (rt *Router) updateSecret(w http.ResponseWriter, r *http.Request) error {
	var spec swarm.SecretSpec
	if err := route.Decode(r, &spec, false); err != nil {
		return err
	}
	v, err := version(r, "secret")
	if err != nil {
		return err
	}
	return done(w, http.StatusOK, rt.b.UpdateSecret(r.Context(), id(r), v, spec))
}
