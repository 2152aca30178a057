package daemon

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/daemon/config"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/usage"
)

// system answers the questions about the daemon as a whole.
type systemBackend struct {
	d *Daemon
}

// Version implements the system router's Backend.
func (b systemBackend) Version(context.Context) (system.VersionResponse, error) {
	d := b.d
	containerd := moduleVersion("github.com/containerd/containerd/v2")
	return system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "Holdfast"},
		Version:       d.version.Version,
		APIVersion:    httpapi.MaxVersion,
		MinAPIVersion: httpapi.MinVersion,
		Os:            runtime.GOOS,
		Arch:          runtime.GOARCH,
		GitCommit:     d.version.Commit,
		GoVersion:     goVersion(),
		KernelVersion: d.facts.Kernel,
		BuildTime:     d.version.BuildTime,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: d.version.Version, Details: map[string]string{
				"ApiVersion": httpapi.MaxVersion, "MinAPIVersion": httpapi.MinVersion,
				"Os": runtime.GOOS, "Arch": runtime.GOARCH, "GitCommit": d.version.Commit,
				"BuildTime": d.version.BuildTime, "GoVersion": goVersion(), "KernelVersion": d.facts.Kernel,
				"Experimental": "false",
			}},
			{Name: "containerd (embedded)", Version: containerd, Details: map[string]string{"GitCommit": ""}},
			{Name: "runc", Version: d.runcVersion, Details: map[string]string{"GitCommit": ""}},
		},
	}, nil
}

// SwarmStatus implements the system router's Backend.
func (b systemBackend) SwarmStatus() string { return b.d.swarm.Status() }

// Info implements the system router's Backend.
func (b systemBackend) Info(ctx context.Context) (system.Info, error) {
	d := b.d
	counts := d.containers.Counts()
	images, err := d.images.List(ctx, image.ListOptions{})
	if err != nil {
		return system.Info{}, err
	}
	cg := d.facts.Cgroup.Controllers
	cgroupDriver := "cgroupfs"
	if d.cfg.SystemdCgroup() {
		cgroupDriver = "systemd"
	}
	info := system.Info{
		ID:                d.id,
		Containers:        counts.Total,
		ContainersRunning: counts.Running,
		ContainersPaused:  counts.Paused,
		ContainersStopped: counts.Stopped,
		Images:            len(images),
		Driver:            ctrd.Snapshotter,
		DriverStatus:      d.driverStatus(),
		Plugins: system.PluginsInfo{
			Volume:  d.volumes.Drivers(),
			Network: networkDrivers(),
			Log:     logDrivers(),
		},
		MemoryLimit:     cg["memory"],
		SwapLimit:       d.facts.Cgroup.SwapLimit,
		CPUCfsPeriod:    cg["cpu"],
		CPUCfsQuota:     cg["cpu"],
		CPUShares:       cg["cpu"],
		CPUSet:          cg["cpuset"],
		PidsLimit:       cg["pids"],
		OomKillDisable:  d.facts.Cgroup.Version == 1 && cg["memory"],
		IPv4Forwarding:  sysctlOn("net/ipv4/ip_forward"),
		Debug:           d.debug(),
		NFd:             openFiles(),
		NGoroutines:     runtime.NumGoroutine(),
		SystemTime:      d.clock.Now().Format("2006-01-02T15:04:05.999999999Z07:00"),
		LoggingDriver:   d.cfg.LogDriver,
		CgroupDriver:    cgroupDriver,
		CgroupVersion:   strconv.Itoa(d.facts.Cgroup.Version),
		NEventsListener: d.events.Listeners(),
		KernelVersion:   d.facts.Kernel,
		OperatingSystem: d.facts.OperatingSystem,
		OSVersion:       d.facts.OSVersion,
		OSType:          runtime.GOOS,
		Architecture:    d.facts.Arch,
		RegistryConfig:  registryConfig(d.settings()),
		NCPU:            d.facts.CPUs,
		MemTotal:        d.facts.Memory,
		DockerRootDir:   d.cfg.Root,
		HTTPProxy:       maskProxy(proxyVariable("HTTP_PROXY")),
		HTTPSProxy:      maskProxy(proxyVariable("HTTPS_PROXY")),
		NoProxy:         proxyVariable("NO_PROXY"),
		Name:            d.facts.Hostname,
		Labels:          slices.Clone(d.labels()),
		ServerVersion:   d.version.Version,
		Runtimes: map[string]system.RuntimeWithStatus{
			"runc":                  {Runtime: system.Runtime{Path: "runc"}},
			"io.containerd.runc.v2": {Runtime: system.Runtime{Path: "runc"}},
		},
		DefaultRuntime:      "runc",
		Swarm:               d.swarm.Info(ctx),
		LiveRestoreEnabled:  d.settings().LiveRestore,
		InitBinary:          filepath.Base(d.paths.Init),
		ContainerdCommit:    system.Commit{ID: moduleVersion("github.com/containerd/containerd/v2")},
		RuncCommit:          system.Commit{ID: d.runcVersion},
		InitCommit:          system.Commit{ID: d.version.Version},
		SecurityOptions:     d.securityOptions(),
		DefaultAddressPools: addressPools(d.cfg),
		FirewallBackend:     &system.FirewallInfo{Driver: "nftables"},
		CDISpecDirs:         d.devices.Dirs(),
		DiscoveredDevices:   discovered(d.devices.Names()),
		Warnings:            d.warnings(),
	}
	return info, nil
}

func discovered(names []string) []system.DeviceInfo {
	var out []system.DeviceInfo
	for _, n := range names {
		out = append(out, system.DeviceInfo{Source: "cdi", ID: n})
	}
	return out
}

func networkDrivers() []string { return []string{"bridge", "host", "null", "overlay"} }
func logDrivers() []string     { return []string{"journald", "json-file", "local", "none", "syslog"} }

func sysctlOn(name string) bool {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// proxyVariable reads a proxy setting in the upper-case or lower-case form.
func proxyVariable(name string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return os.Getenv(strings.ToLower(name))
}

// maskProxy hides a password in a proxy's address.
func maskProxy(v string) string {
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		return v
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		return scheme + "://xxxxx:xxxxx@" + rest[at+1:]
	}
	return v
}

func (d *Daemon) securityOptions() []string {
	var out []string
	if d.facts.AppArmor {
		out = append(out, "name=apparmor")
	}
	if d.facts.Seccomp {
		profile := "builtin"
		if p := d.cfg.SeccompProfile; p != "" {
			profile = p
		}
		out = append(out, "name=seccomp,profile="+profile)
	}
	if d.facts.Cgroup.Version == 2 {
		out = append(out, "name=cgroupns")
	}
	if d.cfg.NoNewPrivileges {
		out = append(out, "name=no-new-privileges")
	}
	return out
}

// driverStatus describes what the storage driver stands on.
func (d *Daemon) driverStatus() [][2]string {
	out := [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}
	var st unix.Statfs_t
	if err := unix.Statfs(d.cfg.Root, &st); err != nil {
		return append(out, [2]string{"Backing Filesystem", "unknown: " + err.Error()})
	}
	disk := diskFrom(&st)
	out = append(out, [2]string{"Backing Filesystem", filesystemName(int64(st.Type))})
	if known, err := directoryTypes(d.cfg.Root); err == nil {
		out = append(out, [2]string{"Supports d_type", strconv.FormatBool(known)})
	}
	return append(out,
		[2]string{"Quota", quota(d.cfg.Root)},
		[2]string{"Space", fmt.Sprintf("%s free of %s (%s used)", units.HumanSize(float64(disk.Free)), units.HumanSize(float64(disk.Total)), share(disk.Used, disk.Used+disk.Free))},
		[2]string{"Inodes", inodes(disk)},
	)
}

func share(part, whole int64) string {
	if whole == 0 {
		return "0%"
	}
	return strconv.FormatFloat(float64(part)/float64(whole)*100, 'f', 1, 64) + "%"
}

func inodes(d usage.Disk) string {
	if d.Inodes == 0 {
		return "no limit"
	}
	return fmt.Sprintf("%d free of %d (%s used)", d.InodesFree, d.Inodes, share(d.Inodes-d.InodesFree, d.Inodes))
}

// directoryTypes says whether directories tell what their entries are, which
// overlayfs needs.
func directoryTypes(root string) (bool, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	var buf [4096]byte
	n, err := unix.Getdents(fd, buf[:])
	if err != nil {
		return false, err
	}
	const lengthAt, typeAt = 16, 18 // of struct linux_dirent64 (getdents64(2))
	for b := buf[:n]; len(b) > typeAt; {
		if b[typeAt] != unix.DT_UNKNOWN {
			return true, nil
		}
		l := int(binary.NativeEndian.Uint16(b[lengthAt:]))
		if l == 0 || l > len(b) {
			break
		}
		b = b[l:]
	}
	return false, nil
}

// quota says whether the file system could bound what one directory takes.
func quota(root string) string {
	m, err := mountOf(root)
	if err != nil {
		return "unknown: " + err.Error()
	}
	for o := range strings.SplitSeq(m.VFSOptions, ",") {
		if o == "prjquota" || o == "pquota" {
			return "project"
		}
	}
	return "none: one container or volume can fill the disk"
}

// mountOf is the mount that a path is on.
func mountOf(path string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return nil, err
	}
	var best *mountinfo.Info
	for _, m := range all {
		if best == nil || len(m.Mountpoint) >= len(best.Mountpoint) {
			best = m
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no mount of %s found", path)
	}
	return best, nil
}

const (
	// nearlyFull is when the disk is warned of where no policy names a mark.
	nearlyFull = 90
	percent    = 100
)

// diskWarnings say what will go wrong on the disk.
func diskWarnings(root string, d usage.Disk, p usage.Policy, dtype bool) []string {
	var out []string
	switch {
	case usage.Over(p, d):
		out = append(out, fmt.Sprintf("WARNING: The disk of %s is above the high-water mark of %s (%s free)", root, p.HighWater, units.HumanSize(float64(d.Free))))
	case p.HighWater == (usage.Mark{}) && (d.Used+d.Free)*nearlyFull < d.Used*percent:
		out = append(out, fmt.Sprintf("WARNING: The disk of %s is %s full (%s free); holdfast system prune --dry-run shows what could go", root, share(d.Used, d.Used+d.Free), units.HumanSize(float64(d.Free))))
	}
	if d.Inodes > 0 && d.Inodes*nearlyFull < (d.Inodes-d.InodesFree)*percent {
		out = append(out, fmt.Sprintf("WARNING: The file system of %s has few inodes left (%d): files cannot be made without", root, d.InodesFree))
	}
	if !dtype {
		out = append(out, "WARNING: The file system of "+root+" does not tell file types in directories (d_type): overlayfs misbehaves on it")
	}
	return out
}

// filesystemName names a filesystem by its magic number (linux/magic.h).
func filesystemName(magic int64) string {
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case 0x2fc12fc1:
		return "zfs"
	}
	return "0x" + strconv.FormatUint(uint64(uint32(magic)), 16)
}

func (d *Daemon) warnings() []string {
	var out []string
	if disk, err := diskOf(d.cfg.Root); err != nil {
		out = append(out, "WARNING: "+err.Error())
	} else {
		dtype, err := directoryTypes(d.cfg.Root)
		out = append(out, diskWarnings(d.cfg.Root, disk, d.settings().StoragePolicy, dtype || err != nil)...)
	}
	cg := d.facts.Cgroup.Controllers
	if !cg["memory"] {
		out = append(out, "WARNING: No memory limit support")
	} else if !d.facts.Cgroup.SwapLimit {
		out = append(out, "WARNING: No swap limit support")
	}
	if !cg["cpu"] {
		out = append(out, "WARNING: No cpu cfs quota support", "WARNING: No cpu cfs period support", "WARNING: No cpu shares support")
	}
	if !cg["cpuset"] {
		out = append(out, "WARNING: No cpuset support")
	}
	if !cg["pids"] {
		out = append(out, "WARNING: No pids limit support")
	}
	if !sysctlOn("net/ipv4/ip_forward") {
		out = append(out, "WARNING: IPv4 forwarding is disabled")
	}
	return out
}

func addressPools(c config.Config) []system.NetworkAddressPool {
	out := make([]system.NetworkAddressPool, len(c.AddressPools))
	for i, p := range c.AddressPools {
		out[i] = system.NetworkAddressPool{Base: p.Base, Size: p.Size}
	}
	return out
}

// registryConfig tells clients which registries may be reached without TLS.
func registryConfig(c config.Config) *registry.ServiceConfig {
	out := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: slices.Concat([]string{}, c.RegistryMirrors), Secure: true, Official: true},
		},
		Mirrors: slices.Clone(c.RegistryMirrors),
	}
	for _, r := range c.InsecureRegistries {
		if p, err := netip.ParsePrefix(r); err == nil {
			out.InsecureRegistryCIDRs = append(out.InsecureRegistryCIDRs, p)
			continue
		}
		out.IndexConfigs[r] = &registry.IndexInfo{Name: r, Mirrors: []string{}}
	}
	return out
}
