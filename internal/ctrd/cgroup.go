package ctrd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/errdefs"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup tells the directories of a container's cgroup that we read ourselves,
// which is a hundred times quicker than having runc do it.
type cgroup struct {
	procs string // holds every process of the container
	oom   string // file with the count of out-of-memory kills
}

func parseCgroup(text string, unified bool) cgroup {
	var c cgroup
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok || path == "" || path == "/" {
			continue
		}
		if controllers == "" {
			if unified {
				dir := filepath.Join(cgroupRoot, path)
				return cgroup{procs: dir, oom: filepath.Join(dir, "memory.events")}
			}
			continue
		}
		names := strings.Split(controllers, ",")
		dir := filepath.Join(cgroupRoot, controllers, path)
		if slices.Contains(names, "memory") {
			c.oom = filepath.Join(dir, "memory.oom_control")
		}
		if slices.Contains(names, "pids") || c.procs == "" {
			c.procs = dir
		}
	}
	return c
}

// pids lists the processes in the cgroup and those below it.
func (c cgroup) pids() ([]int, error) {
	if c.procs == "" {
		return nil, fmt.Errorf("the container has no cgroup of its own: %w", errdefs.ErrNotFound)
	}
	var out []int
	err := filepath.WalkDir(c.procs, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist) && path != c.procs:
			return nil // removed meanwhile
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return err
			}
			out = append(out, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup: %w", err)
	}
	return out, nil
}

// oomKilled says whether the kernel has killed a process for want of memory.
func (c cgroup) oomKilled() bool {
	f, err := os.Open(c.oom)
	if err != nil {
		return false // the cgroup is gone or has no memory controller
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, _ := strings.Cut(sc.Text(), " "); k == "oom_kill" {
			return v != "0"
		}
	}
	return false
}

// cgroupFile holds, beside the bundle, where the container's cgroup is.
const cgroupFile = "cgroup"

// saveCgroup reads where a process is that has not started yet, since later it
// may have moved, and keeps that for the next daemon.
func saveCgroup(pid int, bundle string) (cgroup, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return cgroup{}, fmt.Errorf("find cgroup: %w", err)
	}
	//nolint:forbidigo // not needed after a crash that loses it: the task is lost too
	if err := os.WriteFile(filepath.Join(bundle, cgroupFile), b, 0o600); err != nil {
		return cgroup{}, fmt.Errorf("note cgroup: %w", err)
	}
	return parseCgroup(string(b), cgroups.Mode() == cgroups.Unified), nil
}

// savedCgroup is what saveCgroup found in an earlier daemon; empty if nothing.
func savedCgroup(bundle string) cgroup {
	b, err := os.ReadFile(filepath.Join(bundle, cgroupFile))
	if err != nil {
		return cgroup{}
	}
	return parseCgroup(string(b), cgroups.Mode() == cgroups.Unified)
}
