package container

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is what this machine is, as far as containers need to know. Tests make
// one by hand.
type Host struct {
	Hostname    string
	CPUs        int
	CpusetCpus  string // "0-3"; empty where unknown
	CpusetMems  string
	SwapLimit   bool
	BlockIO     BlockIO
	Memory      uint64 // bytes; 0 where unknown
	AppArmor    bool
	RecursiveRO bool              // mounts can be made read-only with all below them
	HardLimits  map[string]uint64 // the daemon's own, by OCI name ("RLIMIT_NOFILE")
	OOMScoreAdj int               // the daemon's own
	Sysctl      func(name string) bool
	Exists      func(path string) bool
	// Devices lists the device nodes of the host, for privileged containers.
	Devices func() ([]specs.LinuxDevice, error)
}

// ReadHost reads the machine the daemon runs on. What cannot be read is left
// at its zero value, which promises nothing.
func ReadHost() *Host {
	h := &Host{
		CPUs:        runtime.NumCPU(),
		CpusetCpus:  readLine("/sys/devices/system/cpu/online"),
		CpusetMems:  readLine("/sys/devices/system/node/online"),
		AppArmor:    readLine("/sys/module/apparmor/parameters/enabled") == "Y",
		RecursiveRO: kernelAtLeast(5, 12),
		HardLimits:  hardLimits(),
		Sysctl: func(name string) bool {
			return pathExists(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
		},
		Exists:  pathExists,
		Devices: hostDevices,
	}
	h.Hostname, _ = os.Hostname() // empty only inspires an empty name
	h.SwapLimit = pathExists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") || pathExists("/sys/fs/cgroup/cgroup.controllers")
	h.BlockIO = readBlockIO("/sys/fs/cgroup")
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		h.Memory = uint64(si.Totalram) * uint64(si.Unit)
	}
	h.OOMScoreAdj, _ = strconv.Atoi(readLine("/proc/self/oom_score_adj"))
	return h
}

func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	rel := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(rel) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(rel[0])
	b, err2 := strconv.Atoi(rel[1])
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// rlimits are the OCI names of resource limits.
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

func hardLimits() map[string]uint64 {
	out := map[string]uint64{}
	for name, n := range rlimits {
		var r unix.Rlimit
		if err := unix.Getrlimit(n, &r); err == nil {
			out[name] = r.Max
		}
	}
	return out
}

// hostDevices walks /dev for device nodes, leaving out what every container has of its own.
func hostDevices() ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	own := []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
	err := filepath.WalkDir("/dev", func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile, or not ours to read: not a device for a container
		}
		if filepath.Dir(p) == "/dev" && slices.Contains(own, d.Name()) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&os.ModeDevice == 0 {
			return nil
		}
		if dev, ok := deviceAt(p); ok {
			dev.Path = p
			out = append(out, dev)
		}
		return nil
	})
	return out, err
}

// deviceAt reads the device node at p.
func deviceAt(p string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return specs.LinuxDevice{}, false
	}
	var kind string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFCHR:
		kind = "c"
	default:
		return specs.LinuxDevice{}, false
	}
	mode := os.FileMode(st.Mode & 0o7777)
	uid, gid := st.Uid, st.Gid
	return specs.LinuxDevice{
		Type: kind, Path: p,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid,
	}, true
}
