package swarm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// logTime is RFC 3339 with all nine digits, so that lines stay aligned.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (rt *Router) serviceLogs(w http.ResponseWriter, r *http.Request) error {
	return rt.logs(w, r, LogsOptions{Service: id(r)})
}

func (rt *Router) taskLogs(w http.ResponseWriter, r *http.Request) error {
	return rt.logs(w, r, LogsOptions{Task: id(r)})
}

func (rt *Router) logs(w http.ResponseWriter, r *http.Request, o LogsOptions) error {
	ctx := r.Context()
	o.Stdout, o.Stderr, o.Follow = route.Bool(r, "stdout"), route.Bool(r, "stderr"), route.Bool(r, "follow")
	if !o.Stdout && !o.Stderr {
		return fault.New(errdefs.ErrInvalidArgument, "Bad parameters: you must choose at least one stream")
	}
	var err error
	if o.Since, err = route.Timestamp(r.Form.Get("since")); err != nil {
		return fault.New(errdefs.ErrInvalidArgument, `invalid value for "since": %v`, err)
	}
	o.Tail = -1
	if n, err := strconv.Atoi(r.Form.Get("tail")); err == nil { // "all", and what is no number, is everything
		o.Tail = n
	}
	stamps, details := route.Bool(r, "timestamps"), route.Bool(r, "details")
	var raw, started bool
	to := route.FlushWriter{W: w}
	err = rt.b.Logs(ctx, o, func(tty bool) error {
		raw, started = tty, true
		kind := types.MediaTypeRawStream
		if !tty && route.AtLeast(ctx, "1.42") {
			kind = types.MediaTypeMultiplexedStream
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(http.StatusOK)
		return http.NewResponseController(w).Flush()
	}, func(l LogLine) error {
		var text []byte
		if stamps {
			text = append(l.Time.UTC().AppendFormat(text, logTime), ' ')
		}
		if details {
			text = fmt.Appendf(text, "com.docker.swarm.node.id=%s,com.docker.swarm.service.id=%s,com.docker.swarm.task.id=%s ", l.NodeID, l.ServiceID, l.TaskID)
		}
		stream := stdcopy.Stdout
		if l.Stderr {
			stream = stdcopy.Stderr
		}
		return frame(to, raw, stream, append(text, l.Data...))
	})
	if err == nil || !started || ctx.Err() != nil {
		return err
	}
	// The status is out: the error goes the way of the messages.
	return frame(to, raw, stdcopy.Systemerr, fmt.Appendf(nil, "Error grabbing logs: %v\n", err))
}

// frame writes one message, on a raw stream as it is, else behind the header
// that names its stream.
func frame(w io.Writer, raw bool, stream stdcopy.StdType, p []byte) error {
	if raw {
		_, err := w.Write(p)
		return err
	}
	buf := binary.BigEndian.AppendUint32([]byte{byte(stream), 0, 0, 0}, uint32(len(p)))
	_, err := w.Write(append(buf, p...))
	return err
}
