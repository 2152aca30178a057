package tree

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// indexVersion is what this program writes and reads.
const indexVersion = 1

// maxLine bounds an entry: a path, a link and all extended attributes.
const maxLine = 4 << 20

// Header begins an index, or a part of one.
type Header struct {
	Version int       `json:"version"`
	Moment  time.Time `json:"moment"` // when the tree was read, or the snapshot made
	// Stable says that inode numbers are the volume's own: they and the times of
	// change tell what is unchanged. In a copy of the volume they tell nothing.
	Stable bool `json:"stable"`
}

type end struct {
	End     bool  `json:"end"`
	Entries int64 `json:"entries"`
}

// IndexWriter writes an index.
type IndexWriter struct {
	enc     *json.Encoder
	entries int64
}

// NewIndexWriter writes the header.
func NewIndexWriter(to io.Writer, h Header) (*IndexWriter, error) {
	h.Version = indexVersion
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	return &IndexWriter{enc: enc}, enc.Encode(h)
}

// Write adds an entry.
func (w *IndexWriter) Write(e *Entry) error {
	w.entries++
	return w.enc.Encode(e)
}

// Close writes the end.
func (w *IndexWriter) Close() error { return w.enc.Encode(end{End: true, Entries: w.entries}) }

// IndexReader reads the parts of an index as one.
type IndexReader struct {
	open    []func() (io.ReadCloser, error)
	part    io.ReadCloser
	scan    *bufio.Scanner
	header  Header
	entries int64
	last    Text
}

// NewIndexReader reads parts that open opens, one after the other. Close ends it.
func NewIndexReader(open ...func() (io.ReadCloser, error)) *IndexReader {
	return &IndexReader{open: open}
}

// Header is that of the part that was read last.
func (r *IndexReader) Header() Header { return r.header }

// Close implements io.Closer.
func (r *IndexReader) Close() error {
	if r.part == nil {
		return nil
	}
	err := r.part.Close()
	r.part = nil
	return err
}

func damaged(format string, a ...any) error {
	return fault.New(errdefs.ErrDataLoss, "the list of files is damaged: %s", fmt.Sprintf(format, a...))
}

func (r *IndexReader) line() ([]byte, error) {
	if r.scan.Scan() {
		return r.scan.Bytes(), nil
	}
	if err := r.scan.Err(); err != nil {
		return nil, fault.Wrap(errdefs.ErrDataLoss, err, "read the list of files")
	}
	return nil, damaged("it is cut off after %d entries", r.entries)
}

// Next is the next entry; io.EOF after the last one.
func (r *IndexReader) Next() (*Entry, error) {
	for {
		if r.part == nil {
			if len(r.open) == 0 {
				return nil, io.EOF
			}
			if err := r.next(); err != nil {
				return nil, err
			}
		}
		b, err := r.line()
		if err != nil {
			return nil, err
		}
		var e struct {
			Entry
			end
		}
		if err := json.Unmarshal(b, &e); err != nil {
			return nil, damaged("%s", err)
		}
		if e.End {
			if e.Entries != r.entries {
				return nil, damaged("it has %d entries instead of %d", r.entries, e.Entries)
			}
			if err := r.Close(); err != nil {
				return nil, err
			}
			continue
		}
		if err := e.check(); err != nil {
			return nil, err
		}
		if r.last != "" && !Before(r.last, e.Path) {
			return nil, damaged("%.200q comes after %.200q", e.Path, r.last)
		}
		r.last = e.Path
		r.entries++
		return &e.Entry, nil
	}
}

func (r *IndexReader) next() error {
	part, err := r.open[0]()
	if err != nil {
		return fault.Wrap(errdefs.ErrDataLoss, err, "read the list of files")
	}
	r.part, r.open, r.entries = part, r.open[1:], 0
	r.scan = bufio.NewScanner(part)
	r.scan.Buffer(make([]byte, 1<<16), maxLine)
	b, err := r.line()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.header); err != nil {
		return damaged("%s", err)
	}
	if r.header.Version != indexVersion {
		return fault.New(errdefs.ErrNotImplemented, "the list of files is of version %d; this Holdfast knows %d", r.header.Version, indexVersion)
	}
	return nil
}

// check refuses what no walk writes.
func (e *Entry) check() error {
	p := string(e.Path)
	switch {
	case p == "", strings.HasPrefix(p, "/"), strings.ContainsRune(p, 0), len(p) > 1<<16:
		return damaged("name %.200q", p)
	case e.Size < 0, e.Holes < 0:
		return damaged("%.200q has a size below 0", p)
	}
	if p != "." {
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || part == "." || part == ".." {
				return damaged("name %.200q", p)
			}
		}
	}
	switch e.Kind {
	case Directory, File, Symlink, HardLink, Fifo, CharDev, BlockDev:
		return nil
	}
	return damaged("%.200q is of the unknown kind %.20q", p, e.Kind)
}

// Earlier finds entries of earlier indexes for paths that come in their order.
type Earlier struct {
	indexes []*earlier
}

type earlier struct {
	r    *IndexReader
	at   *Entry
	done bool
}

// NewEarlier looks in the indexes in turn: the first that has a path tells. It owns
// them.
func NewEarlier(indexes ...*IndexReader) *Earlier {
	out := &Earlier{}
	for _, r := range indexes {
		out.indexes = append(out.indexes, &earlier{r: r})
	}
	return out
}

// Find calls yield with each entry of that path until it returns true. An index that
// is damaged helps no more; that costs work, and nothing else.
func (e *Earlier) Find(path Text, yield func(*Entry, Header) bool) {
	for _, x := range e.indexes {
		for !x.done && (x.at == nil || Before(x.at.Path, path)) {
			at, err := x.r.Next()
			if err != nil {
				x.done = true
				break
			}
			x.at = at
		}
		if !x.done && x.at != nil && x.at.Path == path && yield(x.at, x.r.Header()) {
			return
		}
	}
}

// Close implements io.Closer.
func (e *Earlier) Close() error {
	var errs []error
	for _, x := range e.indexes {
		errs = append(errs, x.r.Close())
	}
	return errors.Join(errs...)
}

// racy is how much older than the moment of its backup a file's time of change must
// be: kernels keep time in ticks, and a file may change twice in one.
const racy = 2 * time.Second

// Unchanged tells whether the content of now, of a tree as h says, is that of was,
// of an earlier one as wh says.
func Unchanged(now *Entry, h Header, was *Entry, wh Header) bool {
	if was.Kind != File || now.Kind != File || was.Digest == "" ||
		now.Size != was.Size || now.MTime != was.MTime || was.MTime >= wh.Moment.Add(-racy).UnixNano() {
		return false
	}
	if h.Stable && wh.Stable {
		return now.Inode == was.Inode && now.CTime == was.CTime
	}
	return true
}
