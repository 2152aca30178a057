package populate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

type inode struct{ dev, ino uint64 }

// copier copies one tree.
type copier struct {
	ctx   context.Context //nolint:containedctx // lives for one call
	root  *os.File        // the copy's root
	links map[inode]string
}

// children copies the named entries of from, which lie at rel in the copy.
func (c *copier) children(from, to *os.File, rel string, names []string) error {
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(from, to, n, path.Join(rel, n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(from, to *os.File, name, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd(from), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("stat", rel, err)
	}
	format := st.Mode & unix.S_IFMT
	if format != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[inode{st.Dev, st.Ino}]; ok {
			return pathError("link", rel, c.link(first, to, name))
		}
		c.links[inode{st.Dev, st.Ino}] = rel
	}
	switch format {
	case unix.S_IFDIR:
		return c.directory(from, to, name, rel)
	case unix.S_IFREG:
		return pathError("copy", rel, c.file(from, to, name))
	case unix.S_IFLNK:
		return pathError("copy", rel, c.symlink(from, to, name, st))
	}
	// Devices, fifos, sockets.
	if err := unix.Mknodat(fd(to), name, st.Mode, int(st.Rdev)); err != nil { //nolint:gosec // a device number fits
		return pathError("mknod", rel, err)
	}
	return pathError("copy", rel, unopened(to, name, st, st.Mode))
}

func (c *copier) directory(from, to *os.File, name, rel string) (err error) {
	src, err := openDir(fd(from), name, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := unix.Mkdirat(fd(to), name, 0o700); err != nil {
		return pathError("mkdir", rel, err)
	}
	dst, err := openDir(fd(to), name, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	names, err := readNames(src)
	if err != nil {
		return err
	}
	if err := c.children(src, dst, rel, names); err != nil {
		return err
	}
	return pathError("copy", rel, copyAttributes(src, dst)) // last: copying changed the time
}

func (c *copier) file(from, to *os.File, name string) (err error) {
	n, err := unix.Openat(fd(from), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(n), name)
	defer func() { err = errors.Join(err, src.Close()) }()
	if n, err = unix.Openat(fd(to), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	dst := os.NewFile(uintptr(n), name)
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := c.content(src, dst); err != nil {
		return err
	}
	return copyAttributes(src, dst)
}

// content copies the data between the holes.
func (c *copier) content(src, dst *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	for at := int64(0); at < size; {
		if err := c.ctx.Err(); err != nil {
			return err
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
		if err := copyRange(src, dst, data, hole); err != nil {
			return err
		}
		at = hole
	}
	return dst.Truncate(size)
}

// copyRange copies [at, end). os.File uses copy_file_range where it can, which
// shares blocks on file systems that know how.
func copyRange(src, dst *os.File, at, end int64) error {
	for _, f := range []*os.File{src, dst} {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	_, err := io.Copy(dst, io.LimitReader(src, end-at))
	return err
}

func (c *copier) symlink(from, to *os.File, name string, st unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd(from), name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), fd(to), name); err != nil {
		return err
	}
	return unopened(to, name, st, 0)
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
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", n), fd(to), name, unix.AT_SYMLINK_FOLLOW)
}

// unopened sets the attributes of what cannot be opened without effect: links
// and special files. A mode of 0 is left alone.
func unopened(dir *os.File, name string, st unix.Stat_t, mode uint32) error {
	if err := unix.Fchownat(fd(dir), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if mode != 0 {
		// The file is ours and 0700 staging hides it, but another root may swap it:
		// chmod through an O_PATH handle follows nothing.
		if err := chmodAt(dir, name, mode&0o7777); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd(dir), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func chmodAt(dir *os.File, name string, mode uint32) (err error) {
	n, err := unix.Openat(fd(dir), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(n)) }()
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", n), mode)
}

// copyAttributes gives dst the owner, mode, extended attributes and times of
// src. Owner first: changing it clears set-user-ID and file capabilities.
func copyAttributes(src, dst *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd(src), &st); err != nil {
		return err
	}
	if err := unix.Fchown(fd(dst), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd(dst), st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	// By descriptor: the name may mean another file by now.
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd(dst)), []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// copyXattrs copies what the file systems of both sides know.
func copyXattrs(src, dst *os.File) error {
	names, err := listXattrs(src)
	if err != nil {
		return err
	}
	for _, n := range names {
		v, err := getXattr(src, n)
		if err == nil {
			err = unix.Fsetxattr(fd(dst), n, v, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("attribute %s: %w", n, err)
		}
	}
	return nil
}

func listXattrs(f *os.File) ([]string, error) {
	buf, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(fd(f), b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for start, i := 0, 0; i < len(buf); i++ {
		if buf[i] == 0 {
			names = append(names, string(buf[start:i]))
			start = i + 1
		}
	}
	return names, nil
}

func getXattr(f *os.File, name string) ([]byte, error) {
	return grow(func(b []byte) (int, error) { return unix.Fgetxattr(fd(f), name, b) })
}

// grow calls read with a buffer that is large enough.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
