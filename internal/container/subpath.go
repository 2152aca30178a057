package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// sourcesDir holds mounts of parts of volumes, each for the moment in which a
// runtime copies it. It is beside the containers' folders and not in them: those
// are removed whole, and behind a mount are the user's files.
func (s *Service) sourcesDir() string { return filepath.Join(s.d.Settings.RunDir, "sources") }

// holdSubpath makes a file or directory inside a volume reachable under a path
// that nobody else can exchange, until release. It must exist, and no link leads
// out of the volume. A path below the volume would not do: whoever works in the
// volume could put a link in its place between our look and the runtime's mount.
// n tells the mounts of a container apart; the caller holds op.
func (s *Service) holdSubpath(id string, n int, volume, sub string) (path string, release func(), err error) {
	f, err := openSubpath(volume, sub)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	path = filepath.Join(s.sourcesDir(), fmt.Sprintf("%s-%d", id, n))
	if err := makeMountpoint(path, f); err != nil {
		return "", nil, fmt.Errorf("hold subpath %s of volume: %w", sub, err)
	}
	release = func() {
		if err := dropSource(path); err != nil {
			s.d.Log.Warn("part of a volume stays mounted", logkey.Path, path, logkey.Err, err)
		}
	}
	err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "", unix.MS_BIND|unix.MS_REC, "")
	if err != nil {
		release()
		return "", nil, fmt.Errorf("hold subpath %s of volume: %w", sub, os.NewSyscallError("mount", err))
	}
	return path, release, nil
}

// openSubpath resolves sub, and refuses what a link leads out of the volume.
func openSubpath(volume, sub string) (*os.File, error) {
	root, err := os.Open(volume)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	defer root.Close()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := -1, error(unix.EAGAIN)
	for try := 0; errors.Is(err, unix.EAGAIN) && try < 100; try++ { // somebody renames there right now
		fd, err = unix.Openat2(int(root.Fd()), sub, &how)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, fault.New(errdefs.ErrInvalidArgument, "cannot access path %s: no such file or directory", filepath.Join(volume, sub))
	case errors.Is(err, unix.EXDEV):
		return nil, fault.New(errdefs.ErrInvalidArgument, "path concatenation escapes the base directory, base: %s, subpath: %s", volume, sub)
	case err != nil:
		return nil, fmt.Errorf("cannot access subpath %s of volume: %w", sub, err)
	}
	return os.NewFile(uintptr(fd), sub), nil
}

// makeMountpoint makes a directory for a directory and an empty file for
// anything else.
func makeMountpoint(path string, of *os.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := dropSource(path); err != nil { // of a start that was cut off
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(of.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(path, 0o700)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dropSource takes a mount away, and what it was mounted on. It never removes a
// tree: that could be the volume.
func dropSource(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // mounts may be stacked
		case errors.Is(err, unix.EINVAL): // nothing is mounted there
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		case errors.Is(err, unix.ENOENT):
			return nil
		}
		return os.NewSyscallError("umount", err)
	}
}

// sweepSources takes away what a daemon that died in the middle of a start left.
func (s *Service) sweepSources() error {
	entries, err := os.ReadDir(s.sourcesDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, dropSource(filepath.Join(s.sourcesDir(), e.Name())))
	}
	return err
}
