package ctrd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// opaqueXattr marks a directory that hides all of those below it (kernel
// documentation, filesystems/overlayfs: "whiteouts and opaque directories").
const opaqueXattr = "trusted.overlay.opaque"

// changes compares an overlay upper directory with the lower ones (nearest
// first) without walking these: what was created, changed and deleted, parents
// of what was created or deleted counted as changed, sorted by path.
func changes(ctx context.Context, upper string, lower []string) ([]container.FilesystemChange, error) {
	d := comparison{ctx: ctx}
	if err := d.dir("/", upper, lower); err != nil {
		return nil, err
	}
	slices.SortFunc(d.out, func(a, b container.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return d.out, nil
}

type comparison struct {
	ctx context.Context
	out []container.FilesystemChange
}

func (d *comparison) add(kind container.ChangeType, path string) {
	d.out = append(d.out, container.FilesystemChange{Kind: kind, Path: path})
}

// dir compares one directory of the upper layer with those of the same path below.
func (d *comparison) dir(path, upper string, lower []string) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(upper)
	if errors.Is(err, os.ErrNotExist) {
		return nil // went away meanwhile
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := d.entry(filepath.Join(path, e.Name()), filepath.Join(upper, e.Name()), info, lower); err != nil {
			return err
		}
	}
	return nil
}

func (d *comparison) entry(path, upper string, info os.FileInfo, lower []string) error {
	if isWhiteout(info) {
		d.add(container.ChangeDelete, path)
		return nil
	}
	below, dirs, err := find(info.Name(), lower)
	if err != nil {
		return err
	}
	if below == nil {
		d.add(container.ChangeAdd, path)
	}
	if !info.IsDir() {
		if below != nil {
			d.add(container.ChangeModify, path)
		}
		return nil
	}
	opaque, err := isOpaque(upper)
	if err != nil {
		return err
	}
	if opaque {
		dirs = nil
	}
	mark := len(d.out)
	if err := d.dir(path, upper, dirs); err != nil {
		return err
	}
	if below == nil {
		return nil
	}
	// A directory is in the upper layer also because of something far inside it.
	if opaque || !sameDirectory(info, below) || hasOwnChange(d.out[mark:], path) {
		d.add(container.ChangeModify, path)
	}
	return nil
}

// hasOwnChange reports whether something was created or deleted right in dir.
func hasOwnChange(cs []container.FilesystemChange, dir string) bool {
	return slices.ContainsFunc(cs, func(c container.FilesystemChange) bool {
		return c.Kind != container.ChangeModify && filepath.Dir(c.Path) == dir
	})
}

func sameDirectory(a, b os.FileInfo) bool {
	x, okx := a.Sys().(*syscall.Stat_t)
	y, oky := b.Sys().(*syscall.Stat_t)
	return okx && oky && a.Mode() == b.Mode() && x.Uid == y.Uid && x.Gid == y.Gid && a.ModTime().Equal(b.ModTime())
}

// find looks a name up in merged lower directories. It returns what is seen
// there (nil for nothing) and, for a directory, all that contribute to it.
func find(name string, lower []string) (seen os.FileInfo, dirs []string, err error) {
	for _, l := range lower {
		p := filepath.Join(l, name)
		info, err := os.Lstat(p)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if isWhiteout(info) || (seen != nil && !info.IsDir()) {
			break
		}
		if seen == nil {
			seen = info
		}
		if !info.IsDir() {
			break
		}
		dirs = append(dirs, p)
		opaque, err := isOpaque(p)
		if err != nil {
			return nil, nil, err
		}
		if opaque {
			break
		}
	}
	return seen, dirs, nil
}

func isWhiteout(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&os.ModeCharDevice != 0 && st.Rdev == 0
}

func isOpaque(dir string) (bool, error) {
	var buf [1]byte
	n, err := unix.Lgetxattr(dir, opaqueXattr, buf[:])
	switch {
	case err == nil:
		return n == 1 && buf[0] == 'y', nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ERANGE):
		return false, nil
	}
	return false, err
}

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }
