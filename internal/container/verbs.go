package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Pause freezes a running container.
func (s *Service) Pause(ctx context.Context, name string) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	switch {
	case r.Phase == Paused:
		return conflict("container %s is already paused", r.ID)
	case r.Phase == Restarting:
		return errRestarting(r.ID)
	case !r.Phase.alive():
		return errNotRunning(r.ID)
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.d.Runtime.Pause(ctx, r.ID); err != nil {
		// It may have ended a moment ago, before its exit is handled.
		if st, serr := s.d.Runtime.State(ctx, r.ID, ""); errdefs.IsNotFound(err) || errdefs.IsNotFound(serr) || serr == nil && st.Status == TaskStopped {
			return errNotRunning(r.ID)
		}
		return fmt.Errorf("cannot pause container %s: %w", r.ID, err)
	}
	if err := s.to(c, Paused, "pause", nil); err != nil {
		return errors.Join(err, s.d.Runtime.Resume(ctx, r.ID))
	}
	s.stopHealth(c)
	s.emit(r, events.ActionPause, nil)
	return nil // not written down: the runtime knows, and Restore asks it
}

// Unpause lets a frozen container go on.
func (s *Service) Unpause(ctx context.Context, name string) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	if r.Phase != Paused {
		return conflict("Container %s is not paused", r.ID)
	}
	if err := s.d.Runtime.Resume(context.WithoutCancel(ctx), r.ID); err != nil {
		return fmt.Errorf("Cannot unpause container %s: %w", r.ID, err)
	}
	if err := s.to(c, Running, "unpause", nil); err != nil {
		return err
	}
	s.startHealth(c) //nolint:contextcheck // the checks outlive the request
	s.emit(r, events.ActionUnPause, nil)
	return nil
}

// Rename gives a container another name.
func (s *Service) Rename(ctx context.Context, name, to string) error {
	name, to = strings.TrimSpace(name), strings.TrimSpace(to)
	if strings.TrimPrefix(name, "/") == "" || strings.TrimPrefix(to, "/") == "" {
		return invalid("Neither old nor new names may be empty")
	}
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	switch {
	case c.gone():
		return fault.New(errdefs.ErrNotFound, "No such container: %s", name)
	case r.Phase == Removing || r.Phase == Dead:
		return conflict("container %s is marked for removal and cannot be renamed", r.ID)
	case r.Name == strings.TrimPrefix(to, "/"):
		return invalid("Renaming a container with the same name as its current name")
	}
	fresh, err := s.reserveName(r.ID, to)
	if err != nil {
		return fmt.Errorf("Error when allocating new name: %w", err)
	}
	set := func(n string) {
		c.mu.Lock()
		c.rec.Name = n
		c.mu.Unlock()
	}
	set(fresh)
	err = s.save(c)
	if err == nil && r.Phase.alive() && r.HostConfig.NetworkMode.IsPrivate() {
		if err = s.d.Networks.Rename(context.WithoutCancel(ctx), r.ID, fresh); errdefs.IsNotFound(err) {
			err = nil
		}
	}
	if err != nil {
		set(r.Name)
		s.releaseName(fresh, r.ID)
		return errors.Join(err, s.save(c))
	}
	s.releaseName(r.Name, r.ID)
	s.unnameLinks(r.Name)
	s.nameLinks(fresh, r.Links)
	s.emit(c.record(), events.ActionRename, map[string]string{"oldName": "/" + r.Name})
	return nil
}

// Resize sets the size of the main process's terminal.
func (s *Service) Resize(ctx context.Context, name string, height, width uint32) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	r := c.settled()
	if !r.Phase.alive() {
		return errNotRunning(r.ID)
	}
	if err := s.d.Runtime.Resize(context.WithoutCancel(ctx), r.ID, "", width, height); err != nil {
		return err
	}
	s.emit(r, events.ActionResize, map[string]string{
		"height": strconv.FormatUint(uint64(height), 10), "width": strconv.FormatUint(uint64(width), 10),
	})
	return nil
}

// Changes lists what the container's layer changed over its image.
func (s *Service) Changes(ctx context.Context, name string) ([]container.FilesystemChange, error) {
	c, err := s.lookup(name)
	if err != nil {
		return nil, err
	}
	return s.d.Rootfs.Changes(ctx, c.record().ID)
}

// Update changes resources and the restart policy, of a running container at once.
func (s *Service) Update(ctx context.Context, name string, u container.UpdateConfig) ([]string, error) {
	probe := container.HostConfig{Resources: u.Resources, RestartPolicy: u.RestartPolicy}
	if probe.RestartPolicy.Name == "" {
		probe.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if err := refuseUpdate(&u); err != nil {
		return nil, err
	}
	warnings, err := s.validateHost(&probe, true)
	if err != nil {
		return warnings, err
	}
	u.Resources = probe.Resources
	c, err := s.lookup(name)
	if err != nil {
		return warnings, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	fail := func(err error) ([]string, error) {
		return warnings, fmt.Errorf("Cannot update container %s: %w", r.ID, err)
	}
	if r.Phase == Removing || r.Phase == Dead {
		return fail(conflict("container is marked for removal and cannot be \"update\""))
	}
	updated, err := applyUpdate(*r.HostConfig, u)
	if err != nil {
		return fail(err)
	}
	if r.Phase.alive() {
		io, err := blockIO(&u.Resources)
		if err != nil {
			return fail(err)
		}
		if err := s.d.Runtime.Update(context.WithoutCancel(ctx), r.ID, resources(&u.Resources, io)); err != nil {
			return fail(err)
		}
	}
	c.mu.Lock()
	c.rec.HostConfig = &updated
	c.mu.Unlock()
	if err := s.save(c); err != nil {
		return fail(err)
	}
	s.emit(c.record(), events.ActionUpdate, nil)
	return warnings, nil
}

// refuseUpdate names what cannot be changed after creation.
func refuseUpdate(u *container.UpdateConfig) error {
	switch {
	case len(u.Ulimits) > 0:
		return unserved("update of Ulimits")
	case len(u.Devices) > 0 || len(u.DeviceCgroupRules) > 0:
		return unserved("update of Devices")
	case u.CgroupParent != "":
		return unserved("update of CgroupParent")
	}
	return nil
}

// applyUpdate returns the host config with the update in it, or why the two
// contradict each other.
func applyUpdate(h container.HostConfig, u container.UpdateConfig) (container.HostConfig, error) {
	bad := func(text string) (container.HostConfig, error) { return h, fault.New(errdefs.ErrConflict, "%s", text) }
	switch {
	case u.NanoCPUs > 0 && h.CPUPeriod > 0:
		return bad("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case u.NanoCPUs > 0 && h.CPUQuota > 0:
		return bad("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case u.CPUPeriod > 0 && h.NanoCPUs > 0:
		return bad("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case u.CPUQuota > 0 && h.NanoCPUs > 0:
		return bad("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case u.Memory != 0 && u.MemorySwap == 0 && h.MemorySwap > 0 && u.Memory > h.MemorySwap:
		return bad("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	case u.RestartPolicy.Name != "" && h.AutoRemove && !u.RestartPolicy.IsNone():
		return bad("Restart policy cannot be updated because AutoRemove is enabled for the container")
	}
	for _, f := range []struct {
		to   *int64
		from int64
	}{
		{&h.CPUShares, u.CPUShares},
		{&h.NanoCPUs, u.NanoCPUs},
		{&h.CPUPeriod, u.CPUPeriod},
		{&h.CPUQuota, u.CPUQuota},
		{&h.Memory, u.Memory},
		{&h.MemorySwap, u.MemorySwap},
		{&h.MemoryReservation, u.MemoryReservation},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if u.BlkioWeight != 0 {
		h.BlkioWeight = u.BlkioWeight
	}
	if len(u.BlkioWeightDevice) > 0 {
		h.BlkioWeightDevice = u.BlkioWeightDevice
	}
	for _, l := range []struct {
		to   *[]*blkiodev.ThrottleDevice
		from []*blkiodev.ThrottleDevice
	}{
		{&h.BlkioDeviceReadBps, u.BlkioDeviceReadBps},
		{&h.BlkioDeviceWriteBps, u.BlkioDeviceWriteBps},
		{&h.BlkioDeviceReadIOps, u.BlkioDeviceReadIOps},
		{&h.BlkioDeviceWriteIOps, u.BlkioDeviceWriteIOps},
	} {
		if len(l.from) > 0 {
			*l.to = l.from
		}
	}
	h.CpusetCpus = first(u.CpusetCpus, h.CpusetCpus)
	h.CpusetMems = first(u.CpusetMems, h.CpusetMems)
	if u.PidsLimit != nil {
		h.PidsLimit = u.PidsLimit
	}
	if u.RestartPolicy.Name != "" {
		h.RestartPolicy = u.RestartPolicy
	}
	return h, nil
}
