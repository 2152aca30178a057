package volume

import (
	"context"
	"io"
	"log/slog"
	"slices"
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
	Protected bool       // nothing removes it
	Origin    string     `json:",omitempty"` // what it was cloned from: a volume, or volume@snapshot
	Snapshots []Snapshot `json:",omitempty"` // oldest first
	Doing     *Intent    `json:",omitempty"` // what is being done to it
	Was       string     `json:",omitempty"` // in the trash: its name
	Removed   time.Time  `json:",omitzero"`  // in the trash: since when
}

// Snapshot is a state of a volume that is kept.
type Snapshot struct {
	Name        string
	Created     time.Time
	Labels      map[string]string `json:",omitempty"`
	Protected   bool
	Consistency Consistency
	Method      string // how it was made: MethodCopy, …
	Why         string `json:",omitempty"` // for those nobody asked for by name
	// What was done to those who wrote to it, and how long they had to wait.
	Hook   string        `json:",omitempty"`
	Paused time.Duration `json:",omitempty"`
	Group  string        `json:",omitempty"` // snapshots of several volumes as of one moment
}

// Consistency says what a snapshot shows.
type Consistency string

// Consistencies of snapshots.
const (
	Clean       Consistency = "clean"       // nobody used the volume
	Application Consistency = "application" // one moment for which the applications were prepared
	Crash       Consistency = "crash"       // one moment, as after a power cut
	Live        Consistency = "live"        // copied while it was written: no one moment
)

// Intent is a change that was begun. It is written before the driver is asked
// and taken away with the result.
type Intent struct {
	Verb     Verb
	Snapshot string    `json:",omitempty"`
	Group    string    `json:",omitempty"` // snapshot: what others are made with it
	Keep     string    `json:",omitempty"` // rollback: the snapshot that the replaced state becomes
	To       string    `json:",omitempty"` // rename: the new name
	At       time.Time `json:",omitzero"`  // rename into the trash: when
	With     string    `json:",omitempty"` // replace: the volume whose data comes
	Step     int       `json:",omitempty"` // replace: how far it is
	// Move: the other place, to which it goes, or from which it came.
	Driver  string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
	Phase   MovePhase         `json:",omitempty"`
}

// Verb names a change.
type Verb string

// Verbs of intents.
const (
	DoSnapshot       Verb = "snapshot"
	DoRemoveSnapshot Verb = "remove snapshot"
	DoRollback       Verb = "rollback"
	DoRename         Verb = "rename"
	DoMove           Verb = "move"
)

// State is where a volume is in its life. It is written before the driver is
// asked, so that a daemon that died in between can tell at its next start.
type State string

// States of a volume.
const (
	Creating State = "creating" // the driver may have made it; nobody was told of it
	Filling  State = "filling"  // the driver has made it, what it shall hold is on its way
	Ready    State = "ready"
	Removing State = "removing" // part of the data may be gone
	InTrash  State = "trash"    // removed, and can be had back
)

// clone is for a change: nothing of it is shared with the original.
func (r *Record) clone() Record {
	c := *r
	c.Snapshots = slices.Clone(r.Snapshots)
	return c
}

// snapshot finds a snapshot by name; nil if there is none.
func (r *Record) snapshot(name string) *Snapshot {
	for i := range r.Snapshots {
		if r.Snapshots[i].Name == name {
			return &r.Snapshots[i]
		}
	}
	return nil
}

func (r *Record) dropSnapshot(name string) {
	r.Snapshots = slices.DeleteFunc(r.Snapshots, func(s Snapshot) bool { return s.Name == name })
}

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

// Deps are the parts a Service works with; all but the last three are required.
type Deps struct {
	Clock     clock.Clock
	Random    io.Reader // for the names of anonymous volumes
	Log       *slog.Logger
	Records   Records
	Events    Publisher
	Populator Populator
	// Drivers; the first is the default one unless Default names another.
	Drivers []Driver
	Default string
	Trash   TrashPolicy
	// Plugins are further drivers, whose names come after these. May be nil.
	Plugins Plugins
	// Quiescer has containers hold still; nil: nobody can.
	Quiescer Quiescer
	// Size tells how much a volume holds; nil: its driver is asked, which may walk.
	Size func(ctx context.Context, name string) (int64, error)
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
	ReadOnly  bool // a snapshot: it must be mounted read-only
}

// CreateOptions make a volume.
type CreateOptions struct {
	Name    string // empty: anonymous, the name is made
	Driver  string // empty: the default driver
	Options map[string]string
	Labels  map[string]string
}
