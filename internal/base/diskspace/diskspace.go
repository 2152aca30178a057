// Package diskspace sets disk space aside for files that must be writable even
// when nothing is left.
package diskspace

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Reserve gives the file at least size bytes, with blocks of the disk under all
// of them. The bytes it adds are zeroes. A disk that has no room for that, and a
// file system that cannot promise it, is no error: then it is as it was.
func Reserve(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, size) //nolint:gosec // file descriptors are small
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EOPNOTSUPP):
		err = nil
	case err != nil:
		err = fmt.Errorf("reserve space for %s: %w", path, err)
	}
	return errors.Join(err, f.Close())
}
