package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/symlink"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inRoot resolves a path of a container to the host path behind it: symbolic
// links are followed as the container would, and none leads out of root.
func inRoot(root, path string) (string, error) {
	return symlink.FollowSymlinkInScope(filepath.Join(root, filepath.Clean("/"+path)), root)
}

// openInRoot opens a file of a container for reading. The path is resolved
// first and opened beneath root after, so that a container that changes links
// meanwhile gains nothing.
func openInRoot(root, path string) (io.ReadCloser, error) {
	resolved, err := inRoot(root, path)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, resolved)
	if err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	f, err := openRegular(dir, rel)
	if cerr := dir.Close(); err == nil && cerr != nil {
		err = errors.Join(cerr, f.Close())
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openRegular opens a file that is one: a pipe would wait for a writer, and
// opening a device can do anything.
func openRegular(dir *os.Root, name string) (*os.File, error) {
	irregular := &os.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	if st, err := dir.Lstat(name); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, irregular
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	// A container that runs may have put another thing in its place.
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = irregular
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// maxID is the highest number of a user or group.
const maxID = 1<<31 - 1

// lookupUser finds the user and groups a process shall have, in the
// container's own /etc/passwd and /etc/group.
func lookupUser(root, name string, groupAdd []string) (specs.User, error) {
	passwd, err := readAccounts(root, "/etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := readAccounts(root, "/etc/group")
	if err != nil {
		return specs.User{}, err
	}
	u, err := user.GetExecUser(name, nil, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return specs.User{}, err
	}
	gids := u.Sgids
	if len(groupAdd) > 0 {
		more, err := user.GetAdditionalGroups(groupAdd, strings.NewReader(group))
		if err != nil {
			return specs.User{}, err
		}
		gids = append(gids, more...)
	}
	// The library checks what the user asks for, not what the files say.
	for _, n := range append([]int{u.Uid, u.Gid}, gids...) {
		if n < 0 || n > maxID {
			return specs.User{}, user.ErrRange
		}
	}
	out := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), AdditionalGids: []uint32{uint32(u.Gid)}}
	for _, g := range gids {
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	return out, nil
}

// maxAccounts bounds what is read of a container's passwd and group files.
const maxAccounts = 16 << 20

func readAccounts(root, path string) (string, error) {
	f, err := openInRoot(root, path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return "", nil
		}
		return "", fmt.Errorf("read %s of the container: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("read %s of the container: %w", path, err)
	}
	return string(b), nil
}

// makeWorkdir creates the working directory in a mounted root file system.
func makeWorkdir(root, dir string) error {
	if dir == "" || dir == "/" {
		return nil
	}
	p, err := inRoot(root, dir)
	if err != nil {
		return fmt.Errorf("working directory %s: %w", dir, err)
	}
	if st, err := os.Stat(p); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("Cannot mkdir: %s is not a directory", dir)
		}
		return nil
	}
	if err := os.MkdirAll(p, 0o755); err != nil {
		return fmt.Errorf("make working directory %s: %w", dir, err)
	}
	return nil
}
