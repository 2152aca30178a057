package preflight

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FileSystem tells the kind of file system that a directory is on: its type and the
// options it is mounted with. What passed on one kind need not be tried again.
func FileSystem(dir string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	kind, ok := fileSystem(string(table), st.Mnt_id)
	if !ok {
		return "", fmt.Errorf("the mount of %s is not among the machine's", dir)
	}
	return kind, nil
}

// fileSystem finds a mount in a table of mounts (proc(5), mountinfo). Options that
// name one file system, and not a kind, are left out.
func fileSystem(table string, mount uint64) (string, bool) {
	for line := range strings.Lines(table) {
		own, rest, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(own), strings.Fields(rest)
		if !ok || len(f) < 6 || len(g) < 3 || f[0] != strconv.FormatUint(mount, 10) {
			continue
		}
		options := slices.DeleteFunc(strings.Split(f[5]+","+g[2], ","), func(o string) bool {
			name, _, _ := strings.Cut(o, "=")
			return slices.Contains([]string{"subvol", "subvolid", "addr", "clientaddr", "upperdir", "workdir", "lowerdir", "size", "nr_inodes", "username", "password"}, name)
		})
		slices.Sort(options)
		return g[0] + " " + strings.Join(slices.Compact(options), ","), true
	}
	return "", false
}
