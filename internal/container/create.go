package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/logs"
)

// Create makes a container: its record, its writable layer and its volumes. A
// failing Create leaves nothing behind.
func (s *Service) Create(ctx context.Context, in CreateOptions) (container.CreateResponse, error) {
	if in.Config != nil && in.Config.Image != "" {
		release, err := s.d.Images.Claim(ctx, in.Config.Image)
		if err != nil {
			return container.CreateResponse{Warnings: []string{}}, err
		}
		defer release()
	}
	if in.HostConfig != nil {
		release, err := s.claimImages(ctx, in.HostConfig.Mounts)
		if err != nil {
			return container.CreateResponse{Warnings: []string{}}, err
		}
		defer release()
	}
	rec, warnings, err := s.plan(ctx, in)
	resp := container.CreateResponse{Warnings: append([]string{}, warnings...)}
	if err != nil {
		return resp, err
	}
	// From here on the change finishes, or is undone, whatever the client does.
	ctx = context.WithoutCancel(ctx)
	if rec.ID, err = randomID(s.d.Random); err != nil {
		return resp, err
	}
	if rec.Name, err = s.reserveName(rec.ID, in.Name); err != nil {
		return resp, err
	}
	if rec.Config.Hostname == "" && !rec.HostConfig.NetworkMode.IsContainer() {
		rec.Config.Hostname = rec.ID[:12]
		if rec.HostConfig.NetworkMode.IsHost() || rec.HostConfig.UTSMode.IsHost() {
			rec.Config.Hostname = s.d.Host.Hostname
		}
	}
	rec.Created = s.d.Clock.Now().UTC()
	if err := s.make(ctx, rec); err != nil {
		s.unmake(ctx, rec, true)
		s.releaseName(rec.Name, rec.ID)
		return resp, err
	}
	s.mu.Lock()
	s.byID[rec.ID] = &Container{rec: *rec}
	s.mu.Unlock()
	s.nameLinks(rec.Name, rec.Links)
	s.emit(*rec, events.ActionCreate, nil)
	resp.ID = rec.ID
	unfit, err := s.suits(ctx, rec, nil)
	resp.Warnings = append(resp.Warnings, unfit...)
	if err != nil { // that is the start's to say
		s.d.Log.Debug("container will not start", logkey.Container, rec.ID, logkey.Err, err)
	}
	return resp, nil
}

// plan works out the record of a container from a request. It changes nothing.
func (s *Service) plan(ctx context.Context, in CreateOptions) (*Record, []string, error) {
	if in.Config == nil {
		return nil, nil, invalid("config cannot be empty in order to create a container")
	}
	user := *in.Config
	host := container.HostConfig{}
	if in.HostConfig != nil {
		host = *in.HostConfig
	}
	if host.RestartPolicy.Name == "" {
		host.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if host.NetworkMode == "" || host.NetworkMode.IsDefault() {
		host.NetworkMode = network.NetworkBridge
	}
	if err := validateConfig(&user); err != nil {
		return nil, nil, err
	}
	warnings, err := s.validateHost(&host, false)
	if err != nil {
		return nil, warnings, err
	}
	if err := validateCombined(&user, &host); err != nil {
		return nil, warnings, err
	}
	links := host.Links
	host.Links = nil // shown with the endpoint, or made of the record's
	var legacy []Link
	if !host.NetworkMode.IsUserDefined() {
		if legacy, err = s.resolveLinks(&host, links); err != nil {
			return nil, warnings, err
		}
		links = nil
	}
	var img ImageInfo
	if user.Image != "" {
		if img, err = s.d.Images.Resolve(ctx, user.Image, in.Platform); err != nil {
			return nil, warnings, err
		}
		if img.Foreign != "" && in.Platform == nil {
			warnings = append(warnings, fmt.Sprintf(
				"The requested image's platform (%s) does not match the detected host platform (%s/%s) and no specific platform was requested",
				img.Foreign, runtime.GOOS, runtime.GOARCH))
		}
	}
	cfg, err := mergeConfig(&user, img.Config)
	if err != nil {
		return nil, warnings, err
	}
	if err := validateConfig(cfg); err != nil {
		return nil, warnings, err
	}
	if err := s.fillHost(&host); err != nil {
		return nil, warnings, err
	}
	rec := &Record{
		ImageID: img.ID, ImageParent: img.ChainID, ImageManifest: img.Manifest,
		Config: cfg, HostConfig: &host, Phase: Created,
		Endpoints: endpointWishes(in.Networking, host.NetworkMode, links), Links: legacy, Task: in.Task,
	}
	rec.Path, rec.Args = command(cfg)
	if rec.Mounts, err = s.planMounts(rec); err != nil {
		return nil, warnings, err
	}
	if err := s.resolveImages(ctx, rec.Mounts); err != nil {
		return nil, warnings, err
	}
	for name, ep := range rec.Endpoints {
		if ep != nil && ep.IPAMConfig != nil && (ep.IPAMConfig.IPv4Address.IsValid() || ep.IPAMConfig.IPv6Address.IsValid()) && !container.NetworkMode(name).IsUserDefined() {
			return nil, warnings, invalid("invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only")
		}
	}
	if rec.HostConfig.NetworkMode.IsPrivate() && !cfg.NetworkDisabled {
		// A network may still be made before the container starts.
		if err := s.d.Networks.Validate(ctx, s.sandboxRequest(rec)); err != nil && !errdefs.IsNotFound(err) {
			return nil, warnings, err
		}
	}
	return rec, warnings, nil
}

// fillHost puts in the defaults that inspect shows, and the IDs of containers
// that are shared with, so that a rename does not part them.
func (s *Service) fillHost(h *container.HostConfig) error {
	set := &s.d.Settings
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = h.Memory * 2
	}
	if h.ShmSize == 0 {
		h.ShmSize = set.ShmSize
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = container.IpcMode(first(string(set.IpcMode), string(container.IPCModePrivate)))
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = set.CgroupnsMode
		switch {
		case h.Privileged && set.CgroupVersion != 2:
			h.CgroupnsMode = container.CgroupnsModeHost
		case h.CgroupnsMode.IsEmpty() && set.CgroupVersion == 2:
			h.CgroupnsMode = container.CgroupnsModePrivate
		case h.CgroupnsMode.IsEmpty():
			h.CgroupnsMode = container.CgroupnsModeHost
		}
	}
	if h.Runtime == "" {
		h.Runtime = "runc"
	}
	if !h.Privileged {
		if h.MaskedPaths == nil {
			h.MaskedPaths = defaultMaskedPaths(s.d.Host)
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = defaultReadonlyPaths()
		}
	}
	h.LogConfig.Type = first(h.LogConfig.Type, set.DefaultLog.Type, logs.JSONFile)
	options := map[string]string{}
	if h.LogConfig.Type == set.DefaultLog.Type {
		maps.Copy(options, set.DefaultLog.Config)
	}
	maps.Copy(options, h.LogConfig.Config)
	h.LogConfig.Config = options
	if err := logs.Validate(h.LogConfig.Type, h.LogConfig.Config); err != nil {
		return err
	}
	return s.pinShared(h)
}

// pinShared replaces names by IDs in container:X modes. The network of a
// container that is not there (yet) is left for start to refuse.
func (s *Service) pinShared(h *container.HostConfig) error {
	if n := h.NetworkMode.ConnectedContainer(); n != "" {
		if c, err := s.lookup(n); err == nil {
			h.NetworkMode = container.NetworkMode("container:" + c.record().ID)
		}
	}
	if n := h.PidMode.Container(); n != "" {
		c, err := s.lookup(n)
		if err != nil {
			return invalid("%s", err)
		}
		h.PidMode = container.PidMode("container:" + c.record().ID)
	}
	if n := h.IpcMode.Container(); n != "" {
		c, err := s.lookup(n)
		if err != nil {
			return invalid("%s", err)
		}
		h.IpcMode = container.IpcMode("container:" + c.record().ID)
	}
	return nil
}

// endpointWishes is what the user asked of networks, by name. Links that the
// request has at the host's settings are the main network's.
func endpointWishes(n *network.NetworkingConfig, mode container.NetworkMode, links []string) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	if mode.IsContainer() {
		return out
	}
	if n != nil {
		for name, ep := range n.EndpointsConfig {
			if name == network.NetworkDefault {
				name = network.NetworkBridge
			}
			if ep == nil {
				ep = &network.EndpointSettings{}
			}
			out[name] = ep.Copy()
		}
	}
	if len(out) == 0 {
		out[mode.NetworkName()] = &network.EndpointSettings{}
	}
	if main := out[mode.NetworkName()]; main != nil && len(main.Links) == 0 {
		main.Links = slices.Clone(links)
	}
	return out
}

// make brings a planned container about: volumes, folder, layer, record.
func (s *Service) make(ctx context.Context, rec *Record) error {
	if err := s.acquireVolumes(ctx, rec); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir(rec.ID), 0o710); err != nil {
		return fmt.Errorf("make folder of container: %w", err)
	}
	if err := s.prepareImages(ctx, rec); err != nil {
		return err
	}
	if slices.ContainsFunc(rec.Mounts, populates) {
		// A record must not promise volumes that are not filled yet.
		if err := s.d.Rootfs.Prepare(ctx, rec.ID, rec.ImageParent); err != nil {
			return err
		}
		if err := s.populate(ctx, rec); err != nil {
			return err
		}
		return s.d.Records.Put(rec.ID, rec)
	}
	// A record without a layer is undone by Restore, and so is a layer without
	// a record: the two may be made side by side.
	var g errgroup.Group
	g.Go(func() error { return s.d.Rootfs.Prepare(ctx, rec.ID, rec.ImageParent) })
	g.Go(func() error { return s.d.Records.Put(rec.ID, rec) })
	return g.Wait()
}

// unmake takes back all that make may have done. Anonymous volumes go where
// volumes is set.
func (s *Service) unmake(ctx context.Context, rec *Record, volumes bool) {
	if err := s.dismantle(ctx, rec, volumes); err != nil {
		s.d.Log.Error("container not taken back whole", logkey.Container, rec.ID, logkey.Err, err)
	}
}

// dismantle removes everything of a container that does not run; the record
// goes last, so that a crash leaves it to be done again.
func (s *Service) dismantle(ctx context.Context, rec *Record, volumes bool) error {
	if rec.HostConfig.NetworkMode.IsPrivate() {
		// Again, should the run's own clearing away have failed.
		if err := s.d.Networks.Leave(ctx, rec.ID); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	err := errors.Join(failpoint.Hit("container.remove.afterNetwork"), s.d.Rootfs.Remove(ctx, rec.ID), failpoint.Hit("container.remove.afterLayer"),
		os.RemoveAll(s.dir(rec.ID)), os.RemoveAll(s.runDir(rec.ID)))
	for _, id := range imageLayers(rec) {
		err = errors.Join(err, s.d.Rootfs.Remove(ctx, id))
	}
	if err != nil {
		return err
	}
	for _, m := range rec.Mounts {
		if m.Name == "" {
			continue
		}
		if err := s.d.Volumes.Release(ctx, m.Name, rec.ID); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if !volumes || !m.Anonymous {
			continue
		}
		if err := s.d.Volumes.RemoveAnonymous(ctx, m.Name); err != nil && !errdefs.IsNotFound(err) {
			// In use by another container (--volumes-from), or held by its driver: it stays.
			s.d.Log.Warn("anonymous volume not removed", logkey.Volume, m.Name, logkey.Err, err)
		}
	}
	if err := failpoint.Hit("container.remove.beforeRecord"); err != nil {
		return err
	}
	return s.d.Records.Delete(rec.ID)
}

// dir is the container's own folder in the state directory.
func (s *Service) dir(id string) string { return filepath.Join(s.d.Settings.Dir, id) }

// runDir is the container's folder in the run-time directory.
func (s *Service) runDir(id string) string { return filepath.Join(s.d.Settings.RunDir, id) }

// conflict is Docker's class for a state that forbids the verb.
func conflict(format string, args ...any) error {
	return fault.New(errdefs.ErrConflict, format, args...)
}
