package volumes

import (
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/volume"
)

func showTrash(list []volume.Trashed) []api.TrashedVolume {
	out := make([]api.TrashedVolume, len(list))
	for i, t := range list {
		out[i] = api.TrashedVolume(t)
	}
	return out
}

func (rt *Router) trash(w http.ResponseWriter, _ *http.Request) error {
	return route.JSON(w, http.StatusOK, showTrash(rt.b.InTrash()))
}

func (rt *Router) undelete(w http.ResponseWriter, r *http.Request) error {
	var in api.VolumeRename
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	v, err := rt.b.Undelete(r.Context(), route.Var(r, "name"), in.To)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, api.VolumeCopied{Name: v.Name})
}

func (rt *Router) purge(w http.ResponseWriter, r *http.Request) error {
	if err := rt.b.Purge(r.Context(), route.Var(r, "name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) emptyTrash(w http.ResponseWriter, r *http.Request) error {
	gone, err := rt.b.EmptyTrash(r.Context())
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, showTrash(gone))
}
