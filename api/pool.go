package api

import "time"

// Paths of pools, the file systems that volumes of the driver btrfs are in.
const (
	PathPools     = Prefix + "/pools"              // GET, []Pool; POST, PoolCreate, Pool
	PathPool      = Prefix + "/pools/{name}"       // GET, Pool; DELETE
	PathPoolGrow  = Prefix + "/pools/{name}/grow"  // POST, PoolGrow, Pool
	PathPoolCheck = Prefix + "/pools/{name}/check" // POST, PoolCheck
)

// PoolCreate makes a pool: of a directory on a btrfs, of a block device, or, if
// neither is named, in a file of that size.
type PoolCreate struct {
	Name      string `json:"name"`
	Directory string `json:"directory,omitempty"`
	Device    string `json:"device,omitempty"`
	Bytes     int64  `json:"bytes,omitempty"`
	Sparse    bool   `json:"sparse,omitempty"` // the file takes its space when it is needed
}

// Pool is a file system that volumes can be in.
type Pool struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"` // directory, device, file
	Source  string    `json:"source"`
	Mount   string    `json:"mount"`
	Created time.Time `json:"created"`
	Bytes   uint64    `json:"bytes"`
	Free    uint64    `json:"free"`
	Quota   bool      `json:"quota"` // sizes and limits of volumes at no cost
	Volumes []string  `json:"volumes"`
	Error   string    `json:"error,omitempty"` // why it cannot be used
}

// PoolGrow makes a pool larger.
type PoolGrow struct {
	Bytes int64 `json:"bytes,omitempty"` // of a pool in a file; one on a device takes all of it
}

// PoolCheck is what reading all of a pool found.
type PoolCheck struct {
	Bytes         uint64 `json:"bytes"`
	Errors        uint64 `json:"errors"`
	Corrected     uint64 `json:"corrected"`
	Uncorrectable uint64 `json:"uncorrectable"`
}
