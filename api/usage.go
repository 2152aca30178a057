package api

import "time"

// PathUsage tells the sizes of what changes: GET, UsageReport. With fresh=true
// they are measured first; with kind=… only those of that kind are told, and measured
// where they may have changed.
const PathUsage = Prefix + "/usage"

// UsageReport is the ledger of sizes.
type UsageReport struct {
	Items []UsageItem `json:"items"`
}

// Kinds of UsageItem.
const (
	UsageContainer = "container" // its writable layer
	UsageVolume    = "volume"
	UsageSnapshot  = "snapshot" // of a volume; ID and name are volume@snapshot
	UsageTrash     = "trash"    // a removed volume with its snapshots; ID is its number in the trash
)

// UsageItem is the size of one thing.
type UsageItem struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"` // of a container, or in the trash; name of a volume or snapshot
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // as `docker system df` tells it; -1: not known yet
	Disk  int64  `json:"disk"`  // what it takes on the disk
	Files int64  `json:"files"`
	// MeasuredAt: what was written before is in the size.
	MeasuredAt time.Time `json:"measuredAt,omitzero"`
	// Exact says that nothing was written since.
	Exact bool `json:"exact"`
	InUse bool `json:"inUse"` // by a running container
}
