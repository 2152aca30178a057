package fsview

import (
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	archive "github.com/moby/go-archive"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/symlink"

	"holdfast.dev/holdfast/internal/base/fault"
)

// ClientPath is a path inside a view as the client wrote it: absolute, and with
// the trailing slash or dot that says "what is in the directory".
func ClientPath(p string) string {
	return archive.PreserveTrailingDotOrSeparator(filepath.Join("/", p), p)
}

// Stat describes a file as docker cp asks for it. What a link leads to is told, not
// followed.
func (v *View) Stat(path string) (st container.PathStat, err error) {
	abs := ClientPath(path)
	err = v.Do(func() error {
		fi, err := os.Lstat(abs)
		if err != nil {
			return err
		}
		st = container.PathStat{Name: filepath.Base(abs), Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
		if fi.Mode()&os.ModeSymlink != 0 {
			st.LinkTarget, err = symlink.FollowSymlinkInScope(abs, "/")
		}
		return err
	})
	return st, err
}

// Tar gives a file or directory that Stat described as a tar stream. It is closed
// before the view, which waits for it.
func (v *View) Tar(path string, st container.PathStat) (io.ReadCloser, error) {
	abs := ClientPath(path)
	dir, base := abs, "."
	if !st.Mode.IsDir() {
		dir, base = filepath.Split(abs)
	}
	tar, err := archive.NewTarballer(dir, archive.TarResourceRebaseOpts(base, filepath.Base(abs)))
	if err != nil {
		return nil, err
	}
	v.Go(tar.Do)
	return tar.Reader(), nil
}

// Untar unpacks a tar that is not compressed into a directory that is there, links to
// it followed. ready, if not nil, is asked inside about the directory first; it may
// change o.
func (v *View) Untar(path string, tar io.Reader, o *archive.TarOptions, ready func(dir string) error) error {
	return v.Do(func() error {
		dir, err := filepath.EvalSymlinks(filepath.Join("/", path))
		if err != nil {
			return err
		}
		st, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if !st.IsDir() {
			return fault.New(errdefs.ErrInvalidArgument, "extraction point is not a directory")
		}
		if ready != nil {
			if err := ready(dir); err != nil {
				return err
			}
		}
		return archive.UntarUncompressed(tar, archive.PreserveTrailingDotOrSeparator(dir, path), o)
	})
}
