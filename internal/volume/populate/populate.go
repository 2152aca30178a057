package populate

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/volume/tree"
)

// Names inside the volume while it is being populated.
const (
	staging = ".holdfast-populate"  // the copy in the making
	staged  = ".holdfast-populated" // the copy is whole, entries are moving out
)

// Copier fills volume.Populator.
type Copier struct{}

// Populate implements volume.Populator.
func (Copier) Populate(ctx context.Context, src, dst, sub string) (err error) {
	from, err := openDir(unix.AT_FDCWD, src, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openDir(unix.AT_FDCWD, dst, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if sub != "" {
		part, err := openBelow(to, sub)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, part.Close()) }()
		return fill(ctx, from, part)
	}
	return fill(ctx, from, to)
}

// fill copies what is in from to the directory to, where that is empty.
func fill(ctx context.Context, from, to *os.File) error {
	names, err := readNames(to)
	if err != nil {
		return err
	}
	moving := false
	for _, n := range names {
		switch n {
		case staged:
			moving = true
		case staging:
		default:
			if !moving && !contains(names, staged) {
				return nil // it has content of its own
			}
		}
	}
	if !moving {
		if err := stage(ctx, from, to, contains(names, staging)); err != nil {
			return err
		}
	}
	if err := moveOut(to); err != nil {
		return err
	}
	return tree.Attributes(from, to)
}

func contains(names []string, want string) bool {
	for _, n := range names {
		if n == want {
			return true
		}
	}
	return false
}

// stage makes the copy whole under the name staged. An empty source needs none.
func stage(ctx context.Context, from, to *os.File, leftover bool) (err error) {
	if leftover {
		if err := removeTree(to, staging); err != nil {
			return fmt.Errorf("clear a copy that was cut off: %w", err)
		}
	}
	names, err := readNames(from)
	if err != nil || len(names) == 0 {
		return err
	}
	if err := unix.Mkdirat(fd(to), staging, 0o700); err != nil {
		return pathError("mkdir", staging, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeTree(to, staging))
		}
	}()
	dir, err := openDir(fd(to), staging, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if _, err := tree.Copy(ctx, from, dir, tree.Options{}); err != nil {
		return err
	}
	// The copy is taken for whole from now on: it must be on disk before its name.
	if err := unix.Syncfs(fd(dir)); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return pathError("rename", staging, unix.Renameat(fd(to), staging, fd(to), staged))
}

// moveOut renames the entries of the whole copy into the volume's root. What
// somebody else made there meanwhile stays.
func moveOut(to *os.File) (err error) {
	dir, err := openDir(fd(to), staged, unix.O_NOFOLLOW)
	if errors.Is(err, os.ErrNotExist) { // the source was empty
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Renameat2(fd(dir), n, fd(to), n, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without the flag
			err = unix.Renameat(fd(dir), n, fd(to), n)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return pathError("rename", n, err)
		}
	}
	return removeTree(to, staged)
}

// openDir opens a directory for reading its entries and working below it.
func openDir(at int, name string, flags int) (*os.File, error) {
	n, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return os.NewFile(uintptr(n), name), nil
}

// openBelow opens a directory that is below dir whatever links lead to it.
func openBelow(dir *os.File, name string) (*os.File, error) {
	n, err := unix.Openat2(fd(dir), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return os.NewFile(uintptr(n), name), nil
}

// readNames lists a directory from its beginning.
func readNames(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	return dir.Readdirnames(-1)
}

// removeTree deletes what name is, below dir, following no link.
func removeTree(dir *os.File, name string) error {
	err := unix.Unlinkat(fd(dir), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return pathError("unlink", name, err)
	}
	sub, err := openDir(fd(dir), name, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	names, err := readNames(sub)
	for _, n := range names {
		err = errors.Join(err, removeTree(sub, n))
	}
	if err = errors.Join(err, sub.Close()); err != nil {
		return err
	}
	return pathError("rmdir", name, unix.Unlinkat(fd(dir), name, unix.AT_REMOVEDIR))
}

func fd(f *os.File) int { return int(f.Fd()) }

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
