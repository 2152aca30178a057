package usage

import (
	"context"
	"log/slog"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
)

// Kind is a kind of thing whose size has to be measured.
type Kind string

// Kinds of measured things.
const (
	Layer  Kind = "layer"  // a container's writable layer, by container ID
	Volume Kind = "volume" // by name

	Snapshot Kind = "snapshot" // of a volume, by volume@snapshot
	Trash    Kind = "trash"    // a removed volume with its snapshots, by its number there
)

// Key names a measured thing.
type Key struct {
	Kind Kind
	ID   string
}

// Size is what a walk finds.
type Size struct {
	Bytes int64 // as Docker tells sizes of the kind: blocks of a layer, lengths of a volume's files
	Disk  int64 // blocks, in bytes
	Files int64 // everything but directories, hard links once
}

// Subject is a thing to measure as its owner tells it now.
type Subject struct {
	Key  Key
	Open bool // somebody may be writing to it
	// Birth differs between two things that had the same name one after the other.
	Birth string
	// Stamp differs before and after times when the thing was open.
	Stamp string
}

// Subjects tells what there is to measure.
type Subjects interface {
	All() []Subject
	// Find is All for one; ok is false where there is none.
	Find(k Key) (s Subject, ok bool)
}

// Walker measures by looking at every file.
type Walker interface {
	// Walk measures. It tells how long it worked, without the pauses it makes
	// when it is to be gentle. errdefs.ErrNotFound for what has gone.
	Walk(ctx context.Context, k Key, gentle bool) (s Size, worked time.Duration, err error)
}

// Entry is what the ledger has about one thing.
type Entry struct {
	Key  Key
	Size Size
	// At is when the walk began: what was written before it is in the size.
	At time.Time
	// Worked is what the walk cost.
	Worked time.Duration
	Birth  string
	Stamp  string
	Open   bool // it was, while it was measured
}

// Records keeps entries durably. A write is on disk when it returns.
type Records interface {
	Put(id string, e *Entry) error
	Delete(id string) error
	All() ([]*Entry, error)
}

// Deps are the parts of a Ledger; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Records  Records
	Subjects Subjects
	Walker   Walker
}
