package api

import "time"

const (
	// PathStoragePolicy tells the storage policy and what it says of everything
	// unused now: GET, StoragePolicy.
	PathStoragePolicy = Prefix + "/storage/policy"
	// PathStorageRun runs the policy now: POST, StorageRun.
	PathStorageRun = Prefix + "/storage/policy/run"
	// PathStorageLog tells the last runs, newest first: GET, []StorageRun.
	PathStorageLog = Prefix + "/storage/log"
	// PathStorageTop tells who grew: GET ?by=hour|day|week, []StorageGrowth, those
	// that grew most first.
	PathStorageTop = Prefix + "/storage/top"
	// PathStorageExplain tells why bytes are there and what would free them: GET
	// ?what=PATH|ID|NAME, StorageExplanation.
	PathStorageExplain = Prefix + "/storage/explain"
)

// StoragePolicy is the policy of the daemon's configuration, judged now.
type StoragePolicy struct {
	Idle      bool                   `json:"idle"` // it has no rule
	HighWater string                 `json:"highWater,omitempty"`
	LowWater  string                 `json:"lowWater,omitempty"`
	Over      bool                   `json:"over"` // the disk is above the high-water mark
	Disk      StorageDisk            `json:"disk"`
	Rules     map[string]StorageRule `json:"rules"` // by kind
	Verdicts  []StorageVerdict       `json:"verdicts"`
}

// StorageDisk is the file system of the daemon's root.
type StorageDisk struct {
	Total      int64 `json:"total"`
	Used       int64 `json:"used"`
	Free       int64 `json:"free"`
	Inodes     int64 `json:"inodes"`
	InodesFree int64 `json:"inodesFree"`
}

// StorageRule says what stays.
type StorageRule struct {
	KeepLast       int      `json:"keepLast"`
	KeepUntilNanos int64    `json:"keepUntilNanos"`
	KeepIfLabel    []string `json:"keepIfLabel,omitempty"`
}

// StorageVerdict is what the policy says of one unused thing.
type StorageVerdict struct {
	Kind  string    `json:"kind"`
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	Frees int64     `json:"frees"`
	Goes  bool      `json:"goes"`
	Why   string    `json:"why"`
}

// StorageRun is one run of the policy.
type StorageRun struct {
	At    time.Time   `json:"at"`
	Why   string      `json:"why"`
	Used  int64       `json:"used"` // of the disk, before
	Total int64       `json:"total"`
	Items []PruneItem `json:"items"`
	Freed int64       `json:"freed"`
	Error string      `json:"error,omitempty"`
}

// StorageGrowth is what a thing takes on the disk and how much more that is than
// before; nil where nothing is known from then.
type StorageGrowth struct {
	Kind  string `json:"kind"` // container, volume, image (a repository), build cache
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Hour  *int64 `json:"hour,omitempty"`
	Day   *int64 `json:"day,omitempty"`
	Week  *int64 `json:"week,omitempty"`
}

// StorageExplanation says what bytes on the disk are.
type StorageExplanation struct {
	Kind       string    `json:"kind"` // container, volume, image, path
	ID         string    `json:"id"`
	Name       string    `json:"name,omitempty"`
	Path       string    `json:"path,omitempty"`
	Bytes      int64     `json:"bytes"` // -1: not known
	MeasuredAt time.Time `json:"measuredAt,omitzero"`
	Exact      bool      `json:"exact"`
	Why        []string  `json:"why"`
	Frees      []string  `json:"frees"` // what would free them
}
