package container

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCaps are what Docker gives a container that asks for nothing.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// knownCaps are the kernel's, in its order.
var knownCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

const allCaps = "ALL"

// normalizeCaps gives capabilities their full names and refuses unknown ones.
func normalizeCaps(list []string) ([]string, error) {
	var out []string
	for _, c := range list {
		c = strings.ToUpper(c)
		if c == allCaps {
			out = append(out, c)
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(knownCaps, c) {
			return nil, fmt.Errorf("unknown capability: %q", c)
		}
		out = append(out, c)
	}
	return out, nil
}

// capabilities works out a container's set. The daemon cannot give what it does
// not have: a privileged container gets all the daemon has, an explicit
// --cap-add of one it lacks is an error.
func capabilities(privileged bool, add, drop, have []string) ([]string, error) {
	if privileged {
		return slices.Clone(have), nil
	}
	add, err := normalizeCaps(add)
	if err != nil {
		return nil, err
	}
	drop, err = normalizeCaps(drop)
	if err != nil {
		return nil, err
	}
	var out []string
	switch {
	case slices.Contains(add, allCaps):
		for _, c := range have {
			if !slices.Contains(drop, c) {
				out = append(out, c)
			}
		}
		return out, nil
	case slices.Contains(drop, allCaps):
	default:
		for _, c := range defaultCaps {
			if !slices.Contains(drop, c) && slices.Contains(have, c) {
				out = append(out, c)
			}
		}
	}
	for _, c := range add {
		if !slices.Contains(have, c) {
			return nil, fmt.Errorf("cannot add capability %s: the daemon does not have it", c)
		}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// linuxCaps is the OCI form: no inheritable and no ambient ones, as Docker.
func linuxCaps(list []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: list, Permitted: list, Effective: list}
}
