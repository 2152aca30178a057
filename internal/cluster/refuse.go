package cluster

import (
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"holdfast.dev/holdfast/internal/base/fault"
)

// logDrivers are those that every node of ours has.
var logDrivers = []string{"", "json-file", "local", "none"}

func unserved(format string, args ...any) error {
	return fault.New(errdefs.ErrNotImplemented, format+" is not supported by this release of Holdfast", args...)
}

// refuse names what a service asks for and this release does not do. What slips
// through here would show only as a rejected task.
func refuse(s swarm.ServiceSpec) error {
	t := s.TaskTemplate
	if d := t.LogDriver; d != nil && !slices.Contains(logDrivers, d.Name) {
		return unserved("log driver %q", d.Name)
	}
	c := t.ContainerSpec
	if c == nil {
		return nil
	}
	if c.Isolation != "" && !c.Isolation.IsDefault() {
		return unserved("Isolation %q", c.Isolation)
	}
	if p := c.Privileges; p != nil {
		if p.CredentialSpec != nil {
			return unserved("CredentialSpec")
		}
		if p.SELinuxContext != nil {
			return unserved("SELinuxContext")
		}
	}
	for _, m := range c.Mounts {
		switch m.Type {
		case mount.TypeCluster:
			return unserved("mount %s of a cluster volume", m.Target)
		case mount.TypeNamedPipe:
			return unserved("mount %s of a named pipe", m.Target)
		case mount.TypeImage:
			return unserved("mount %s of an image", m.Target)
		case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs:
		}
	}
	for _, r := range c.Configs {
		if r.Runtime != nil {
			return unserved("config %s for the runtime", r.ConfigName)
		}
	}
	return nil
}
