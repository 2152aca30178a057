package volume

import (
	"context"
	"io"
)

// Driver stores the data of volumes, in one technology. A driver keeps no
// records: the Service tells it the options each time.
//
// Vocabulary: a volume is *created* once, *mounted* for each run of a container
// that uses it, *removed* once. Calls are serialised per volume name by the
// Service, but for those of Snapshotter and Cloner that say otherwise. Create
// and Remove are idempotent, so that a crash between the driver's deed and the
// record can be repaired by doing it again.
//
// What only some drivers can do is in interfaces of its own below. The Service
// asks for the interface and for the capability: a driver may know how and not
// be able to on this machine.
type Driver interface {
	// Name is what `docker volume create --driver` says.
	Name() string
	// Capabilities says which of the optional verbs work here.
	Capabilities() Capabilities
	// CheckOptions refuses options that the driver does not know, by name
	// (errdefs.ErrInvalidArgument).
	CheckOptions(options map[string]string) error
	// Create makes an empty volume, durably. One that is there and empty is
	// good; one that holds data nobody told of is refused with
	// errdefs.ErrAlreadyExists. A failing Create leaves nothing behind.
	Create(ctx context.Context, v Spec) error
	// Remove deletes the volume's data and its snapshots. A volume that is not
	// there is no error. errdefs.ErrFailedPrecondition says that it refused and
	// touched nothing.
	Remove(ctx context.Context, v Spec) error
	// Path is where the data is or will be mounted; it does no I/O.
	Path(v Spec) string
	// Mount makes the data reachable at Path. It is called for each user and
	// idempotent. Data that has gone is errdefs.ErrDataLoss: a driver never makes
	// it anew, empty.
	Mount(ctx context.Context, v Spec) error
	// Unmount is called when the last user has gone. It tolerates a volume that
	// is not mounted (after a reboot).
	Unmount(ctx context.Context, v Spec) error
	// Usage reports bytes owned by the volume alone; it may walk the tree.
	Usage(ctx context.Context, v Spec) (bytes int64, err error)
}

// Snapshotter keeps states of a volume beside it. Names of snapshots follow the
// rule of volumes' names.
type Snapshotter interface {
	// Snapshot keeps the present state under a name that is free, durably. It is
	// whole or not there: one that fails or is cut off leaves nothing under the
	// name. Other users may be writing; Capabilities.PointInTime says whether it is
	// one moment all the same. The volume is mounted meanwhile.
	Snapshot(ctx context.Context, v Spec, snapshot string) (Made, error)
	// RemoveSnapshot deletes a snapshot, or what a cut-off Snapshot or
	// RemoveSnapshot left of one. One that is not there is no error.
	RemoveSnapshot(ctx context.Context, v Spec, snapshot string) error
	// SnapshotPath is the snapshot's directory while the volume is mounted.
	SnapshotPath(v Spec, snapshot string) string
	// SnapshotUsage reports the bytes that removing the snapshot would at least
	// give back where the driver knows, else the sizes of its files.
	SnapshotUsage(ctx context.Context, v Spec, snapshot string) (bytes int64, err error)
	// Rollback puts a snapshot's state in place of the volume's, whose own becomes
	// the snapshot keep. Nobody has the volume mounted. A failing Rollback has
	// changed nothing.
	Rollback(ctx context.Context, v Spec, snapshot, keep string) (Made, error)
	// SettleRollback ends a Rollback that was cut off: forwards if the volume's
	// state had left its place, else back. It tells which, and may be repeated.
	SettleRollback(ctx context.Context, v Spec, keep string) (done bool, err error)
}

// Cloner fills volumes from volumes.
type Cloner interface {
	// Clone gives to, which Create made and nobody uses, the state of from, or of
	// from's snapshot where that is not empty, durably. What a failing Clone
	// leaves is removed with to. Both have the same driver.
	Clone(ctx context.Context, from Spec, snapshot string, to Spec) (Made, error)
}

// Sender moves states of volumes through streams, to another pool, driver or
// machine. What is in a stream is the driver's affair; every driver's Receive
// takes a tar (internal/volume/archive) as well as a stream of btrfs, if it tells
// all.
type Sender interface {
	// Send writes a snapshot, or where that is empty the present state, of a volume
	// that is mounted. With since, the name of an older snapshot, only what changed
	// is written; errdefs.ErrNotImplemented where the driver cannot
	// (Capabilities.Incremental).
	Send(ctx context.Context, v Spec, snapshot, since string, to io.Writer) error
	// Receive makes a snapshot, under a name that is free, of a stream, durably. It
	// is whole or not there, and the volume and its other snapshots stay as they
	// are. An incremental stream needs the snapshot since to be what its sender had;
	// one that is not is errdefs.ErrFailedPrecondition. With no name for the
	// snapshot, the data of a volume that Create made and nobody uses becomes what
	// was sent; what a failing Receive leaves then is removed with the volume. A
	// stream that is cut off, damaged or hostile is errdefs.ErrInvalidArgument.
	Receive(ctx context.Context, v Spec, snapshot, since string, from io.Reader) (Made, error)
}

// Renamer gives volumes other names.
type Renamer interface {
	// Rename moves data and snapshots, durably, to a name that is free. Nobody has
	// the volume mounted. Where from is gone and to is there it has been done.
	Rename(ctx context.Context, from, to Spec) error
}

// Keeper tells whether a volume's data is the driver's own. One that is not asked
// may keep it elsewhere: then nothing here counts it, prunes it or trashes it.
type Keeper interface {
	Keeps(v Spec) bool
}

// OptSize is the driver option with the limit of a Limiter's volume.
const OptSize = "size"

// Limiter changes what a volume may hold.
type Limiter interface {
	// Resize sets the limit in bytes; 0 is none. The Service writes it into OptSize.
	Resize(ctx context.Context, v Spec, bytes int64) error
}

// Adopter is a driver whose volumes others make as well: another node, or an
// administrator. One that is there already is taken as it is, and never undone.
type Adopter interface {
	// Exists tells whether the volume is there.
	Exists(ctx context.Context, v Spec) (bool, error)
}

// Plugins are drivers that come and go while the daemon runs.
type Plugins interface {
	// Driver finds a driver and makes sure that it is one. errdefs.ErrNotFound
	// for an unknown name, errdefs.ErrUnavailable for one that does not answer.
	Driver(ctx context.Context, name string) (Driver, error)
	// Known is the driver of that name, whether or not it is there now, without
	// I/O; nil for a name that no plugin can have.
	Known(name string) Driver
	// Names tells the drivers that are there, as far as that is known.
	Names() []string
}

// Made tells how a copy came about.
type Made struct {
	Method string // MethodCopy, …
	Files  int64  // files looked at; 0 where none had to be
	Bytes  int64  // bytes of files that were written, not shared
}

// Methods of copying.
const (
	MethodCopy      = "copy"      // every byte was written again
	MethodReflink   = "reflink"   // each file shares its blocks with the first
	MethodSubvolume = "subvolume" // the file system keeps it as one
	MethodStream    = "stream"    // it was received
)

// Spec names a volume to its driver.
type Spec struct {
	Name    string
	Options map[string]string
}

// Capabilities are the optional verbs of a driver.
type Capabilities struct {
	Scope       string // "local" or "global"
	Snapshot    bool
	PointInTime bool // a snapshot is one moment, whoever writes
	Clone       bool
	Rename      bool
	Quota       bool
	Send        bool // and receive
	Incremental bool // of a stream: only what changed since a snapshot
	CheapSize   bool // Usage answers without a walk
}
