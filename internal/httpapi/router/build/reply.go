package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	domain "holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// reply is the stream of a classic build. Until the first message the request
// can still fail with a status; after it an error is a message, too.
type reply struct {
	w     http.ResponseWriter
	quiet bool

	mu      sync.Mutex // guards the fields below; held across writes
	started bool
	err     error  // the first failed write
	kept    []byte // what a quiet build would have said, for its failure
}

// keptLimit bounds what a failed quiet build says.
const keptLimit = 64 << 10

func newReply(w http.ResponseWriter, quiet bool) *reply { return &reply{w: w, quiet: quiet} }

func (o *reply) send(m any) {
	b, err := json.Marshal(m)
	if err != nil {
		b = []byte(`{"error":"format error"}`)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.started {
		o.started = true
		o.w.Header().Set("Content-Type", "application/json")
	}
	if o.err == nil {
		_, o.err = route.FlushWriter{W: o.w}.Write(append(b, '\r', '\n'))
	}
}

// text passes on what the build says.
func (o *reply) text(s string) {
	if !o.quiet {
		o.send(jsonstream.Message{Stream: s})
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, s...)
	if over := len(o.kept) - keptLimit; over > 0 {
		o.kept = o.kept[over:]
	}
}

// IDs of the messages that BuildKit's clients read.
const (
	traceID  = "moby.buildkit.trace"
	resultID = "moby.image.id"
)

// trace passes on a piece of a build's status.
func (o *reply) trace(b []byte) error { return o.aux(traceID, b) }

// result tells the image of a build in a session; "" where it made none.
func (o *reply) result(id string) error {
	if id == "" {
		return nil
	}
	return o.aux(resultID, build.Result{ID: id})
}

func (o *reply) aux(id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", id, err)
	}
	raw := json.RawMessage(b)
	o.send(jsonstream.Message{ID: id, Aux: &raw})
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// done tells the result: all of it, or only the ID.
func (o *reply) done(id string, tags []string) {
	if o.quiet {
		o.send(jsonstream.Message{Stream: id + "\n"})
		return
	}
	b, err := json.Marshal(build.Result{ID: id})
	if err == nil {
		raw := json.RawMessage(b)
		o.send(jsonstream.Message{Aux: &raw})
	}
	domain.NewClassic(o.text).Done(id, tags)
}

// end returns the error of a reply not begun, and writes that of a begun one.
func (o *reply) end(err error) error {
	var step *domain.StepError
	failed := errors.As(err, &step) // a command: that is part of the build's story
	if err == nil || !o.started && !failed {
		return err
	}
	if len(o.kept) > 0 {
		o.send(jsonstream.Message{Stream: string(o.kept)})
	}
	detail := &jsonstream.Error{Message: err.Error()}
	if failed {
		detail.Code = step.Code
	}
	o.send(struct {
		Error  *jsonstream.Error `json:"errorDetail"`
		Legacy string            `json:"error"`
	}{detail, err.Error()})
	return nil
}
