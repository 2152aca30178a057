// Package plugin serves /plugins: managed plugins.
package plugin

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/plugin"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/image"
	domain "holdfast.dev/holdfast/internal/plugin"
)

// Backend is the plugin service as this router needs it.
type Backend interface {
	List(ctx context.Context, filters map[string][]string) ([]plugin.Plugin, error)
	Inspect(ctx context.Context, name string) (plugin.Plugin, error)
	Privileges(ctx context.Context, ref reference.Named, r domain.Remote) (plugin.Privileges, error)
	Pull(ctx context.Context, ref reference.Named, name string, granted plugin.Privileges, r domain.Remote, p domain.Progress) error
	Upgrade(ctx context.Context, name string, ref reference.Named, granted plugin.Privileges, r domain.Remote, p domain.Progress) error
	Create(ctx context.Context, name string, archive io.Reader) error
	Push(ctx context.Context, name string, r domain.Remote, p domain.Progress) error
	Set(ctx context.Context, name string, args []string) error
	Enable(ctx context.Context, name string, timeout time.Duration) error
	Disable(ctx context.Context, name string, force bool) error
	Remove(ctx context.Context, name string, force bool) error
}

// Router serves plugins.
type Router struct{ b Backend }

// New returns the router.
func New(b Backend) *Router { return &Router{b: b} }

var _ route.Router = (*Router)(nil)

// Routes implements route.Router.
func (rt *Router) Routes() []route.Route {
	return []route.Route{
		{Method: http.MethodGet, Path: "/plugins", Handler: rt.list},
		{Method: http.MethodGet, Path: "/plugins/privileges", Handler: rt.privileges},
		{Method: http.MethodGet, Path: "/plugins/{name:.*}/json", Handler: rt.inspect},
		{Method: http.MethodDelete, Path: "/plugins/{name:.*}", Handler: rt.remove},
		{Method: http.MethodPost, Path: "/plugins/pull", Handler: rt.pull},
		{Method: http.MethodPost, Path: "/plugins/create", Handler: rt.create},
		{Method: http.MethodPost, Path: "/plugins/{name:.*}/enable", Handler: rt.enable},
		{Method: http.MethodPost, Path: "/plugins/{name:.*}/disable", Handler: rt.disable},
		{Method: http.MethodPost, Path: "/plugins/{name:.*}/push", Handler: rt.push},
		{Method: http.MethodPost, Path: "/plugins/{name:.*}/upgrade", Handler: rt.upgrade},
		{Method: http.MethodPost, Path: "/plugins/{name:.*}/set", Handler: rt.set},
	}
}

func (rt *Router) list(w http.ResponseWriter, r *http.Request) error {
	f, err := route.Filters(r)
	if err != nil {
		return err
	}
	out, err := rt.b.List(r.Context(), f)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) inspect(w http.ResponseWriter, r *http.Request) error {
	out, err := rt.b.Inspect(r.Context(), route.Var(r, "name"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func remoteRef(r *http.Request) (reference.Named, error) {
	n, err := reference.ParseNormalizedNamed(r.FormValue("remote"))
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	return reference.TagNameOnly(n), nil
}

func remote(r *http.Request) domain.Remote {
	auth, headers := route.Registry(r)
	return domain.Remote{Auth: auth, Headers: headers}
}

func (rt *Router) privileges(w http.ResponseWriter, r *http.Request) error {
	ref, err := remoteRef(r)
	if err != nil {
		return err
	}
	out, err := rt.b.Privileges(r.Context(), ref, remote(r))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

// transfer runs what fetches a plugin whose privileges are the body.
func transfer(
	w http.ResponseWriter, r *http.Request, do func(ref reference.Named, granted plugin.Privileges, p domain.Progress) error,
) error {
	ref, err := remoteRef(r)
	if err != nil {
		return err
	}
	var granted plugin.Privileges
	if err := route.Decode(r, &granted, false); err != nil {
		return err
	}
	out := route.NewMessages(w, image.WriteError)
	return out.End(do(ref, granted, image.NewProgress(out)))
}

// nameHeader tells a client what it goes on with: settings, and enabling.
const nameHeader = "Docker-Plugin-Name"

func (rt *Router) pull(w http.ResponseWriter, r *http.Request) error {
	return transfer(w, r, func(ref reference.Named, granted plugin.Privileges, p domain.Progress) error {
		name, err := domain.NameFor(ref, r.FormValue("name"))
		if err != nil {
			return err
		}
		w.Header().Set(nameHeader, name)
		return rt.b.Pull(r.Context(), ref, name, granted, remote(r), p)
	})
}

func (rt *Router) upgrade(w http.ResponseWriter, r *http.Request) error {
	return transfer(w, r, func(ref reference.Named, granted plugin.Privileges, p domain.Progress) error {
		return rt.b.Upgrade(r.Context(), route.Var(r, "name"), ref, granted, remote(r), p)
	})
}

func (rt *Router) push(w http.ResponseWriter, r *http.Request) error {
	out := route.NewMessages(w, image.WriteError)
	return out.End(rt.b.Push(r.Context(), route.Var(r, "name"), remote(r), image.NewProgress(out)))
}

// nothing ends a request that has no answer but its status.
func nothing(w http.ResponseWriter, status int, err error) error {
	if err == nil {
		w.WriteHeader(status)
	}
	return err
}

func (rt *Router) create(w http.ResponseWriter, r *http.Request) error {
	return nothing(w, http.StatusNoContent, rt.b.Create(r.Context(), r.FormValue("name"), r.Body))
}

func (rt *Router) set(w http.ResponseWriter, r *http.Request) error {
	var args []string
	if err := route.Decode(r, &args, false); err != nil {
		return err
	}
	return nothing(w, http.StatusNoContent, rt.b.Set(r.Context(), route.Var(r, "name"), args))
}

func (rt *Router) enable(w http.ResponseWriter, r *http.Request) error {
	seconds := 0
	if v := r.FormValue("timeout"); v != "" {
		var err error
		if seconds, err = strconv.Atoi(v); err != nil || seconds < 0 {
			return fault.New(errdefs.ErrInvalidArgument, "invalid timeout %q: a number of seconds is wanted", v)
		}
	}
	return nothing(w, http.StatusOK, rt.b.Enable(r.Context(), route.Var(r, "name"), time.Duration(seconds)*time.Second))
}

func (rt *Router) disable(w http.ResponseWriter, r *http.Request) error {
	return nothing(w, http.StatusOK, rt.b.Disable(r.Context(), route.Var(r, "name"), route.Bool(r, "force")))
}

func (rt *Router) remove(w http.ResponseWriter, r *http.Request) error {
	return nothing(w, http.StatusOK, rt.b.Remove(r.Context(), route.Var(r, "name"), route.Bool(r, "force")))
}
