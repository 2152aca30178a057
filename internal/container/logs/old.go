package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Old is a file of a log that is no longer written.
type Old struct {
	Path  string
	Bytes int64 // on the disk
	Ended time.Time

	inode uint64
}

// files is where the drivers keep what they keep.
func (c Config) files() string {
	switch c.Type {
	case JSONFile:
		return c.Path
	case Local, Syslog, Journald:
		return filepath.Join(c.Dir, "container.log")
	}
	return ""
}

// OldFiles lists the files of a log that are not written any more, the oldest
// first: those rotated out and, where ended says that nobody writes, the last one.
func OldFiles(c Config, ended bool) ([]Old, error) {
	path := c.files()
	if path == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	type numbered struct {
		Old
		n int
	}
	var found []numbered
	for _, e := range entries {
		n, ok := generation(filepath.Base(path), e.Name())
		if !ok || n == 0 && !ended {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated meanwhile
		}
		if err != nil {
			return nil, err
		}
		o := oldOf(filepath.Join(filepath.Dir(path), e.Name()), info)
		if n > 0 || o.Bytes > 0 {
			found = append(found, numbered{o, n})
		}
	}
	slices.SortFunc(found, func(a, b numbered) int { return b.n - a.n })
	out := make([]Old, len(found))
	for i, f := range found {
		out[i] = f.Old
	}
	return out, nil
}

func oldOf(path string, info fs.FileInfo) Old {
	o := Old{Path: path, Ended: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.Bytes, o.inode = st.Blocks*512, st.Ino
	}
	return o
}

// generation is how many rotations ago the file was written: 0 is written now.
func generation(base, name string) (int, bool) {
	rest, ok := strings.CutPrefix(name, base)
	if !ok {
		return 0, false
	}
	rest = strings.TrimSuffix(rest, ".gz")
	if rest == "" {
		return 0, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "."))
	return n, err == nil && n > 0 && rest[0] == '.'
}

// dropper is a log that is written now and knows its own rotations.
type dropper interface {
	dropOld(o Old) error
}

// RemoveOld deletes a file of a log. l is the log if it is written now: then its
// rotations wait meanwhile. fs.ErrNotExist where the file is no longer the one that
// was listed.
func RemoveOld(l Logger, o Old) error {
	if d, ok := l.(dropper); ok {
		return d.dropOld(o)
	}
	return removeOld(o)
}

func removeOld(o Old) error {
	info, err := os.Lstat(o.Path)
	if err != nil {
		return err
	}
	if is := oldOf(o.Path, info); is.inode != o.inode || !is.Ended.Equal(o.Ended) {
		return &fs.PathError{Op: "remove", Path: o.Path, Err: fs.ErrNotExist}
	}
	return os.Remove(o.Path)
}

func (l *fileLog) dropOld(o Old) error {
	l.names.Lock()
	defer l.names.Unlock()
	if o.Path == l.path { // a run began since
		return &fs.PathError{Op: "remove", Path: o.Path, Err: fs.ErrNotExist}
	}
	return removeOld(o)
}

func (r *ring) dropOld(o Old) error { return RemoveOld(r.to, o) }

func (l *cached) dropOld(o Old) error {
	if l.cache == nil {
		return removeOld(o)
	}
	return l.cache.dropOld(o)
}
