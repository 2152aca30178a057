package storage

import (
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) host(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Host(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) repair(w http.ResponseWriter, r *http.Request) error {
	var in api.RepairRequest
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	out, err := rt.b.Repair(r.Context(), in.DryRun)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
