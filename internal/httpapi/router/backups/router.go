// Package backups serves backups of volumes, under our own path.
package backups

import (
	"context"
	"net/http"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// Backend is the domain of backups as this router needs it.
type Backend interface {
	AddRepository(ctx context.Context, r api.BackupRepositoryAdd) (api.BackupRepository, error)
	Repositories(ctx context.Context) []api.BackupRepository
	RemoveRepository(ctx context.Context, name string) error
	Backup(ctx context.Context, volume string, r api.BackupCreate) (api.Backup, error)
	Backups(ctx context.Context, volume, repository string) (api.BackupList, error)
	Restore(ctx context.Context, id string, r api.BackupRestore) (api.BackupRestored, error)
	Verify(ctx context.Context, id string) (api.BackupVerification, error)
	Remove(ctx context.Context, id string) (api.Backup, error)
}

// Router serves the verbs.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b} }

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: api.PathBackupRepositories, Handler: rt.repositories},
		{Method: http.MethodPost, Path: api.PathBackupRepositories, Handler: rt.addRepository},
		{Method: http.MethodDelete, Path: api.PathBackupRepository, Handler: rt.removeRepository},
		{Method: http.MethodPost, Path: api.PathVolumeBackup, Handler: rt.backup},
		{Method: http.MethodGet, Path: api.PathBackups, Handler: rt.backups},
		{Method: http.MethodDelete, Path: api.PathBackup, Handler: rt.remove},
		{Method: http.MethodPost, Path: api.PathBackupRestore, Handler: rt.restore},
		{Method: http.MethodPost, Path: api.PathBackupVerify, Handler: rt.verify},
	}
}

func (rt *Router) repositories(w http.ResponseWriter, r *http.Request) error {
	return route.JSON(w, http.StatusOK, rt.b.Repositories(r.Context()))
}

func (rt *Router) addRepository(w http.ResponseWriter, r *http.Request) error {
	var in api.BackupRepositoryAdd
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	out, err := rt.b.AddRepository(r.Context(), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) removeRepository(w http.ResponseWriter, r *http.Request) error {
	if err := rt.b.RemoveRepository(r.Context(), route.Var(r, "name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (rt *Router) backup(w http.ResponseWriter, r *http.Request) error {
	var in api.BackupCreate
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	out, err := rt.b.Backup(r.Context(), route.Var(r, "name"), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) backups(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	out, err := rt.b.Backups(r.Context(), q.Get("volume"), q.Get("repository"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) restore(w http.ResponseWriter, r *http.Request) error {
	var in api.BackupRestore
	if err := route.Decode(r, &in, true); err != nil {
		return err
	}
	out, err := rt.b.Restore(r.Context(), route.Var(r, "backup"), in)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) verify(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Verify(r.Context(), route.Var(r, "backup"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Remove(r.Context(), route.Var(r, "backup"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
