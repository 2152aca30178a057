package preflight

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names of the probes. They are part of the API.
const (
	owner        = "owner"
	mode         = "mode"
	hardLink     = "hard-link"
	symLink      = "symlink"
	renameOpen   = "rename-over-open-file"
	unlinkOpen   = "unlink-open-file"
	fsyncFile    = "fsync-file"
	fsyncDir     = "fsync-directory"
	lockFlock    = "lock-flock"
	lockFcntl    = "lock-fcntl"
	lockOFD      = "lock-ofd"
	sharedMmap   = "shared-mmap"
	directIO     = "direct-io"
	tmpFile      = "unnamed-file"
	sparse       = "sparse-file"
	preallocate  = "preallocate"
	caseMatters  = "case-sensitive"
	xattr        = "user-xattr"
	fifo         = "fifo"
	socket       = "unix-socket"
	noReplace    = "rename-no-replace"
	appendWrites = "append"
	longNames    = "long-names"
)

// probes are tried in this order, each in an empty folder of its own.
var probes = []struct {
	name string
	try  func(dir string) error
}{
	{owner, tryOwner},
	{mode, tryMode},
	{hardLink, tryHardLink},
	{symLink, trySymLink},
	{renameOpen, tryRenameOpen},
	{unlinkOpen, tryUnlinkOpen},
	{fsyncFile, tryFsyncFile},
	{fsyncDir, tryFsyncDir},
	{lockFlock, tryFlock},
	{lockFcntl, func(dir string) error { return tryRecordLock(dir, unix.F_SETLK) }},
	{lockOFD, func(dir string) error { return tryRecordLock(dir, unix.F_OFD_SETLK) }},
	{sharedMmap, trySharedMmap},
	{directIO, tryDirectIO},
	{tmpFile, tryTmpFile},
	{sparse, trySparse},
	{preallocate, tryPreallocate},
	{caseMatters, tryCase},
	{xattr, tryXattr},
	{fifo, tryFifo},
	{socket, trySocket},
	{noReplace, tryNoReplace},
	{appendWrites, tryAppend},
	{longNames, tryLongNames},
}

// ids are a user and a group that no file has by chance.
const (
	someUID = 21021
	someGID = 21022
)

func tryOwner(dir string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: needs root", errUnknown)
	}
	file := filepath.Join(dir, "file")
	if err := write(file, "x"); err != nil {
		return err
	}
	for _, p := range []string{file, dir} {
		f, err := open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Chown(someUID, someGID); err != nil {
			return fmt.Errorf("chown: %w", plain(err))
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if st.Uid != someUID || st.Gid != someGID {
			return fmt.Errorf("chown is ignored: the owner stays %d:%d", st.Uid, st.Gid)
		}
	}
	return nil
}

func tryMode(dir string) error {
	file := filepath.Join(dir, "file")
	if err := write(file, "x"); err != nil {
		return err
	}
	for _, c := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o700}, {dir, 0o750}, {dir, 0o700}, {file, 0o600}, {file, 0o444}} {
		f, err := open(c.path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Chmod(c.mode); err != nil {
			return fmt.Errorf("chmod %#o: %w", c.mode, plain(err))
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if got := st.Mode().Perm(); got != c.mode {
			return fmt.Errorf("chmod %#o is ignored: the mode stays %#o", c.mode, got)
		}
	}
	return nil
}

func tryHardLink(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := write(a, "x"); err != nil {
		return err
	}
	if err := os.Link(a, b); err != nil {
		return fmt.Errorf("link: %w", plain(err))
	}
	sa, err := os.Stat(a)
	if err != nil {
		return err
	}
	sb, err := os.Stat(b)
	if err != nil {
		return err
	}
	if !os.SameFile(sa, sb) {
		return errors.New("both names of a linked file are different files")
	}
	return nil
}

func trySymLink(dir string) error {
	l := filepath.Join(dir, "l")
	if err := os.Symlink("to/nowhere", l); err != nil {
		return fmt.Errorf("symlink: %w", plain(err))
	}
	if got, err := os.Readlink(l); err != nil || got != "to/nowhere" {
		return fmt.Errorf("a symbolic link to %q reads as %q: %w", "to/nowhere", got, err)
	}
	return nil
}

func tryRenameOpen(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(write(a, "old"), write(b, "new")); err != nil {
		return err
	}
	f, err := open(a)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Rename(b, a); err != nil {
		return fmt.Errorf("rename over an open file: %w", plain(err))
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "old" {
		return fmt.Errorf("an open file that was replaced reads %q: %v", got, err) //nolint:errorlint // may be nil
	}
	if got, err := os.ReadFile(a); err != nil || string(got) != "new" {
		return fmt.Errorf("a file that was renamed into place reads %q: %v", got, err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryUnlinkOpen(dir string) error {
	a := filepath.Join(dir, "a")
	f, err := create(a)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("before"); err != nil {
		return err
	}
	if err := os.Remove(a); err != nil {
		return fmt.Errorf("unlink an open file: %w", plain(err))
	}
	if _, err := f.WriteString(" and after"); err != nil {
		return fmt.Errorf("write to an unlinked file: %w", plain(err))
	}
	got := make([]byte, 16)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "before and after" {
		return fmt.Errorf("an unlinked file reads %q: %v", got, err) //nolint:errorlint // may be nil
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("an unlinked open file stays as %s, and keeps its folder from being removed", left[0].Name())
	}
	return nil
}

func tryFsyncFile(dir string) error {
	f, err := create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("fsync: %w", plain(err))
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	return nil
}

func tryFsyncDir(dir string) error {
	if err := write(filepath.Join(dir, "f"), "x"); err != nil {
		return err
	}
	d, err := open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("fsync of a directory: %w", plain(err))
	}
	return nil
}

// two opens a file twice.
func two(dir string) (a, b *os.File, err error) {
	path := filepath.Join(dir, "f")
	if a, err = create(path); err != nil {
		return nil, nil, err
	}
	if b, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return a, b, nil
}

func tryFlock(dir string) error {
	a, b, err := two(dir)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	if err := unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("flock keeps nobody out: a second lock gives %v", err) //nolint:errorlint // may be nil
	}
	if err := unix.Flock(int(a.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("give a lock back: %w", err)
	}
	if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("a lock that was given back is still held: %w", err)
	}
	return nil
}

// tryRecordLock sets a lock of one kind and looks for it with the other kind's
// call: locks of one process conflict only so (fcntl(2)).
func tryRecordLock(dir string, set int) error {
	a, b, err := two(dir)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	if err := unix.FcntlFlock(a.Fd(), set, &lock); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	other := unix.Flock_t{Type: unix.F_WRLCK, Start: 15, Len: 1}
	err = unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &other)
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("the lock keeps nobody out: a second gives %v", err) //nolint:errorlint // may be nil
	}
	free := unix.Flock_t{Type: unix.F_WRLCK, Start: 30, Len: 1}
	if err := unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &free); err != nil {
		return fmt.Errorf("a lock on other bytes is refused: %w", err)
	}
	return nil
}

func trySharedMmap(dir string) error {
	a, b, err := two(dir)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	const size = 8192
	if err := a.Truncate(size); err != nil {
		return err
	}
	ma, err := unix.Mmap(int(a.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("shared mmap: %w", err)
	}
	defer unix.Munmap(ma) //nolint:errcheck // the file goes with its folder
	mb, err := unix.Mmap(int(b.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("shared mmap: %w", err)
	}
	defer unix.Munmap(mb) //nolint:errcheck // the file goes with its folder
	copy(ma[4000:], "through one mapping")
	if got := mb[4000:4019]; string(got) != "through one mapping" {
		return fmt.Errorf("what is written through one mapping reads %q through another", got)
	}
	if _, err := b.WriteAt([]byte("by write"), 100); err != nil {
		return err
	}
	if got := ma[100:108]; string(got) != "by write" {
		return fmt.Errorf("what write(2) wrote reads %q through a mapping", got)
	}
	got := make([]byte, 19)
	if _, err := a.ReadAt(got, 4000); err != nil || string(got) != "through one mapping" {
		return fmt.Errorf("what a mapping wrote reads %q by read(2): %v", got, err) //nolint:errorlint // may be nil
	}
	if err := unix.Msync(ma, unix.MS_SYNC); err != nil {
		return fmt.Errorf("msync: %w", err)
	}
	return nil
}

const block = 4096

// aligned returns a block at an address that direct I/O takes.
func aligned() []byte {
	b := make([]byte, 2*block)
	off := block - int(uintptr(unsafe.Pointer(&b[0]))%block) //nolint:gosec // only the address's remainder is used
	return b[off%block:][:block]
}

func tryDirectIO(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open with O_DIRECT: %w", err)
	}
	defer unix.Close(fd)
	b := aligned()
	copy(b, "direct")
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		return fmt.Errorf("direct write: %w", err)
	}
	got := aligned()
	if _, err := unix.Pread(fd, got, 0); err != nil || !bytes.Equal(got, b) {
		return fmt.Errorf("a direct read gives something else: %v", err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryTmpFile(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open with O_TMPFILE: %w", err)
	}
	return unix.Close(fd)
}

func trySparse(dir string) error {
	f, err := create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		return fmt.Errorf("truncate: %w", plain(err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if used := st.Blocks * 512; used > 1<<20 {
		return fmt.Errorf("a file of nothing but holes takes %d MiB", used>>20)
	}
	return nil
}

func tryPreallocate(dir string) error {
	f, err := create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil {
		return fmt.Errorf("fallocate: %w", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 1<<20 {
		return fmt.Errorf("fallocate has no effect: %v", err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryCase(dir string) error {
	if err := write(filepath.Join(dir, "name"), "x"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "NAME")); !errors.Is(err, os.ErrNotExist) {
		return errors.New("name and NAME are the same file")
	}
	return nil
}

func tryXattr(dir string) error {
	f := filepath.Join(dir, "f")
	if err := write(f, "x"); err != nil {
		return err
	}
	if err := unix.Setxattr(f, "user.holdfast", []byte("v"), 0); err != nil {
		return fmt.Errorf("setxattr: %w", err)
	}
	got := make([]byte, 8)
	if n, err := unix.Getxattr(f, "user.holdfast", got); err != nil || string(got[:n]) != "v" {
		return fmt.Errorf("an extended attribute reads otherwise: %v", err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryFifo(dir string) error {
	if err := unix.Mkfifo(filepath.Join(dir, "f"), 0o600); err != nil {
		return fmt.Errorf("mkfifo: %w", err)
	}
	return nil
}

func trySocket(dir string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	defer unix.Close(fd)
	// Paths of sockets are short: come from the folder.
	d, err := open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/s", d.Fd())}); err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	return nil
}

func tryNoReplace(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(write(a, "a"), write(b, "b")); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rename that must not replace gives %v", err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryAppend(dir string) error {
	path := filepath.Join(dir, "f")
	var files [2]*os.File
	for i := range files {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	for range 3 {
		for i, f := range files {
			if _, err := fmt.Fprintf(f, "%d", i); err != nil {
				return fmt.Errorf("append: %w", plain(err))
			}
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "010101" {
		return fmt.Errorf("two that append in turn make %q of 010101: %v", got, err) //nolint:errorlint // may be nil
	}
	return nil
}

func tryLongNames(dir string) error {
	if err := write(filepath.Join(dir, string(bytes.Repeat([]byte("n"), 255))), "x"); err != nil {
		return fmt.Errorf("a name of 255 bytes: %w", plain(err))
	}
	return nil
}

const fsyncRounds = 7

// fsyncTime is the median time to make a block's rewrite durable, as a
// database's log does.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 8192)
	var times []time.Duration
	for range fsyncRounds {
		b[0]++
		begin := time.Now()
		if _, err := f.WriteAt(b, 0); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// The folder may be in a container's volume, where others can put a link in the
// place of any name. So files are made anew, links are not followed, and owner and
// mode are changed by descriptor.

// create makes a file that was not there.
func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// open opens a file or folder, but no link.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

func write(path, text string) error {
	f, err := create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// plain takes the path off an error: it is the check's own.
func plain(err error) error {
	var pe *os.PathError
	var le *os.LinkError
	var se *os.SyscallError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	case errors.As(err, &se):
		return se.Err
	}
	return err
}
