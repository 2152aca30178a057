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
	left  left // by an earlier daemon
	had   int  // messages of that which the log has
	lost  int
}

// newLogWriter finds out where an earlier daemon was.
func (h *Hub) newLogWriter(stream string) *logWriter {
	w := &logWriter{hub: h, lines: splitter{stream: stream}, carry: h.carried[stream]}
	w.left = w.carry.restore(&w.lines)
	var err error
	if w.had, err = w.countLogged(); err != nil {
		h.cfg.Logger.Warn("output may be logged twice", logkey.Name, stream, logkey.Err, err)
	}
	return w
}

func (w *logWriter) write(p []byte) {
	now := w.hub.cfg.Clock.Now()
	ms := w.split(p, now)
	w.carry.prepare(&w.lines, p, now)
	w.log(ms, 0)
	w.carry.logged()
}

func (w *logWriter) split(p []byte, now time.Time) []logs.Message {
	if w.hub.cfg.Log == nil {
		return nil
	}
	return w.lines.split(p, now)
}

// resume brings to its end what an earlier daemon was doing when it was killed.
func (w *logWriter) resume(src source) error {
	l := w.left
	p, ok := src.(*peeker)
	switch {
	case ok && l.pending > 0:
		if err := p.skip(l.pending, l.sum); err != nil {
			return err
		}
		w.carry.taken()
	case ok && l.intent == intentWrite:
		return w.resumeWrite(p, l)
	case l.intent == intentFlush:
		ms := w.lines.flush()
		done := min(w.had, len(ms))
		w.carry.adopt(&w.lines, 0, 0)
		w.log(ms[done:], done)
		w.carry.logged()
	}
	return nil
}

// resumeWrite logs those messages of a batch that are not in the log.
func (w *logWriter) resumeWrite(p *peeker, l left) error {
	b, err := p.first(l.bytes, l.sum)
	if err != nil || b == nil {
		return err
	}
	ms := w.split(b, l.now)
	done := min(w.had, len(ms))
	w.carry.adopt(&w.lines, l.bytes, l.sum)
	w.log(ms[done:], done)
	w.carry.logged()
	if done < len(ms) {
		w.hub.broadcast(w.lines.stream, b)
	}
	if err = p.done(); err == nil {
		w.carry.taken()
	}
	return err
}

// countLogged is how many messages of what an earlier daemon was logging the log has.
func (w *logWriter) countLogged() (int, error) {
	l := w.left
	if !l.noted || w.hub.cfg.Log == nil {
		return 0, nil
	}
	n, known, err := logs.Since(w.hub.cfg.Log, l.place, w.lines.stream)
	switch {
	case err != nil:
		return l.before, err
	case !known:
		return l.after, nil
	}
	return l.before + n, nil
}

func (w *logWriter) finish() {
	ms := w.lines.flush()
	w.carry.prepareFlush(&w.lines)
	w.log(ms, 0)
	w.carry.logged()
	w.carry.close()
	if w.lost > 0 {
		w.hub.cfg.Logger.Warn("log messages were lost", logkey.Name, w.lines.stream, keyLost, w.lost)
	}
}

// log logs ms, before which some messages of the same batch were logged.
func (w *logWriter) log(ms []logs.Message, earlier int) {
	if len(ms) == 0 {
		return
	}
	if err := logs.LogAll(w.hub.cfg.Log, ms, func(p logs.Place, before, after int) { w.carry.note(p, earlier+before, earlier+after) }); err != nil {
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
