package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Place is where in a log's files a write begins. The next daemon knows it
// again: a file keeps its number and its birth when it is renamed.
type Place struct {
	File uint64 // inode number
	Born uint64 // nanoseconds since 1970; 0 where the file system does not keep it
	At   int64
}

// Note is told, before each write of a batch, where it goes, and how many of the
// batch's messages are logged before it and will be after it.
type Note func(p Place, before, after int)

// Since counts the messages of a stream that were written at p or after it.
// known is false where p's file is compressed or gone: then the write that was to
// begin at p has ended, since no file is put away before.
func Since(l Logger, p Place, stream string) (n int, known bool, err error) {
	switch l := l.(type) {
	case *fileLog:
		return l.since(p, stream)
	case *cached:
		if l.cache != nil {
			return l.cache.since(p, stream)
		}
	}
	return 0, false, fmt.Errorf("log driver %s has no places", l.Name())
}

func (l *fileLog) since(p Place, stream string) (n int, known bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names.Lock()
	defer l.names.Unlock()
	for i := range max(1, l.maxFiles) {
		name := l.path
		if i > 0 {
			name = rotated(l.path, i)
		}
		in, own, err := l.countIn(name, p, stream)
		if err != nil {
			return 0, false, err
		}
		if n += in; own {
			return n, true, nil
		}
	}
	return 0, false, nil
}

// countIn counts the messages in one file, from p on where it is p's own.
func (l *fileLog) countIn(name string, p Place, stream string) (n int, own bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	here, err := identify(f)
	if err != nil {
		return 0, false, err
	}
	off := int64(0)
	if here.File == p.File && here.Born == p.Born && p.At <= st.Size() {
		off, own = p.At, true
	}
	err = l.scan(io.NewSectionReader(f, off, st.Size()-off), 0, func(m Message) error {
		if m.Stream == stream {
			n++
		}
		return nil
	})
	return n, own, err
}

// identify is the place of a file's first byte.
func identify(f *os.File) (Place, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil { //nolint:gosec // file descriptors are small
		return Place{}, fmt.Errorf("identify log file: %w", err)
	}
	p := Place{File: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		p.Born = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec) //nolint:gosec // compared only
	}
	return p, nil
}
