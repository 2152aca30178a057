package preflight

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Level is how a directory suits a database.
type Level string

// Levels, best first.
const (
	Safe   Level = "safe"
	Slow   Level = "slow"   // right, but every commit waits long
	Warn   Level = "warn"   // works, with something missing that it can use
	Unsafe Level = "unsafe" // will not start, or will lose data
)

// Verdict is what a directory means for one database.
type Verdict struct {
	For   string
	Level Level
	Text  string
}

// need is one thing a database needs of a directory, and what happens without.
type need struct {
	probe string
	must  bool
	text  string // says what will go wrong; the probe's detail follows
}

// Databases that can be judged. Sources: each one's documentation and code, and
// the reports of people who tried (docker-library/postgres#235 and #1335,
// Azure/azurefile-dockervolumedriver#65, Sonarr#1886, docker/for-win#694).
var databases = map[string][]need{
	"generic": {
		{fsyncFile, true, "what was written may be gone after a power failure"},
		{renameOpen, true, "files that are replaced atomically may be seen half written"},
		{fsyncDir, false, "a new file's name may be gone after a power failure"},
		{lockFlock, false, "programs that lock files may run twice"},
		{owner, false, "files cannot belong to the user that the program runs as"},
	},
	"postgres": {
		// initdb refuses a data directory that does not belong to it or that others may enter.
		{owner, true, "initdb will fail: the data directory must belong to the user postgres, and chown has no effect here, as on SMB and Azure Files"},
		{mode, true, "initdb will fail: the data directory must be 0700 or 0750, and chmod has no effect here, as on SMB and Azure Files"},
		{fsyncFile, true, "committed transactions may be lost: the log cannot be made durable"},
		{fsyncDir, true, "the server stops with a PANIC: it makes directories durable when files are renamed"},
		{renameOpen, true, "the log and control files are replaced by rename while others read them"},
		{unlinkOpen, true, "dropped tables are removed while other backends have them open"},
		{hardLink, false, "servers before 16 rename log files by hard link, pg_upgrade --link needs it"},
		{symLink, false, "tablespaces are symbolic links"},
		{preallocate, false, "extending tables is slower"},
		{caseMatters, false, "files whose names differ in case only would be one"},
	},
	"mariadb": {
		{owner, true, "the server will not start: its files must belong to the user mysql"},
		{fsyncFile, true, "committed transactions may be lost: the redo log cannot be made durable"},
		{renameOpen, true, "ALTER TABLE replaces tables by rename"},
		{unlinkOpen, true, "temporary files are unlinked while open"},
		{lockFcntl, true, "two servers may open the same tablespace: InnoDB's lock does not hold"},
		{directIO, false, "innodb_flush_method=O_DIRECT is not to be had; use fsync"},
		{caseMatters, false, "names of tables: set lower_case_table_names=1"},
		{symLink, false, "DATA DIRECTORY of a table is a symbolic link"},
	},
	"sqlite": {
		{lockFcntl, true, "two writers corrupt the database: locks do not hold here, as on many NFS and SMB mounts"},
		{fsyncFile, true, "the database may be corrupt after a power failure"},
		{sharedMmap, true, "WAL mode does not work: its index is shared memory; use journal_mode=DELETE"},
		{unlinkOpen, false, "journals and temporary files are unlinked while open"},
		{fsyncDir, false, "a journal's name may be gone after a power failure"},
	},
	"redis": {
		{fsyncFile, true, "appendfsync has no effect: acknowledged writes may be lost"},
		{renameOpen, true, "snapshots are put in place by rename"},
		{fsyncDir, false, "a new snapshot's name may be gone after a power failure"},
		{owner, false, "files cannot belong to the user redis"},
	},
	"etcd": {
		{fsyncFile, true, "acknowledged writes may be lost, and with them the cluster's agreement"},
		{lockFlock, true, "two members may open the same data: the lock does not hold"},
		{sharedMmap, true, "the database file is read through a mapping that must see writes"},
		{mode, false, "etcd warns unless the data directory is 0700"},
		{preallocate, false, "log files are preallocated"},
	},
}

// Databases lists what can be asked for, in order.
func Databases() []string {
	var out []string
	for name := range databases {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Commits slower than this are told; a spinning disk takes 10 ms and more.
const slowFsync = 10 * time.Millisecond

// Space below these is told.
const (
	littleSpace  = 256 << 20
	fewInodes    = 1000
	inodesMatter = "ext4" // file systems with a fixed number of them
)

func judge(r *Report, names []string) []Verdict {
	if len(names) == 0 {
		names = Databases()
	}
	var out []Verdict
	for _, n := range names {
		out = append(out, verdict(r, n, databases[n]))
	}
	return out
}

func verdict(r *Report, name string, needs []need) Verdict {
	v := Verdict{For: name, Level: Safe}
	var must, should []string
	for _, n := range needs {
		p := r.result(n.probe)
		if p.Result == Pass {
			continue
		}
		text := n.text
		if p.Detail != "" {
			text += " (" + p.Detail + ")"
		}
		switch {
		case p.Result == Unknown:
			should = append(should, fmt.Sprintf("%s could not be tried (%s)", n.probe, p.Detail))
		case n.must:
			must = append(must, text)
		default:
			should = append(should, text)
		}
	}
	if r.InMemory {
		must = append(must, "the data is in memory ("+r.FSType+") and gone with the next reboot")
	}
	if r.FreeBytes < littleSpace {
		should = append(should, fmt.Sprintf("only %d MiB are free", r.FreeBytes>>20))
	}
	if r.FSType == inodesMatter && r.FreeInodes < fewInodes {
		should = append(should, fmt.Sprintf("only %d inodes are free", r.FreeInodes))
	}
	slow := fmt.Sprintf("each commit waits about %s for the disk", r.FsyncTime.Round(100*time.Microsecond))
	switch {
	case len(must) > 0:
		v.Level, v.Text = Unsafe, strings.Join(must, "; ")+". Use a volume on a local file system (ext4, XFS, btrfs) instead"
	case len(should) > 0:
		v.Level, v.Text = Warn, strings.Join(should, "; ")
	case r.FsyncTime > slowFsync:
		v.Level, v.Text = Slow, slow
	default:
		v.Text = slow
		if r.FsyncTime == 0 {
			v.Text = "all that it needs is there"
		}
	}
	return v
}
