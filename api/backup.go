package api

import "time"

// Paths of backups. {name} is a name; {backup} the ID of a backup, or the beginning
// of one, of at least six digits.
const (
	PathBackupRepositories = Prefix + "/backup/repositories"        // GET, []BackupRepository; POST, BackupRepositoryAdd, BackupRepository
	PathBackupRepository   = Prefix + "/backup/repositories/{name}" // DELETE: forget it; its backups stay
	PathBackups            = Prefix + "/backups"                    // GET ?volume=&repository=, BackupList
	PathBackup             = Prefix + "/backups/{backup}"           // DELETE, Backup
	PathBackupRestore      = Prefix + "/backups/{backup}/restore"   // POST, BackupRestore, BackupRestored
	PathBackupVerify       = Prefix + "/backups/{backup}/verify"    // POST, BackupVerification
	PathVolumeBackup       = Prefix + "/volumes/{name}/backup"      // POST, BackupCreate, Backup
)

// BackupRepository is a place for backups.
type BackupRepository struct {
	Name    string            `json:"name"`
	Kind    string            `json:"kind"` // file, s3, sftp, azure, gs
	URL     string            `json:"url"`
	Options map[string]string `json:"options,omitempty"`
	Created time.Time         `json:"created"`        // when it was added here
	Made    bool              `json:"made,omitempty"` // it was made now; else it was there
}

// BackupRepositoryAdd makes a repository, or takes one that is there.
type BackupRepositoryAdd struct {
	Name    string            `json:"name"`
	URL     string            `json:"url"` // or a directory of the daemon's machine
	Options map[string]string `json:"options,omitempty"`
	Secrets map[string]string `json:"secrets"` // password and what the kind needs
}

// BackupCreate makes a backup.
type BackupCreate struct {
	Repository string `json:"repository,omitempty"` // empty: the volume's, the daemon's, or the only one
	Tag        string `json:"tag,omitempty"`
	// Quiesce is as in SnapshotCreate; "off": nobody is disturbed; empty: as the
	// volume's label or the daemon's settings say.
	Quiesce string `json:"quiesce,omitempty"`
}

// Backup is a state of a volume in a repository.
type Backup struct {
	ID          string              `json:"id"`
	Repository  string              `json:"repository"`
	Volume      string              `json:"volume"`
	Host        string              `json:"host"`
	Driver      string              `json:"driver"`
	Tag         string              `json:"tag,omitempty"`
	Why         string              `json:"why,omitempty"` // "schedule"; empty: somebody asked for it
	Moment      time.Time           `json:"moment"`        // whose state it is
	Finished    time.Time           `json:"finished"`
	Consistency string              `json:"consistency"`           // clean, application, crash, live
	Hook        string              `json:"hook,omitempty"`        // what had those who wrote hold still
	PausedNanos int64               `json:"pausedNanos,omitempty"` // how long they had to wait
	QuiesceNote string              `json:"quiesceNote,omitempty"` // what went wrong with that
	From        string              `json:"from"`                  // volume, snapshot
	Files       int64               `json:"files"`
	Bytes       int64               `json:"bytes"`
	ReadFiles   int64               `json:"readFiles"` // new or changed
	ReadBytes   int64               `json:"readBytes"`
	StoredBytes int64               `json:"storedBytes"` // added to the repository
	Verified    *BackupVerification `json:"verified"`    // null: nobody has looked whether it can be restored
}

// BackupList is what is in repositories.
type BackupList struct {
	Backups   []Backup          `json:"backups"`   // oldest first
	Failed    map[string]string `json:"failed"`    // repositories that could not be asked
	Schedules []BackupSchedule  `json:"schedules"` // of volumes that have one
}

// BackupSchedule is when a volume is backed up.
type BackupSchedule struct {
	Volume     string     `json:"volume"`
	Schedule   string     `json:"schedule"`
	Next       *time.Time `json:"next,omitempty"`
	LastBackup *time.Time `json:"lastBackup,omitempty"`
	LastError  string     `json:"lastError,omitempty"`
	Failures   int        `json:"failures,omitempty"` // since the last success
}

// BackupRestore says what becomes of a backup.
type BackupRestore struct {
	To      string `json:"to,omitempty"`      // empty: the volume that it is of
	Driver  string `json:"driver,omitempty"`  // empty: the one it was of
	Replace bool   `json:"replace,omitempty"` // in place of the volume's data, which is kept
	Partial bool   `json:"partial,omitempty"` // leave out what is damaged
}

// BackupRestored tells what a restore brought.
type BackupRestored struct {
	Backup      string          `json:"backup"`
	Volume      string          `json:"volume"`
	Files       int64           `json:"files"`
	Bytes       int64           `json:"bytes"`
	Damaged     []BackupProblem `json:"damaged"`               // left out
	Kept        string          `json:"kept,omitempty"`        // the volume that what was replaced is now
	KeptInTrash bool            `json:"keptInTrash,omitempty"` // it is in the trash, under that name
}

// BackupProblem is a file that is not as it was backed up.
type BackupProblem struct {
	Path string `json:"path"`
	What string `json:"what"`
}

// BackupVerification is what a restore into a scratch volume showed.
type BackupVerification struct {
	Backup   string          `json:"backup"`
	Volume   string          `json:"volume"`
	At       time.Time       `json:"at"`
	Host     string          `json:"host"`
	Good     bool            `json:"good"`
	Files    int64           `json:"files"`
	Bytes    int64           `json:"bytes"`
	Problems []BackupProblem `json:"problems"`
}
