package ctrd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// sweepShims ends shims of ours that no task belongs to: an engine that is
// killed between starting a shim and noting its address leaves one that nobody
// will ever talk to. Ours are told by the address they were given.
func (r *Runtime) sweepShims() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for stray shims: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		id, ok := r.shimOf(pid)
		if !ok {
			continue
		}
		if _, err := r.task(id); !errdefs.IsNotFound(err) {
			continue
		}
		r.log.Info("stray shim ended", logkey.Container, id, logkey.Pid, pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end stray shim %d: %w", pid, err)
		}
	}
	return nil
}

// shimOf tells which container's shim a process is, if it is one of ours.
func (r *Runtime) shimOf(pid int) (id string, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return "", false // gone, or not to be read
	}
	var args []string
	for a := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		args = append(args, string(a))
	}
	if len(args) == 0 || flagValue(args, "-address") != r.shims.mark {
		return "", false
	}
	id = flagValue(args, "-id")
	return id, id != ""
}

func flagValue(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}
