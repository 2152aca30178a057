package container

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// cpuPeriod is the scheduler period that --cpus is a share of, in microseconds.
const cpuPeriod = 100_000

// resources turns the API's resources into the runtime's; io is what blockIO
// made of them.
func resources(r *container.Resources, io *specs.LinuxBlockIO) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: memory(r), CPU: cpu(r), Pids: pids(r), BlockIO: io}
}

func memory(r *container.Resources) *specs.LinuxMemory {
	m := specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	if r.Memory > 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwap > 0 || (r.MemorySwap == -1 && r.Memory > 0) {
		m.Swap = &r.MemorySwap
	}
	if r.MemorySwappiness != nil {
		n := uint64(*r.MemorySwappiness)
		m.Swappiness = &n
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func cpu(r *container.Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		n := uint64(r.CPUShares)
		c.Shares = &n
	}
	if r.NanoCPUs > 0 {
		period := uint64(cpuPeriod)
		quota := r.NanoCPUs * cpuPeriod / 1e9
		c.Period, c.Quota = &period, &quota
	}
	if r.CPUPeriod != 0 {
		n := uint64(r.CPUPeriod)
		c.Period = &n
	}
	if r.CPUQuota != 0 {
		c.Quota = &r.CPUQuota
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

func pids(r *container.Resources) *specs.LinuxPids {
	if r.PidsLimit == nil {
		return nil
	}
	n := *r.PidsLimit
	if n <= 0 {
		n = -1
	}
	return &specs.LinuxPids{Limit: &n}
}

// limits are the process's rlimits. A daemon without CAP_SYS_RESOURCE cannot
// raise a hard limit over its own: such a wish is cut to what it can give.
func limits(in *specInput) []specs.POSIXRlimit {
	asked := slices.Clone(in.rec.HostConfig.Ulimits)
	for name, u := range in.settings.Ulimits {
		if !slices.ContainsFunc(asked, func(a *container.Ulimit) bool { return a.Name == name }) {
			asked = append(asked, u)
		}
	}
	slices.SortStableFunc(asked, func(a, b *container.Ulimit) int { return cmp.Compare(a.Name, b.Name) })
	canRaise := slices.Contains(in.settings.Capabilities, "CAP_SYS_RESOURCE")
	var out []specs.POSIXRlimit
	for _, u := range asked {
		l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: rlimit(u.Soft), Hard: rlimit(u.Hard)}
		if own, known := in.host.HardLimits[l.Type]; known && !canRaise {
			l.Hard = min(l.Hard, own)
			l.Soft = min(l.Soft, l.Hard)
		}
		out = append(out, l)
	}
	return out
}

func rlimit(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

// oomScore is the wanted score, or none where the daemon may not set it:
// lowering it needs CAP_SYS_RESOURCE.
func oomScore(in *specInput) *int {
	want := in.rec.HostConfig.OomScoreAdj
	if want < in.host.OOMScoreAdj && !slices.Contains(in.settings.Capabilities, "CAP_SYS_RESOURCE") {
		return nil
	}
	return &want
}

// deviceCgroup is the device list of the cgroup: nothing, but the usual
// character devices, but what was asked for.
func deviceCgroup(in *specInput) []specs.LinuxDeviceCgroup {
	if in.rec.HostConfig.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	out := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range [][2]int64{{1, 5}, {1, 3}, {1, 9}, {1, 8}, {5, 0}, {5, 1}} {
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	fuse := [2]int64{10, 229}
	out = append(out, specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: &fuse[0], Minor: &fuse[1], Access: "rwm"})
	return append(out, in.deviceRules...)
}

// findDevices reads the devices a container asks for from the host.
func findDevices(h *container.HostConfig, host *Host) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	var devices []specs.LinuxDevice
	var rules []specs.LinuxDeviceCgroup
	if h.Privileged {
		all, err := host.Devices()
		if err != nil {
			return nil, nil, fmt.Errorf("list devices of the host: %w", err)
		}
		devices = all
	}
	for _, m := range h.Devices {
		inside := first(m.PathInContainer, m.PathOnHost)
		if h.Privileged && inside == m.PathOnHost {
			continue
		}
		found, err := devicesFrom(m.PathOnHost, inside)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range found {
			devices = append(devices, d)
			rules = append(rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: first(m.CgroupPermissions, "rwm"),
			})
		}
	}
	for _, r := range h.DeviceCgroupRules {
		rule, err := parseDeviceRule(r)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, rule)
	}
	return devices, rules, nil
}

// devicesFrom reads a device node, or all nodes below a directory.
func devicesFrom(onHost, inside string) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(onHost)
	if err != nil {
		return nil, fmt.Errorf("error gathering device information while adding custom device %q: %w", onHost, err)
	}
	if d, ok := deviceAt(real); ok {
		d.Path = inside
		return []specs.LinuxDevice{d}, nil
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(real, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.Type()&os.ModeDevice == 0 {
			return nil // not a device that could be given
		}
		if d, ok := deviceAt(p); ok {
			d.Path = inside + strings.TrimPrefix(p, real)
			out = append(out, d)
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("not a device node")
	}
	if err != nil {
		return nil, fmt.Errorf("error gathering device information while adding custom device %q: %w", onHost, err)
	}
	return out, nil
}

func parseDeviceRule(rule string) (specs.LinuxDeviceCgroup, error) {
	m := deviceRule.FindStringSubmatch(rule)
	if m == nil {
		return specs.LinuxDeviceCgroup{}, invalid("invalid device cgroup rule format: '%s'", rule)
	}
	out := specs.LinuxDeviceCgroup{Allow: true, Type: m[1], Access: m[4]}
	for _, n := range []struct {
		text, what string
		to         **int64
	}{{m[2], "major", &out.Major}, {m[3], "minor", &out.Minor}} {
		v := int64(-1)
		if n.text != "*" {
			var err error
			if v, err = strconv.ParseInt(n.text, 10, 64); err != nil {
				return out, invalid("invalid %s value in device cgroup rule format: '%s'", n.what, rule)
			}
		}
		*n.to = &v
	}
	return out, nil
}
