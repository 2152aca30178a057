package api

// PathPrune plans what to remove, and removes it: POST, PruneRequest,
// PruneReport.
const PathPrune = Prefix + "/prune"

// Kinds of things that can be pruned.
const (
	PruneContainers = "container"
	PruneNetworks   = "network"
	PruneVolumes    = "volume"
	PruneImages     = "image"
	PruneCache      = "build cache"
	PruneSnapshots  = "snapshot" // of volumes; what is protected or used stays
	PruneTrash      = "trash"    // removed volumes, for good
	PruneLogs       = "log"      // files of containers' logs that nobody writes
)

// PruneRequest asks for kinds, in the order in which they go. What a step would
// remove counts as gone in those after it.
type PruneRequest struct {
	Steps  []PruneStep `json:"steps"`
	DryRun bool        `json:"dryRun,omitempty"`
	// Only, if not empty, are the Refs of what may go of that; all else stays.
	Only []string `json:"only,omitempty"`
}

// PruneStep is one kind with the filters of Docker's endpoint for it. Kinds that
// Docker does not have take none.
type PruneStep struct {
	Kind    string              `json:"kind"`
	Filters map[string][]string `json:"filters,omitempty"`
	All     bool                `json:"all,omitempty"`  // build cache: also what images share, and the builder's own
	Keep    int64               `json:"keep,omitempty"` // build cache: bytes to leave
}

// PruneReport is a plan or what became of it.
type PruneReport struct {
	DryRun bool        `json:"dryRun"`
	Items  []PruneItem `json:"items"`
	// Frees is what the whole frees on the disk, what things share counted once.
	// After a prune it is what was removed.
	Frees int64 `json:"frees"`
}

// PruneItem is one thing to go.
type PruneItem struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	Name  string `json:"name"`
	Size  int64  `json:"size"`  // as lists show it; -1: not known
	Frees int64  `json:"frees"` // after those before it in the list went
	Why   string `json:"why"`
	// Removed is false in a plan, and for what was used or changed since.
	Removed bool `json:"removed"`
}

// Ref names the item in a PruneRequest's Only.
func (i PruneItem) Ref() string { return PruneRef(i.Kind, i.ID, i.Name) }

// PruneRef is the Ref of an item. An image has one for each of its names.
func PruneRef(kind, id, name string) string { return kind + "/" + id + "/" + name }
