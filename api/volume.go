package api

import "time"

// Paths of volumes. {name} and {snapshot} are names, url.PathEscape'd.
const (
	PathVolume        = Prefix + "/volumes/{name}"         // GET, Volume
	PathVolumeClone   = Prefix + "/volumes/{name}/clone"   // POST, VolumeClone, VolumeCopied
	PathVolumeRename  = Prefix + "/volumes/{name}/rename"  // POST, VolumeRename
	PathVolumeResize  = Prefix + "/volumes/{name}/resize"  // POST, VolumeResize
	PathVolumeMove    = Prefix + "/volumes/{name}/move"    // POST, VolumeMove, VolumeCopied
	PathVolumeProtect = Prefix + "/volumes/{name}/protect" // POST, VolumeProtect
	PathVolumeExport  = Prefix + "/volumes/{name}/export"  // GET ?snapshot=&live=&compress=zstd, a tar
	// PathVolumeFiles has the files of a volume, or to read of VOLUME@SNAPSHOT, as
	// Docker has those of containers: HEAD ?path= (PathStat, in PathStatHeader), GET
	// ?path= (a tar, and the header), PUT ?path=&noOverwriteDirNonDir= (a tar).
	PathVolumeFiles  = Prefix + "/volumes/{name}/archive"
	PathVolumeImport = Prefix + "/volumes/{name}/import" // POST ?driver=&label=k=v&opt=k=v, a tar; VolumeImported
	// PathVolumePush and PathVolumePull keep a volume in an image registry, as an OCI
	// artifact: POST ?ref=, with X-Registry-Auth as Docker's push and pull. They answer
	// a stream of JSON messages like theirs, with a VolumePushed or VolumeImported as
	// "aux" at the end. A push takes snapshot= and live=, a pull driver=, label= and opt=.
	PathVolumePush      = Prefix + "/volumes/{name}/push"
	PathVolumePull      = Prefix + "/volumes/{name}/pull"
	PathTrash           = Prefix + "/trash"                                        // GET, []TrashedVolume; DELETE (all), []TrashedVolume
	PathTrashed         = Prefix + "/trash/{name}"                                 // DELETE; {name} is an ID or a name
	PathUndelete        = Prefix + "/trash/{name}/undelete"                        // POST, VolumeRename (to may be empty), VolumeCopied
	PathSnapshots       = Prefix + "/snapshots"                                    // GET, []Snapshot of all volumes
	PathSnapshotGroup   = Prefix + "/snapshots/group"                              // POST, SnapshotGroup, []SnapshotTaken
	PathSnapshotPrune   = Prefix + "/snapshots/prune"                              // POST, SnapshotPrune, []Snapshot
	PathVolumeSnapshots = Prefix + "/volumes/{name}/snapshots"                     // GET, []Snapshot; POST, SnapshotCreate, VolumeCopied
	PathSnapshot        = Prefix + "/volumes/{name}/snapshots/{snapshot}"          // GET, Snapshot with its size; DELETE
	PathRollback        = Prefix + "/volumes/{name}/snapshots/{snapshot}/rollback" // POST, Rollback, VolumeCopied
)

// Volume is what Holdfast knows of a volume beyond Docker's inspect.
type Volume struct {
	Name         string             `json:"name"`
	Driver       string             `json:"driver"`
	Protected    bool               `json:"protected"`
	Origin       string             `json:"origin,omitempty"` // the volume, or volume@snapshot, that it was cloned from
	Snapshots    []Snapshot         `json:"snapshots"`
	Users        []string           `json:"users"`   // containers that refer to it
	Mounted      []string           `json:"mounted"` // containers that run with it
	Capabilities VolumeCapabilities `json:"capabilities"`
}

// VolumeCapabilities are what the volume's driver can do.
type VolumeCapabilities struct {
	Snapshot    bool `json:"snapshot"`
	PointInTime bool `json:"pointInTime"` // a snapshot is one moment, whoever writes
	Clone       bool `json:"clone"`
	Rename      bool `json:"rename"`
	Quota       bool `json:"quota"`
	Send        bool `json:"send"`        // and receive: it can be moved
	Incremental bool `json:"incremental"` // of a stream: only what changed since a snapshot
}

// Snapshot is a kept state of a volume.
type Snapshot struct {
	Volume      string            `json:"volume"`
	Name        string            `json:"name"`
	Driver      string            `json:"driver"`
	Created     time.Time         `json:"created"`
	Labels      map[string]string `json:"labels,omitempty"`
	Protected   bool              `json:"protected"`
	Consistency string            `json:"consistency"` // clean, application, crash, live
	Method      string            `json:"method"`      // copy, reflink, subvolume, stream
	Why         string            `json:"why,omitempty"`
	Hook        string            `json:"hook,omitempty"`        // what had those who wrote hold still
	PausedNanos int64             `json:"pausedNanos,omitempty"` // how long they had to wait
	Group       string            `json:"group,omitempty"`       // others that were made as of the same moment have it too
	Path        string            `json:"path"`
	Users       []string          `json:"users"`           // containers that refer to it
	Bytes       int64             `json:"bytes,omitempty"` // where it was asked for
}

// SnapshotCreate makes a snapshot.
type SnapshotCreate struct {
	Name   string            `json:"name,omitempty"` // empty: made of the time
	Labels map[string]string `json:"labels,omitempty"`
	Live   bool              `json:"live,omitempty"` // copy a volume that is being written to
	// Quiesce has the containers that write hold still: "on" tells their applications
	// and makes nothing where that fails, "try" then makes what a crash would leave,
	// "freeze" stops their processes only. Empty: nobody is disturbed.
	Quiesce string `json:"quiesce,omitempty"`
}

// SnapshotGroup makes snapshots of all volumes of a container, or of a compose
// project's containers, as of one moment: all of them, or none.
type SnapshotGroup struct {
	Container string            `json:"container,omitempty"`
	Project   string            `json:"project,omitempty"`
	Name      string            `json:"name,omitempty"` // of each; empty: made of the time
	Labels    map[string]string `json:"labels,omitempty"`
	Quiesce   string            `json:"quiesce,omitempty"` // as in SnapshotCreate; empty: "freeze"
}

// SnapshotTaken is one snapshot of a group.
type SnapshotTaken struct {
	Volume string `json:"volume"`
	Group  string `json:"group,omitempty"` // empty where there is one volume only
	VolumeCopied
}

// Rollback puts a snapshot's state in place of the volume's.
type Rollback struct {
	Keep string `json:"keep,omitempty"` // the snapshot that the replaced state becomes; empty: made of the time
}

// VolumeClone makes a volume of another.
type VolumeClone struct {
	To       string            `json:"to"`
	Snapshot string            `json:"snapshot,omitempty"` // empty: the present state
	Labels   map[string]string `json:"labels,omitempty"`   // null: those of the volume
	Live     bool              `json:"live,omitempty"`
}

// VolumeRename gives a volume another name.
type VolumeRename struct {
	To string `json:"to"`
}

// VolumeMove gives a volume another driver or pool.
type VolumeMove struct {
	Driver  string            `json:"driver,omitempty"`  // empty: with a pool btrfs, else the one it has
	Pool    string            `json:"pool,omitempty"`    // of the driver btrfs
	Options map[string]string `json:"options,omitempty"` // of the driver
}

// VolumeResize sets what a volume may hold.
type VolumeResize struct {
	Bytes int64 `json:"bytes"` // 0: no limit
}

// VolumeProtect forbids, or allows again, that a volume or a snapshot is removed.
type VolumeProtect struct {
	Snapshot string `json:"snapshot,omitempty"` // empty: the volume
	On       bool   `json:"on"`
}

// VolumeCopied tells how a snapshot, rollback or clone came about.
type VolumeCopied struct {
	Name        string `json:"name"` // of the snapshot, the kept snapshot, or the clone
	Consistency string `json:"consistency,omitempty"`
	Method      string `json:"method"`
	Files       int64  `json:"files"`
	Bytes       int64  `json:"bytes"` // written; shared ones are not
	TookNanos   int64  `json:"tookNanos"`
	Hook        string `json:"hook,omitempty"`        // what had those who wrote hold still
	PausedNanos int64  `json:"pausedNanos,omitempty"` // how long they had to wait
	Why         string `json:"why,omitempty"`         // what went wrong with that
}

// VolumeImported tells what an import brought.
type VolumeImported struct {
	Name  string `json:"name"`
	Files int64  `json:"files"`
	Bytes int64  `json:"bytes"`
}

// VolumeArtifact is the artifact type of a volume in an image registry: its one layer
// is a tar compressed by zstd.
const VolumeArtifact = "application/vnd.holdfast.volume.v1"

// Annotations of such an artifact, beside those of OCI.
const (
	AnnotationVolume   = "dev.holdfast.volume"   // what it was called
	AnnotationSnapshot = "dev.holdfast.snapshot" // where it was one
)

// VolumePushed tells what a registry has got.
type VolumePushed struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}

// PathStatHeader has a PathStat, as JSON in base64.
const PathStatHeader = "X-Docker-Container-Path-Stat"

// PathStat describes a file as Docker does.
type PathStat struct {
	Name       string    `json:"name"`
	Size       int64     `json:"size"`
	Mode       uint32    `json:"mode"` // Go's fs.FileMode
	Mtime      time.Time `json:"mtime"`
	LinkTarget string    `json:"linkTarget"`
}

// SnapshotPrune says which snapshots go.
type SnapshotPrune struct {
	Volume         string `json:"volume,omitempty"` // empty: of all volumes
	KeepLast       int    `json:"keepLast,omitempty"`
	OlderThanNanos int64  `json:"olderThanNanos,omitempty"`
	All            bool   `json:"all,omitempty"`
	DryRun         bool   `json:"dryRun,omitempty"`
}

// TrashedVolume is a removed volume that can be had back.
type TrashedVolume struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"` // what it was
	Driver    string    `json:"driver"`
	Created   time.Time `json:"created"`
	Removed   time.Time `json:"removed"`
	Expires   time.Time `json:"expires"`
	Snapshots int       `json:"snapshots"`
}
