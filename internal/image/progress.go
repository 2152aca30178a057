package image

import (
	"encoding/json"
	"io"
	"sync"

	"github.com/moby/moby/api/types/jsonstream"
)

// stream writes progress in the form that Docker clients read: one JSON
// message per line. The first write error is kept and ends the output.
type stream struct {
	mu  sync.Mutex // guards the fields below; held across writes, to keep lines whole
	w   io.Writer
	err error
}

// NewProgress returns a Progress that writes JSON messages to w.
func NewProgress(w io.Writer) Progress { return &stream{w: w} }

func (s *stream) send(m any) {
	b, err := json.Marshal(m)
	if err != nil {
		b = []byte(`{"error":"format error"}`)
	}
	b = append(b, '\r', '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
}

// Message implements Progress.
func (s *stream) Message(id, text string) { s.send(jsonstream.Message{ID: id, Status: text}) }

// Text writes a piece of plain output, as load and import end with.
func (s *stream) Text(text string) { s.send(jsonstream.Message{Stream: text}) }

// Update implements Progress.
func (s *stream) Update(id, action string, current, total int64) {
	p := &jsonstream.Progress{Current: current, Total: total, HideCounts: current == 0 && total == 0}
	s.send(jsonstream.Message{ID: id, Status: action, Progress: p})
}

// Aux implements Progress.
func (s *stream) Aux(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	raw := json.RawMessage(b)
	s.send(jsonstream.Message{Aux: &raw})
}

// Silent is a Progress that tells nobody.
type Silent struct{}

// Message implements Progress.
func (Silent) Message(string, string) {}

// Update implements Progress.
func (Silent) Update(string, string, int64, int64) {}

// Aux implements Progress.
func (Silent) Aux(any) {}

// WriteError ends a message stream with an error, in the form clients know.
func WriteError(w io.Writer, err error) {
	s := &stream{w: w}
	s.send(struct {
		Error  *jsonstream.Error `json:"errorDetail"`
		Legacy string            `json:"error"`
	}{&jsonstream.Error{Message: err.Error()}, err.Error()})
}
