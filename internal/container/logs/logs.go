// Package logs keeps the output of containers: drivers that write it and, where
// they can, read it back.
//
// json-file writes Docker's format; local writes a compact binary one; none
// writes nothing; syslog and journald send, and keep a file like local's beside
// it to be read. Files are rotated by size. Writers and followers of a
// log share one process: a follower is told of new messages, and a rotated file
// stays open for the followers that still need it, so that following neither
// loses nor repeats a message.
package logs

import (
	"context"
	"time"
)

// Message is one line, or a piece of a line longer than the limit.
type Message struct {
	Stream  string // "stdout" or "stderr"
	Time    time.Time
	Line    []byte // without the newline; valid during the call it is passed to
	Partial bool   // the line goes on in the next message
	Attrs   map[string]string
}

// ReadOptions selects messages. The tail is taken first, the times select from it.
type ReadOptions struct {
	Since, Until time.Time // zero: no bound
	Tail         int       // messages from the end; negative: all
	Follow       bool      // go on until the Logger is closed or ctx ends
}

// Logger is an open log. Log is durable against a kill of the daemon when it
// returns (handed to the kernel, not necessarily synced).
type Logger interface {
	Name() string
	Log(m Message) error
	// Read calls emit for each selected message, oldest first, across rotated
	// files. errdefs.ErrNotImplemented where the driver cannot read.
	Read(ctx context.Context, o ReadOptions, emit func(Message) error) error
	Close() error
}

// batcher is a Logger that writes several messages at once, all or none.
type batcher interface {
	logAll(ms []Message, note Note) error
}

// LogAll writes messages in order, in one piece where the driver can. note may be
// nil; a driver that keeps no files, or writes later, does not call it.
func LogAll(l Logger, ms []Message, note Note) error {
	if b, ok := l.(batcher); ok {
		return b.logAll(ms, note)
	}
	for _, m := range ms {
		if err := l.Log(m); err != nil {
			return err
		}
	}
	return nil
}
