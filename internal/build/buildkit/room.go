package buildkit

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/moby/go-archive/compression"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
)

// room is what may still be unpacked: bytes and files. A few kilobytes can unpack
// to terabytes, and a disk that is full stops more than one build. So what archives
// take is added up from their headers before it is written.
type room struct{ bytes, files int64 }

// spared is the share of what is free that unpacking leaves alone.
const spared = 20

// roomAt measures the disk.
func roomAt(dir string) (room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return room{}, fmt.Errorf("measure the free space at %s: %w", dir, err)
	}
	return roomOf(int64(st.Bavail)*st.Bsize, int64(st.Ffree)), nil //nolint:gosec // disks are smaller than 8 EiB
}

// roomOf leaves a part of what is free. A filesystem that makes inodes as it needs
// them says that none is free.
func roomOf(bytes, files int64) room {
	if files == 0 {
		files = bytes / block
	}
	return room{bytes: bytes - bytes/spared, files: files - files/spared}
}

// block is what even a small file takes.
const block = 4096

// take subtracts one entry of an archive. It says whether that fits.
func (r *room) take(h *tar.Header) bool {
	r.files--
	if h.Size < 0 || h.Size > r.bytes {
		return false
	}
	r.bytes -= (h.Size + block - 1) / block * block
	return r.bytes >= 0 && r.files >= 0
}

// count subtracts all entries of an archive that is not compressed. What is no
// archive, or a broken one, ends the count: unpacking will say so.
func (r *room) count(archive io.Reader, name string) error {
	had := *r
	for tr := tar.NewReader(archive); ; {
		h, err := tr.Next()
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if !r.take(h) {
			return fault.New(errdefs.ErrResourceExhausted, "%s unpacks to more than the disk has room for (%s, %d files)",
				name, units.BytesSize(float64(had.bytes)), had.files)
		}
	}
}

// within reads an archive that is not compressed, up to the entry that would not
// fit. That is an error before the entry's header is returned: a sparse file needs
// nothing but its header to fill the disk. The caller closes it.
func within(archive io.Reader, r room, name string) io.ReadCloser {
	w := &withinReader{archive: archive, counter: &counter{data: make(chan []byte), hungry: make(chan struct{})}, counted: make(chan struct{})}
	go func() { // ends with the archive or with Close
		defer close(w.counted)
		if w.err = r.count(w.counter, name); w.err == nil {
			_, _ = io.Copy(io.Discard, w.counter) // what follows the archive's end; cannot fail
		}
	}()
	<-w.counter.hungry
	return w
}

type withinReader struct {
	archive io.Reader
	counter *counter
	counted chan struct{} // closed when no more is counted
	err     error         // readable after that
}

// Read implements io.Reader. It returns when all of it was counted.
func (w *withinReader) Read(p []byte) (int, error) {
	n, err := w.archive.Read(p)
	if n > 0 {
		select {
		case w.counter.data <- p[:n]:
			select {
			case <-w.counter.hungry:
				return n, err
			case <-w.counted:
			}
		case <-w.counted:
		}
		return 0, w.err
	}
	return n, err
}

// Close implements io.Closer.
func (w *withinReader) Close() error {
	close(w.counter.data)
	<-w.counted
	return nil
}

// counter reads what it is handed, and says when it wants more.
type counter struct {
	data   chan []byte
	hungry chan struct{}
	rest   []byte
	ended  bool
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		c.hungry <- struct{}{}
		b, ok := <-c.data
		c.rest, c.ended = b, !ok
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// ResolveOp implements worker.Worker: an ADD of archives looks first whether they
// fit.
func (w *imageWorker) ResolveOp(v solver.Vertex, s frontend.FrontendLLBBridge, sm *session.Manager, o worker.ProxyOpt) (solver.Op, error) {
	op, err := w.Worker.ResolveOp(v, s, sm, o)
	if err != nil {
		return nil, err
	}
	base, ok := v.Sys().(*pb.Op)
	if !ok || base.GetFile() == nil {
		return op, nil
	}
	for _, a := range base.GetFile().GetActions() {
		if a.GetCopy().GetAttemptUnpackDockerCompatibility() {
			return &unpackingOp{Op: op, actions: base.GetFile().GetActions(), disk: w.root}, nil
		}
	}
	return op, nil
}

// unpackingOp is a step that unpacks archives.
type unpackingOp struct {
	solver.Op
	actions []*pb.FileAction
	disk    string
}

// Exec implements solver.Op.
func (o *unpackingOp) Exec(ctx context.Context, j solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	r, err := roomAt(o.disk)
	if err != nil {
		return nil, err
	}
	for _, a := range o.actions {
		// What an earlier action of the same step made is no archive from outside.
		c, from := a.GetCopy(), int(a.GetSecondaryInput())
		if !c.GetAttemptUnpackDockerCompatibility() || from < 0 || from >= len(inputs) {
			continue
		}
		if err := countInput(ctx, &r, c, inputs[from], j.Session()); err != nil {
			return nil, err
		}
	}
	return o.Op.Exec(ctx, j, inputs)
}

// countInput counts the archives that one action takes from an input.
func countInput(ctx context.Context, r *room, c *pb.FileActionCopy, in solver.Result, g session.Group) (err error) {
	ref, ok := in.Sys().(*worker.WorkerRef)
	if !ok || ref.ImmutableRef == nil {
		return nil // an empty one
	}
	m, err := ref.ImmutableRef.Mount(ctx, true, g)
	if err != nil {
		return fmt.Errorf("look into the archives: %w", err)
	}
	lm := snapshot.LocalMounter(m)
	root, err := lm.Mount()
	if err != nil {
		return fmt.Errorf("look into the archives: %w", err)
	}
	defer func() { err = errors.Join(err, lm.Unmount()) }()
	names := []string{filepath.Join("/", c.GetSrc())}
	if c.GetAllowWildcard() {
		if names, err = fscopy.ResolveWildcards(root, names[0], c.GetFollowSymlink()); err != nil {
			return nil //nolint:nilerr // the step itself says so
		}
	}
	for _, name := range names {
		if err := countFile(r, root, name); err != nil {
			return err
		}
	}
	return nil
}

// countFile counts one file, if it is an archive. What cannot be read is for the
// step to tell.
func countFile(r *room, root, name string) error {
	path, err := fs.RootPath(root, name)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		return nil //nolint:nilerr // see above
	}
	f, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer f.Close()
	plain, err := compression.DecompressStream(f)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer plain.Close()
	return r.count(plain, filepath.Base(name))
}
