// Package walk measures directory trees: every file once, without following
// links, without crossing into other file systems, and, when asked to be
// gentle, with a thread of the lowest priority that rests most of the time.
package walk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/usage"
)

const (
	// maxDepth bounds open directories: each level of a tree holds one.
	maxDepth = 1000
	// batch is how many names of a directory are read at a time.
	batch = 512
	// stint is how long a gentle walk works before it rests restFactor times as long.
	stint      = 5 * time.Millisecond
	restFactor = 11
	// blockSize is the unit of st_blocks.
	blockSize = 512
)

// Found is the size of a tree both ways.
type Found struct {
	Lengths int64 // of all files, directories not counted
	Blocks  int64 // of everything, in bytes
	Files   int64
	Inodes  int64 // files and directories
}

// Layer is the size of a writable layer.
func (f Found) Layer() usage.Size { return usage.Size{Bytes: f.Blocks, Disk: f.Blocks, Files: f.Files} }

// Volume is the size of a volume.
func (f Found) Volume() usage.Size {
	return usage.Size{Bytes: f.Lengths, Disk: f.Blocks, Files: f.Files}
}

// Dir measures the tree below dir. It tells the time it worked, without rests.
func Dir(ctx context.Context, dir string, gentle bool) (f Found, worked time.Duration, err error) {
	if !gentle {
		w := walker{ctx: ctx, seen: map[inode]struct{}{}, began: time.Now()}
		err = w.root(dir)
		return w.found, time.Since(w.began), err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread has its priority for good: it ends with this goroutine.
		runtime.LockOSThread()
		w := walker{ctx: ctx, seen: map[inode]struct{}{}, gentle: true}
		if err = lowPriority(); err != nil {
			return
		}
		w.began = time.Now()
		err = w.root(dir)
		f, worked = w.found, w.worked+time.Since(w.began)
	}()
	<-done
	return f, worked, err
}

// Split measures the tree below dir once and tells what is in which part. marks
// names the part that begins at a path, a directory's or a file's; what is below no
// mark is of part "". Every file is counted in one part, so the sum is the whole.
func Split(ctx context.Context, dir string, marks map[string]string) (map[string]Found, error) {
	w := walker{ctx: ctx, seen: map[inode]struct{}{}, marks: marks, above: map[string]bool{}, parts: map[string]*Found{}}
	for path := range marks {
		for path != dir && len(path) > len(dir) {
			path = filepath.Dir(path)
			w.above[path] = true
		}
	}
	w.at = dir
	w.part = w.partOf("")
	err := w.root(dir)
	out := make(map[string]Found, len(w.parts))
	for name, f := range w.parts {
		out[name] = *f
	}
	return out, err
}

// ioprio: class idle in the upper bits (linux/ioprio.h).
const (
	ioprioWhoProcess = 1
	ioprioClassIdle  = 3
	ioprioClassShift = 13
	lowestNice       = 19
)

// lowPriority is for the calling thread only.
func lowPriority() error {
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioClassIdle<<ioprioClassShift); errno != 0 {
		return fmt.Errorf("lower the walk's I/O priority: %w", errno)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, lowestNice); err != nil {
		return fmt.Errorf("lower the walk's priority: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type walker struct {
	ctx    context.Context //nolint:containedctx // lives as long as one walk
	seen   map[inode]struct{}
	found  Found
	dev    uint64
	gentle bool
	began  time.Time // of this stint
	worked time.Duration
	steps  int

	// Of Split: marks and the directories above them, where the walk is as long as
	// a mark may come, and the part that is counted.
	marks map[string]string
	above map[string]bool
	at    string
	part  *Found
	parts map[string]*Found
}

func (w *walker) partOf(name string) *Found {
	if w.parts[name] == nil {
		w.parts[name] = &Found{}
	}
	return w.parts[name]
}

// enter goes to an entry of the directory at w.at, and says how to come back.
func (w *walker) enter(name string) (back func()) {
	at, part := w.at, w.part
	path := filepath.Join(at, name)
	if of, ok := w.marks[path]; ok {
		w.part = w.partOf(of)
	}
	if w.at = ""; w.above[path] {
		w.at = path
	}
	return func() { w.at, w.part = at, part }
}

func (w *walker) root(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return missing(dir, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(fmt.Errorf("look at %s: %w", dir, err), unix.Close(fd))
	}
	w.dev = st.Dev
	w.count(&st)
	return w.dir(fd, dir, 0)
}

func missing(path string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fault.Wrap(errdefs.ErrNotFound, err, "open %s", path)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// dir walks an open directory and closes it.
func (w *walker) dir(fd int, name string, depth int) (err error) {
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // an open descriptor is not negative
	defer func() { err = errors.Join(err, f.Close()) }()
	if depth >= maxDepth {
		return fault.New(errdefs.ErrFailedPrecondition, "directories nested more than %d deep", maxDepth)
	}
	for {
		names, err := f.Readdirnames(batch)
		for _, n := range names {
			if err := w.entry(fd, n, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.ENOENT): // removed under our eyes
			return nil
		case err != nil:
			return fmt.Errorf("read directory: %w", err)
		}
	}
}

func (w *walker) entry(parent int, name string, depth int) error {
	if err := w.breathe(); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", name, err)
	}
	if st.Dev != w.dev { // something is mounted there
		return nil
	}
	if w.at != "" {
		defer w.enter(name)()
	}
	if !w.count(&st) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // replaced meanwhile
		return nil
	case err != nil:
		return fmt.Errorf("open %q: %w", name, err)
	}
	return w.dir(fd, name, depth+1)
}

// count adds an inode; false for one that was counted.
func (w *walker) count(st *unix.Stat_t) bool {
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Nlink > 1 && !isDir {
		k := inode{st.Dev, st.Ino}
		if _, ok := w.seen[k]; ok {
			return false
		}
		w.seen[k] = struct{}{}
	}
	w.found.add(st, isDir)
	if w.part != nil {
		w.part.add(st, isDir)
	}
	return true
}

func (f *Found) add(st *unix.Stat_t, isDir bool) {
	f.Blocks += st.Blocks * blockSize
	f.Inodes++
	if !isDir {
		f.Lengths += st.Size
		f.Files++
	}
}

// breathe rests after each stint of a gentle walk.
func (w *walker) breathe() error {
	if w.steps++; w.steps%64 != 0 {
		return nil
	}
	if err := w.ctx.Err(); err != nil || !w.gentle {
		return err
	}
	d := time.Since(w.began)
	if d < stint {
		return nil
	}
	w.worked += d
	t := time.NewTimer(restFactor * d)
	defer t.Stop()
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-t.C:
	}
	w.began = time.Now()
	return nil
}
