package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Store keeps contents of files. Its methods are called by several goroutines.
type Store interface {
	// Put keeps what r reads and returns where.
	Put(ctx context.Context, name Text, r io.Reader) (object string, err error)
	// Has tells whether the store still has an object, as far as it knows without
	// reading it.
	Has(ctx context.Context, object string) bool
}

// Totals are what a save or a comparison went through.
type Totals struct {
	Files     int64 `json:"files"` // each inode once
	Bytes     int64 `json:"bytes"` // of their contents
	Read      int64 `json:"read"`  // files that were read: new or changed
	ReadBytes int64 `json:"readBytes"`
}

// SaveOptions say what to save.
type SaveOptions struct {
	Dir      string
	Header   Header
	Earlier  *Earlier // nil: nothing is known of earlier
	Workers  int      // that read files; at least 1
	Progress func(Totals)
}

// window bounds the files that are held open while others are read.
const window = 64

type pending struct {
	e      *Entry
	handle int
	done   chan error
}

// Save goes through a tree and has the store keep the content of each file that is
// not as it was. emit gets the entries in the order of an index.
func Save(ctx context.Context, o SaveOptions, store Store, emit func(*Entry) error) (Totals, error) {
	var files, bytes, read, readBytes atomic.Int64
	totals := func() Totals {
		return Totals{Files: files.Load(), Bytes: bytes.Load(), Read: read.Load(), ReadBytes: readBytes.Load()}
	}
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *pending)
	order := make(chan *pending, window)
	for range max(o.Workers, 1) {
		g.Go(func() error {
			for p := range jobs {
				n, err := keep(ctx, store, p)
				read.Add(1)
				readBytes.Add(n)
				p.done <- err
			}
			return nil
		})
	}
	g.Go(func() error { // the entries leave in the order in which they came
		for p := range order {
			if p.done != nil {
				err := <-p.done
				if errors.Is(err, errGone) {
					continue
				}
				if err != nil {
					return err
				}
			}
			if p.e.Kind == File {
				files.Add(1)
				bytes.Add(p.e.Size)
				if o.Progress != nil {
					o.Progress(totals())
				}
			}
			if err := emit(p.e); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(order)
		defer close(jobs)
		return walk(ctx, o.Dir, func(e *Entry, handle int) error {
			p := &pending{e: e, handle: handle}
			if e.Kind != File || o.known(ctx, store, e) {
				if err := unix.Close(handle); err != nil {
					return err
				}
			} else {
				p.done = make(chan error, 1)
				select {
				case jobs <- p:
				case <-ctx.Done():
					return errors.Join(ctx.Err(), unix.Close(handle))
				}
			}
			select {
			case order <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	err := g.Wait()
	return totals(), err
}

// known gives an entry its content's place from an earlier index, if it is as it
// was then and the content still there.
func (o SaveOptions) known(ctx context.Context, store Store, e *Entry) bool {
	if e.Size == 0 || o.Earlier == nil {
		return false
	}
	found := false
	o.Earlier.Find(e.Path, func(was *Entry, h Header) bool {
		if Unchanged(e, o.Header, was, h) && store.Has(ctx, was.Object) {
			e.Digest, e.Object, e.Holes, found = was.Digest, was.Object, was.Holes, true
		}
		return found
	})
	return found
}

// keep reads a file into the store and closes its handle.
func keep(ctx context.Context, store Store, p *pending) (n int64, err error) {
	defer func() { err = errors.Join(err, unix.Close(p.handle)) }()
	f, err := reopen(p.handle, p.e.Path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if p.e.Holes, err = holes(f, p.e.Size); err != nil {
		return 0, fmt.Errorf("%s: %w", p.e.Path, err)
	}
	sum := sha256.New()
	in := &counted{r: reader{ctx, f}}
	if p.e.Object, err = store.Put(ctx, p.e.Path, io.TeeReader(in, sum)); err != nil {
		return in.n, fmt.Errorf("%s: %w", p.e.Path, err)
	}
	p.e.Size, p.e.Digest = in.n, hex.EncodeToString(sum.Sum(nil)) // it may have changed since the look at it
	return in.n, nil
}

type counted struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
