package convert

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
)

var mountTypes = table[mount.Type, api.Mount_MountType]{
	{mount.TypeBind, api.MountTypeBind},
	{mount.TypeVolume, api.MountTypeVolume},
	{mount.TypeTmpfs, api.MountTypeTmpfs},
	{mount.TypeNamedPipe, api.MountTypeNamedPipe},
	{mount.TypeCluster, api.MountTypeCluster},
}

var consistencies = table[mount.Consistency, api.Mount_MountConsistency]{
	{mount.ConsistencyDefault, api.MountConsistencyDefault},
	{mount.ConsistencyFull, api.MountConsistencyFull},
	{mount.ConsistencyCached, api.MountConsistencyCached},
	{mount.ConsistencyDelegated, api.MountConsistencyDelegated},
}

var propagations = table[mount.Propagation, api.Mount_BindOptions_MountPropagation]{
	{mount.PropagationRPrivate, api.MountPropagationRPrivate},
	{mount.PropagationPrivate, api.MountPropagationPrivate},
	{mount.PropagationRShared, api.MountPropagationRShared},
	{mount.PropagationShared, api.MountPropagationShared},
	{mount.PropagationRSlave, api.MountPropagationRSlave},
	{mount.PropagationSlave, api.MountPropagationSlave},
}

var isolations = table[container.Isolation, api.ContainerSpec_Isolation]{
	{container.IsolationDefault, api.ContainerIsolationDefault},
	{container.IsolationProcess, api.ContainerIsolationProcess},
	{container.IsolationHyperV, api.ContainerIsolationHyperV},
}

var seccompModes = table[swarm.SeccompMode, api.Privileges_SeccompOpts_SeccompMode]{
	{swarm.SeccompModeDefault, api.Privileges_SeccompOpts_DEFAULT},
	{swarm.SeccompModeUnconfined, api.Privileges_SeccompOpts_UNCONFINED},
	{swarm.SeccompModeCustom, api.Privileges_SeccompOpts_CUSTOM},
}

var appArmorModes = table[swarm.AppArmorMode, api.Privileges_AppArmorOpts_AppArmorMode]{
	{swarm.AppArmorModeDefault, api.Privileges_AppArmorOpts_DEFAULT},
	{swarm.AppArmorModeDisabled, api.Privileges_AppArmorOpts_DISABLED},
}

// ContainerFrom is what a task runs, as the API shows it.
func ContainerFrom(c *api.ContainerSpec) *swarm.ContainerSpec {
	if c == nil {
		return nil
	}
	out := &swarm.ContainerSpec{
		Image: c.Image, Labels: maps.Clone(c.Labels), Command: slices.Clone(c.Command), Args: slices.Clone(c.Args),
		Hostname: c.Hostname, Env: slices.Clone(c.Env), Dir: c.Dir, User: c.User, Groups: slices.Clone(c.Groups),
		Privileges: privilegesFrom(c.Privileges), StopSignal: c.StopSignal, TTY: c.TTY, OpenStdin: c.OpenStdin,
		ReadOnly: c.ReadOnly, Mounts: each(c.Mounts, MountFrom), StopGracePeriod: durationPtrFrom(c.StopGracePeriod),
		Healthcheck: HealthFrom(c.Healthcheck), Hosts: slices.Clone(c.Hosts), Secrets: each(c.Secrets, secretRefFrom),
		Configs: each(c.Configs, configRefFrom), Isolation: isolations.toDocker(c.Isolation), Sysctls: maps.Clone(c.Sysctls),
		CapabilityAdd: slices.Clone(c.CapabilityAdd), CapabilityDrop: slices.Clone(c.CapabilityDrop),
		Ulimits: each(c.Ulimits, func(u *api.ContainerSpec_Ulimit) *container.Ulimit {
			return &container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}
		}),
		OomScoreAdj: c.OomScoreAdj,
	}
	if c.Init != nil {
		v := c.Init.Value
		out.Init = &v
	}
	if d := c.DNSConfig; d != nil {
		out.DNSConfig = &swarm.DNSConfig{Search: slices.Clone(d.Search), Options: slices.Clone(d.Options)}
		for _, s := range d.Nameservers {
			if a, err := netip.ParseAddr(s); err == nil { // it came from an address
				out.DNSConfig.Nameservers = append(out.DNSConfig.Nameservers, a)
			}
		}
	}
	return out
}

func containerTo(c *swarm.ContainerSpec) (*api.ContainerSpec, error) {
	out := &api.ContainerSpec{
		Image: c.Image, Labels: maps.Clone(c.Labels), Command: slices.Clone(c.Command), Args: slices.Clone(c.Args),
		Hostname: c.Hostname, Env: slices.Clone(c.Env), Dir: c.Dir, User: c.User, Groups: slices.Clone(c.Groups),
		StopSignal: c.StopSignal, TTY: c.TTY, OpenStdin: c.OpenStdin, ReadOnly: c.ReadOnly,
		StopGracePeriod: durationPtrTo(c.StopGracePeriod), Healthcheck: healthTo(c.Healthcheck), Hosts: slices.Clone(c.Hosts),
		Sysctls: maps.Clone(c.Sysctls), CapabilityAdd: slices.Clone(c.CapabilityAdd), CapabilityDrop: slices.Clone(c.CapabilityDrop),
		Ulimits: each(c.Ulimits, func(u *container.Ulimit) *api.ContainerSpec_Ulimit {
			return &api.ContainerSpec_Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}
		}),
		OomScoreAdj: c.OomScoreAdj,
	}
	if c.Init != nil {
		out.Init = &gogotypes.BoolValue{Value: *c.Init}
	}
	if d := c.DNSConfig; d != nil {
		out.DNSConfig = &api.ContainerSpec_DNSConfig{
			Nameservers: addrsTo(d.Nameservers), Search: slices.Clone(d.Search), Options: slices.Clone(d.Options),
		}
	}
	var err error
	if out.Isolation, err = isolations.toSwarmkit(c.Isolation, "Isolation"); err != nil {
		return nil, err
	}
	if out.Privileges, err = privilegesTo(c.Privileges); err != nil {
		return nil, err
	}
	if out.Mounts, err = eachErr(c.Mounts, mountTo); err != nil {
		return nil, err
	}
	if out.Secrets, err = eachErr(c.Secrets, secretRefTo); err != nil {
		return nil, err
	}
	out.Configs, err = eachErr(c.Configs, configRefTo)
	return out, err
}

// HealthFrom is a health check.
func HealthFrom(h *api.HealthConfig) *container.HealthConfig {
	if h == nil {
		return nil
	}
	return &container.HealthConfig{
		Test: slices.Clone(h.Test), Interval: durationFrom(h.Interval), Timeout: durationFrom(h.Timeout),
		StartPeriod: durationFrom(h.StartPeriod), StartInterval: durationFrom(h.StartInterval), Retries: int(h.Retries),
	}
}

func healthTo(h *container.HealthConfig) *api.HealthConfig {
	if h == nil {
		return nil
	}
	return &api.HealthConfig{
		Test: slices.Clone(h.Test), Interval: durationOrNil(h.Interval), Timeout: durationOrNil(h.Timeout),
		StartPeriod: durationOrNil(h.StartPeriod), StartInterval: durationOrNil(h.StartInterval), Retries: int32(h.Retries),
	}
}

func privilegesFrom(p *api.Privileges) *swarm.Privileges {
	if p == nil {
		return nil
	}
	out := &swarm.Privileges{NoNewPrivileges: p.NoNewPrivileges}
	if c := p.CredentialSpec; c != nil {
		out.CredentialSpec = &swarm.CredentialSpec{Config: c.GetConfig(), File: c.GetFile(), Registry: c.GetRegistry()}
	}
	if s := p.SELinuxContext; s != nil {
		out.SELinuxContext = &swarm.SELinuxContext{Disable: s.Disable, User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
	}
	if s := p.Seccomp; s != nil {
		out.Seccomp = &swarm.SeccompOpts{Mode: seccompModes.toDocker(s.Mode), Profile: slices.Clone(s.Profile)}
	}
	if a := p.Apparmor; a != nil {
		out.AppArmor = &swarm.AppArmorOpts{Mode: appArmorModes.toDocker(a.Mode)}
	}
	return out
}

func privilegesTo(p *swarm.Privileges) (*api.Privileges, error) {
	if p == nil {
		return nil, nil
	}
	out := &api.Privileges{NoNewPrivileges: p.NoNewPrivileges}
	if c := p.CredentialSpec; c != nil {
		spec := &api.Privileges_CredentialSpec{}
		switch {
		case c.Config != "" && c.File == "" && c.Registry == "":
			spec.Source = &api.Privileges_CredentialSpec_Config{Config: c.Config}
		case c.File != "" && c.Config == "" && c.Registry == "":
			spec.Source = &api.Privileges_CredentialSpec_File{File: c.File}
		case c.Registry != "" && c.Config == "" && c.File == "":
			spec.Source = &api.Privileges_CredentialSpec_Registry{Registry: c.Registry}
		default:
			return nil, invalid(`invalid CredentialSpec: must either provide "file", "registry", or "config" and only one of them`)
		}
		out.CredentialSpec = spec
	}
	if s := p.SELinuxContext; s != nil {
		out.SELinuxContext = &api.Privileges_SELinuxContext{Disable: s.Disable, User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
	}
	var err error
	if s := p.Seccomp; s != nil {
		out.Seccomp = &api.Privileges_SeccompOpts{Profile: slices.Clone(s.Profile)}
		if out.Seccomp.Mode, err = seccompModes.toSwarmkit(s.Mode, "Seccomp.Mode"); err != nil {
			return nil, err
		}
	}
	if a := p.AppArmor; a != nil {
		out.Apparmor = &api.Privileges_AppArmorOpts{}
		if out.Apparmor.Mode, err = appArmorModes.toSwarmkit(a.Mode, "AppArmor.Mode"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MountFrom is a mount as the API and the container domain know it.
func MountFrom(m api.Mount) mount.Mount {
	out := mount.Mount{Type: mountTypes.toDocker(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.Consistency != api.MountConsistencyDefault {
		out.Consistency = consistencies.toDocker(m.Consistency)
	}
	if b := m.BindOptions; b != nil {
		out.BindOptions = &mount.BindOptions{
			Propagation: propagations.toDocker(b.Propagation), NonRecursive: b.NonRecursive, CreateMountpoint: b.CreateMountpoint,
			ReadOnlyNonRecursive: b.ReadOnlyNonRecursive, ReadOnlyForceRecursive: b.ReadOnlyForceRecursive,
		}
	}
	if v := m.VolumeOptions; v != nil {
		out.VolumeOptions = &mount.VolumeOptions{NoCopy: v.NoCopy, Labels: maps.Clone(v.Labels), Subpath: v.Subpath}
		if v.DriverConfig != nil {
			out.VolumeOptions.DriverConfig = &mount.Driver{Name: v.DriverConfig.Name, Options: maps.Clone(v.DriverConfig.Options)}
		}
	}
	if t := m.TmpfsOptions; t != nil {
		out.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: t.SizeBytes, Mode: t.Mode}
		if t.Options != "" {
			_ = json.Unmarshal([]byte(t.Options), &out.TmpfsOptions.Options) // mountTo wrote it
		}
	}
	if m.Type == api.MountTypeCluster {
		out.ClusterOptions = &mount.ClusterOptions{}
	}
	return out
}

func mountTo(m mount.Mount) (api.Mount, error) {
	out := api.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.Type == mount.TypeImage {
		return out, invalid("mount type %q is not supported by services", m.Type)
	}
	var err error
	if out.Type, err = mountTypes.toSwarmkit(m.Type, "MountType"); err != nil {
		return out, err
	}
	if out.Consistency, err = consistencies.toSwarmkit(m.Consistency, "MountConsistency"); err != nil {
		return out, err
	}
	if b := m.BindOptions; b != nil {
		out.BindOptions = &api.Mount_BindOptions{
			NonRecursive: b.NonRecursive, CreateMountpoint: b.CreateMountpoint,
			ReadOnlyNonRecursive: b.ReadOnlyNonRecursive, ReadOnlyForceRecursive: b.ReadOnlyForceRecursive,
		}
		if out.BindOptions.Propagation, err = propagations.toSwarmkit(b.Propagation, "MountPropagation"); err != nil {
			return out, err
		}
	}
	if v := m.VolumeOptions; v != nil {
		out.VolumeOptions = &api.Mount_VolumeOptions{NoCopy: v.NoCopy, Labels: maps.Clone(v.Labels), Subpath: v.Subpath}
		if v.DriverConfig != nil {
			out.VolumeOptions.DriverConfig = &api.Driver{Name: v.DriverConfig.Name, Options: maps.Clone(v.DriverConfig.Options)}
		}
	}
	if t := m.TmpfsOptions; t != nil {
		out.TmpfsOptions = &api.Mount_TmpfsOptions{SizeBytes: t.SizeBytes, Mode: t.Mode}
		if len(t.Options) > 0 {
			b, err := json.Marshal(t.Options)
			if err != nil {
				return out, invalid("invalid TmpfsOptions: %v", err)
			}
			out.TmpfsOptions.Options = string(b)
		}
	}
	return out, nil
}

func fileFrom(f *api.FileTarget) (name, uid, gid string) { return f.Name, f.UID, f.GID }

func secretRefFrom(r *api.SecretReference) *swarm.SecretReference {
	out := &swarm.SecretReference{SecretID: r.SecretID, SecretName: r.SecretName}
	if f := r.GetFile(); f != nil {
		t := swarm.SecretReferenceFileTarget{Mode: f.Mode}
		t.Name, t.UID, t.GID = fileFrom(f)
		out.File = &t
	}
	return out
}

func secretRefTo(r *swarm.SecretReference) (*api.SecretReference, error) {
	out := &api.SecretReference{SecretID: r.SecretID, SecretName: r.SecretName}
	if r.File == nil {
		return nil, invalid("invalid secret reference: no target file")
	}
	out.Target = &api.SecretReference_File{File: &api.FileTarget{Name: r.File.Name, UID: r.File.UID, GID: r.File.GID, Mode: r.File.Mode}}
	return out, nil
}

func configRefFrom(r *api.ConfigReference) *swarm.ConfigReference {
	out := &swarm.ConfigReference{ConfigID: r.ConfigID, ConfigName: r.ConfigName}
	if f := r.GetFile(); f != nil {
		t := swarm.ConfigReferenceFileTarget{Mode: f.Mode}
		t.Name, t.UID, t.GID = fileFrom(f)
		out.File = &t
	}
	if r.GetRuntime() != nil {
		out.Runtime = &swarm.ConfigReferenceRuntimeTarget{}
	}
	return out
}

func configRefTo(r *swarm.ConfigReference) (*api.ConfigReference, error) {
	out := &api.ConfigReference{ConfigID: r.ConfigID, ConfigName: r.ConfigName}
	switch {
	case r.File != nil && r.Runtime == nil:
		out.Target = &api.ConfigReference_File{File: &api.FileTarget{Name: r.File.Name, UID: r.File.UID, GID: r.File.GID, Mode: r.File.Mode}}
	case r.Runtime != nil && r.File == nil:
		out.Target = &api.ConfigReference_Runtime{Runtime: &api.RuntimeTarget{}}
	default:
		return nil, invalid("invalid config reference: one target, a file or the runtime, is needed")
	}
	return out, nil
}
