package storage

import (
	"net/http"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) policy(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Policy(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) runPolicy(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.RunPolicy(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) log(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Log(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
