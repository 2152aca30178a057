package sendstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/openfile"
)

// Stream is one of which the beginning was read.
type Stream struct {
	UUID     UUID // of the subvolume that was sent
	Ctransid uint64
	// Parent is what the stream tells the changes to; zero: it tells all.
	Parent         UUID
	ParentCtransid uint64

	r reader
}

// Incremental tells whether the stream needs its parent.
func (s *Stream) Incremental() bool { return s.Parent != UUID{} }

// Begin reads what a stream is of.
func Begin(from io.Reader) (*Stream, error) {
	s := &Stream{r: reader{from: from}}
	if err := s.r.header(); err != nil {
		return nil, err
	}
	c, err := s.r.next()
	if err != nil {
		return nil, err
	}
	if c.kind != cmdSubvol && c.kind != cmdSnapshot {
		return nil, invalid("its first command is %d", c.kind)
	}
	if s.UUID, err = c.uuid(attrUUID); err != nil {
		return nil, err
	}
	if s.Ctransid, err = c.number(attrCtransid); err != nil {
		return nil, err
	}
	if c.kind == cmdSubvol {
		return s, nil
	}
	if s.Parent, err = c.uuid(attrCloneUUID); err != nil {
		return nil, err
	}
	if !s.Incremental() {
		return nil, invalid("its parent has no UUID")
	}
	s.ParentCtransid, err = c.number(attrCloneCtransid)
	return s, err
}

// Result is what a stream brought.
type Result struct {
	Files   int64 // made
	Written int64 // bytes of data
}

// Apply does what the stream says in the directory root, which is empty, or has
// the state of the parent. parent is that state, for blocks to be shared with; nil
// if the stream is not incremental. Nothing is synced. What goes wrong leaves the
// directory as far as it came. A stream that is cut off, damaged or hostile is
// errdefs.ErrInvalidArgument.
func (s *Stream) Apply(ctx context.Context, root, parent *os.File) (_ Result, err error) {
	a := &applier{ctx: ctx, s: s, root: root, parent: parent}
	defer func() { err = errors.Join(err, a.closeFile()) }()
	for {
		if err := ctx.Err(); err != nil {
			return a.r, err
		}
		c, err := s.r.next()
		if err != nil {
			return a.r, err
		}
		if c.kind == cmdEnd {
			return a.r, nil
		}
		if err := a.do(c); err != nil {
			if ctx.Err() != nil {
				return a.r, ctx.Err()
			}
			return a.r, fmt.Errorf("command %d of btrfs stream, %.200q: %w", c.kind, c.attrs[attrPath], hostile(err))
		}
	}
}

// hostile gives errors their class that only a stream can cause which does not
// fit what is there. Others are of this machine.
func hostile(err error) error {
	for _, e := range []error{
		unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.EEXIST, unix.ELOOP, unix.EXDEV, unix.EINVAL,
		unix.ENOTEMPTY, unix.ENAMETOOLONG, unix.EFBIG, unix.EOPNOTSUPP, unix.ENODATA, unix.EPERM,
	} {
		if errors.Is(err, e) {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "this is no btrfs stream that can be received")
		}
	}
	return err
}

type applier struct {
	ctx          context.Context //nolint:containedctx // lives for one call
	s            *Stream
	root, parent *os.File
	r            Result

	file *os.File // the last that was written to; commands come by file
	name string   // its path
}

func (a *applier) closeFile() error {
	if a.file == nil {
		return nil
	}
	f := a.file
	a.file = nil
	return f.Close()
}

func (a *applier) do(c command) error {
	name, err := c.path(attrPath)
	if err != nil {
		return err
	}
	switch c.kind {
	case cmdWrite, cmdClone, cmdTruncate, cmdFallocate:
	default: // names change
		if err := a.closeFile(); err != nil {
			return err
		}
	}
	switch c.kind {
	case cmdMkfile, cmdMkdir, cmdMknod, cmdMkfifo, cmdMksock, cmdSymlink, cmdLink, cmdUnlink, cmdRmdir:
		return a.in(name, func(dir int, base string) error { return a.entry(c, dir, base) })
	case cmdRename:
		to, err := c.path(attrPathTo)
		if err != nil {
			return err
		}
		return a.in(name, func(dir int, base string) error {
			return a.in(to, func(toDir int, toBase string) error { return unix.Renameat(dir, base, toDir, toBase) })
		})
	case cmdSetXattr, cmdRemoveXattr, cmdChmod, cmdChown, cmdUtimes:
		return a.handle(a.root, name, func(n int) error { return change(c, n) })
	case cmdWrite:
		return a.write(c, name)
	case cmdClone:
		return a.clone(c, name)
	case cmdTruncate:
		size, err := c.offset(attrSize)
		if err != nil {
			return err
		}
		return a.open(name, func(f *os.File) error { return f.Truncate(size) })
	case cmdFallocate:
		return a.fallocate(c, name)
	}
	return invalid("it is not known")
}

// path is a name in the tree; "" is the tree itself.
func (c command) path(at attribute) (string, error) {
	b, err := c.bytes(at)
	if err != nil {
		return "", err
	}
	p := string(b)
	if p == "" {
		return "", nil
	}
	if len(p) >= unix.PathMax || strings.ContainsRune(p, 0) {
		return "", invalid("path %.100q", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return "", invalid("path %.100q", p)
		}
	}
	return p, nil
}

// resolve opens what is below root, whatever links there are.
func resolve(root *os.File, name string, flags uint64) (int, error) {
	if name == "" {
		name = "."
	}
	return unix.Openat2(fd(root), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// in runs do with the directory that a name is in.
func (a *applier) in(name string, do func(dir int, base string) error) (err error) {
	if name == "" {
		return invalid("a volume's root is not made or removed")
	}
	dir, base := path.Split(name)
	n, err := resolve(a.root, strings.TrimSuffix(dir, "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	return do(n, base)
}

// handle runs do with something that is not opened for reading or writing.
func (a *applier) handle(root *os.File, name string, do func(n int) error) (err error) {
	n, err := resolve(root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	return do(n)
}

// entry makes or removes a name.
func (a *applier) entry(c command, dir int, base string) error {
	switch c.kind {
	case cmdMkfile:
		n, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		a.r.Files++
		return unix.Close(n)
	case cmdMkdir:
		return unix.Mkdirat(dir, base, 0o700)
	case cmdMkfifo:
		return unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0)
	case cmdMksock:
		return unix.Mknodat(dir, base, unix.S_IFSOCK|0o600, 0)
	case cmdMknod:
		return mknod(c, dir, base)
	case cmdSymlink:
		to, err := c.bytes(attrPathLink)
		if err != nil {
			return err
		}
		if len(to) == 0 || len(to) >= unix.PathMax || strings.ContainsRune(string(to), 0) {
			return invalid("a link of %d bytes", len(to))
		}
		return unix.Symlinkat(string(to), dir, base)
	case cmdLink:
		to, err := c.path(attrPathLink)
		if err != nil {
			return err
		}
		return a.handle(a.root, to, func(n int) error {
			return unix.Linkat(unix.AT_FDCWD, openfile.Path(n), dir, base, unix.AT_SYMLINK_FOLLOW)
		})
	case cmdUnlink:
		return unix.Unlinkat(dir, base, 0)
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

func mknod(c command, dir int, base string) error {
	mode, err := c.id(attrMode)
	if err != nil {
		return err
	}
	kind := mode & unix.S_IFMT
	if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return invalid("a device of mode %o", mode)
	}
	dev, err := c.id(attrRdev)
	if err != nil {
		return err
	}
	// As the kernel encodes it, of 12 and 20 bits.
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	return unix.Mknodat(dir, base, kind|0o600, int(unix.Mkdev(major, minor))) //nolint:gosec // a device number fits
}

// change sets attributes of what a handle is of.
func change(c command, n int) error {
	switch c.kind {
	case cmdChmod:
		mode, err := c.id(attrMode)
		if err != nil {
			return err
		}
		return unix.Chmod(openfile.Path(n), mode&0o7777)
	case cmdChown:
		uid, err := c.id(attrUID)
		if err != nil {
			return err
		}
		gid, err := c.id(attrGID)
		if err != nil {
			return err
		}
		return unix.Fchownat(n, "", int(uid), int(gid), unix.AT_EMPTY_PATH)
	case cmdUtimes:
		atime, err := c.time(attrAtime)
		if err != nil {
			return err
		}
		mtime, err := c.time(attrMtime)
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, openfile.Path(n), []unix.Timespec{atime, mtime}, 0)
	}
	name, err := c.bytes(attrXattrName)
	if err != nil {
		return err
	}
	if len(name) == 0 || len(name) > 255 || strings.ContainsRune(string(name), 0) {
		return invalid("an attribute's name of %d bytes", len(name))
	}
	if c.kind == cmdRemoveXattr {
		return unix.Removexattr(openfile.Path(n), string(name))
	}
	value, err := c.bytes(attrXattrData)
	if err != nil {
		return err
	}
	err = unix.Setxattr(openfile.Path(n), string(name), value, 0)
	if errors.Is(err, unix.EOPNOTSUPP) { // this file system has none of the kind
		return nil
	}
	return err
}

func (c command) time(at attribute) (unix.Timespec, error) {
	b, err := c.fixed(at, 12)
	if err != nil {
		return unix.Timespec{}, err
	}
	sec, nsec := int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint32(b[8:]) //nolint:gosec // times before 1970 are negative
	if nsec >= 1e9 {
		return unix.Timespec{}, invalid("a time of %d nanoseconds", nsec)
	}
	return unix.Timespec{Sec: sec, Nsec: int64(nsec)}, nil
}

// openRegular opens a file for reading or writing. It is looked at first: a
// device or a pipe is never opened.
func openRegular(root *os.File, name string, flags int) (_ *os.File, err error) {
	n, err := resolve(root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, invalid("%.100q is no regular file", name)
	}
	f, err := unix.Open(openfile.Path(n), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(f), name), nil
}

// open runs do with a file open for writing, which stays open for the next.
func (a *applier) open(name string, do func(*os.File) error) error {
	if a.file == nil || a.name != name {
		if err := a.closeFile(); err != nil {
			return err
		}
		f, err := openRegular(a.root, name, unix.O_RDWR)
		if err != nil {
			return err
		}
		a.file, a.name = f, name
	}
	return do(a.file)
}

func (a *applier) write(c command, name string) error {
	at, err := c.offset(attrOffset)
	if err != nil {
		return err
	}
	data, err := c.bytes(attrData)
	if err != nil {
		return err
	}
	return a.open(name, func(f *os.File) error {
		n, err := f.WriteAt(data, at)
		a.r.Written += int64(n)
		return err
	})
}

func (a *applier) fallocate(c command, name string) error {
	mode, err := c.fixed(attrFallocate, 4)
	if err != nil {
		return err
	}
	m := binary.LittleEndian.Uint32(mode)
	if m&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		return invalid("a fallocate of mode %d", m)
	}
	at, err := c.offset(attrOffset)
	if err != nil {
		return err
	}
	size, err := c.offset(attrSize)
	if err != nil {
		return err
	}
	return a.open(name, func(f *os.File) error { return unix.Fallocate(fd(f), m, at, size) })
}

// clone gives a range of a file the content of another, of this tree or of the
// parent.
func (a *applier) clone(c command, name string) error {
	from, err := c.path(attrClonePath)
	if err != nil {
		return err
	}
	of, err := c.uuid(attrCloneUUID)
	if err != nil {
		return err
	}
	var off [3]int64
	for i, at := range []attribute{attrOffset, attrCloneOffset, attrCloneLen} {
		if off[i], err = c.offset(at); err != nil {
			return err
		}
	}
	tree := a.root
	if of != a.s.UUID {
		if a.parent == nil || of != a.s.Parent {
			return invalid("it is a copy from a volume that is neither this one nor its parent")
		}
		tree = a.parent
	}
	return a.open(name, func(dst *os.File) (err error) {
		src, err := openRegular(tree, from, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, src.Close()) }()
		return a.copyRange(dst, src, off[0], off[1], off[2])
	})
}

// copyRange shares the blocks where that can be.
func (a *applier) copyRange(dst, src *os.File, to, from, size int64) error {
	err := unix.IoctlFileCloneRange(fd(dst), &unix.FileCloneRange{
		Src_fd: int64(fd(src)), Src_offset: uint64(from), Src_length: uint64(size), Dest_offset: uint64(to), //nolint:gosec // checked
	})
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return os.NewSyscallError("FICLONERANGE", err)
	}
	n, err := io.Copy(io.NewOffsetWriter(dst, to), io.NewSectionReader(heeding{a.ctx, src}, from, size))
	a.r.Written += n
	if err == nil && n < size {
		return invalid("it copies %d bytes of a file that has fewer", size)
	}
	return err
}

// heeding reads until its context ends.
type heeding struct {
	ctx context.Context //nolint:containedctx // lives for one call
	f   *os.File
}

// ReadAt implements io.ReaderAt.
func (h heeding) ReadAt(b []byte, at int64) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	return h.f.ReadAt(b, at)
}

func fd(f *os.File) int { return int(f.Fd()) }
