package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/openfile"
)

// xattrPrefix is where GNU tar, star and Go keep extended attributes.
const xattrPrefix = "SCHILY.xattr."

type inode struct{ dev, ino uint64 }

type writer struct {
	ctx   context.Context //nolint:containedctx // lives for one call
	tw    *tar.Writer
	links map[inode]string
}

// Write writes the tree below dir. Files that are removed while it goes on are
// left out; one that gets shorter ends in zeros.
func Write(ctx context.Context, dir string, to io.Writer) (err error) {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &writer{ctx: ctx, tw: tar.NewWriter(to), links: map[inode]string{}}
	if err := w.directory(root, "./"); err != nil {
		return err
	}
	return w.tw.Close()
}

func (w *writer) directory(dir *os.File, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd(dir), &st); err != nil {
		return err
	}
	h, err := header(openfile.Path(fd(dir)), rel, &st)
	if err != nil {
		return err
	}
	h.Typeflag = tar.TypeDir
	if err := w.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	for {
		names, err := dir.Readdirnames(1000)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		for _, n := range names {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			if err := w.entry(dir, n, path.Join(rel, n)); err != nil && !errors.Is(err, errGone) {
				return err
			}
		}
	}
}

var errGone = errors.New("it was removed meanwhile")

func (w *writer) entry(dir *os.File, name, rel string) (err error) {
	n, err := unix.Openat(fd(dir), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	rel = "./" + strings.TrimPrefix(rel, "./")
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return open(n, rel, unix.O_DIRECTORY, func(f *os.File) error { return w.directory(f, rel+"/") })
	}
	if kind == unix.S_IFSOCK {
		return nil // a socket is nothing without the one who listens; no tar holds one
	}
	h, err := header(openfile.Path(n), rel, &st)
	if err != nil {
		return err
	}
	if st.Nlink > 1 {
		if first, ok := w.links[inode{st.Dev, st.Ino}]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
			return w.tw.WriteHeader(h)
		}
		w.links[inode{st.Dev, st.Ino}] = rel
	}
	switch kind {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		return open(n, rel, 0, func(f *os.File) error { return w.file(h, f) })
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		buf := make([]byte, unix.PathMax)
		l, err := unix.Readlinkat(n, "", buf)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		h.Linkname = string(buf[:l])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return w.tw.WriteHeader(h)
}

// open reopens a handle for reading.
func open(handle int, rel string, flags int, do func(*os.File) error) (err error) {
	n, err := unix.Open(openfile.Path(handle), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	f := os.NewFile(uintptr(n), rel)
	defer func() { err = errors.Join(err, f.Close()) }()
	return do(f)
}

func (w *writer) file(h *tar.Header, f *os.File) error {
	if err := w.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	n, err := io.Copy(w.tw, io.LimitReader(reader{w.ctx, f}, h.Size))
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if n < h.Size { // the header has promised more
		if _, err := io.CopyN(w.tw, zeros{}, h.Size-n); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return nil
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

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func header(handle, rel string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	names, err := openfile.Grow(func(b []byte) (int, error) { return unix.Listxattr(handle, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: attributes: %w", rel, err)
	}
	for x := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if x == "" {
			continue
		}
		v, err := openfile.Grow(func(b []byte) (int, error) { return unix.Getxattr(handle, x, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: attribute %s: %w", rel, x, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+x] = string(v)
	}
	return h, nil
}

func fd(f *os.File) int { return int(f.Fd()) }
