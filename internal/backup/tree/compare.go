package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"golang.org/x/sys/unix"
)

// maxDifferences is how many a comparison tells; the first ones say what is wrong.
const maxDifferences = 1000

// Compare tells what of a tree is not as the index says: names, kinds, owners, modes,
// times, links, extended attributes, contents by digest, and holes. Paths for which
// skip is true are known to be damaged.
func Compare(ctx context.Context, dir string, index *IndexReader, skip func(path string) bool) ([]Difference, Totals, error) {
	c := comparison{ctx: ctx, index: index, skip: skip}
	if err := c.advance(); err != nil {
		return nil, c.t, err
	}
	err := walk(ctx, dir, c.visit)
	for err == nil && c.at != nil {
		c.tell(c.at.Path, "it is missing")
		err = c.advance()
	}
	return c.found, c.t, err
}

type comparison struct {
	ctx   context.Context //nolint:containedctx // lives for one call
	index *IndexReader
	skip  func(string) bool
	at    *Entry // the index's next; nil after the last
	found []Difference
	t     Totals
}

func (c *comparison) advance() error {
	e, err := c.index.Next()
	if errors.Is(err, io.EOF) {
		c.at = nil
		return nil
	}
	c.at = e
	return err
}

func (c *comparison) tell(path Text, format string, a ...any) {
	p := path.Escaped()
	if len(c.found) < maxDifferences && (c.skip == nil || !c.skip(p)) {
		c.found = append(c.found, Difference{Path: p, What: fmt.Sprintf(format, a...)})
	}
}

func (c *comparison) visit(e *Entry, handle int) (err error) {
	defer func() { err = errors.Join(err, unix.Close(handle)) }()
	for c.at != nil && Before(c.at.Path, e.Path) {
		c.tell(c.at.Path, "it is missing")
		if err := c.advance(); err != nil {
			return err
		}
	}
	if c.at == nil || c.at.Path != e.Path {
		c.tell(e.Path, "it is not in the backup")
		return nil
	}
	want := c.at
	c.attributes(want, e)
	if want.Kind == File && e.Kind == File {
		c.t.Files++
		c.t.Bytes += e.Size
		if err := c.content(want, e, handle); err != nil {
			return err
		}
	}
	return c.advance()
}

func (c *comparison) attributes(want, got *Entry) {
	if want.Kind != got.Kind {
		c.tell(want.Path, "it is of kind %s, not %s", got.Kind, want.Kind)
		return
	}
	if want.Kind == HardLink {
		if want.Link != got.Link {
			c.tell(want.Path, "it is another name of %s, not of %s", got.Link, want.Link)
		}
		return
	}
	if want.UID != got.UID || want.GID != got.GID {
		c.tell(want.Path, "its owner is %d:%d, not %d:%d", got.UID, got.GID, want.UID, want.GID)
	}
	if want.Mode != got.Mode && want.Kind != Symlink {
		c.tell(want.Path, "its mode is %04o, not %04o", got.Mode, want.Mode)
	}
	if want.MTime != got.MTime {
		c.tell(want.Path, "its time is %s, not %s", show(got.MTime), show(want.MTime))
	}
	if want.Link != got.Link {
		c.tell(want.Path, "it points to %.200q, not to %.200q", got.Link, want.Link)
	}
	if want.Device != got.Device {
		c.tell(want.Path, "it is the device %#x, not %#x", got.Device, want.Device)
	}
	if !maps.EqualFunc(want.Xattrs, got.Xattrs, bytes.Equal) {
		c.tell(want.Path, "its extended attributes are others (%d instead of %d)", len(got.Xattrs), len(want.Xattrs))
	}
}

func show(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// sparse is from how many bytes of holes on a file counts as one with holes.
const sparse = 1 << 20

func (c *comparison) content(want, got *Entry, handle int) (err error) {
	if want.Size != got.Size {
		c.tell(want.Path, "it has %d bytes, not %d", got.Size, want.Size)
		return nil
	}
	f, err := reopen(handle, want.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, reader{c.ctx, f}, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("%s: %w", want.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != want.Digest {
		c.tell(want.Path, "its content is another")
		return nil
	}
	if want.Holes < sparse {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd(f), &st); err != nil {
		return err
	}
	if st.Blocks*512 > want.Size-want.Holes/2 {
		c.tell(want.Path, "it takes %d bytes of room, and had %d bytes of holes", st.Blocks*512, want.Holes)
	}
	return nil
}
