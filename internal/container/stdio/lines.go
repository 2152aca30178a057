package stdio

import (
	"bytes"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/logs"
)

// maxLine is the longest piece of a line that is logged as one message, as in
// Docker.
const maxLine = 16 << 10

// keyLost is the log attribute for how many messages did not reach the log.
const keyLost = "lost"

// splitter cuts a byte stream into log messages.
type splitter struct {
	stream string
	rest   []byte    // of an unfinished line, shorter than maxLine
	since  time.Time // when the unfinished line began, if it began
	inside bool      // a piece of the current line has been given out
	out    []logs.Message
}

// split returns the messages that p completes; they are valid until the next call.
func (s *splitter) split(p []byte, now time.Time) []logs.Message {
	s.out = s.out[:0]
	for len(p) > 0 {
		if len(s.rest) == 0 && !s.inside {
			s.since = now
		}
		room := maxLine - len(s.rest)
		i := bytes.IndexByte(p[:min(len(p), room+1)], '\n')
		switch {
		case i >= 0:
			s.give(p[:i], false)
			p = p[i+1:]
		case len(p) >= room:
			s.give(p[:room], true)
			p = p[room:]
		default:
			s.rest = append(s.rest, p...)
			return s.out
		}
	}
	return s.out
}

// give emits the rest plus p as one message.
func (s *splitter) give(p []byte, partial bool) {
	line := p
	if len(s.rest) > 0 {
		line = append(s.rest, p...)
		s.rest = nil
	}
	s.out = append(s.out, logs.Message{Stream: s.stream, Time: s.since, Line: line, Partial: partial})
	s.inside = partial
}

// flush returns what is left of an unfinished line at the end of the stream.
func (s *splitter) flush() []logs.Message {
	s.out = s.out[:0]
	if len(s.rest) > 0 {
		s.give(nil, true)
	}
	return s.out
}

// logWriter logs one stream. A log that fails loses messages, never the
// process: its first failure is reported, and how much was lost when it works again.
type logWriter struct {
	hub   *Hub
	lines splitter
	carry *carry
	lost  int
}

func (w *logWriter) write(p []byte) {
	var ms []logs.Message
	if w.hub.cfg.Log != nil {
		ms = w.lines.split(p, w.hub.cfg.Clock.Now())
	}
	w.carry.prepare(&w.lines, p)
	w.log(ms)
	w.carry.logged()
}

func (w *logWriter) finish() {
	w.log(w.lines.flush())
	w.carry.flushed(&w.lines)
	w.carry.close()
	if w.lost > 0 {
		w.hub.cfg.Logger.Warn("log messages were lost", logkey.Name, w.lines.stream, keyLost, w.lost)
	}
}

func (w *logWriter) log(ms []logs.Message) {
	if len(ms) == 0 {
		return
	}
	if err := logs.LogAll(w.hub.cfg.Log, ms); err != nil {
		if w.lost == 0 {
			w.hub.cfg.Logger.Warn("log cannot be written, messages are dropped", logkey.Name, w.lines.stream, logkey.Err, err)
		}
		w.lost += len(ms)
		return
	}
	if w.lost > 0 {
		w.hub.cfg.Logger.Warn("log is written again", logkey.Name, w.lines.stream, keyLost, w.lost)
		w.lost = 0
	}
}
