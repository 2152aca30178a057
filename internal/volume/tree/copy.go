package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/openfile"
)

// Options of a copy. The zero value is one worker and a source that stands still.
type Options struct {
	// Workers copy files beside the one that walks; 0: none.
	Workers int
	// Live: what vanishes from the source while it is copied is no error.
	Live bool
}

// Result is what a copy did.
type Result struct {
	Files   int64 // regular files, each inode once
	Written int64 // bytes of data that were written; holes and shared blocks are not
	Shared  int64 // files that share their blocks with the source
}

// Copy copies what is in from into to, an empty directory. The attributes of to
// itself are left alone, and nothing is synced.
func Copy(ctx context.Context, from, to *os.File, o Options) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &copier{ctx: ctx, cancel: cancel, o: o, root: to, links: map[inode]string{}}
	var workers sync.WaitGroup
	if o.Workers > 0 {
		c.jobs = make(chan job, 4*o.Workers)
		for range o.Workers {
			workers.Go(c.work)
		}
	}
	top := &pair{src: from, dst: to}
	top.users.Store(1)
	err := c.children(top, "")
	if err != nil {
		cancel(err) // the workers need not go on
	}
	if c.jobs != nil {
		close(c.jobs)
		workers.Wait()
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return Result{Files: c.files.Load(), Written: c.written.Load(), Shared: c.shared.Load()}, err
}

type inode struct{ dev, ino uint64 }

// copier copies one tree. Directories are made, and files with several names
// are copied, by the one that walks; other files by workers.
type copier struct {
	ctx    context.Context //nolint:containedctx // lives for one call
	cancel context.CancelCauseFunc
	o      Options
	root   *os.File // the copy's root
	links  map[inode]string
	jobs   chan job

	noClone                atomic.Bool // the file systems share no blocks
	files, written, shared atomic.Int64
}

// job is a file for a worker, which holds its directory open.
type job struct {
	in        *pair
	name, rel string
}

// pair is a directory and its copy. It is open as long as somebody works in it;
// the last one to leave gives the copy its attributes, since work in it changes
// its time.
type pair struct {
	src, dst *os.File
	rel      string
	parent   *pair // nil for the root, which is the caller's
	users    atomic.Int64
}

func (c *copier) work() {
	for j := range c.jobs {
		err := c.ctx.Err()
		if err == nil {
			err = pathError("copy", j.rel, c.gone(c.file(j.in.src, j.in.dst, j.name)))
		}
		if err = errors.Join(err, c.leave(j.in)); err != nil {
			c.cancel(err)
		}
	}
}

// leave ends one user's work in a directory.
func (c *copier) leave(p *pair) error {
	if p.users.Add(-1) > 0 || p.parent == nil {
		return nil
	}
	err := c.ctx.Err()
	if err == nil {
		err = pathError("copy", p.rel, Attributes(p.src, p.dst))
	}
	return errors.Join(err, p.src.Close(), p.dst.Close(), c.leave(p.parent))
}

// gone forgives what vanished from a source that is being worked in.
func (c *copier) gone(err error) error {
	if c.o.Live && errors.Is(err, errVanished) {
		return nil
	}
	return err
}

// errVanished says that a name of the source is no longer there.
var errVanished = errors.New("it was removed while it was copied")

func vanished(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", errVanished, err)
	}
	return err
}

// children copies the entries of a directory.
func (c *copier) children(p *pair, rel string) error {
	if _, err := p.src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	names, err := p.src.Readdirnames(-1)
	if err != nil {
		return pathError("read", rel, err)
	}
	for _, n := range names {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if err := c.gone(c.entry(p, n, path.Join(rel, n))); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(p *pair, name, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd(p.src), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("stat", rel, vanished(err))
	}
	format := st.Mode & unix.S_IFMT
	several := format != unix.S_IFDIR && st.Nlink > 1
	if several {
		if first, ok := c.links[inode{st.Dev, st.Ino}]; ok {
			return pathError("link", rel, c.link(first, p.dst, name))
		}
	}
	switch {
	case format == unix.S_IFDIR:
		return c.directory(p, name, rel)
	case format == unix.S_IFREG && c.jobs != nil && !several:
		p.users.Add(1)
		select {
		case c.jobs <- job{p, name, rel}:
			return nil
		case <-c.ctx.Done():
			return errors.Join(context.Cause(c.ctx), c.leave(p))
		}
	case format == unix.S_IFREG:
		if err := c.file(p.src, p.dst, name); err != nil {
			return pathError("copy", rel, err)
		}
	case format == unix.S_IFLNK:
		if err := symlink(p.src, p.dst, name, st); err != nil {
			return pathError("copy", rel, err)
		}
	default: // devices, fifos, sockets
		if err := unix.Mknodat(fd(p.dst), name, st.Mode, int(st.Rdev)); err != nil { //nolint:gosec // a device number fits
			return pathError("mknod", rel, err)
		}
		if err := unopened(p.src, p.dst, name, st, st.Mode); err != nil {
			return pathError("copy", rel, err)
		}
	}
	if several {
		c.links[inode{st.Dev, st.Ino}] = rel
	}
	return nil
}

func (c *copier) directory(p *pair, name, rel string) (err error) {
	src, err := openDir(p.src, name)
	if err != nil {
		return vanished(err)
	}
	if err := unix.Mkdirat(fd(p.dst), name, 0o700); err != nil {
		return errors.Join(pathError("mkdir", rel, err), src.Close())
	}
	dst, err := openDir(p.dst, name)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	d := &pair{src: src, dst: dst, rel: rel, parent: p}
	d.users.Store(1)
	p.users.Add(1)
	defer func() { err = errors.Join(err, c.leave(d)) }()
	return c.children(d, rel)
}

func (c *copier) file(from, to *os.File, name string) (err error) {
	n, err := unix.Openat(fd(from), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return vanished(err)
	}
	src := os.NewFile(uintptr(n), name)
	defer func() { err = errors.Join(err, src.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("it became another kind of file: %w", errVanished)
	}
	if n, err = unix.Openat(fd(to), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	dst := os.NewFile(uintptr(n), name)
	defer func() { err = errors.Join(err, dst.Close()) }()
	c.files.Add(1)
	shared, err := c.share(src, dst)
	if err != nil {
		return err
	}
	if !shared {
		if err := c.content(src, dst, st.Size); err != nil {
			return err
		}
	}
	return Attributes(src, dst)
}

// share has dst use the blocks of src, where that can be.
func (c *copier) share(src, dst *os.File) (bool, error) {
	if c.noClone.Load() {
		return false, nil
	}
	err := unix.IoctlFileClone(fd(dst), fd(src))
	switch {
	case err == nil:
		c.shared.Add(1)
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENOSYS):
		c.noClone.Store(true)
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, unix.ETXTBSY):
		return false, nil // this file is of a kind that cannot
	}
	return false, os.NewSyscallError("FICLONE", err)
}

// content copies the data between the holes.
func (c *copier) content(src, dst *os.File, size int64) error {
	for at := int64(0); at < size; {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		data, err := unix.Seek(fd(src), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole to the end
			break
		}
		hole := size
		switch {
		case errors.Is(err, unix.EINVAL): // a file system that doesn't tell
			data = at
		case err != nil:
			return err
		default:
			if hole, err = unix.Seek(fd(src), data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if err := c.copyRange(src, dst, data, hole); err != nil {
			return err
		}
		at = hole
	}
	return dst.Truncate(size)
}

// chunk bounds how long a copy goes on without looking at its context.
const chunk = 64 << 20

// copyRange copies [at, end). os.File uses copy_file_range where it can.
func (c *copier) copyRange(src, dst *os.File, at, end int64) error {
	for _, f := range []*os.File{src, dst} {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	for at < end {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		n, err := io.CopyN(dst, src, min(chunk, end-at))
		c.written.Add(n)
		if errors.Is(err, io.EOF) { // it was made shorter meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// link makes name another name of the file that was copied to rel. The file is
// opened without following any link, since others may work in the volume.
func (c *copier) link(rel string, to *os.File, name string) (err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	n, err := unix.Openat2(fd(c.root), rel, &how)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	return unix.Linkat(unix.AT_FDCWD, openfile.Path(n), fd(to), name, unix.AT_SYMLINK_FOLLOW)
}

// openDir opens a directory for reading its entries and working below it.
func openDir(at *os.File, name string) (*os.File, error) {
	n, err := unix.Openat(fd(at), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return os.NewFile(uintptr(n), name), nil
}

func fd(f *os.File) int { return int(f.Fd()) }

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
