package container

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

// shown is the phase that the API tells of. A start by the restart policy is
// part of the restart: nobody may take the container for one at rest.
func (r *Record) shown() Phase {
	if r.Phase == Starting && r.RestartCount > 0 {
		return Restarting
	}
	return r.Phase
}

// state is the shown phase in the API's words.
func (r *Record) state() container.ContainerState {
	switch p := r.shown(); p {
	case Running, Stopping:
		return container.StateRunning
	case Starting:
		if r.FinishedAt.IsZero() {
			return container.StateCreated
		}
		return container.StateExited
	default:
		return container.ContainerState(p)
	}
}

// status is what `docker ps` says.
func status(r *Record, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch r.shown() {
	case Running, Stopping, Paused:
		up := "Up " + ago(r.StartedAt)
		switch {
		case r.Phase == Paused:
			return up + " (Paused)"
		case r.Health != nil && r.Health.Status == container.Starting:
			return up + " (health: starting)"
		case r.Health != nil:
			return up + " (" + string(r.Health.Status) + ")"
		}
		return up
	case Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", r.ExitCode, ago(r.FinishedAt))
	case Removing:
		return "Removal In Progress"
	case Dead:
		return "Dead"
	case Exited:
		return fmt.Sprintf("Exited (%d) %s ago", r.ExitCode, ago(r.FinishedAt))
	default:
		return "Created"
	}
}

// Inspect tells everything about a container.
func (s *Service) Inspect(ctx context.Context, name string, size bool) (container.InspectResponse, error) {
	c, err := s.lookup(name)
	if err != nil {
		return container.InspectResponse{}, err
	}
	r := c.record()
	out := s.describe(&r)
	out.ExecIDs = s.execIDs(c)
	layer, err := s.d.Rootfs.Layer(ctx, r.ID)
	switch {
	case err == nil:
		out.GraphDriver.Data = map[string]string{
			"LowerDir": strings.Join(layer.Lower, ":"), "UpperDir": layer.Upper,
			"WorkDir": layer.Work, "MergedDir": layer.Merged,
		}
	case errdefs.IsNotFound(err): // it is being removed
	default:
		return out, err
	}
	if size {
		rw, root, err := s.d.Rootfs.Usage(ctx, r.ID)
		if err != nil {
			return out, err
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return out, nil
}

func (s *Service) describe(r *Record) container.InspectResponse {
	host := *r.HostConfig
	host.Ulimits = slices.Clone(host.Ulimits)
	for _, name := range slices.Sorted(maps.Keys(s.d.Settings.Ulimits)) {
		if !slices.ContainsFunc(host.Ulimits, func(u *container.Ulimit) bool { return u.Name == name }) {
			host.Ulimits = append(host.Ulimits, s.d.Settings.Ulimits[name])
		}
	}
	host.Links = s.shownLinks(r)
	cfg := *r.Config
	out := container.InspectResponse{
		ID: r.ID, Created: r.Created.Format(time.RFC3339Nano), Path: r.Path, Args: r.Args,
		State: &container.State{
			Status:     r.state(),
			Running:    r.shown().running(),
			Paused:     r.Phase == Paused,
			Restarting: r.shown() == Restarting,
			OOMKilled:  r.OOMKilled,
			Dead:       r.Phase == Dead,
			Pid:        r.Pid, ExitCode: r.ExitCode, Error: r.Error,
			StartedAt:  r.StartedAt.Format(time.RFC3339Nano),
			FinishedAt: r.FinishedAt.Format(time.RFC3339Nano),
			Health:     r.Health,
		},
		Image: r.ImageID, LogPath: s.logPath(r), Name: "/" + r.Name, RestartCount: r.RestartCount,
		Driver: s.d.Rootfs.Driver(), Platform: runtime.GOOS, HostConfig: &host, Config: &cfg,
		GraphDriver:             &storage.DriverData{Name: s.d.Rootfs.Driver()},
		Mounts:                  s.mountPoints(r),
		NetworkSettings:         networkSettings(r),
		ImageManifestDescriptor: r.ImageManifest,
	}
	if sec, err := parseSecurity(host.SecurityOpt, false); err == nil && s.d.Host.AppArmor {
		out.AppArmorProfile = first(sec.apparmor, unconfined)
	}
	if !r.StartedAt.IsZero() && !host.NetworkMode.IsContainer() {
		out.HostnamePath = filepath.Join(s.dir(r.ID), "hostname")
	}
	if r.Sandbox != nil {
		out.HostsPath, out.ResolvConfPath = r.Sandbox.HostsPath, r.Sandbox.ResolvConfPath
	} else if !r.StartedAt.IsZero() && !host.NetworkMode.IsContainer() {
		out.HostsPath = filepath.Join(s.dir(r.ID), "hosts")
		out.ResolvConfPath = filepath.Join(s.dir(r.ID), "resolv.conf")
	}
	return out
}

// endpoints are what the container has, or, while it does not run, wants.
func endpoints(r *Record) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, ep := range r.Endpoints {
		out[name] = ep.Copy()
	}
	if r.Sandbox != nil {
		for name, ep := range r.Sandbox.Endpoints {
			out[name] = ep.Copy()
		}
	}
	return out
}

func networkSettings(r *Record) *container.NetworkSettings {
	out := &container.NetworkSettings{Ports: network.PortMap{}, Networks: endpoints(r)}
	if r.Sandbox == nil {
		return out
	}
	maps.Copy(out.Ports, r.Sandbox.Ports)
	out.SandboxKey = r.Sandbox.NetNS
	if r.Sandbox.NetNS != "" {
		out.SandboxID = r.ID
	}
	return out
}

// mountPoints lists the mounts as the API shows them, by destination. A volume may
// have been moved since the container was made.
func (s *Service) mountPoints(r *Record) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range r.Mounts {
		p := container.MountPoint{
			Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Target,
			Driver: m.Driver, Mode: m.Mode, RW: !m.ReadOnly, Propagation: m.Propagation,
		}
		if m.Type == mount.TypeVolume {
			if driver, source, ok := s.d.Volumes.Where(m.Name); ok {
				p.Driver, p.Source = driver, source
			}
		}
		if m.Type == mount.TypeVolume && p.Mode == "" && (!m.Anonymous || m.Options != nil) {
			p.Mode = "z" // as Docker fills it for its local volumes, but not for those of the image
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b container.MountPoint) int { return cmp.Compare(a.Destination, b.Destination) })
	return out
}
