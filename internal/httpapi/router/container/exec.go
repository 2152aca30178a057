package container

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) execCreate(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecCreateRequest
	if err := route.Decode(r, &req, true); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if !route.AtLeast(r.Context(), "1.42") {
		req.ConsoleSize = nil
	}
	id, err := rt.containers.ExecCreate(r.Context(), name(r), req)
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (rt *Router) execStart(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecStartRequest
	if err := route.Decode(r, &req, true); err != nil {
		return err
	}
	if !route.AtLeast(r.Context(), "1.42") || !req.Tty {
		req.ConsoleSize = nil
	}
	id := route.Var(r, "id")
	o := domain.ExecStartOptions{Detach: req.Detach, TTY: req.Tty, ConsoleSize: req.ConsoleSize}
	if req.Detach {
		if err := rt.containers.ExecStart(r.Context(), id, o); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &raw{w: w, req: r, mux: !req.Tty, cancel: cancel}
	defer c.close()
	o.Stdout, o.Stderr = outputs(c, !req.Tty, true, !req.Tty)
	o.Stdin = &stdin{c: c}
	o.Started = func() error {
		if err := c.open(ctx); err != nil {
			return err
		}
		context.AfterFunc(ctx, c.interrupt)
		return nil
	}
	err := rt.containers.ExecStart(ctx, id, o)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	// A process that could not run is told to the user on its own output; the
	// client learns the exit code from inspect. Unknown and unfit execs are
	// answers of the API.
	if !c.opened {
		if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
			return err
		}
		if oerr := c.open(ctx); oerr != nil {
			return oerr
		}
	}
	_, _ = fmt.Fprintf(o.Stdout, "%v\r\n", err)
	return nil
}

func (rt *Router) execInspect(w http.ResponseWriter, r *http.Request) error {
	e, err := rt.containers.ExecInspect(r.Context(), route.Var(r, "id"))
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusOK, e)
}

func (rt *Router) execResize(w http.ResponseWriter, r *http.Request) error {
	height, width, err := size(r)
	if err != nil {
		return err
	}
	if err := rt.containers.ExecResize(r.Context(), route.Var(r, "id"), height, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
