package analyze

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// entryKind is what a record says of its path.
type entryKind byte

const (
	isDir      entryKind = iota
	isFile               // with content of its own
	isOther              // a link of either sort, a device, a pipe
	isWhiteout           // the layer takes away what lower ones have here
	isOpaque             // the layer takes away what lower ones have below here
)

const hashSize = 16 // half a SHA-256: nobody finds two files by chance

// entry is the value of a record; the key is the path.
type entry struct {
	layer int
	kind  entryKind
	size  int64
	hash  [hashSize]byte
	known bool // the hash is
}

func (e entry) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(e.layer))
	known := byte(0)
	if e.known {
		known = 1
	}
	b = append(b, byte(e.kind), known)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.size))
	return append(b, e.hash[:]...)
}

func entryOf(b []byte) (e entry) {
	e.layer = int(binary.LittleEndian.Uint16(b))
	e.kind, e.known = entryKind(b[2]), b[3] == 1
	e.size = int64(binary.LittleEndian.Uint64(b[4:]))
	copy(e.hash[:], b[12:])
	return e
}

// pathKey makes a path a key under which everything below a directory follows
// it at once: a slash sorts before all that a name can hold.
func pathKey(p string) []byte { return bytes.ReplaceAll([]byte(p), []byte{'/'}, []byte{0}) }

func pathOf(key []byte) string {
	return string(bytes.ReplaceAll(key, []byte{0}, []byte{'/'}))
}

// Names of the entries by which a layer takes away.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// place tells which path an entry speaks of, without slashes around it, and
// whether it takes that away. ok is false for what storage drivers left behind.
func place(name string, typ byte) (p string, kind entryKind, ok bool) {
	p = strings.TrimPrefix(path.Clean("/"+name), "/")
	switch typ {
	case tar.TypeDir:
		kind = isDir
	case tar.TypeReg, tar.TypeGNUSparse:
		kind = isFile
	default:
		kind = isOther
	}
	dir, base := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	switch {
	case base == opaqueName:
		return dir, isOpaque, true
	case strings.HasPrefix(base, whiteoutMeta):
		return "", 0, false
	case strings.HasPrefix(base, whiteoutPrefix) && len(base) > len(whiteoutPrefix):
		return path.Join(dir, base[len(whiteoutPrefix):]), isWhiteout, true
	}
	return p, kind, true
}

// reader makes records of layers.
type reader struct {
	out      *sorter
	limits   Limits
	progress func(int, int64)
	entries  []int64 // by layer
	total    int64   // entries of all layers
	bytes    int64   // of all streams
	scratch  []byte
}

// told is how often progress is.
const told = 8 << 20

// counted counts what goes through it and ends with the context or the limit.
type counted struct {
	ctx   context.Context
	r     io.Reader
	layer int
	owner *reader
	next  int64 // when to tell
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	// Before reading: an error that comes with all that was asked for is lost.
	if c.owner.bytes > c.owner.limits.Bytes {
		return 0, fault.New(errdefs.ErrInvalidArgument, "the image unpacks to more than %d bytes, the most that is analysed", c.owner.limits.Bytes)
	}
	n, err := c.r.Read(p)
	c.owner.bytes += int64(n)
	if c.owner.bytes >= c.next {
		c.next = c.owner.bytes + told
		c.owner.progress(c.layer+1, c.owner.bytes)
	}
	return n, err
}

// layer reads one layer.
func (r *reader) layer(ctx context.Context, index int, src Source) (err error) {
	in, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	ahead := readAhead(in)
	defer ahead.stop() // before in is closed: it reads from it
	c := &counted{ctx: ctx, r: ahead, layer: index, owner: r}
	t := tar.NewReader(c)
	sum, buf := sha256.New(), make([]byte, 128<<10)
	r.entries = append(r.entries, 0)
	var holes pending
	for {
		h, err := t.Next()
		if err := holes.add(r); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return notTar(err)
		}
		r.total++
		r.entries[index]++
		if r.total > r.limits.Entries {
			return fault.New(errdefs.ErrInvalidArgument, "the image has more than %d entries, the most that are analysed", r.limits.Entries)
		}
		if len(h.Name) > r.limits.Path {
			return fault.New(errdefs.ErrInvalidArgument, "the name of an entry has %d bytes, at most %d can be", len(h.Name), r.limits.Path)
		}
		if strings.IndexByte(h.Name, 0) >= 0 {
			return fault.New(errdefs.ErrInvalidArgument, "the name %q of an entry has a zero byte", h.Name)
		}
		p, kind, ok := place(h.Name, h.Typeflag)
		if !ok {
			continue
		}
		e := entry{layer: index, kind: kind}
		if kind == isFile && sparse(h) {
			holes = pending{key: pathKey(p), e: e, from: r.bytes}
			continue
		}
		if kind == isFile {
			if e, err = content(e, t, sum, buf); err != nil {
				return notTar(err)
			}
		}
		r.scratch = e.append(r.scratch[:0])
		if err := r.out.add(pathKey(p), r.scratch); err != nil {
			return err
		}
	}
}

// pending is a sparse file. Its content is not read: holes cost time without
// end and no byte of the layer. Its size is what the archive took for it, to a
// block or two, which is known when the next header has been read.
type pending struct {
	key  []byte
	e    entry
	from int64 // where the stream was
}

const blockSize = 512

func (p *pending) add(r *reader) error {
	if p.key == nil {
		return nil
	}
	p.e.size = max(r.bytes-p.from-blockSize, 0)
	err := r.out.add(p.key, p.e.append(nil))
	p.key = nil
	return err
}

// content reads a file.
func content(e entry, t *tar.Reader, sum hash.Hash, buf []byte) (entry, error) {
	sum.Reset()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{t}, buf)
	if err != nil {
		return e, err
	}
	e.size, e.known = n, true
	var full [sha256.Size]byte
	copy(e.hash[:], sum.Sum(full[:0]))
	return e, nil
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// notTar says of what the archive's own reader found that the layer is at fault.
func notTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "it is not a tar archive")
	}
	return err
}
