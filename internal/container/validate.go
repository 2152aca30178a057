package container

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/fault"
)

const (
	minMemory   = 6 << 20
	maxHostname = 64
)

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

// validateConfig checks what the user (or the image) wrote, in Docker's words.
func validateConfig(c *container.Config) error {
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	if len(c.Hostname) > maxHostname {
		return invalid("hostname %q is too long (maximum %d bytes)", c.Hostname, maxHostname)
	}
	if c.StopSignal != "" {
		if _, err := parseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	for _, kv := range c.Env {
		if key, _, _ := strings.Cut(kv, "="); key == "" {
			return invalid("invalid environment variable: %s", kv)
		}
	}
	return validateHealth(c.Healthcheck)
}

func validateHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"Interval", h.Interval},
		{"Timeout", h.Timeout},
		{"StartPeriod", h.StartPeriod},
		{"StartInterval", h.StartInterval},
	} {
		if f.d != 0 && f.d < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", f.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) > 0 {
		switch h.Test[0] {
		case "NONE", "CMD", "CMD-SHELL":
		default:
			return invalid("unknown type of Healthcheck test %q: it must be NONE, CMD or CMD-SHELL", h.Test[0])
		}
	}
	return nil
}

// validateHost checks a HostConfig. It may correct it where Docker does so with a warning.
func (s *Service) validateHost(h *container.HostConfig, update bool) (warnings []string, err error) {
	if err := refuseUnserved(h); err != nil {
		return nil, err
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "%s", err)
	}
	for i := range h.Mounts {
		if err := s.validateMount(&h.Mounts[i]); err != nil {
			return nil, err
		}
	}
	for dest := range h.Tmpfs {
		if err := validateTarget(dest); err != nil {
			return nil, err
		}
	}
	for _, e := range h.ExtraHosts {
		if err := validateExtraHost(e); err != nil {
			return nil, err
		}
	}
	if err := validatePorts(h.PortBindings); err != nil {
		return nil, err
	}
	for k := range h.Annotations {
		if k == "" {
			return nil, invalid("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	if _, err := normalizeCaps(h.CapAdd); err != nil {
		return nil, invalid("invalid CapAdd: %s", err)
	}
	if _, err := normalizeCaps(h.CapDrop); err != nil {
		return nil, invalid("invalid CapDrop: %s", err)
	}
	if _, err := parseSecurity(h.SecurityOpt, s.d.Settings.NoNewPrivs); err != nil {
		return nil, err
	}
	if _, err := chooseDevices(h.DeviceRequests, s.deviceNames()); err != nil {
		return nil, err
	}
	w, err := s.validateResources(&h.Resources, update)
	if err != nil {
		return w, err
	}
	return append(w, hostWarnings(h)...), s.validateNamespaces(h)
}

func hostWarnings(h *container.HostConfig) []string {
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		return []string{"Published ports are discarded when using host network mode"}
	}
	return nil
}

func (s *Service) validateNamespaces(h *container.HostConfig) error {
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case h.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	}
	if p := h.CgroupParent; p != "" && s.d.Settings.SystemdCgroup && (len(p) <= 6 || !strings.HasSuffix(p, ".slice")) {
		return invalid(`cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"`)
	}
	return nil
}

// validateCombined checks what Config and HostConfig say together.
func validateCombined(c *container.Config, h *container.HostConfig) error {
	shares := h.NetworkMode.IsContainer() || h.NetworkMode == "container"
	switch {
	case shares && h.NetworkMode.ConnectedContainer() == "":
		return invalid("invalid network mode: invalid container format container:<name|id>")
	case shares && c.Hostname != "":
		return invalid("conflicting options: hostname and the network mode")
	case shares && (len(h.DNS) > 0 || len(h.DNSSearch) > 0 || len(h.DNSOptions) > 0):
		return invalid("conflicting options: dns and the network mode")
	case shares && len(h.ExtraHosts) > 0:
		return invalid("conflicting options: custom host-to-IP mapping and the network mode")
	case shares && (len(h.PortBindings) > 0 || h.PublishAllPorts):
		return invalid("conflicting options: port publishing and the container type network mode")
	case shares && len(c.ExposedPorts) > 0:
		return invalid("conflicting options: port exposing and the container type network mode")
	case h.UTSMode.IsHost() && c.Hostname != "":
		return invalid("conflicting options: hostname and the UTS mode")
	}
	return nil
}

func validatePorts(ports network.PortMap) error {
	for p, bindings := range ports {
		if !p.IsValid() || p.Num() == 0 {
			return invalid("invalid port specification: %q", p.String())
		}
		switch p.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return invalid("invalid port specification: %q", p.String())
		}
		for _, b := range bindings {
			if b.HostPort == "" {
				continue
			}
			if _, err := network.ParsePortRange(b.HostPort); err != nil {
				return invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	return nil
}

func validateExtraHost(e string) error {
	name, ip, ok := strings.Cut(e, "=")
	if !ok {
		name, ip, ok = strings.Cut(e, ":")
	}
	if !ok || name == "" {
		return invalid("bad format for add-host: %q", e)
	}
	if ip == "host-gateway" {
		return nil
	}
	if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil {
		return invalid("invalid IP address in add-host: %q", ip)
	}
	return nil
}

func (s *Service) validateResources(r *container.Resources, update bool) (warnings []string, err error) {
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil
	}
	switch {
	case r.Memory < 0 || (r.Memory != 0 && r.Memory < minMemory):
		return nil, invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return nil, invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0 && !update:
		return nil, invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return nil, invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return nil, invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return nil, invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return nil, invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return nil, invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(s.d.Host.CPUs)*1e9:
		return nil, invalid("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", s.d.Host.CPUs)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return nil, invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return nil, invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPUShares < 0:
		return nil, invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	}
	if err := s.validateCpuset(r); err != nil {
		return nil, err
	}
	if err := validateUlimits(r.Ulimits); err != nil {
		return nil, err
	}
	if warnings, err = validateBlkio(r, s.d.Host.BlockIO); err != nil {
		return warnings, err
	}
	if r.OomKillDisable != nil && s.d.Settings.CgroupVersion == 2 {
		if *r.OomKillDisable {
			warnings = append(warnings, "Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		}
		r.OomKillDisable = nil
	}
	if r.MemorySwappiness != nil && s.d.Settings.CgroupVersion == 2 {
		warnings = append(warnings, "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.")
		r.MemorySwappiness = nil
	}
	if r.Memory > 0 && r.MemorySwap != -1 && !s.d.Host.SwapLimit {
		warnings = append(warnings, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.")
		r.MemorySwap = -1
	}
	return warnings, nil
}

func (s *Service) validateCpuset(r *container.Resources) error {
	for _, set := range []struct{ what, noun, value, have string }{
		{"cpus", "CPUs", r.CpusetCpus, s.d.Host.CpusetCpus},
		{"mems", "memory nodes", r.CpusetMems, s.d.Host.CpusetMems},
	} {
		if set.value == "" {
			continue
		}
		want, err := parseList(set.value)
		if err != nil {
			return invalid("Invalid value %s for cpuset %s: %s", set.value, set.what, err)
		}
		have, err := parseList(set.have)
		if err != nil || set.have == "" {
			continue // unknown: let the kernel judge
		}
		for n := range want {
			if !have[n] {
				return invalid("Requested %s are not available - requested %s, available: %s", set.noun, set.value, set.have)
			}
		}
	}
	return nil
}

// parseList reads the kernel's list form, "0-2,5".
func parseList(list string) (map[int]bool, error) {
	out := map[int]bool{}
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(lo)
		if err != nil {
			return nil, fmt.Errorf("invalid format: %s", list)
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(hi); err != nil || b < a {
				return nil, fmt.Errorf("invalid format: %s", list)
			}
		}
		if b > 8192 {
			return nil, fmt.Errorf("value of out range, maximum is 8192")
		}
		for ; a <= b; a++ {
			out[a] = true
		}
	}
	return out, nil
}

func validateUlimits(list []*container.Ulimit) error {
	for _, u := range list {
		if u == nil {
			return invalid("invalid ulimit: null")
		}
		if _, err := units.ParseUlimit(fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard)); err != nil {
			return invalid("%s", err)
		}
	}
	return nil
}

// security is a parsed --security-opt list.
type security struct {
	noNewPrivs      bool
	seccomp         string // "" default, "unconfined", "builtin", or JSON
	apparmor        string
	writableCgroups *bool
}

func parseSecurity(opts []string, noNewPrivs bool) (security, error) {
	out := security{noNewPrivs: noNewPrivs}
	for _, o := range opts {
		if o == "no-new-privileges" {
			out.noNewPrivs = true
			continue
		}
		if o == "writable-cgroups" {
			yes := true
			out.writableCgroups = &yes
			continue
		}
		if o == "disable" {
			continue // of SELinux labels, which there are none of
		}
		key, val, ok := strings.Cut(o, "=")
		if !ok {
			key, val, ok = strings.Cut(o, ":")
		}
		if !ok {
			return out, invalid("invalid --security-opt 1: %q", o)
		}
		switch key {
		case "seccomp":
			out.seccomp = val
		case "apparmor":
			out.apparmor = val
		case "label":
			if val != "disable" {
				return out, unserved("--security-opt label=%s (SELinux labels)", val)
			}
		case "no-new-privileges":
			b, err := strconv.ParseBool(val)
			if err != nil {
				return out, invalid("invalid --security-opt 2: %q", o)
			}
			out.noNewPrivs = b
		case "writable-cgroups":
			b, err := strconv.ParseBool(val)
			if err != nil {
				return out, invalid("invalid --security-opt 2: %q", o)
			}
			out.writableCgroups = &b
		default:
			return out, invalid("invalid --security-opt 2: %q", o)
		}
	}
	return out, nil
}

func unserved(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, "not served by holdfast: "+format, args...)
}

// refuseUnserved names what a HostConfig asks for that nothing here would do.
// Every field of HostConfig and Resources is served, checked elsewhere, or listed.
func refuseUnserved(h *container.HostConfig) error {
	for _, f := range []struct {
		asked bool
		flag  string
	}{
		{h.Cgroup != "", "Cgroup (joining another container's cgroup)"},
		{h.UsernsMode != "" && !h.UsernsMode.IsHost(), fmt.Sprintf("--userns %s", h.UsernsMode)},
		{h.CPURealtimePeriod != 0, "--cpu-rt-period"},
		{h.CPURealtimeRuntime != 0, "--cpu-rt-runtime"},
		{h.CPUCount != 0, "--cpu-count"},
		{h.CPUPercent != 0, "--cpu-percent"},
		{h.IOMaximumIOps != 0, "--io-maxiops"},
		{h.IOMaximumBandwidth != 0, "--io-maxbandwidth"},
	} {
		if f.asked {
			return unserved("%s", f.flag)
		}
	}
	if err := refuseStorageOpt(h.StorageOpt); err != nil {
		return err
	}
	if !h.Isolation.IsValid() {
		return invalid("invalid isolation (%s): %s only supports 'default'", h.Isolation, runtime.GOOS)
	}
	switch h.Runtime {
	case "", "runc", "io.containerd.runc.v2":
	default:
		return invalid("unknown or invalid runtime name: %s", h.Runtime)
	}
	return nil
}

// refuseStorageOpt says in Docker's words that no limit is put on a container's
// writable layer: that wants project quotas, of which nothing here makes any.
func refuseStorageOpt(opts map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		if !strings.EqualFold(k, "size") {
			return invalid("unknown option %s", k)
		}
		if _, err := units.RAMInBytes(opts[k]); err != nil {
			return invalid("invalid --storage-opt size: %s", err)
		}
	}
	if len(opts) > 0 {
		return fault.New(errdefs.ErrUnknown, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option: not served by holdfast")
	}
	return nil
}

var deviceRule = regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`)
