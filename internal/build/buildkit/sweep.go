package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// sweep ends the steps that a killed daemon left running, and removes their
// bundles and the contexts it had unpacked. A step's bundle carries its name in
// runc; what has a config was handed to runc.
func (b *Builder) sweep(ctx context.Context) error {
	contexts, err := filepath.Glob(filepath.Join(b.cfg.Root, "context-*"))
	if err != nil {
		return fmt.Errorf("look for left build contexts: %w", err)
	}
	for _, dir := range contexts {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove a left build context: %w", err)
		}
	}
	entries, err := os.ReadDir(b.executorDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for left build steps: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(b.executorDir(), e.Name())
		if _, err := os.Stat(filepath.Join(dir, "config.json")); !e.IsDir() || err != nil {
			continue
		}
		b.cfg.Log.Info("left build step removed", logkey.Name, e.Name())
		if err := b.endStep(ctx, e.Name(), dir); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) endStep(ctx context.Context, id, dir string) error {
	out, err := exec.CommandContext(ctx, b.cfg.Runc, "delete", "--force", id).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "does not exist") {
		return fmt.Errorf("end left build step %s: %w: %s", id, err, out)
	}
	root := filepath.Join(dir, "rootfs")
	for {
		err := unix.Unmount(root, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount left build step %s: %w", id, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove left build step %s: %w", id, err)
	}
	return nil
}

// dropCgroups removes the cgroups in which BuildKit puts its steps' own: runc
// removes only those. What is not empty stays.
func (b *Builder) dropCgroups() {
	for _, root := range []string{cgroupRoot, cgroupRoot + "/*"} { // v2, v1
		dirs, err := filepath.Glob(filepath.Join(root, b.cfg.CgroupParent, stepsCgroup))
		if err != nil {
			continue // the parent's name is no pattern then
		}
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				b.cfg.Log.Debug("cgroup of build steps not removed", logkey.Path, dir, logkey.Err, err)
			}
		}
	}
}

const (
	cgroupRoot  = "/sys/fs/cgroup"
	stepsCgroup = "buildkit" // BuildKit's choice
)
