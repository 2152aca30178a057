package system

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// recordSeparator begins each text of a JSON sequence (RFC 7464).
const recordSeparator = "\x1e"

// window is the time span of an events request.
type window struct {
	since, until time.Time // zero: open
}

func readWindow(r *http.Request) (w window, err error) {
	if w.since, err = route.Timestamp(r.FormValue("since")); err != nil {
		return w, fault.New(errdefs.ErrInvalidArgument, "invalid value for 'since': %s", err)
	}
	if w.until, err = route.Timestamp(r.FormValue("until")); err != nil {
		return w, fault.New(errdefs.ErrInvalidArgument, "invalid value for 'until': %s", err)
	}
	if !w.until.IsZero() && w.until.Before(w.since) {
		return w, fault.New(errdefs.ErrInvalidArgument, "`since` time (%s) cannot be after `until` time (%s)", r.FormValue("since"), r.FormValue("until"))
	}
	return w, nil
}

// nano is t in nanoseconds since 1970, or the first or last time that these can
// tell: a client may ask for any.
func nano(t time.Time) int64 {
	const limit = math.MaxInt64/int64(time.Second) - 1
	switch sec := t.Unix(); {
	case sec > limit:
		return math.MaxInt64
	case sec < -limit:
		return math.MinInt64
	}
	return t.UnixNano()
}

// stream sends the past of the window, then what happens until it ends.
func (rt *Router) stream(w http.ResponseWriter, r *http.Request) error {
	win, err := readWindow(r)
	if err != nil {
		return err
	}
	filters, err := route.Filters(r)
	if err != nil {
		return err
	}
	var sinceNano int64
	switch {
	case !win.since.IsZero():
		sinceNano = max(nano(win.since), 1)
	case !win.until.IsZero():
		sinceNano = 1 // all that is remembered
	}
	// Before the header goes out: a client that has it may count on every event
	// of what it does next.
	past, live := rt.events.Subscribe(r.Context(), sinceNano, matcher(filters))
	send := rt.sender(w, r)
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	for _, m := range past {
		if !win.until.IsZero() && m.TimeNano > nano(win.until) {
			continue
		}
		if err := send(m); err != nil {
			return err
		}
	}
	var end <-chan time.Time
	if !win.until.IsZero() {
		left := win.until.Sub(rt.clock.Now())
		if left <= 0 {
			return nil
		}
		timer := rt.clock.NewTimer(left)
		defer timer.Stop()
		end = timer.C()
	}
	for {
		select {
		case m, ok := <-live:
			if !ok { // the client left, the daemon stops, or the client was too slow
				return nil
			}
			if err := send(m); err != nil {
				return err
			}
		case <-end:
			return nil
		}
	}
}

// sender sets the content type and returns the function that writes one message.
func (rt *Router) sender(w http.ResponseWriter, r *http.Request) func(events.Message) error {
	legacy := !route.AtLeast(r.Context(), "1.52")
	imageCreate := route.AtLeast(r.Context(), "1.46")
	contentType := string(types.MediaTypeJSONLines)
	if legacy {
		contentType = types.MediaTypeJSON
	}
	if asked := accepted(r.Header.Get("Accept")); asked != "" {
		contentType = asked
	}
	w.Header().Set("Content-Type", contentType)
	out := route.FlushWriter{W: w}
	return func(m events.Message) error {
		if !imageCreate && m.Type == events.ImageEventType && m.Action == events.ActionCreate {
			return nil
		}
		var v any = m
		if legacy {
			v = withLegacy(m)
		}
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if contentType == types.MediaTypeJSONSequence {
			line = append([]byte(recordSeparator), line...)
		}
		_, err = out.Write(append(line, '\n'))
		if err != nil && r.Context().Err() != nil {
			return io.EOF // nobody listens any more
		}
		return err
	}
}

// accepted returns the first stream format that the client asks for.
func accepted(header string) string {
	for t := range strings.SplitSeq(header, ",") {
		t, _, _ = strings.Cut(t, ";")
		t = strings.ToLower(strings.TrimSpace(t))
		if slices.Contains([]string{types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence}, t) {
			return t
		}
	}
	return ""
}

// legacyMessage repeats what old clients look for at the top.
type legacyMessage struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func withLegacy(m events.Message) any {
	l := legacyMessage{Status: string(m.Action), ID: m.Actor.ID, Message: m}
	if m.Type == events.ContainerEventType {
		l.From = m.Actor.Attributes["image"]
		return l
	}
	if m.Type == events.ImageEventType {
		return l
	}
	return m
}
