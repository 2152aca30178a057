package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/openfile"
)

// maxWindow bounds the memory that a compressed tar can ask for.
const maxWindow = 128 << 20

// Result is what an Extract brought.
type Result struct {
	Files int64
	Bytes int64
}

// Extract makes the tree that a tar describes in the empty directory dir, and
// syncs it. The tar may be compressed by zstd or gzip. One that is cut off or
// damaged, or that names something outside of the tree or through a link, is
// errdefs.ErrInvalidArgument.
func Extract(ctx context.Context, from io.Reader, dir string) (_ Result, err error) {
	plain, done, err := decompress(reader{ctx, from})
	if err != nil {
		return Result{}, invalid(err)
	}
	defer done()
	root, err := os.Open(dir)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	x := &extractor{root: root}
	tr := tar.NewReader(plain)
	seen := false
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return x.r, inTar(ctx, err)
		}
		seen = true
		if err := x.entry(ctx, tr, h); err != nil {
			return x.r, fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	if !seen {
		return x.r, invalid(errors.New("there is nothing in it"))
	}
	// What follows the end is read: who sends it would otherwise be cut off.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return x.r, inTar(ctx, err)
	}
	if err := x.finish(); err != nil {
		return x.r, err
	}
	return x.r, os.NewSyscallError("syncfs", unix.Syncfs(fd(root)))
}

func invalid(err error) error {
	return fault.Wrap(errdefs.ErrInvalidArgument, err, "this is no tar that can be imported")
}

// inTar says whose fault it is that a tar cannot be read.
func inTar(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return invalid(err)
}

func decompress(from io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(from, 1<<16)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		g, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return g, func() {}, nil
	}
	return b, func() {}, nil
}

type extractor struct {
	root *os.File
	r    Result
	dirs []*tar.Header // their attributes come last: work in them changes them
}

// entry makes one entry.
func (x *extractor) entry(ctx context.Context, tr *tar.Reader, h *tar.Header) error {
	name := path.Clean(strings.TrimSuffix(h.Name, "/"))
	if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) {
		return fault.New(errdefs.ErrInvalidArgument, "it is outside of the volume")
	}
	h.Name = name
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fault.New(errdefs.ErrInvalidArgument, "the volume itself is a directory")
		}
		x.dirs = append(x.dirs, h)
		return nil
	}
	dir, base := path.Split(name)
	parent, err := x.openDir(path.Clean(dir), true)
	if err != nil {
		return err
	}
	defer parent.Close()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(fd(parent), base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		x.dirs = append(x.dirs, h)
		return nil
	case tar.TypeReg, tar.TypeGNUSparse:
		return x.file(ctx, tr, h, parent, base)
	case tar.TypeLink:
		return x.link(h, parent, base)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return fault.New(errdefs.ErrInvalidArgument, "a link of %d bytes", len(h.Linkname))
		}
		if err := fresh(unix.Symlinkat(h.Linkname, fd(parent), base)); err != nil {
			return err
		}
		return x.attributes(parent, base, h)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
		if h.Devmajor < 0 || h.Devmajor > 1<<12 || h.Devminor < 0 || h.Devminor > 1<<20 {
			return fault.New(errdefs.ErrInvalidArgument, "device %d:%d does not exist", h.Devmajor, h.Devminor)
		}
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))                           //nolint:gosec // checked
		if err := fresh(unix.Mknodat(fd(parent), base, kind|0o600, int(dev))); err != nil { //nolint:gosec // a device number fits
			return err
		}
		return x.attributes(parent, base, h)
	}
	return fault.New(errdefs.ErrInvalidArgument, "entries of type %q are not known", h.Typeflag)
}

// fresh tells of a name that a tar uses twice.
func fresh(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return fault.New(errdefs.ErrInvalidArgument, "it is in there twice")
	}
	return err
}

// openDir opens a directory below the root, whatever links there are, and makes
// what is missing of it.
func (x *extractor) openDir(name string, make bool) (*os.File, error) {
	n, err := x.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) && make {
		dir, base := path.Split(name)
		parent, err := x.openDir(path.Clean(dir), true)
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		if err := unix.Mkdirat(fd(parent), base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		n, err = x.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(n), name), nil
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}

func (x *extractor) open(name string, flags uint64) (int, error) {
	n, err := unix.Openat2(fd(x.root), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTDIR) {
		return 0, fault.New(errdefs.ErrInvalidArgument, "%.200q leads through a link or a file", name)
	}
	return n, err
}

func (x *extractor) link(h *tar.Header, parent *os.File, base string) error {
	target := path.Clean(h.Linkname)
	if path.IsAbs(target) || target == ".." || strings.HasPrefix(target, "../") {
		return fault.New(errdefs.ErrInvalidArgument, "it is a link to the outside")
	}
	n, err := x.open(target, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return fault.New(errdefs.ErrInvalidArgument, "it is a link to %.200q, which is not there", target)
	}
	if err != nil {
		return err
	}
	err = fresh(unix.Linkat(unix.AT_FDCWD, openfile.Path(n), fd(parent), base, unix.AT_SYMLINK_FOLLOW))
	return errors.Join(err, unix.Close(n))
}

func (x *extractor) file(ctx context.Context, tr *tar.Reader, h *tar.Header, parent *os.File, base string) (err error) {
	n, err := unix.Openat(fd(parent), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fresh(err)
	}
	f := os.NewFile(uintptr(n), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	s := sparse{f: f}
	if _, err := io.CopyBuffer(&s, tr, make([]byte, 1<<18)); err != nil {
		if s.err != nil {
			return s.err
		}
		return inTar(ctx, err)
	}
	if err := f.Truncate(s.at); err != nil {
		return err
	}
	x.r.Files++
	x.r.Bytes += s.at
	return x.attributes(parent, base, h)
}

// sparse writes a file and leaves holes where there are only zeros.
type sparse struct {
	f   *os.File
	at  int64
	err error // of the file, not of who is read
}

const block = 4096

// Write implements io.Writer. Blocks with something in them that follow each
// other are written at once.
func (s *sparse) Write(b []byte) (int, error) {
	run := 0 // where what is to be written begins
	for done := 0; done < len(b); {
		n := min(block-int((s.at+int64(done))%block), len(b)-done)
		if len(bytes.TrimLeft(b[done:done+n], "\x00")) == 0 {
			if err := s.write(b[run:done], run); err != nil {
				return run, err
			}
			run = done + n
		}
		done += n
	}
	if err := s.write(b[run:], run); err != nil {
		return run, err
	}
	s.at += int64(len(b))
	return len(b), nil
}

func (s *sparse) write(part []byte, off int) error {
	if len(part) == 0 {
		return nil
	}
	_, s.err = s.f.WriteAt(part, s.at+int64(off))
	return s.err
}

// attributes gives an entry what the tar says. It is held by a handle, so that
// nothing is followed.
func (x *extractor) attributes(parent *os.File, base string, h *tar.Header) error {
	n, err := unix.Openat(fd(parent), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(setAttributes(n, h), unix.Close(n))
}

func setAttributes(handle int, h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fault.New(errdefs.ErrInvalidArgument, "owner %d:%d does not exist", h.Uid, h.Gid)
	}
	if err := unix.Fchownat(handle, "", h.Uid, h.Gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	p := openfile.Path(handle)
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(p, uint32(h.Mode)&0o7777); err != nil { //nolint:gosec // its low bits are meant
			return err
		}
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || name == "" {
			continue
		}
		if err := unix.Setxattr(p, name, []byte(v), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %.100q: %w", name, err)
		}
	}
	ts, err := unix.TimeToTimespec(h.ModTime)
	if err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "time %s", h.ModTime)
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, 0)
}

// finish sets the attributes of directories, the deepest first.
func (x *extractor) finish() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		h := x.dirs[i]
		n, err := x.open(h.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
		if err := errors.Join(setAttributes(n, h), unix.Close(n)); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	return nil
}
