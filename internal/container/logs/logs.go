// Package logs keeps the output of containers: drivers that write it and, where
// they can, read it back.
package logs

import (
	"context"
	"time"
)

// Message is one line, or a piece of a line longer than the limit.
type Message struct {
	Stream  string // "stdout" or "stderr"
	Time    time.Time
	Line    []byte // without the newline
	Partial bool   // the line goes on in the next message
	Attrs   map[string]string
}

// ReadOptions selects messages.
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
