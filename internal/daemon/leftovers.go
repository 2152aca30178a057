package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// emptyTemp removes what a daemon that was killed left in its directory for
// temporary things: files, and mounts, which must go first, for what is mounted
// there is somebody's data.
func emptyTemp(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // as the kernel names it
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return fmt.Errorf("look for leftover mounts: %w", err)
	}
	for _, m := range slices.Backward(mounts) { // what was mounted last goes first
		if err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount leftover %s: %w", m.Mountpoint, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}
