package container

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	defaultPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	initInside    = "/sbin/docker-init"
	cgroupPrefix  = "holdfast"
	unconfined    = "unconfined"
	builtinPolicy = "builtin"
)

// specInput is all a spec is made of: buildSpec looks at nothing else.
type specInput struct {
	rec      Record
	settings Settings
	host     *Host
	security security

	root                            string // merged directory
	user                            specs.User
	mounts                          []bindSource
	hosts, resolvConf, hostnameFile string // host paths bound over /etc/…; empty: not
	linkEnv                         []string
	shm                             string // host directory for /dev/shm; empty: a tmpfs of its own
	netNS, pidNS, ipcNS             string // namespaces to join; empty: own, or the host's where the mode says so
	devices                         []specs.LinuxDevice
	deviceRules                     []specs.LinuxDeviceCgroup
	blockIO                         *specs.LinuxBlockIO
	seccompProfile                  string // content of Settings.SeccompPath
}

func (in *specInput) writableCgroups() bool {
	if in.security.writableCgroups != nil {
		return *in.security.writableCgroups
	}
	return in.rec.HostConfig.Privileged
}

// buildSpec makes the OCI spec of a container's run. It is pure.
func buildSpec(in *specInput) (*specs.Spec, error) {
	h, c := in.rec.HostConfig, in.rec.Config
	caps, err := capabilities(h.Privileged, h.CapAdd, h.CapDrop, in.settings.Capabilities)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: in.root, Readonly: h.ReadonlyRootfs},
		Process: &specs.Process{
			Terminal:        c.Tty,
			User:            in.user,
			Args:            append([]string{in.rec.Path}, in.rec.Args...),
			Env:             environment(&in.rec, c.Tty, in.linkEnv, nil),
			Cwd:             first(c.WorkingDir, "/"),
			Capabilities:    linuxCaps(caps),
			Rlimits:         limits(in),
			NoNewPrivileges: in.security.noNewPrivs,
			OOMScoreAdj:     oomScore(in),
		},
		Linux: &specs.Linux{
			CgroupsPath:   cgroupPath(in),
			MaskedPaths:   h.MaskedPaths,
			ReadonlyPaths: h.ReadonlyPaths,
			Sysctl:        sysctls(in),
			Resources:     resources(&h.Resources, in.blockIO),
		},
		Annotations: maps.Clone(h.Annotations),
	}
	s.Process.User.Umask = h.Umask
	if c.Tty && h.ConsoleSize != [2]uint{} {
		s.Process.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	if h.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}
	if in.host.AppArmor && in.security.apparmor != "" && in.security.apparmor != unconfined {
		s.Process.ApparmorProfile = in.security.apparmor
	}
	s.Linux.Devices = in.devices
	s.Linux.Resources.Devices = deviceCgroup(in)
	addNamespaces(in, s)
	if err := joinMounts(in, s); err != nil {
		return nil, err
	}
	addInit(in, s)
	if s.Linux.Seccomp, err = seccompProfile(in, s); err != nil {
		return nil, err
	}
	return s, nil
}

// wantsInit says whether the container's first process is our init program.
func wantsInit(h *container.HostConfig, s *Settings) bool {
	if !h.PidMode.IsPrivate() {
		return false
	}
	if h.Init != nil {
		return *h.Init
	}
	return s.InitByDefault
}

func addInit(in *specInput, s *specs.Spec) {
	if !wantsInit(in.rec.HostConfig, &in.settings) {
		return
	}
	s.Process.Args = append([]string{initInside, "--"}, s.Process.Args...)
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: initInside, Type: "bind", Source: in.settings.InitPath, Options: []string{"bind", "ro"},
	})
}

// environment is what a process of the container starts with: the daemon's
// variables, those of links, then the config's, then extra ones. A variable
// without "=" takes one away.
func environment(r *Record, tty bool, linked, extra []string) []string {
	env := []string{defaultPath}
	if r.Config.Hostname != "" {
		env = append(env, "HOSTNAME="+r.Config.Hostname)
	}
	if tty {
		env = append(env, "TERM=xterm")
	}
	for _, kv := range slices.Concat(linked, r.Config.Env, extra) {
		key, _, isSet := strings.Cut(kv, "=")
		at := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		switch {
		case at >= 0 && isSet:
			env[at] = kv
		case at >= 0:
			env = slices.Delete(env, at, at+1)
		case isSet:
			env = append(env, kv)
		}
	}
	return env
}

func cgroupPath(in *specInput) string {
	parent := first(in.rec.HostConfig.CgroupParent, in.settings.CgroupParent)
	if in.settings.SystemdCgroup {
		return first(parent, "system.slice") + ":" + cgroupPrefix + ":" + in.rec.ID
	}
	return path.Join("/", first(parent, cgroupPrefix), in.rec.ID)
}

func sysctls(in *specInput) map[string]string {
	out := map[string]string{}
	if in.netNS != "" && in.rec.HostConfig.NetworkMode.IsPrivate() {
		for k, v := range map[string]string{
			"net.ipv4.ping_group_range":           "0 2147483647",
			"net.ipv4.ip_unprivileged_port_start": "0",
		} {
			if in.host.Sysctl(k) {
				out[k] = v
			}
		}
	}
	maps.Copy(out, in.rec.HostConfig.Sysctls)
	return out
}

func addNamespaces(in *specInput, s *specs.Spec) {
	h := in.rec.HostConfig
	add := func(t specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	if !h.NetworkMode.IsHost() {
		add(specs.NetworkNamespace, in.netNS)
	}
	if !h.UTSMode.IsHost() {
		add(specs.UTSNamespace, "")
		s.Hostname = in.rec.Config.Hostname
		s.Domainname = in.rec.Config.Domainname
	}
	if !h.PidMode.IsHost() {
		add(specs.PIDNamespace, in.pidNS)
	}
	if !h.IpcMode.IsHost() {
		add(specs.IPCNamespace, in.ipcNS)
	}
	if h.CgroupnsMode.IsPrivate() {
		add(specs.CgroupNamespace, "")
	}
}

func seccompProfile(in *specInput, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	want := in.security.seccomp
	switch {
	case want == unconfined:
		return nil, nil
	case want == "" && in.rec.HostConfig.Privileged:
		return nil, nil
	case want == builtinPolicy:
		return seccomp.GetDefaultProfile(s)
	case want != "":
		return seccomp.LoadProfile(want, s)
	case in.settings.SeccompPath == unconfined:
		return nil, nil
	case in.seccompProfile != "":
		return seccomp.LoadProfile(in.seccompProfile, s)
	}
	return seccomp.GetDefaultProfile(s)
}

// defaultMaskedPaths and defaultReadonlyPaths are what a container that is not
// privileged must not see or change of /proc and /sys.
func defaultMaskedPaths(h *Host) []string {
	out := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	for n := range h.CPUs {
		if p := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", n); h.Exists(p) {
			out = append(out, p)
		}
	}
	return out
}

func defaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
