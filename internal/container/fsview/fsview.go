// Package fsview runs functions inside the file system of a container, as its
// processes see it.
//
// A View is an operating system thread of its own whose root directory is the
// container's. The kernel resolves every path that its functions use, so that
// no symbolic link and no ".." leads out, whatever the container changes
// meanwhile. The functions must not start goroutines that use paths, nor
// programs: both would see the wrong files.
package fsview

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// View is an entered file system. Its functions run one at a time.
type View struct {
	todo chan func()
	done chan struct{}
}

// Bind is a directory or file of the host to be seen at Target.
type Bind struct {
	Source   string
	Target   string
	ReadOnly bool
}

// Enter opens a view of a running process's mount namespace. check is called
// once the namespace is held and tells whether pid is still the process that
// is meant.
func Enter(pid int, check func() error) (*View, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := check(); err != nil {
		return nil, err
	}
	if err := notOurs(ns); err != nil {
		return nil, err
	}
	return open(func() error {
		// A mount namespace can be joined only by a thread that shares its root
		// and working directory with no other.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return nil
	})
}

// notOurs refuses the daemon's own mount namespace: no container runs in it.
func notOurs(ns *os.File) error {
	theirs, err := ns.Stat()
	if err != nil {
		return err
	}
	ours, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if os.SameFile(theirs, ours) {
		return errors.New("process has no mount namespace of its own")
	}
	return nil
}

// Assemble opens a view of the directory root with binds over it, in a mount
// namespace that ends with the view. Missing targets are made.
func Assemble(root string, binds []Bind) (*View, error) {
	return open(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		// Nothing that is mounted here may show up on the host.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		trees := make([]int, 0, len(binds))
		defer func() {
			for _, fd := range trees {
				_ = unix.Close(fd)
			}
		}()
		for _, b := range binds {
			fd, err := tree(b)
			if err != nil {
				return fmt.Errorf("bind %s: %w", b.Source, err)
			}
			trees = append(trees, fd)
		}
		if err := unix.Chroot(root); err != nil {
			return &os.PathError{Op: "chroot", Path: root, Err: err}
		}
		if err := unix.Chdir("/"); err != nil {
			return &os.PathError{Op: "chdir", Path: root, Err: err}
		}
		// From here paths are the container's: targets are resolved inside root.
		for i, b := range binds {
			if err := attach(trees[i], b.Target); err != nil {
				return fmt.Errorf("bind %s: %w", b.Target, err)
			}
		}
		return nil
	})
}

// tree copies the mounts at a bind's source, detached.
func tree(b Bind) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if b.ReadOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("mount_setattr", err)
		}
	}
	return fd, nil
}

func attach(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return os.NewSyscallError("move_mount",
		unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS))
}

func makeTarget(target string, dir bool) error {
	if _, err := os.Stat(target); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// open starts the view's thread and lets setup change it.
func open(setup func() error) (*View, error) {
	v := &View{todo: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go v.run(setup, ready)
	if err := <-ready; err != nil {
		<-v.done
		return nil, err
	}
	return v, nil
}

// run is the view's thread. It never unlocks it: the runtime ends a thread whose
// goroutine returns while locked to it, and with it all that setup changed.
func (v *View) run(setup func() error, ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The process's first thread cannot be ended, and /proc/self is its
		// state. While it is locked here, another goroutine gets another thread.
		defer runtime.UnlockOSThread()
		inner := make(chan struct{})
		go func() { defer close(inner); v.run(setup, ready) }()
		<-inner
		return
	}
	defer close(v.done)
	if err := setup(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for fn := range v.todo {
		fn()
	}
}

// Do runs fn inside and returns its error.
func (v *View) Do(fn func() error) error {
	res := make(chan error, 1)
	v.todo <- func() { res <- fn() }
	return <-res
}

// Go starts fn inside and returns; Close waits for it.
func (v *View) Go(fn func()) { v.todo <- fn }

// Close waits for what runs inside and leaves. It is called once.
func (v *View) Close() {
	close(v.todo)
	<-v.done
}
