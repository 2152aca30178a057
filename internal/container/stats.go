package container

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// statsInterval is the pace of a stream of samples.
const statsInterval = time.Second

// Stats emits one sample of a container's use of resources, or one a second
// until ctx ends or the container is removed. A container that does not run
// uses nothing.
func (s *Service) Stats(ctx context.Context, name string, stream, oneShot bool, emit func(container.StatsResponse) error) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	if r := c.record(); !stream && (oneShot || !r.Phase.alive()) {
		return emit(s.sample(ctx, c))
	}
	var before container.StatsResponse
	for n := 0; ; n++ {
		if c.gone() {
			return nil
		}
		now := s.sample(ctx, c)
		if err := ctx.Err(); err != nil {
			return err
		}
		now.PreRead, now.PreCPUStats = before.Read, before.CPUStats
		// A single answer has two samples behind it, so that its reader can tell
		// how much is used at the moment.
		if stream || n > 0 {
			if err := emit(now); err != nil || !stream {
				return err
			}
		}
		before = now
		if err := clock.Sleep(ctx, s.d.Clock, statsInterval); err != nil {
			return err
		}
	}
}

func (c *Container) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removed
}

// sample reads once; what cannot be read stays zero.
func (s *Service) sample(ctx context.Context, c *Container) container.StatsResponse {
	r := c.record()
	empty := container.StatsResponse{ID: r.ID, Name: "/" + r.Name, OSType: "linux"}
	if !r.Phase.alive() {
		return empty
	}
	st, err := s.d.Runtime.Stats(ctx, r.ID)
	if err != nil {
		if !errdefs.IsNotFound(err) && ctx.Err() == nil {
			s.d.Log.Warn("usage not read", logkey.Container, r.ID, logkey.Err, err)
		}
		return empty
	}
	st.ID, st.Name, st.OSType = empty.ID, empty.Name, empty.OSType
	if all := s.d.Host.Memory; all > 0 && st.MemoryStats.Limit > all {
		st.MemoryStats.Limit = all // without a limit the kernel's figure means nothing
	}
	if st.Read.IsZero() {
		st.Read = s.d.Clock.Now().UTC()
	}
	if usage, cpus, err := systemCPU("/proc/stat"); err == nil {
		st.CPUStats.SystemUsage, st.CPUStats.OnlineCPUs = usage, cpus
	} else {
		s.d.Log.Warn("usage not read", logkey.Path, "/proc/stat", logkey.Err, err)
	}
	if owner := s.networkOwner(&r); owner != "" {
		nets, err := s.d.Networks.Stats(ctx, owner)
		if err != nil && !errdefs.IsNotFound(err) {
			s.d.Log.Warn("network usage not read", logkey.Container, r.ID, logkey.Err, err)
		}
		st.Networks = nets
	}
	return st
}

// networkOwner is the container whose network this one uses; empty on the
// host's.
func (s *Service) networkOwner(r *Record) string {
	for range 8 { // container:X of container:Y …; no circle without an end
		switch mode := r.HostConfig.NetworkMode; {
		case mode.IsHost() || r.Config.NetworkDisabled:
			return ""
		case !mode.IsContainer():
			return r.ID
		default:
			c, err := s.lookup(mode.ConnectedContainer())
			if err != nil {
				return ""
			}
			next := c.record()
			r = &next
		}
	}
	return ""
}

// tick is the kernel's unit of CPU time in /proc: a hundredth of a second on
// every Linux.
const tick = 10 * time.Millisecond

// systemCPU reads how much CPU time the machine has had, idle time included,
// and how many CPUs are online.
func systemCPU(path string) (nanoseconds uint64, cpus uint32, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		line := sc.Bytes()
		if !bytes.HasPrefix(line, []byte("cpu")) || len(line) < 4 {
			break
		}
		if line[3] != ' ' {
			cpus++
			continue
		}
		fields := bytes.Fields(line)
		if len(fields) < 8 {
			return 0, 0, errors.New("too few fields in the line of all CPUs")
		}
		var ticks uint64
		for _, f := range fields[1:8] {
			n, err := strconv.ParseUint(string(f), 10, 64)
			if err != nil {
				return 0, 0, err
			}
			ticks += n
		}
		nanoseconds = ticks * uint64(tick)
	}
	return nanoseconds, cpus, nil
}
