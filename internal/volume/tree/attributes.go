package tree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/openfile"
)

// Attributes gives dst the owner, mode, extended attributes and times of src.
// Owner first: changing it clears set-user-ID and file capabilities.
func Attributes(src, dst *os.File) error {
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
	if err := copyXattrs(openfile.Path(fd(src)), openfile.Path(fd(dst))); err != nil {
		return err
	}
	// By descriptor: the name may mean another file by now.
	return unix.UtimesNanoAt(unix.AT_FDCWD, openfile.Path(fd(dst)), []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func symlink(from, to *os.File, name string, st unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd(from), name, buf)
	if err != nil {
		return vanished(err)
	}
	if err := unix.Symlinkat(string(buf[:n]), fd(to), name); err != nil {
		return err
	}
	return unopened(from, to, name, st, 0)
}

// unopened sets the attributes of what cannot be opened without effect: links
// and special files. A mode of 0 is left alone.
func unopened(from, to *os.File, name string, st unix.Stat_t, mode uint32) (err error) {
	if err := unix.Fchownat(fd(to), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// The file is ours, but another root may swap it: a handle follows nothing.
	dst, err := openHandle(to, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(dst)) }()
	if mode != 0 {
		if err := unix.Chmod(openfile.Path(dst), mode&0o7777); err != nil {
			return err
		}
	}
	src, err := openHandle(from, name)
	if err != nil {
		return vanished(err)
	}
	defer func() { err = errors.Join(err, unix.Close(src)) }()
	if err := copyXattrs(openfile.Path(src), openfile.Path(dst)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd(to), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func openHandle(dir *os.File, name string) (int, error) {
	return unix.Openat(fd(dir), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// copyXattrs copies what the file systems of both sides know. The paths are
// handles in /proc.
func copyXattrs(src, dst string) error {
	names, err := listXattrs(src)
	if err != nil {
		return err
	}
	for _, n := range names {
		v, err := openfile.Grow(func(b []byte) (int, error) { return unix.Getxattr(src, n, b) })
		if err == nil {
			err = unix.Setxattr(dst, n, v, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("attribute %s: %w", n, err)
		}
	}
	return nil
}

func listXattrs(path string) ([]string, error) {
	buf, err := openfile.Grow(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(buf), func(r rune) bool { return r == 0 }), nil
}
