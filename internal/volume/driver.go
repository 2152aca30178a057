package volume

import "context"

// Driver stores the data of volumes, in one technology. A driver keeps no
// records: the Service tells it the options each time.
//
// Vocabulary: a volume is *created* once, *mounted* for each run of a container
// that uses it, *removed* once. Calls are serialised per volume name by the
// Service. Create and Remove are idempotent, so that a crash between the
// driver's deed and the record can be repaired by doing it again.
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
	// Remove deletes the volume's data. A volume that is not there is no error.
	// errdefs.ErrFailedPrecondition says that it refused and touched nothing.
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

// Spec names a volume to its driver.
type Spec struct {
	Name    string
	Options map[string]string
}

// Capabilities are the optional verbs of a driver.
type Capabilities struct {
	Scope     string // "local" or "global"
	Snapshot  bool
	Clone     bool
	Quota     bool
	CheapSize bool // Usage answers without a walk
}
