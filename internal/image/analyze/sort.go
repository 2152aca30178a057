package analyze

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// sorter orders records by key; those with equal keys stay in the order they
// came. What memory does not take goes to a file, in sorted runs.
//
// A record is: its length, the key's length, both four bytes, the key, the value.
type sorter struct {
	dir    string
	limit  int // bytes of arena and of at, together
	budget *spillBudget

	arena []byte
	at    []uint32 // where records begin in arena

	file *os.File // has no name any more
	end  int64
	runs []run
}

type run struct{ from, to int64 }

// spillBudget is the disk that all sorters of an analysis may take.
type spillBudget struct{ left int64 }

const (
	recordHead = 8
	runBuffer  = 32 << 10
	// maxRuns are merged at a time. More are merged to one first.
	maxRuns = 512
)

func newSorter(dir string, limit int, b *spillBudget) *sorter {
	return &sorter{dir: dir, limit: min(limit, math.MaxInt32), budget: b}
}

// add takes a record. The slices are copied.
func (s *sorter) add(key, value []byte) error {
	n := recordHead + len(key) + len(value)
	if len(s.arena)+n+4*(len(s.at)+1) > s.limit && len(s.at) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if s.arena == nil {
		// At once: growing by doubling would hold two at a time.
		s.arena = make([]byte, 0, s.limit)
		s.at = make([]uint32, 0, s.limit/64)
	}
	s.at = append(s.at, uint32(len(s.arena)))
	s.arena = appendRecord(s.arena, key, value)
	return nil
}

func appendRecord(b, key, value []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(key)+len(value)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	return append(b, value...)
}

func (s *sorter) record(at uint32) (key, value []byte) {
	n := binary.LittleEndian.Uint32(s.arena[at:])
	k := binary.LittleEndian.Uint32(s.arena[at+4:])
	body := s.arena[at+recordHead : at+recordHead+n]
	return body[:k], body[k:]
}

func (s *sorter) sort() {
	slices.SortFunc(s.at, func(a, b uint32) int {
		x, _ := s.record(a)
		y, _ := s.record(b)
		if c := bytes.Compare(x, y); c != 0 {
			return c
		}
		return int(int64(a) - int64(b))
	})
}

// spill writes what is in memory as a run.
func (s *sorter) spill() error {
	s.sort()
	w, err := s.newRun()
	if err != nil {
		return err
	}
	for _, at := range s.at {
		key, value := s.record(at)
		if err := w.put(key, value); err != nil {
			return err
		}
	}
	r, err := w.done()
	if err != nil {
		return err
	}
	s.runs = append(s.runs, r)
	s.arena, s.at = s.arena[:0], s.at[:0]
	return nil
}

// runWriter appends a run to the sorter's file.
type runWriter struct {
	s       *sorter
	w       *bufio.Writer
	from    int64
	scratch []byte
}

func (s *sorter) newRun() (*runWriter, error) {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "analyze-")
		if err != nil {
			return nil, fmt.Errorf("make a file for what does not fit into memory: %w", err)
		}
		s.file = f
		// Whatever becomes of us, it leaves nothing behind.
		if err := os.Remove(f.Name()); err != nil {
			return nil, fmt.Errorf("make a file for what does not fit into memory: %w", err)
		}
	}
	return &runWriter{s: s, w: bufio.NewWriterSize(io.NewOffsetWriter(s.file, s.end), runBuffer), from: s.end}, nil
}

func (w *runWriter) put(key, value []byte) error {
	w.scratch = appendRecord(w.scratch[:0], key, value)
	n := int64(len(w.scratch))
	if w.s.budget.left < n {
		return fault.New(errdefs.ErrResourceExhausted, "the image has too many entries: their names would take more disk than an analysis may")
	}
	w.s.budget.left -= n
	w.s.end += n
	if _, err := w.w.Write(w.scratch); err != nil {
		return fmt.Errorf("keep what does not fit into memory: %w", err)
	}
	return nil
}

func (w *runWriter) done() (run, error) {
	if err := w.w.Flush(); err != nil {
		return run{}, fmt.Errorf("keep what does not fit into memory: %w", err)
	}
	return run{w.from, w.s.end}, nil
}

// merge calls each with all records in order. The slices are valid during the
// call only. Nothing can be added afterwards.
func (s *sorter) merge(ctx context.Context, each func(key, value []byte) error) error {
	s.sort()
	if len(s.runs) == 0 {
		for i, at := range s.at {
			if i%1024 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			key, value := s.record(at)
			if err := each(key, value); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.at) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.arena, s.at = nil, nil
	for len(s.runs) > maxRuns {
		// The first ones, and to the front: so equal keys keep their order.
		w, err := s.newRun()
		if err != nil {
			return err
		}
		if err := s.mergeRuns(ctx, s.runs[:maxRuns], w.put); err != nil {
			return err
		}
		r, err := w.done()
		if err != nil {
			return err
		}
		s.runs = append([]run{r}, s.runs[maxRuns:]...)
	}
	return s.mergeRuns(ctx, s.runs, each)
}

func (s *sorter) mergeRuns(ctx context.Context, runs []run, each func(key, value []byte) error) error {
	h := make(runHeap, 0, len(runs))
	for i, r := range runs {
		c := &cursor{order: i, r: bufio.NewReaderSize(io.NewSectionReader(s.file, r.from, r.to-r.from), runBuffer)}
		ok, err := c.next()
		if err != nil {
			return err
		}
		if ok {
			h = append(h, c)
		}
	}
	heap.Init(&h)
	for n := 0; len(h) > 0; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c := h[0]
		if err := each(c.key, c.value); err != nil {
			return err
		}
		ok, err := c.next()
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return nil
}

func (s *sorter) close() error {
	s.arena, s.at = nil, nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// cursor stands on a record of a run.
type cursor struct {
	order      int
	r          *bufio.Reader
	body       []byte
	key, value []byte
}

func (c *cursor) next() (bool, error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(c.r, head[:]); errors.Is(err, io.EOF) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read back what did not fit into memory: %w", err)
	}
	n, k := int(binary.LittleEndian.Uint32(head[:])), int(binary.LittleEndian.Uint32(head[4:]))
	c.body = slices.Grow(c.body[:0], n)[:n]
	if _, err := io.ReadFull(c.r, c.body); err != nil {
		return false, fmt.Errorf("read back what did not fit into memory: %w", err)
	}
	c.key, c.value = c.body[:k], c.body[k:]
	return true, nil
}

// runHeap is cursors, the one with the smallest record first.
type runHeap []*cursor

// Len implements heap.Interface.
func (h runHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h runHeap) Less(i, j int) bool {
	if c := bytes.Compare(h[i].key, h[j].key); c != 0 {
		return c < 0
	}
	return h[i].order < h[j].order
}

// Swap implements heap.Interface.
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *runHeap) Push(x any) { *h = append(*h, x.(*cursor)) }

// Pop implements heap.Interface.
func (h *runHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	*h = (*h)[:last]
	return c
}
