// Package openfile has what those need who reach files by open handles and not by
// names, which others could change meanwhile.
package openfile

import (
	"errors"
	"fmt"
	"syscall"
)

// Path is a name for what an open handle holds, for calls that take only names.
func Path(handle int) string { return fmt.Sprintf("/proc/self/fd/%d", handle) }

// firstSize is enough for most answers; maxSize for all that Linux gives.
const (
	firstSize = 256
	maxSize   = 1 << 20
)

// Grow calls get with larger buffers until its answer fits. get returns its length,
// or ERANGE for a buffer that is too small, as listxattr(2) and getxattr(2) do.
func Grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := firstSize; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if errors.Is(err, syscall.ERANGE) && size < maxSize {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
