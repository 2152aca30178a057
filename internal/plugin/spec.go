package plugin

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/plugin"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// runInside is where a plugin makes its socket.
const runInside = "/run/docker/plugins"

// places are where a plugin's things are on the machine.
type places struct {
	dir        string
	rootfs     string
	propagated string // what the plugin mounts here, the machine sees
	run        string // its socket's folder
}

func (p *places) socket(c *plugin.Config) string { return filepath.Join(p.run, c.Interface.Socket) }

// specInput is all that a process's spec is made of.
type specInput struct {
	base    *specs.Spec
	rec     *Record
	at      places
	cgroup  string
	have    []string // capabilities of the daemon
	devices []specs.LinuxDevice
}

// buildSpec makes the OCI spec of a plugin's process. It is pure, but for base,
// which it takes over.
func buildSpec(in *specInput) (*specs.Spec, error) {
	c, set := &in.rec.Config, &in.rec.Settings
	s := in.base
	s.Root = &specs.Root{Path: in.at.rootfs}
	s.Linux.CgroupsPath = in.cgroup
	s.Process.Terminal = false
	s.Process.Args = append(slices.Clone(c.Entrypoint), set.Args...)
	s.Process.Cwd = c.WorkDir
	if s.Process.Cwd == "" {
		s.Process.Cwd = "/"
	}
	s.Process.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, set.Env...)
	s.Process.User = specs.User{UID: c.User.UID, GID: c.User.GID}
	if err := addCapabilities(in, s); err != nil {
		return nil, err
	}
	share := func(on bool, t specs.LinuxNamespaceType) {
		if on {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
		}
	}
	share(c.Network.Type == "host", specs.NetworkNamespace)
	share(c.IpcHost, specs.IPCNamespace)
	share(c.PidHost, specs.PIDNamespace)
	if err := addMounts(in, s); err != nil {
		return nil, err
	}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	if c.Linux.AllowAllDevices {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	for _, d := range in.devices {
		s.Linux.Devices = append(s.Linux.Devices, d)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
	}
	return s, nil
}

// addCapabilities gives what the base has, as far as the daemon has it, and what
// the plugin asks for, which the daemon must have.
func addCapabilities(in *specInput, s *specs.Spec) error {
	var caps []string
	if s.Process.Capabilities != nil {
		for _, c := range s.Process.Capabilities.Bounding {
			if slices.Contains(in.have, c) {
				caps = append(caps, c)
			}
		}
	}
	for _, c := range in.rec.Config.Linux.Capabilities {
		if c = strings.ToUpper(c); !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(in.have, c) {
			return fmt.Errorf("plugin %s asks for %s, which the daemon itself does not have", in.rec.Name, c)
		}
		if !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps, Inheritable: caps}
	return nil
}

func addMounts(in *specInput, s *specs.Spec) error {
	c := &in.rec.Config
	bind := func(source, target string, more ...string) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: source, Destination: target, Options: append([]string{"rbind"}, more...)})
	}
	if c.PropagatedMount != "" {
		bind(in.at.propagated, c.PropagatedMount, "rw", "rshared")
		s.Linux.RootfsPropagation = "rshared"
	}
	own := map[string]bool{} // what the plugin mounts itself takes the usual one's place
	for _, m := range in.rec.Settings.Mounts {
		own[filepath.Clean(m.Destination)] = true
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return own[m.Destination] })
	for _, m := range in.rec.Settings.Mounts {
		if m.Source == nil || *m.Source == "" {
			return fmt.Errorf("plugin %s: the source of mount %q is not set", in.rec.Name, m.Name)
		}
		s.Mounts = append(s.Mounts, specs.Mount{Type: m.Type, Source: *m.Source, Destination: m.Destination, Options: m.Options})
	}
	bind(in.at.run, runInside, "rshared")
	if t := c.Network.Type; t != "" {
		for _, f := range []string{"/etc/hosts", "/etc/resolv.conf"} {
			if !own[f] {
				bind(f, f, "ro")
			}
		}
	}
	return nil
}
