package container

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// bindSource is a mount whose place on the host is known.
type bindSource struct {
	Mount
	Path    string // directory or file on the host; empty for tmpfs
	release func() // takes Path away, where it is there for this mount alone; may be nil
}

// letGo gives back what the sources hold, once they are mounted.
func letGo(sources []bindSource) {
	for _, b := range sources {
		if b.release != nil {
			b.release()
		}
	}
}

func systemMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
	}
}

// userMounts are the mounts of the container itself, parents first: volumes,
// binds, tmpfs, and the files the daemon writes for it.
func userMounts(in *specInput) ([]specs.Mount, error) {
	var out []specs.Mount
	taken := map[string]bool{}
	for _, b := range in.mounts {
		m, err := specMount(in, b)
		if err != nil {
			return nil, err
		}
		taken[m.Destination] = true
		out = append(out, m)
	}
	for target, opts := range in.rec.HostConfig.Tmpfs {
		target = path.Clean(target)
		if taken[target] {
			continue
		}
		m, err := tmpfsMount(target, splitOptions(opts))
		if err != nil {
			return nil, err
		}
		taken[target] = true
		out = append(out, m)
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/resolv.conf", in.resolvConf}, {"/etc/hostname", in.hostnameFile}, {"/etc/hosts", in.hosts},
	} {
		if f.source == "" || taken[f.target] {
			continue
		}
		opts := []string{"rbind", "rprivate"}
		if in.rec.HostConfig.ReadonlyRootfs {
			opts = append(opts, "ro")
		}
		out = append(out, specs.Mount{Destination: f.target, Source: f.source, Type: "bind", Options: opts})
	}
	if in.shm != "" && !taken["/dev/shm"] {
		out = append(out, specs.Mount{Destination: "/dev/shm", Source: in.shm, Type: "bind", Options: []string{"rbind", "rprivate"}})
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i].Destination, out[j].Destination
		if x, y := strings.Count(a, "/"), strings.Count(b, "/"); x != y {
			return x < y
		}
		return a < b
	})
	return out, nil
}

func splitOptions(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func specMount(in *specInput, b bindSource) (specs.Mount, error) {
	if b.Type == mount.TypeTmpfs {
		var opts []string
		if b.Options != nil {
			var err error
			if opts, err = tmpfsOptions(b.Options); err != nil {
				return specs.Mount{}, err
			}
		}
		return tmpfsMount(b.Target, opts)
	}
	opts := []string{"rbind"}
	var bind *mount.BindOptions
	if b.Options != nil {
		bind = b.Options.BindOptions
	}
	if bind != nil && bind.NonRecursive {
		opts = []string{"bind"}
	}
	if b.ReadOnly {
		switch {
		case bind != nil && bind.ReadOnlyNonRecursive:
			opts = append(opts, "ro")
		case in.host.RecursiveRO:
			opts = append(opts, "rro")
		case bind != nil && bind.ReadOnlyForceRecursive:
			return specs.Mount{}, fmt.Errorf("rro is not supported by the kernel")
		default:
			opts = append(opts, "ro")
		}
	}
	if b.Propagation != "" {
		opts = append(opts, string(b.Propagation))
	}
	return specs.Mount{Destination: b.Target, Source: b.Path, Type: "bind", Options: opts}, nil
}

// tmpfsFlags are the words of a tmpfs option list, and what each one replaces.
var tmpfsFlags = map[string]string{
	"exec": "exec", "noexec": "exec", "suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev",
	"rw": "rw", "ro": "rw", "sync": "sync", "async": "sync", "dirsync": "dirsync",
	"atime": "atime", "noatime": "atime", "relatime": "atime", "strictatime": "atime", "norelatime": "atime", "nostrictatime": "atime",
	"diratime": "diratime", "nodiratime": "diratime", "defaults": "defaults",
	"private": "propagation", "rprivate": "propagation", "shared": "propagation", "rshared": "propagation",
	"slave": "propagation", "rslave": "propagation", "unbindable": "propagation", "runbindable": "propagation",
	"remount": "remount", "bind": "bind", "rbind": "bind", "mand": "mand", "nomand": "mand",
	"size": "size=", "mode": "mode=", "uid": "uid=", "gid": "gid=", "nr_inodes": "nr_inodes=", "nr_blocks": "nr_blocks=", "mpol": "mpol=",
}

// mergeTmpfs keeps the last word of each kind, in order, and refuses unknown ones.
func mergeTmpfs(opts []string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for _, o := range slices.Backward(opts) {
		key, _, hasValue := strings.Cut(o, "=")
		kind, ok := tmpfsFlags[key]
		if !ok || hasValue != strings.HasSuffix(kind, "=") {
			return nil, fmt.Errorf("invalid tmpfs option %q", o)
		}
		if !seen[kind] {
			seen[kind] = true
			out = append(out, o)
		}
	}
	slices.Reverse(out)
	return out, nil
}

func tmpfsMount(target string, opts []string) (specs.Mount, error) {
	merged, err := mergeTmpfs(append([]string{"noexec", "nosuid", "nodev", "rprivate"}, opts...))
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: target, Source: "tmpfs", Type: "tmpfs", Options: merged}, nil
}

// joinMounts puts the container's mounts over the system's.
func joinMounts(in *specInput, s *specs.Spec) error {
	users, err := userMounts(in)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, m := range users {
		taken[m.Destination] = true
	}
	h := in.rec.HostConfig
	var system []specs.Mount
	for _, m := range systemMounts() {
		switch {
		case taken[m.Destination], taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/"):
			continue
		case m.Destination == "/dev/shm":
			if h.IpcMode.IsNone() {
				continue
			}
			m.Options = append(m.Options, "size="+strconv.FormatInt(h.ShmSize, 10))
		case m.Destination == "/sys" && h.Privileged:
			m.Options = without(m.Options, "ro")
		case m.Type == "cgroup" && in.writableCgroups():
			m.Options = without(m.Options, "ro")
		}
		if h.ReadonlyRootfs && !slices.Contains([]string{"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}, m.Destination) &&
			!slices.Contains(m.Options, "ro") {
			m.Options = append(m.Options, "ro")
		}
		system = append(system, m)
	}
	s.Mounts = append(system, users...)
	for _, m := range users {
		for _, o := range m.Options {
			switch mount.Propagation(o) {
			case mount.PropagationShared, mount.PropagationRShared:
				s.Linux.RootfsPropagation = "shared"
			case mount.PropagationSlave, mount.PropagationRSlave:
				if s.Linux.RootfsPropagation == "" {
					s.Linux.RootfsPropagation = "rslave"
				}
			default: // private mounts go with any
			}
		}
	}
	return nil
}

func without(list []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == word })
}
