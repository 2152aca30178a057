package imagestore

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// staged is a layer unpacked into a snapshot that has no parent yet.
type staged struct {
	key         string
	needsParent bool // an entry's directory is not in the layer: its mode and owner are the parent's
	whiteouts   bool // means something only over a parent
}

// fits says whether the staged snapshot is right as bottom layer or over others.
func (st staged) fits(bottom bool) bool {
	if st.key == "" {
		return false
	}
	if bottom {
		return !st.whiteouts
	}
	return !st.needsParent
}

// stage unpacks a tar stream into a new snapshot.
func (s *Store) stage(ctx context.Context, r io.Reader) (staged, error) {
	key, err := unique(snapshots.UnpackKeyPrefix + "-stage-")
	if err != nil {
		return staged{}, err
	}
	mounts, err := s.d.Snapshots.Prepare(ctx, key, "")
	if err != nil {
		return staged{}, fmt.Errorf("prepare layer: %w", err)
	}
	st := staged{key: key}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		err = fmt.Errorf("%w: snapshotter gives no directory", errdefs.ErrNotImplemented)
	} else {
		err = st.fill(ctx, mounts[0], r)
	}
	if err != nil {
		s.drop(ctx, key)
		return staged{}, err
	}
	return st, nil
}

func (st *staged) fill(ctx context.Context, m mount.Mount, r io.Reader) error {
	seen := map[string]bool{".": true, "/": true}
	watch := func(h *tar.Header) (bool, error) {
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		if !seen[path.Dir(name)] {
			st.needsParent = true
		}
		if h.Typeflag == tar.TypeDir {
			seen[name] = true
		}
		if strings.HasPrefix(path.Base(name), ".wh.") {
			st.whiteouts = true
		}
		return true, nil
	}
	_, err := archive.Apply(ctx, m.Source, r, archive.WithFilter(watch), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	return err
}

// drop removes a snapshot that will not be used. The collector would, too; this is sooner.
func (s *Store) drop(ctx context.Context, key string) {
	if key == "" {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := s.d.Snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		s.d.Log.Warn("staged layer not removed", logkey.Name, key, logkey.Err, err)
	}
}

// pipe carries blocks from the reader of an archive to whoever unpacks them,
// a few at a time. The unpacking end may give up; the writer then goes on alone.
type pipe struct {
	blocks chan []byte
	free   chan []byte
	gone   chan struct{} // closed when the unpacking end stopped reading
	err    error         // why the writer closed; read after blocks is closed
}

const (
	blockSize  = 256 << 10
	blockCount = 16
)

func newPipe() *pipe {
	p := &pipe{
		blocks: make(chan []byte, blockCount),
		free:   make(chan []byte, blockCount+2),
		gone:   make(chan struct{}),
	}
	return p
}

// block returns an empty buffer to fill.
func (p *pipe) block() []byte {
	select {
	case b := <-p.free:
		return b[:cap(b)]
	default:
		return make([]byte, blockSize)
	}
}

// put hands a filled block over, or keeps it if nobody reads.
func (p *pipe) put(b []byte) {
	select {
	case p.blocks <- b:
	case <-p.gone:
		p.recycle(b)
	}
}

func (p *pipe) recycle(b []byte) {
	select {
	case p.free <- b[:cap(b)]:
	default:
	}
}

func (p *pipe) close(err error) {
	p.err = err
	close(p.blocks)
}

// reader is the unpacking end.
type pipeReader struct {
	p    *pipe
	held []byte // the block that rest is a part of
	rest []byte
}

// Read implements io.Reader.
func (r *pipeReader) Read(out []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.held != nil {
			r.p.recycle(r.held)
			r.held = nil
		}
		b, ok := <-r.p.blocks
		if !ok {
			if r.p.err != nil {
				return 0, r.p.err
			}
			return 0, io.EOF
		}
		r.held, r.rest = b, b
	}
	n := copy(out, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// unpacking is a layer being staged beside the writing of its blob.
type unpacking struct {
	p      *pipe
	done   chan struct{}
	staged staged
	diffID digest.Digest // of the uncompressed stream
	size   int64         // of the uncompressed stream
	err    error
}

// unpackStream starts staging what will be put into the returned pipe. The
// caller closes the pipe and waits for done.
func (s *Store) unpackStream(ctx context.Context, f format) *unpacking {
	u := &unpacking{p: newPipe(), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		defer close(u.p.gone)
		u.err = u.run(ctx, s, f)
	}()
	return u
}

func (u *unpacking) run(ctx context.Context, s *Store, f format) error {
	r, err := decompress(&pipeReader{p: u.p}, f)
	if err != nil {
		return err
	}
	defer r.Close()
	var in io.Reader = r
	var hash digest.Digester
	count := &counter{r: in}
	in = count
	if f != plain { // else the blob's digest is the same and is computed where it is written
		hash = digest.Canonical.Digester()
		in = io.TeeReader(in, hash.Hash())
	}
	st, stageErr := s.stage(ctx, in)
	if stageErr != nil {
		// Perhaps the stream is bad, perhaps it only cannot be unpacked on its own:
		// the ordinary way over its parents will tell. The diff ID is wanted anyway.
		s.d.Log.Debug("layer not staged", logkey.Err, stageErr)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		s.drop(ctx, st.key)
		return fmt.Errorf("read layer: %w", err)
	}
	u.staged, u.size = st, count.n
	if hash != nil {
		u.diffID = hash.Digest()
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
