package storage

import (
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
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

const day = 24 * time.Hour

func (rt *Router) top(w http.ResponseWriter, r *http.Request) error {
	spans := map[string]time.Duration{"": day, "hour": time.Hour, "day": day, "week": 7 * day}
	span, ok := spans[r.FormValue("by")]
	if !ok {
		return fault.New(errdefs.ErrInvalidArgument, "invalid value for 'by': %q is not hour, day or week", r.FormValue("by"))
	}
	out, err := rt.b.Top(r.Context(), span)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}

func (rt *Router) explain(w http.ResponseWriter, r *http.Request) error {
	what := r.FormValue("what")
	if what == "" {
		return fault.New(errdefs.ErrInvalidArgument, "nothing to explain is named")
	}
	out, err := rt.b.Explain(r.Context(), what)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, out)
}
