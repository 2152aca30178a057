package api

const (
	// PathStorageHost compares what the daemon tells with what is on the disk: GET,
	// HostReport. It walks everything below the daemon's root.
	PathStorageHost = Prefix + "/storage/host"
	// PathStorageRepair removes what belongs to nobody: POST, RepairRequest,
	// []HostOrphan with what it removed, or would.
	PathStorageRepair = Prefix + "/storage/repair"
)

// HostReport is the disk's side of the story.
type HostReport struct {
	Root string      `json:"root"`
	Disk StorageDisk `json:"disk"`
	// Walked is all that a walk finds below the root. What else is used on the
	// file system is not Holdfast's.
	Walked int64      `json:"walked"`
	Parts  []HostPart `json:"parts"`
	// Pools are those in files, which are among the parts.
	Pools []HostPool `json:"pools"`
	// Orphans belong to nothing that the daemon knows.
	Orphans []HostOrphan `json:"orphans"`
	// DeletedOpen are files that were deleted and take space until a process
	// closes them; no walk finds them.
	DeletedOpen []HostDeleted `json:"deletedOpen"`
}

// HostPart is a part of the root.
type HostPart struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Walked int64  `json:"walked"`
	Told   int64  `json:"told"` // by the ledger; -1: it does not count this
	Note   string `json:"note,omitempty"`
}

// HostPool is a pool in a file: what the file could become, what it takes of the
// disk now, and what of it is in use inside.
type HostPool struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	OnDisk int64  `json:"onDisk"`
	Used   int64  `json:"used"`
	Error  string `json:"error,omitempty"` // why it cannot be looked into
}

// HostOrphan is a path that belongs to nothing.
type HostOrphan struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Why   string `json:"why"`
	// Repairable: `holdfast storage repair` removes it. What may be somebody's data
	// it never does.
	Repairable bool `json:"repairable"`
	Removed    bool `json:"removed"`
}

// HostDeleted is a deleted file that a process holds open.
type HostDeleted struct {
	Pid       int    `json:"pid"`
	Command   string `json:"command"`
	Path      string `json:"path"` // as the process saw it
	Bytes     int64  `json:"bytes"`
	Container string `json:"container,omitempty"` // whose process it is
}

// RepairRequest asks to remove orphans.
type RepairRequest struct {
	DryRun bool `json:"dryRun,omitempty"`
}
