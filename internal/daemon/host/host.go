// Package host reads the facts of the machine that clients and containers are
// told of: kernel, operating system, memory, cgroups, capabilities.
package host

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Facts are what Read found.
type Facts struct {
	Hostname        string
	Kernel          string
	OperatingSystem string // PRETTY_NAME of os-release
	OSVersion       string // VERSION_ID of os-release
	Arch            string // as uname says, e.g. x86_64
	CPUs            int
	Memory          int64 // bytes
	Cgroup          Cgroup
	Capabilities    []string // the process's bounding set, "CAP_CHOWN", …
	Seccomp         bool
	AppArmor        bool
}

// Cgroup tells what resource control there is.
type Cgroup struct {
	Version int // 1 or 2
	// Controllers that can be used, v1 and v2 names alike ("memory", "cpu", "pids", "cpuset", "io"/"blkio").
	Controllers map[string]bool
	SwapLimit   bool
}

// Read looks at the running machine.
func Read() (Facts, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Facts{}, fmt.Errorf("uname: %w", err)
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return Facts{}, fmt.Errorf("sysinfo: %w", err)
	}
	caps, err := boundingSet()
	if err != nil {
		return Facts{}, err
	}
	cg, err := readCgroup("/sys/fs/cgroup", "/proc/cgroups")
	if err != nil {
		return Facts{}, err
	}
	name, version := osRelease("/etc/os-release", "/usr/lib/os-release")
	return Facts{
		Hostname:        unix.ByteSliceToString(u.Nodename[:]),
		Kernel:          unix.ByteSliceToString(u.Release[:]),
		OperatingSystem: name,
		OSVersion:       version,
		Arch:            unix.ByteSliceToString(u.Machine[:]),
		CPUs:            runtime.NumCPU(),
		Memory:          int64(si.Totalram) * int64(si.Unit), //nolint:unconvert,gosec // the fields' types differ between architectures
		Cgroup:          cg,
		Capabilities:    caps,
		Seccomp:         seccompAvailable(),
		AppArmor:        readTrimmed("/sys/module/apparmor/parameters/enabled") == "Y",
	}, nil
}

func readTrimmed(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func seccompAvailable() bool {
	_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil
}

// boundingSet names the capabilities this process could ever hand on. A
// container that asks for others fails in the runtime, so nobody may ask.
func boundingSet() ([]string, error) {
	last, err := strconv.Atoi(readTrimmed("/proc/sys/kernel/cap_last_cap"))
	if err != nil {
		return nil, fmt.Errorf("read the kernel's last capability: %w", err)
	}
	var out []string
	for n := 0; n <= last && n < len(capNames); n++ {
		on, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err != nil {
			return nil, fmt.Errorf("read capability bounding set: %w", err)
		}
		if on == 1 {
			out = append(out, capNames[n])
		}
	}
	return out, nil
}

// capNames are the capabilities by number, as include/uapi/linux/capability.h counts them.
var capNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// readCgroup tells the version and controllers below root. On a hybrid machine
// (v1 controllers, v2 without any) the version is 1.
func readCgroup(root, procCgroups string) (Cgroup, error) {
	cg := Cgroup{Version: 1, Controllers: map[string]bool{}}
	if list, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
		cg.Version = 2
		for c := range strings.FieldsSeq(string(list)) {
			cg.Controllers[c] = true
		}
		cg.SwapLimit = fileExists("/proc/swaps")
		return cg, nil
	}
	f, err := os.Open(procCgroups)
	if err != nil {
		return cg, fmt.Errorf("read cgroup controllers: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) == 4 && fields[3] == "1" && fileExists(filepath.Join(root, fields[0])) {
			cg.Controllers[fields[0]] = true
		}
	}
	cg.SwapLimit = fileExists(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))
	return cg, sc.Err()
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func osRelease(paths ...string) (name, version string) {
	name = "Linux"
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok {
				continue
			}
			v = strings.Trim(v, `"'`)
			switch k {
			case "PRETTY_NAME":
				name = v
			case "VERSION_ID":
				version = v
			}
		}
		return name, version
	}
	return name, version
}
