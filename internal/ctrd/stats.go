package ctrd

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/moby/api/types/container"
)

// Stats implements container.Runtime.
func (r *Runtime) Stats(ctx context.Context, id string) (container.StatsResponse, error) {
	t, err := r.live(id)
	if err != nil {
		return container.StatsResponse{}, err
	}
	resp, err := t.shim.api.Stats(in(ctx), &taskapi.StatsRequest{ID: id})
	if err != nil {
		return container.StatsResponse{}, fromShim(err)
	}
	read := time.Now()
	m, err := typeurl.UnmarshalAny(resp.GetStats())
	if err != nil {
		return container.StatsResponse{}, fmt.Errorf("decode statistics of container %s: %w", id, err)
	}
	var out container.StatsResponse
	switch m := m.(type) {
	case *v1.Metrics:
		out = fromV1(m)
	case *v2.Metrics:
		out = fromV2(m)
	default:
		return out, fmt.Errorf("decode statistics of container %s: unknown form %T", id, m)
	}
	out.ID, out.Read, out.OSType = id, read, "linux"
	return out, nil
}

func fromV1(m *v1.Metrics) container.StatsResponse {
	var s container.StatsResponse
	if c := m.GetCPU(); c != nil {
		s.CPUStats.CPUUsage = container.CPUUsage{
			TotalUsage:        c.GetUsage().GetTotal(),
			PercpuUsage:       c.GetUsage().GetPerCPU(),
			UsageInKernelmode: c.GetUsage().GetKernel(),
			UsageInUsermode:   c.GetUsage().GetUser(),
		}
		s.CPUStats.ThrottlingData = container.ThrottlingData{
			Periods:          c.GetThrottling().GetPeriods(),
			ThrottledPeriods: c.GetThrottling().GetThrottledPeriods(),
			ThrottledTime:    c.GetThrottling().GetThrottledTime(),
		}
	}
	if mem := m.GetMemory(); mem != nil {
		s.MemoryStats = container.MemoryStats{
			Usage:    mem.GetUsage().GetUsage(),
			MaxUsage: mem.GetUsage().GetMax(),
			Failcnt:  mem.GetUsage().GetFailcnt(),
			Limit:    mem.GetUsage().GetLimit(),
			Stats:    counters(mem, strings.NewReplacer("pg_pg_in", "pgpgin", "pg_pg_out", "pgpgout", "pg_fault", "pgfault", "pg_maj_fault", "pgmajfault")),
		}
	}
	if b := m.GetBlkio(); b != nil {
		s.BlkioStats = container.BlkioStats{
			IoServiceBytesRecursive: blkio(b.GetIoServiceBytesRecursive()),
			IoServicedRecursive:     blkio(b.GetIoServicedRecursive()),
			IoQueuedRecursive:       blkio(b.GetIoQueuedRecursive()),
			IoServiceTimeRecursive:  blkio(b.GetIoServiceTimeRecursive()),
			IoWaitTimeRecursive:     blkio(b.GetIoWaitTimeRecursive()),
			IoMergedRecursive:       blkio(b.GetIoMergedRecursive()),
			IoTimeRecursive:         blkio(b.GetIoTimeRecursive()),
			SectorsRecursive:        blkio(b.GetSectorsRecursive()),
		}
	}
	s.PidsStats = container.PidsStats{Current: m.GetPids().GetCurrent(), Limit: m.GetPids().GetLimit()}
	return s
}

func blkio(es []*v1.BlkIOEntry) []container.BlkioStatEntry {
	out := make([]container.BlkioStatEntry, len(es))
	for i, e := range es {
		out[i] = container.BlkioStatEntry{Major: e.GetMajor(), Minor: e.GetMinor(), Op: strings.ToLower(e.GetOp()), Value: e.GetValue()}
	}
	return out
}

func fromV2(m *v2.Metrics) container.StatsResponse {
	const micro = 1000 // nanoseconds
	var s container.StatsResponse
	if c := m.GetCPU(); c != nil {
		s.CPUStats.CPUUsage = container.CPUUsage{
			TotalUsage:        c.GetUsageUsec() * micro,
			UsageInKernelmode: c.GetSystemUsec() * micro,
			UsageInUsermode:   c.GetUserUsec() * micro,
		}
		s.CPUStats.ThrottlingData = container.ThrottlingData{
			Periods:          c.GetNrPeriods(),
			ThrottledPeriods: c.GetNrThrottled(),
			ThrottledTime:    c.GetThrottledUsec() * micro,
		}
	}
	if mem := m.GetMemory(); mem != nil {
		s.MemoryStats = container.MemoryStats{
			Usage:   mem.GetUsage(),
			Limit:   mem.GetUsageLimit(),
			Failcnt: m.GetMemoryEvents().GetOom(),
			Stats:   counters(mem, strings.NewReplacer()),
		}
	}
	for _, e := range m.GetIo().GetUsage() {
		for op, n := range map[string]uint64{"read": e.GetRbytes(), "write": e.GetWbytes()} {
			s.BlkioStats.IoServiceBytesRecursive = append(s.BlkioStats.IoServiceBytesRecursive,
				container.BlkioStatEntry{Major: e.GetMajor(), Minor: e.GetMinor(), Op: op, Value: n})
		}
	}
	s.PidsStats = container.PidsStats{Current: m.GetPids().GetCurrent(), Limit: m.GetPids().GetLimit()}
	return s
}

// counters returns the numbers of a message by the names the kernel gives
// them, zeros included: clients tell the cgroup version by which are there.
func counters(m any, names *strings.Replacer) map[string]uint64 {
	v := reflect.ValueOf(m).Elem()
	out := map[string]uint64{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || f.Type.Kind() != reflect.Uint64 {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[names.Replace(name)] = v.Field(i).Uint()
	}
	return out
}
