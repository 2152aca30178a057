package volumes

import (
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) listPools(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.pools.Pools(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) createPool(w http.ResponseWriter, r *http.Request) error {
	var in api.PoolCreate
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	out, err := rt.pools.CreatePool(r.Context(), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) pool(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.pools.Pool(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) growPool(w http.ResponseWriter, r *http.Request) error {
	var in api.PoolGrow
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	out, err := rt.pools.GrowPool(r.Context(), route.Var(r, "name"), in.Bytes)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) checkPool(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.pools.CheckPool(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) removePool(w http.ResponseWriter, r *http.Request) error {
	if err := rt.pools.RemovePool(r.Context(), route.Var(r, "name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
