// Package event is the daemon's event stream: an in-process bus with a short
// memory, in the form of the Docker Engine API's events.
package event

import (
	"context"

	"github.com/moby/moby/api/types/events"
)

// Publisher takes events. It never blocks and fills in missing times.
type Publisher interface {
	Publish(m events.Message)
}

// Subscriber reads the stream.
type Subscriber interface {
	// Subscribe returns the remembered messages at or after since (zero: none)
	// and a channel of the later ones, with no gap and no duplicate between them.
	// The channel closes when ctx ends or when the reader is too slow to follow.
	Subscribe(ctx context.Context, sinceNano int64, keep func(events.Message) bool) ([]events.Message, <-chan events.Message)
}
