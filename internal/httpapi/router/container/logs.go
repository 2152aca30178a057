package container

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

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
	if o.Since, err = unixTime(r.Form.Get("since")); err != nil {
		return o, invalid(`invalid value for "since": %v`, err)
	}
	if v := r.Form.Get("until"); v != "0" {
		if o.Until, err = unixTime(v); err != nil {
			return o, invalid(`invalid value for "until": %v`, err)
		}
	}
	// "all", and what is no number, is everything.
	if n, err := strconv.Atoi(r.Form.Get("tail")); err == nil {
		o.Tail = n
	}
	return o, nil
}

// unixTime reads "seconds" or "seconds.nanoseconds"; "" is the zero time.
func unixTime(v string) (time.Time, error) {
	if v == "" {
		return time.Time{}, nil
	}
	s, frac, _ := strings.Cut(v, ".")
	sec, err := strconv.ParseInt(s, 10, 64)
	if e, ok := err.(*strconv.NumError); ok { //nolint:errorlint // ParseInt returns exactly this type
		return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid seconds %q: %w", v, s, e.Err)
	}
	if frac == "" {
		return time.Unix(sec, 0).UTC(), nil
	}
	for i := range len(frac) {
		if c := frac[i]; c < '0' || c > '9' {
			return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid nanoseconds: invalid character %q at position %d", v, c, i)
		}
	}
	if len(frac) > 20 {
		return time.Time{}, fmt.Errorf("invalid timestamp %q: invalid nanoseconds: length %d exceeds maximum 20", v, len(frac))
	}
	nsec, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(sec, nsec).UTC(), nil
}
