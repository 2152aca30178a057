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
