package volume

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
)

// Record is everything about a volume that outlives the daemon.
type Record struct {
	Name      string
	Driver    string
	Options   map[string]string
	Labels    map[string]string
	Created   time.Time
	Anonymous bool
	State     State
}

// State is where a volume is in its life. It is written before the driver is
// asked, so that a daemon that died in between can tell at its next start.
type State string

// States of a volume.
const (
	Creating State = "creating" // the driver may have made it; nobody was told of it
	Ready    State = "ready"
	Removing State = "removing" // part of the data may be gone
)

func (r *Record) spec() Spec { return Spec{Name: r.Name, Options: r.Options} }

// Records keeps volume records durably. Put and Delete are atomic and on disk
// when they return; All is called once, at start.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	All() ([]*Record, error)
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// Populator copies the content of the directory src into dst, the root of a
// volume that others may be using, with owners, modes, times, extended
// attributes, links and special files. sub, if not empty, is the directory below
// dst to fill instead; nothing is done where there is no such directory. It does
// nothing where the directory holds anything, and a copy that was cut off is
// finished by the next call; whatever was there stays.
type Populator interface {
	Populate(ctx context.Context, src, dst, sub string) error
}

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock     clock.Clock
	Random    io.Reader // for the names of anonymous volumes
	Log       *slog.Logger
	Records   Records
	Events    Publisher
	Populator Populator
	// Drivers; the first is the default one.
	Drivers []Driver
}

// Request asks for a volume for a container.
type Request struct {
	Name      string // empty: anonymous, the name is made
	Driver    string // empty: the default driver
	Options   map[string]string
	Labels    map[string]string
	Container string // who refers to it
}

// Info is a volume as a container sees it.
type Info struct {
	Name      string
	Driver    string
	Source    string // the directory inspect shows as the mount's source, known before it is mounted
	Anonymous bool
}

// CreateOptions make a volume.
type CreateOptions struct {
	Name    string // empty: anonymous, the name is made
	Driver  string // empty: the default driver
	Options map[string]string
	Labels  map[string]string
}
