package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
)

// errStop ends a read early without an error.
var errStop = errors.New("stop reading")

// source is one file to read, opened.
type source struct {
	f    *os.File
	gz   bool
	size int64
	off  int64 // where to begin; for gz the records to skip
}

// Read implements Logger.
func (l *fileLog) Read(ctx context.Context, o ReadOptions, emit func(Message) error) error {
	older, seg, err := l.sources()
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range older {
			_ = s.f.Close()
		}
	}()
	var off, size int64
	if seg != nil {
		defer func() { l.drop(seg) }()
		size = l.committed(seg)
	}
	want := o.Tail
	if o.Tail >= 0 && seg != nil {
		var found int
		if off, found, err = l.codec.tail(seg.f, size, want); err != nil {
			return err
		}
		want -= found
	}
	older, err = l.cutTail(older, o.Tail >= 0, want)
	if err != nil {
		return err
	}

	selected := selector(ctx, o, emit)
	for _, s := range older {
		if err := l.scanSource(s, selected); err != nil {
			return stopped(err)
		}
	}
	if seg == nil {
		return nil
	}
	if !o.Follow {
		return stopped(l.scan(io.NewSectionReader(seg.f, off, size-off), 0, selected))
	}
	return stopped(l.follow(ctx, &seg, off, selected))
}

func stopped(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// selector applies the times and the caller's context to emit.
func selector(ctx context.Context, o ReadOptions, emit func(Message) error) func(Message) error {
	return func(m Message) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !o.Until.IsZero() && m.Time.After(o.Until) {
			return errStop
		}
		if m.Time.Before(o.Since) {
			return nil
		}
		return emit(m)
	}
}

// sources opens the rotated files, oldest first, and takes hold of the file
// that is written. A log opened read-only, or closed, has no such file: the
// one at path is then the last of the sources.
func (l *fileLog) sources() ([]source, *segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names.Lock()
	defer l.names.Unlock()
	live := !l.readOnly && !l.closed
	for try := 0; ; try++ {
		out, same, err := l.openAll(!live)
		if err != nil {
			return nil, nil, err
		}
		// Another process's rotation may have moved a file between two opens.
		if same && try < 5 {
			for _, s := range out {
				_ = s.f.Close()
			}
			continue
		}
		if !live {
			return out, nil, nil
		}
		l.cur.refs++
		return out, l.cur, nil
	}
}

// openAll opens path.N … path.1, and path itself where withCur. same tells
// that one file came twice.
func (l *fileLog) openAll(withCur bool) (out []source, same bool, err error) {
	defer func() {
		if err != nil {
			for _, s := range out {
				_ = s.f.Close()
			}
		}
	}()
	var infos []os.FileInfo
	for i := l.maxFiles - 1; i >= 0; i-- {
		if i == 0 && !withCur {
			break
		}
		name, gz := l.path, false
		if i > 0 {
			name = rotated(l.path, i)
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			gz = true
			f, err = os.Open(name + ".gz")
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, false, err
		}
		out = append(out, source{f: f, gz: gz})
		st, err := f.Stat()
		if err != nil {
			return out, false, err
		}
		out[len(out)-1].size = st.Size()
		for _, o := range infos {
			same = same || os.SameFile(o, st)
		}
		infos = append(infos, st)
	}
	return out, same, nil
}

// cutTail drops from the front what the tail leaves out; want is how many
// messages the older files have to give.
func (l *fileLog) cutTail(older []source, limited bool, want int) ([]source, error) {
	if !limited {
		return older, nil
	}
	for i := len(older) - 1; i >= 0; i-- {
		s := &older[i]
		if want <= 0 {
			for _, o := range older[:i+1] {
				_ = o.f.Close()
			}
			return older[i+1:], nil
		}
		if s.gz {
			total := 0
			err := l.scanSource(*s, func(Message) error { total++; return nil })
			if err != nil {
				return older, err
			}
			s.off = int64(max(0, total-want))
			want -= min(want, total)
			continue
		}
		off, found, err := l.codec.tail(s.f, s.size, want)
		if err != nil {
			return older, err
		}
		s.off = off
		want -= found
	}
	return older, nil
}

func (l *fileLog) scanSource(s source, emit func(Message) error) error {
	if !s.gz {
		return l.scan(io.NewSectionReader(s.f, s.off, s.size-s.off), 0, emit)
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(s.f)
	if err != nil {
		return err
	}
	return l.scan(z, int(s.off), emit)
}

// scan emits the records of r after skipping some. A torn one at the end is left out.
func (l *fileLog) scan(r io.Reader, skip int, emit func(Message) error) error {
	buf := make([]byte, 0, blockSize)
	for {
		if len(buf) == cap(buf) {
			if len(buf) > maxRecord {
				return errors.New("log record longer than any that was written")
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, rerr := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		used := 0
		for {
			n, err := l.codec.cut(buf[used:])
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			rec := buf[used : used+n]
			used += n
			if skip > 0 {
				skip--
				continue
			}
			if m, ok := l.codec.decode(rec); ok {
				if err := emit(m); err != nil {
					return err
				}
			}
		}
		buf = append(buf[:0], buf[used:]...)
		if errors.Is(rerr, io.EOF) {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// committed returns how much of a segment is whole records.
func (l *fileLog) committed(s *segment) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.size
}

func (l *fileLog) drop(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(s)
}

// follow reads on from off through the files that are written, keeping hold
// of the one it reads in *seg.
func (l *fileLog) follow(ctx context.Context, seg **segment, off int64, emit func(Message) error) error {
	for {
		l.mu.Lock()
		s := *seg
		size, closed := s.size, l.closed
		if s.expired {
			l.mu.Unlock()
			return errors.New("the reader is too slow: the log was rotated away under it")
		}
		if off >= size && s.next != nil {
			s.next.refs++
			*seg = s.next
			l.release(s)
			l.mu.Unlock()
			off = 0
			continue
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()

		if off < size {
			if err := l.scan(io.NewSectionReader(s.f, off, size-off), 0, emit); err != nil {
				return err
			}
			off = size
			continue
		}
		if closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
