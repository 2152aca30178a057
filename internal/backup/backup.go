package backup

import (
	"context"
	"time"

	"holdfast.dev/holdfast/internal/backup/tree"
)

// Repository is a place where backups are kept.
type Repository struct {
	Name    string
	Place   Place
	Created time.Time
}

// Backup is a state of a volume in a repository.
type Backup struct {
	ID          string            `json:"id"`
	Repository  string            `json:"-"`
	Volume      string            `json:"volume"`
	Host        string            `json:"host"`
	Driver      string            `json:"driver"`
	Options     map[string]string `json:"options,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"` // of the volume
	Tag         string            `json:"tag,omitempty"`
	Why         string            `json:"why,omitempty"` // who wanted it: empty for a person, "schedule"
	Moment      time.Time         `json:"moment"`        // whose state it is
	Finished    time.Time         `json:"finished"`
	Consistency string            `json:"consistency"`
	From        From              `json:"from"`
	Quiet       Quiet             `json:"quiet,omitzero"`
	Totals      tree.Totals       `json:"totals"`
	Stored      int64             `json:"stored"` // bytes that it added to the repository
	Verified    *Verification     `json:"-"`      // nil: nobody has looked
}

// Quiet tells how those who wrote were had to hold still.
type Quiet struct {
	Hook   string        `json:"hook,omitempty"`
	Paused time.Duration `json:"paused,omitempty"` // how long they had to wait
	Why    string        `json:"why,omitempty"`    // what went wrong with it
}

// From says what was read.
type From string

// What a backup is read from.
const (
	FromVolume   From = "volume"   // the volume itself
	FromSnapshot From = "snapshot" // a snapshot that was made for it
)

// Verification is what a restore into a scratch volume showed.
type Verification struct {
	Backup   string            `json:"backup"`
	At       time.Time         `json:"at"`
	Host     string            `json:"host"`
	Totals   tree.Totals       `json:"totals"`
	Problems []tree.Difference `json:"problems,omitempty"` // none: it is good
	Broken   []string          `json:"broken,omitempty"`   // the repository's pieces that cannot be read
}

// OK tells whether all was as it was recorded.
func (v *Verification) OK() bool { return v != nil && len(v.Problems) == 0 }

// Access is what an engine needs to get at a repository.
type Access struct {
	Name    string            `json:"name"`
	Place   Place             `json:"place"`
	Secrets map[string]string `json:"secrets"`
	Dir     string            `json:"dir"`  // for what the engine keeps here: settings and caches
	Host    string            `json:"host"` // who we are there
}

// SaveRequest is a backup to make. What is known of it is in Backup.
type SaveRequest struct {
	Backup Backup `json:"backup"`
	Dir    string `json:"dir"`
	Stable bool   `json:"stable"` // tree.Header
}

// Restored tells what a restore brought.
type Restored struct {
	Totals  tree.Totals       `json:"totals"`
	Damaged []tree.Difference `json:"damaged,omitempty"` // left out
}

// Engine keeps backups in repositories. Calls may come at once. Errors have
// errdefs' classes: ErrUnavailable for a repository that cannot be reached,
// ErrPermissionDenied for a password that is not its own, ErrResourceExhausted for
// one that is full, ErrDataLoss for what is damaged. No text holds a secret.
type Engine interface {
	// Prepare makes a repository where there is none, and tells whether it did.
	Prepare(ctx context.Context, a Access) (made bool, err error)
	// List tells the backups that are whole, oldest first.
	List(ctx context.Context, a Access) ([]Backup, error)
	// Save makes a backup. One that is cut off goes on, when it is asked for again,
	// from where it had come in the last minute.
	Save(ctx context.Context, a Access, r SaveRequest, progress func(tree.Totals)) (Backup, error)
	// Restore puts a backup's tree in an empty directory. partial: what cannot be
	// read is left out and told of, instead of ending it.
	Restore(ctx context.Context, a Access, id, dir string, partial bool, progress func(tree.Totals)) (Restored, error)
	// Verify restores into an empty directory, compares, and keeps the result with
	// the backup.
	Verify(ctx context.Context, a Access, id, dir string, progress func(tree.Totals)) (Verification, error)
	// Remove forgets backups. Their room comes back by Maintain. One that is not
	// there is no error.
	Remove(ctx context.Context, a Access, ids []string) error
	// Maintain gives back room that nothing needs, if it is time for it.
	Maintain(ctx context.Context, a Access) error
}
