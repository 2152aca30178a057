package container

import (
	"context"
	"io"
	"net/http"

	"github.com/moby/moby/api/pkg/stdcopy"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) attach(w http.ResponseWriter, r *http.Request) error {
	if err := rt.attachRaw(w, r); err != nil {
		return route.PlainError{Err: err}
	}
	return nil
}

func (rt *Router) attachRaw(w http.ResponseWriter, r *http.Request) error {
	tty, err := rt.containers.IsTTY(r.Context(), name(r))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &raw{w: w, req: r, mux: !tty, cancel: cancel}
	defer c.close()

	o := domain.AttachOptions{
		Logs:       route.Bool(r, "logs"),
		Stream:     route.Bool(r, "stream"),
		DetachKeys: r.FormValue("detachKeys"),
	}
	o.Stdout, o.Stderr = outputs(c, !tty, route.Bool(r, "stdout"), route.Bool(r, "stderr"))
	wantIn := route.Bool(r, "stdin")
	if wantIn {
		o.Stdin = &stdin{c: c}
	}
	o.Started = func() error {
		if err := c.open(ctx); err != nil {
			return err
		}
		context.AfterFunc(ctx, c.interrupt)
		if !wantIn {
			c.watchGone()
		}
		return nil
	}
	return rt.containers.Attach(ctx, name(r), o)
}

// outputs gives the wanted output streams of a connection.
func outputs(to io.Writer, mux, wantOut, wantErr bool) (stdout, stderr io.Writer) {
	m := &muxer{to: to}
	if wantOut {
		stdout = to
		if mux {
			stdout = m.stream(stdcopy.Stdout)
		}
	}
	if wantErr {
		stderr = to
		if mux {
			stderr = m.stream(stdcopy.Stderr)
		}
	}
	return stdout, stderr
}
