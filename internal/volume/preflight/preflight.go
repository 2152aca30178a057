package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Result is how a probe went.
type Result string

// Results.
const (
	Pass Result = "pass"
	Fail Result = "fail"
	// Unknown is a probe that could not be made, or was not answered in time.
	Unknown Result = "unknown"
)

// Probe is one thing tried.
type Probe struct {
	Name   string
	Result Result
	Detail string // what happened instead; empty for a pass
}

// Report is what a directory is like.
type Report struct {
	Path       string
	FSType     string
	Probes     []Probe
	FsyncTime  time.Duration // median of small writes made durable; 0: not measured
	FreeBytes  uint64
	FreeInodes uint64 // 0 where the file system has no fixed number, too
	InMemory   bool
	Took       time.Duration
	Verdicts   []Verdict
}

// result finds a probe's result.
func (r *Report) result(name string) Probe {
	for _, p := range r.Probes {
		if p.Name == name {
			return p
		}
	}
	return Probe{Name: name, Result: Unknown, Detail: "not tried"}
}

// Limit is how long a file system may take to answer all probes.
const Limit = 10 * time.Second

// workPrefix begins the names of the folders that probes work in.
const workPrefix = ".holdfast-check-"

// Run tries the directory and judges it for the databases named, or for all.
// errdefs-classed errors are the caller's to make: an error here means that the
// directory cannot be tried at all.
func Run(ctx context.Context, dir string, databases ...string) (Report, error) {
	begin := time.Now()
	type answer struct {
		r   Report
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	// A system call on a dead network file system cannot be interrupted: it is left
	// behind, and so is what it holds.
	ch := make(chan answer, 1)
	go func() {
		r, err := try(ctx, dir)
		ch <- answer{r, err}
	}()
	select {
	case a := <-ch:
		if a.err != nil {
			return Report{}, a.err
		}
		a.r.Took = time.Since(begin)
		a.r.Verdicts = judge(&a.r, databases)
		return a.r, nil
	case <-ctx.Done():
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Report{}, ctx.Err()
		}
		return Report{}, fmt.Errorf("the file system at %s did not answer within %v", dir, Limit)
	}
}

func try(ctx context.Context, dir string) (r Report, err error) {
	r = Report{Path: dir}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return r, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	r.FSType = fsName(int64(fs.Type)) //nolint:unconvert // its type differs by architecture
	r.InMemory = r.FSType == "tmpfs" || r.FSType == "ramfs"
	r.FreeBytes = fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block size is positive
	r.FreeInodes = fs.Ffree
	if err := sweep(dir); err != nil {
		return r, err
	}
	work, err := os.MkdirTemp(dir, workPrefix)
	if err != nil {
		return r, fmt.Errorf("make a folder to try things in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	w, err := hold(work)
	if err != nil {
		return r, err
	}
	defer w.Close()
	for _, p := range probes {
		if ctx.Err() != nil {
			r.Probes = append(r.Probes, Probe{Name: p.name, Result: Unknown, Detail: "no time left"})
			continue
		}
		err := inFolder(filepath.Join(held(w), p.name), p.try)
		r.Probes = append(r.Probes, outcome(p.name, err))
	}
	if r.result(fsyncFile).Result == Pass && ctx.Err() == nil {
		r.FsyncTime, err = fsyncTime(held(w))
	}
	return r, err
}

// hold opens a folder, so that what is done below held means this folder even if
// its name is given to another.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the folder to try things in: %w", err)
	}
	return f, nil
}

// The dot at the end makes the last name no link, which open refuses.
func held(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/.", f.Fd()) }

// inFolder makes a folder and tries something in it.
func inFolder(dir string, try func(string) error) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", plain(err))
	}
	f, err := hold(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return try(held(f))
}

// sweep removes what an earlier check left that was cut off.
func sweep(dir string) error {
	old, err := filepath.Glob(filepath.Join(escape(dir), workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if st, err := os.Stat(d); err == nil && time.Since(st.ModTime()) > time.Hour {
			if err := os.RemoveAll(d); err != nil {
				return fmt.Errorf("remove what an earlier check left: %w", err)
			}
		}
	}
	return nil
}

// escape takes the meaning from characters that Glob knows.
func escape(s string) string {
	var out []byte
	for i := range len(s) {
		if slices.Contains([]byte(`*?[\`), s[i]) {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return string(out)
}

// errUnknown marks a probe that could not be made.
var errUnknown = errors.New("not tried")

func outcome(name string, err error) Probe {
	switch {
	case err == nil:
		return Probe{Name: name, Result: Pass}
	case errors.Is(err, errUnknown):
		return Probe{Name: name, Result: Unknown, Detail: err.Error()}
	}
	return Probe{Name: name, Result: Fail, Detail: err.Error()}
}

// fsNames are the magic numbers of statfs(2) and linux/magic.h.
var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.SMB_SUPER_MAGIC:       "smb",
	unix.SMB2_SUPER_MAGIC:      "smb",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.V9FS_MAGIC:            "9p",
	unix.CEPH_SUPER_MAGIC:      "ceph",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	unix.MSDOS_SUPER_MAGIC:     "vfat",
	unix.EROFS_SUPER_MAGIC_V1:  "erofs",
	0x2fc12fc1:                 "zfs",
	0x6a656a63:                 "fakeowner", // Docker Desktop's shared folders
	0x786f4256:                 "vboxsf",
}

func fsName(magic int64) string {
	if n, ok := fsNames[magic]; ok {
		return n
	}
	return fmt.Sprintf("unknown (%#x)", magic)
}
