package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
)

// lagLimit is how many bytes of rotated-out files slow followers may keep alive
// beyond what the options keep anyway.
const lagLimit = 256 << 20

// segment is one file of a log that this process has written.
type segment struct {
	f       *os.File
	start   Place    // of its first byte
	size    int64    // bytes of whole records
	refs    int      // the writer, the followers that read it, the segment before it
	next    *segment // the file that was begun after it
	expired bool     // closed under a follower that lagged too much
}

// fileLog is a log in rotated files: path is written, path.1 is the newest
// before it. Lock order: mu, then names.
type fileLog struct {
	name  string
	path  string
	codec codec
	attrs map[string]string
	settings
	readOnly bool

	mu      sync.Mutex    // guards the fields below, held across writes of the file
	cur     *segment      // what is written
	old     []*segment    // rotated, still read by followers
	changed chan struct{} // closed and replaced when there is news; nil without followers
	closed  bool
	buf     []byte
	packing sync.WaitGroup // compression of the file rotated last

	names sync.Mutex // held while files are renamed, or opened for reading
}

func (l *fileLog) Name() string { return l.name }

// open repairs what a crash may have left and opens the file for writing.
func (l *fileLog) open() error {
	for _, n := range []string{l.path + ".new", l.path + ".gz.tmp"} {
		if err := os.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	seg, err := openSegment(l.path)
	if err != nil {
		return err
	}
	good, add, err := l.codec.sound(seg.f, seg.size)
	if err == nil && good < seg.size {
		err = seg.f.Truncate(good)
	}
	if err == nil && len(add) > 0 {
		_, err = seg.f.Write(add)
		good += int64(len(add))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("repair log %s: %w", l.path, err), seg.f.Close())
	}
	seg.size = good
	l.cur = seg
	if l.compress {
		l.packing.Add(1)
		go func() { defer l.packing.Done(); l.pack() }()
	}
	return nil
}

func openSegment(path string) (*segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	start, err := identify(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &segment{f: f, start: start, size: st.Size(), refs: 1}, nil
}

func (l *fileLog) Log(m Message) error { return l.logAll([]Message{m}, nil) }

// logAll appends the messages by one write where no rotation falls between them.
func (l *fileLog) logAll(ms []Message, note Note) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.readOnly {
		return fs.ErrClosed
	}
	l.buf = l.buf[:0]
	done := 0
	flush := func(upTo int) error {
		if note != nil && upTo > done {
			p := l.cur.start
			p.At = l.cur.size
			note(p, done, upTo)
		}
		done = upTo
		return l.flush()
	}
	for i, m := range ms {
		if l.maxSize > 0 && l.cur.size+int64(len(l.buf)) >= l.maxSize {
			if err := flush(i); err != nil {
				return err
			}
			l.rotate()
		}
		if m.Attrs == nil {
			m.Attrs = l.attrs
		}
		l.buf = l.codec.encode(l.buf, m)
	}
	return flush(len(ms))
}

// flush writes buf; a write that fails half-way is undone.
func (l *fileLog) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	n, err := l.cur.f.Write(l.buf)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, l.cur.f.Truncate(l.cur.size))
		}
		return err
	}
	l.cur.size += int64(n)
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	l.buf = l.buf[:0]
	l.wake()
	return nil
}

func (l *fileLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func rotated(path string, i int) string { return path + "." + strconv.Itoa(i) }

// rotate begins a new file. Where that fails (no space) the old one goes on:
// a log over its size is better than a lost one.
func (l *fileLog) rotate() {
	l.packing.Wait()
	l.names.Lock()
	defer l.names.Unlock()
	fresh := l.path + ".new"
	next, err := openSegment(fresh)
	if err != nil {
		return
	}
	if err := l.shift(); err != nil || os.Rename(fresh, l.path) != nil {
		_ = next.f.Close()
		_ = os.Remove(fresh)
		return
	}
	prev := l.cur
	prev.next = next
	next.refs++ // a follower of prev comes to it
	l.cur = next
	l.old = append(l.old, prev)
	l.release(prev)
	l.expire()
	l.wake()
	if l.compress {
		l.packing.Add(1)
		go func() { defer l.packing.Done(); l.pack() }()
	}
}

// shift renames path.1 to path.2 and so on, and path to path.1. With one file
// it does nothing: the new file takes the name of the old one.
func (l *fileLog) shift() error {
	if l.maxFiles == 1 {
		return nil
	}
	last := rotated(l.path, l.maxFiles-1)
	for _, n := range []string{last, last + ".gz"} {
		if err := os.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i := l.maxFiles - 2; i >= 1; i-- {
		for _, suffix := range []string{"", ".gz"} {
			err := os.Rename(rotated(l.path, i)+suffix, rotated(l.path, i+1)+suffix)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return os.Rename(l.path, rotated(l.path, 1))
}

// release gives one use of a segment back, and with the last one its use of
// the next; mu is held.
func (l *fileLog) release(s *segment) {
	for ; s != nil; s = s.next {
		if s.refs--; s.refs > 0 {
			return
		}
		if !s.expired {
			_ = s.f.Close() // nothing is buffered in the process
		}
		l.old = slices.DeleteFunc(l.old, func(o *segment) bool { return o == s })
	}
}

// expire closes the oldest rotated files under followers that are too far
// behind, so that they cannot hold the disk's space for ever; mu is held.
func (l *fileLog) expire() {
	sum := int64(0)
	for i := len(l.old) - 1; i >= 0; i-- {
		s := l.old[i]
		if sum += s.size; sum > lagLimit+l.maxSize*int64(l.maxFiles) && !s.expired {
			s.expired = true
			_ = s.f.Close()
		}
	}
}

// pack compresses the rotated files that are not, oldest names included so
// that an interrupted one is done again.
func (l *fileLog) pack() {
	for i := 1; i < l.maxFiles; i++ {
		name := rotated(l.path, i)
		if _, err := os.Stat(name); err != nil {
			continue
		}
		tmp := l.path + ".gz.tmp"
		if err := gzipFile(tmp, name); err != nil {
			_ = os.Remove(tmp)
			return // uncompressed is complete too; the next rotation tries again
		}
		l.names.Lock()
		err := os.Rename(tmp, name+".gz")
		if err == nil {
			err = os.Remove(name)
		}
		l.names.Unlock()
		if err != nil {
			return
		}
	}
}

func gzipFile(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return z.Close()
}

// Close ends the log; followers get what is left and end.
func (l *fileLog) Close() error {
	l.mu.Lock()
	if l.closed || l.readOnly {
		l.closed = true
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.release(l.cur)
	l.wake()
	l.mu.Unlock()
	l.packing.Wait()
	return nil
}
