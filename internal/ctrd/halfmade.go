package ctrd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// halfMadeLimit bounds clearing away a container that runc was making.
	halfMadeLimit = 5 * time.Second
	halfMadePause = 10 * time.Millisecond
)

// endMakers kills what is still at work on a bundle whose shim is gone or has no
// task: a runc that goes on after everybody has looked would make what nobody
// then clears away.
func endMakers(ctx context.Context, bundle string) error {
	return retry(ctx, func() (bool, error) {
		pids, err := makers(bundle)
		for _, pid := range pids {
			if kerr := syscall.Kill(pid, syscall.SIGKILL); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
				return false, fmt.Errorf("end process %d: %w", pid, kerr)
			}
		}
		return len(pids) == 0, err
	})
}

// makers lists the runc processes that name the bundle on their command line.
func makers(bundle string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes of bundle: %w", err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // gone
		}
		args := strings.Split(string(b), "\x00")
		if filepath.Base(args[0]) == "runc" && slices.ContainsFunc(args, func(a string) bool { return a == bundle || strings.HasPrefix(a, bundle+"/") }) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// removeHalfMadeCgroup removes the cgroups that runc made before it had written
// down that there is a container. systemd removes its own when they are empty.
func removeHalfMadeCgroup(ctx context.Context, bundle string) error {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then there was no runc
	}
	if err != nil {
		return fmt.Errorf("read spec: %w", err)
	}
	var spec specs.Spec
	if json.Unmarshal(b, &spec) != nil {
		return nil // cut off while it was written: there was no runc
	}
	if spec.Linux == nil || !filepath.IsAbs(spec.Linux.CgroupsPath) || strings.Contains(spec.Linux.CgroupsPath, ":") {
		return nil
	}
	path := filepath.Clean(spec.Linux.CgroupsPath)
	if path == "/" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*") + path)
	if err != nil {
		return fmt.Errorf("look for cgroup %s: %w", path, err)
	}
	for _, dir := range append(dirs, filepath.Join(cgroupRoot, path)) {
		if err := retry(ctx, func() (bool, error) { return dropCgroup(dir) }); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// dropCgroup kills what is in a cgroup and removes it; false says to try again.
func dropCgroup(dir string) (bool, error) {
	pids, err := cgroup{procs: dir}.pids()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return false, err
		}
	}
	var below []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, path := range slices.Backward(below) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, ignoreBusy(err)
		}
	}
	return true, nil
}

func ignoreBusy(err error) error {
	if errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return err
}

// retry calls f until it is done or fails, or time is up.
func retry(ctx context.Context, f func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, halfMadeLimit)
	defer cancel()
	t := time.NewTicker(halfMadePause)
	defer t.Stop()
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
