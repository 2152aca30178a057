package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// attach returns a loop device for the file: the one that has it, or a new one.
// It goes with its last user, so the caller mounts it before closing it. Two
// devices for one file would be two file systems that overwrite each other.
func attach(ctx context.Context, path string) (*os.File, error) {
	if dev, err := loopOf(path); err != nil || dev != "" {
		if err != nil {
			return nil, err
		}
		return os.OpenFile(dev, os.O_RDWR, 0)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		err = configure(dev, file, path)
		if err == nil {
			return dev, nil
		}
		err = errors.Join(err, dev.Close())
		if !errors.Is(err, unix.EBUSY) { // somebody else took it first
			return nil, err
		}
	}
}

// openLoop opens the device, whose node may be missing where nobody makes them.
func openLoop(n int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		const major = 7
		if err := unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(major, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) { //nolint:gosec // a number of a device
			return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
		}
		dev, err = os.OpenFile(name, os.O_RDWR, 0)
	}
	return dev, err
}

func configure(dev, file *os.File, path string) error {
	c := unix.LoopConfig{Fd: uint32(file.Fd())} //nolint:gosec // a descriptor fits
	copy(c.Info.File_name[:len(c.Info.File_name)-1], path)
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &c)
	if errors.Is(err, unix.EINVAL) { // a file system without direct I/O
		c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &c)
	}
	return os.NewSyscallError("LOOP_CONFIGURE", err)
}

// loopOf finds the device that has the file; empty if none has.
func loopOf(path string) (string, error) {
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		dev := "/dev/" + strings.Split(f, "/")[3]
		d, err := os.Open(dev)
		if err != nil {
			continue // it went, or has no node: it is none of ours
		}
		info, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
		if cerr := d.Close(); cerr != nil {
			return "", cerr
		}
		if err == nil && info.Device == want.Dev && info.Inode == want.Ino {
			return dev, nil
		}
	}
	return "", nil
}

// growLoop has the device see that its file is larger.
func growLoop(path string) (err error) {
	name, err := loopOf(path)
	if err != nil || name == "" {
		return err
	}
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return os.NewSyscallError("LOOP_SET_CAPACITY", unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0))
}
