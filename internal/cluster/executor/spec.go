package executor

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"

	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/api/naming"

	"holdfast.dev/holdfast/internal/cluster/convert"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/container"
)

// containerFor turns a task into the request for its container. spec is the
// task's with its templates expanded; files are mounts of secrets and configs.
func containerFor(t *api.Task, spec *api.ContainerSpec, files []mount.Mount) (container.CreateOptions, error) {
	exposed, bindings := ports(t)
	if networkMode(t).IsHost() {
		exposed, bindings = nil, nil // the node's ports are the container's own
	}
	hc := &dockercontainer.HostConfig{
		NetworkMode:    networkMode(t),
		PortBindings:   bindings,
		ReadonlyRootfs: spec.ReadOnly,
		GroupAdd:       spec.Groups,
		CapAdd:         spec.CapabilityAdd,
		CapDrop:        spec.CapabilityDrop,
		Sysctls:        spec.Sysctls,
		ExtraHosts:     hosts(spec.Hosts),
		OomScoreAdj:    int(spec.OomScoreAdj),
		SecurityOpt:    securityOpts(spec.Privileges),
		RestartPolicy:  dockercontainer.RestartPolicy{Name: dockercontainer.RestartPolicyDisabled}, // the orchestrator restarts
		Resources:      resources(t.Spec.Resources, spec),
	}
	for _, m := range spec.Mounts {
		hc.Mounts = append(hc.Mounts, convert.MountFrom(m))
	}
	hc.Mounts = append(hc.Mounts, files...)
	if spec.Init != nil {
		on := spec.Init.Value
		hc.Init = &on
	}
	if d := spec.DNSConfig; d != nil {
		for _, s := range d.Nameservers {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return container.CreateOptions{}, fmt.Errorf("name server: %w", err)
			}
			hc.DNS = append(hc.DNS, a)
		}
		hc.DNSSearch, hc.DNSOptions = d.Search, d.Options
	}
	// The task's own driver is the one of its spec or, by the manager, the swarm's default.
	driver := t.LogDriver
	if t.Spec.LogDriver != nil {
		driver = t.Spec.LogDriver
	}
	if driver != nil {
		hc.LogConfig = dockercontainer.LogConfig{Type: driver.Name, Config: maps.Clone(driver.Options)}
	}
	cfg := &dockercontainer.Config{
		Image: spec.Image, Hostname: spec.Hostname, User: spec.User, WorkingDir: spec.Dir, Env: spec.Env,
		Entrypoint: spec.Command, Cmd: spec.Args, Tty: spec.TTY, OpenStdin: spec.OpenStdin,
		StopSignal: spec.StopSignal, StopTimeout: grace(spec), Healthcheck: convert.HealthFrom(spec.Healthcheck),
		Labels: taskLabels(t, spec), ExposedPorts: exposed,
	}
	out := container.CreateOptions{Name: naming.Task(t), Config: cfg, HostConfig: hc, Task: true}
	at, err := mesh.Attachments(t)
	if err != nil || len(at) == 0 {
		return out, err
	}
	// The main network is one with names, if there is one.
	main := at[0]
	out.Networking = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	for _, a := range at {
		if main.Ingress && !a.Ingress {
			main = a
		}
		out.Networking.EndpointsConfig[a.Network] = &network.EndpointSettings{
			NetworkID: a.ID, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: a.Addr},
		}
	}
	hc.NetworkMode = dockercontainer.NetworkMode(main.Network)
	out.Networking.EndpointsConfig[main.Network].GwPriority = 1
	return out, nil
}

// networkMode is the node's network that a task is on.
func networkMode(t *api.Task) dockercontainer.NetworkMode {
	for _, n := range t.Networks {
		if n.Network != nil && n.Network.DriverState != nil && n.Network.DriverState.Name == network.NetworkHost {
			return network.NetworkHost
		}
	}
	return network.NetworkBridge
}

func taskLabels(t *api.Task, spec *api.ContainerSpec) map[string]string {
	out := map[string]string{}
	maps.Copy(out, spec.Labels)
	maps.Copy(out, t.Annotations.Labels)
	maps.Copy(out, map[string]string{
		labelTask: "", labelTaskID: t.ID, labelTaskName: naming.Task(t),
		labelNodeID: t.NodeID, labelServiceID: t.ServiceID, labelServiceName: t.ServiceAnnotations.Name,
	})
	return out
}

// hostPorts are the ports that a task publishes on its node.
func hostPorts(t *api.Task) []*api.PortConfig {
	if t.Endpoint == nil {
		return nil
	}
	all := t.Endpoint.Ports
	if len(all) == 0 && t.Endpoint.Spec != nil {
		all = t.Endpoint.Spec.Ports
	}
	var out []*api.PortConfig
	for _, p := range all {
		if p.PublishMode == api.PublishModeHost {
			out = append(out, p)
		}
	}
	return out
}

func ports(t *api.Task) (network.PortSet, network.PortMap) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, p := range hostPorts(t) {
		port, ok := network.PortFrom(uint16(p.TargetPort), convert.PortFrom(p).Protocol)
		if !ok {
			continue
		}
		exposed[port] = struct{}{}
		host := ""
		if p.PublishedPort != 0 {
			host = strconv.FormatUint(uint64(p.PublishedPort), 10)
		}
		bindings[port] = append(bindings[port], network.PortBinding{HostPort: host})
	}
	return exposed, bindings
}

// grace is the time a container gets to stop, in whole seconds.
func grace(spec *api.ContainerSpec) *int {
	if spec.StopGracePeriod == nil {
		return nil
	}
	d := time.Duration(spec.StopGracePeriod.Seconds)*time.Second + time.Duration(spec.StopGracePeriod.Nanos)
	s := int((d + time.Second - 1) / time.Second)
	return &s
}

// hosts turns lines of a hosts file into what containers take.
func hosts(lines []string) []string {
	var out []string
	for _, l := range lines {
		f := strings.Fields(l)
		for i := 1; i < len(f); i++ {
			out = append(out, f[i]+":"+f[0])
		}
	}
	return out
}

func securityOpts(p *api.Privileges) []string {
	if p == nil {
		return nil
	}
	var out []string
	if p.NoNewPrivileges {
		out = append(out, "no-new-privileges")
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case api.Privileges_SeccompOpts_UNCONFINED:
			out = append(out, "seccomp=unconfined")
		case api.Privileges_SeccompOpts_CUSTOM:
			out = append(out, "seccomp="+string(s.Profile))
		case api.Privileges_SeccompOpts_DEFAULT:
		}
	}
	if a := p.Apparmor; a != nil && a.Mode == api.Privileges_AppArmorOpts_DISABLED {
		out = append(out, "apparmor=unconfined")
	}
	return out
}

func resources(r *api.ResourceRequirements, spec *api.ContainerSpec) dockercontainer.Resources {
	var out dockercontainer.Resources
	if spec.PidsLimit != 0 {
		n := spec.PidsLimit
		out.PidsLimit = &n
	}
	for _, u := range spec.Ulimits {
		out.Ulimits = append(out.Ulimits, &dockercontainer.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if r == nil {
		return out
	}
	if r.Limits != nil {
		out.Memory, out.NanoCPUs = r.Limits.MemoryBytes, r.Limits.NanoCPUs
	}
	if r.Reservations != nil {
		out.MemoryReservation = r.Reservations.MemoryBytes
	}
	if r.MemorySwappiness != nil {
		out.MemorySwappiness = &r.MemorySwappiness.Value
	}
	if s := r.SwapBytes; s != nil && out.Memory > 0 {
		out.MemorySwap = -1
		if s.Value >= 0 {
			out.MemorySwap = out.Memory + s.Value
		}
	}
	return out
}
