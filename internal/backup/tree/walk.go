package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/openfile"
)

type inode struct{ dev, ino uint64 }

// walker goes through a tree in the order of an index.
type walker struct {
	ctx   context.Context //nolint:containedctx // lives for one call
	links map[inode]Text
	visit func(e *Entry, handle int) error
}

// walk calls visit with each entry and a handle (O_PATH) of it, which visit must
// close. What is removed meanwhile is left out.
func walk(ctx context.Context, dir string, visit func(e *Entry, handle int) error) (err error) {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &walker{ctx: ctx, links: map[inode]Text{}, visit: visit}
	h, err := unix.Open(openfile.Path(fd(root)), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return w.handle(h, ".")
}

var errGone = errors.New("it was removed meanwhile")

// handle visits what is held by the handle, and what is below it. It closes it.
func (w *walker) handle(h int, rel Text) (err error) {
	held := true
	defer func() {
		if held {
			err = errors.Join(err, unix.Close(h))
		}
	}()
	if err := w.ctx.Err(); err != nil {
		return err
	}
	e, err := w.entry(h, rel)
	if err != nil || e == nil {
		return err
	}
	if e.Kind != Directory {
		held = false
		return w.visit(e, h)
	}
	n, err := unix.Open(openfile.Path(h), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	dir := os.NewFile(uintptr(n), string(rel))
	defer func() { err = errors.Join(err, dir.Close()) }()
	held = false
	if err := w.visit(e, h); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	slices.Sort(names)
	for _, name := range names {
		c, err := unix.Openat(n, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		below := Text(path.Join(string(rel), name))
		if err != nil {
			return fmt.Errorf("%s: %w", below, err)
		}
		if err := w.handle(c, below); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

// entry describes what a handle holds; nil for what is left out.
func (w *walker) entry(h int, rel Text) (*Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(h, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	e := &Entry{
		Path: rel, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		MTime: st.Mtim.Nano(), Inode: st.Ino, CTime: st.Ctim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Kind = Directory
		e.Inode, e.CTime = 0, 0
	case unix.S_IFREG:
		e.Kind, e.Size = File, st.Size
	case unix.S_IFLNK:
		e.Kind = Symlink
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(h, "", buf)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rel, err)
		}
		e.Link = Text(buf[:n])
	case unix.S_IFIFO:
		e.Kind = Fifo
	case unix.S_IFCHR:
		e.Kind, e.Device = CharDev, st.Rdev
	case unix.S_IFBLK:
		e.Kind, e.Device = BlockDev, st.Rdev
	default:
		return nil, nil
	}
	if e.Kind != File {
		e.Inode, e.CTime = 0, 0
	}
	if e.Kind != Directory && st.Nlink > 1 {
		if first, ok := w.links[inode{st.Dev, st.Ino}]; ok {
			return &Entry{Path: rel, Kind: HardLink, Link: first}, nil
		}
		w.links[inode{st.Dev, st.Ino}] = rel
		e.Several = true
	}
	var err error
	e.Xattrs, err = xattrs(openfile.Path(h))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	return e, nil
}

func xattrs(handle string) (map[Text][]byte, error) {
	names, err := openfile.Grow(func(b []byte) (int, error) { return unix.Listxattr(handle, b) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	out := map[Text][]byte{}
	for x := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if x == "" || x == "security.selinux" { // the machine's, not the volume's
			continue
		}
		v, err := openfile.Grow(func(b []byte) (int, error) { return unix.Getxattr(handle, x, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", x, err)
		}
		out[Text(x)] = v
	}
	return out, nil
}

// reopen opens for reading what a handle holds.
func reopen(handle int, rel Text) (*os.File, error) {
	n, err := unix.Open(openfile.Path(handle), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	return os.NewFile(uintptr(n), string(rel)), nil
}

// holes are the bytes of a file that take no room.
func holes(f *os.File, size int64) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd(f), &st); err != nil {
		return 0, err
	}
	if st.Blocks*512 >= size {
		return 0, nil
	}
	total, at := int64(0), int64(0)
	for at < size {
		data, err := unix.Seek(fd(f), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = size
		} else if errors.Is(err, unix.EINVAL) {
			return 0, nil // a file system that doesn't tell
		} else if err != nil {
			return 0, err
		}
		total += min(data, size) - at
		if data >= size {
			break
		}
		if at, err = unix.Seek(fd(f), data, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
	}
	_, err := f.Seek(0, io.SeekStart)
	return total, err
}

// reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // lives for one call
	r   io.Reader
}

// Read implements io.Reader.
func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func fd(f *os.File) int { return int(f.Fd()) }
