// Package ns runs functions inside another network namespace.
package ns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do calls f on a thread that is in the namespace mounted (or linked) at path.
// f must not start goroutines that rely on the namespace; what it opens stays in it.
func Do(path string, f func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	return onThread(func(home *os.File) (bool, error) {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		err := f()
		return goHome(home, err)
	})
}

// New calls f on a thread that is in a namespace made for it. The namespace
// lives on where f bind-mounts Self or keeps a file in it open.
func New(f func() error) error {
	return onThread(func(home *os.File) (bool, error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("make network namespace: %w", err)
		}
		err := f()
		return goHome(home, err)
	})
}

// Self is the path of the calling thread's network namespace.
const Self = "/proc/thread-self/ns/net"

// onThread calls f on a thread of its own, given a file of the namespace the
// thread came from. f tells whether the thread is fit for other goroutines
// again; one that isn't ends with its goroutine.
func onThread(f func(home *os.File) (clean bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(Self)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		clean, err := f(home)
		home.Close()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func goHome(home *os.File, err error) (bool, error) {
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
		return false, errors.Join(err, fmt.Errorf("return from network namespace: %w", e))
	}
	return true, err
}
