package container

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) logs(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	o, err := decodeLogs(r)
	if err != nil {
		return err
	}
	tty, err := rt.containers.IsTTY(ctx, name(r))
	if err != nil {
		return err
	}
	started := false
	o.Started = func() error {
		started = true
		contentType := types.MediaTypeRawStream
		if !tty && route.AtLeast(ctx, "1.42") {
			contentType = types.MediaTypeMultiplexedStream
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(http.StatusOK)
		return http.NewResponseController(w).Flush()
	}
	var stdout, stderr, system io.Writer
	to := route.FlushWriter{W: w}
	stdout, stderr, system = to, to, to
	if !tty {
		m := &muxer{to: to}
		stdout, stderr, system = m.stream(stdcopy.Stdout), m.stream(stdcopy.Stderr), m.stream(stdcopy.Systemerr)
	}
	err = rt.containers.Logs(ctx, name(r), o, stdout, stderr)
	if err == nil || !started || ctx.Err() != nil {
		return err
	}
	// The status is out: the error goes the way of the messages.
	_, err = fmt.Fprintf(system, "Error grabbing logs: %v\n", err)
	return err
}

func decodeLogs(r *http.Request) (domain.LogsOptions, error) {
	o := domain.LogsOptions{
		Stdout:     route.Bool(r, "stdout"),
		Stderr:     route.Bool(r, "stderr"),
		Follow:     route.Bool(r, "follow"),
		Timestamps: route.Bool(r, "timestamps"),
		Details:    route.Bool(r, "details"),
		Tail:       -1,
	}
	if !o.Stdout && !o.Stderr {
		return o, invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	var err error
	if o.Since, err = route.Timestamp(r.Form.Get("since")); err != nil {
		return o, invalid(`invalid value for "since": %v`, err)
	}
	if v := r.Form.Get("until"); v != "0" {
		if o.Until, err = route.Timestamp(v); err != nil {
			return o, invalid(`invalid value for "until": %v`, err)
		}
	}
	// "all", and what is no number, is everything.
	if n, err := strconv.Atoi(r.Form.Get("tail")); err == nil {
		o.Tail = n
	}
	return o, nil
}
