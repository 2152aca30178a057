package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
)

// planMounts lists a new container's mounts: those of other containers first,
// then -v, then --mount, each replacing the former at the same place; last the
// volumes that the image or the config declares.
func (s *Service) planMounts(rec *Record) ([]Mount, error) {
	h := rec.HostConfig
	at := map[string]Mount{}
	for _, spec := range h.VolumesFrom {
		name, readOnly, err := parseVolumesFrom(spec)
		if err != nil {
			return nil, err
		}
		c, err := s.lookup(name)
		if err != nil {
			return nil, invalid("%s", err)
		}
		for _, m := range c.record().Mounts {
			m.ReadOnly = m.ReadOnly || readOnly
			m.NoCopy = true
			at[m.Target] = m
		}
	}
	asked := map[string]bool{}
	for _, spec := range h.Binds {
		m, err := parseBind(spec, h.VolumeDriver)
		if err != nil {
			return nil, err
		}
		if err := s.guardRoot(&m); err != nil {
			return nil, err
		}
		if _, tmpfs := h.Tmpfs[m.Target]; tmpfs || asked[m.Target] {
			return nil, duplicateMount(m.Target)
		}
		asked[m.Target] = true
		at[m.Target] = m
	}
	for _, req := range h.Mounts {
		m := mountOf(req)
		if err := s.guardRoot(&m); err != nil {
			return nil, err
		}
		if asked[m.Target] {
			return nil, duplicateMount(req.Target)
		}
		asked[m.Target] = true
		at[m.Target] = m
	}
	for target := range rec.Config.Volumes {
		if err := validateTarget(target); err != nil {
			return nil, err
		}
		target = path.Clean(target)
		_, tmpfs := h.Tmpfs[target]
		if _, taken := at[target]; taken || tmpfs {
			continue
		}
		at[target] = Mount{Type: mount.TypeVolume, Target: target, Driver: h.VolumeDriver, Anonymous: true}
	}
	out := make([]Mount, 0, len(at))
	for _, m := range at {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Mount) int { return cmp.Compare(a.Target, b.Target) })
	return out, nil
}

// guardRoot has a bind of a place with the daemon's own mounts in it follow what
// the host unmounts there: a copy of such a mount that a container keeps would
// make the daemon's removals fail.
func (s *Service) guardRoot(m *Mount) error {
	if m.Type != mount.TypeBind || !s.aboutRoot(m.Source) {
		return nil
	}
	switch asked := m.askedPropagation(); asked {
	case "":
		m.Propagation = mount.PropagationRSlave
	case mount.PropagationRSlave, mount.PropagationRShared:
	default:
		return invalid(`invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within the daemon root, `+
			`daemon root: %q, bind mount source: %q, propagation: %q`, s.rootDir(), m.Source, asked)
	}
	return nil
}

// rootDir is the daemon's root: the folder that has the containers' folder.
func (s *Service) rootDir() string { return filepath.Dir(s.d.Settings.Dir) }

// aboutRoot tells whether a path is in the daemon's root or above it.
func (s *Service) aboutRoot(p string) bool {
	within := func(in, p string) bool {
		rel, err := filepath.Rel(in, p)
		return err == nil && filepath.IsLocal(rel)
	}
	return within(s.rootDir(), p) || within(p, s.rootDir())
}

// acquireVolumes finds or creates the volumes and writes into the record what
// they are. On failure the record tells which ones are held.
func (s *Service) acquireVolumes(ctx context.Context, rec *Record) error {
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		if m.Type != mount.TypeVolume {
			continue
		}
		req := VolumeRequest{Name: m.Name, Driver: m.Driver, Container: rec.ID}
		if m.Options != nil && m.Options.VolumeOptions != nil {
			req.Labels = m.Options.VolumeOptions.Labels
			if d := m.Options.VolumeOptions.DriverConfig; d != nil {
				req.Options = d.Options
			}
		}
		v, err := s.d.Volumes.Acquire(ctx, req)
		if err == nil && v.ReadOnly && !m.ReadOnly {
			err = errors.Join(
				invalid("%s is a snapshot and read-only: mount it with ro, or clone it", v.Name),
				s.d.Volumes.Release(ctx, v.Name, rec.ID))
		}
		if err != nil {
			for j := i; j < len(rec.Mounts); j++ {
				rec.Mounts[j].Name = "" // not held
			}
			if errdefs.IsNotFound(err) { // the driver; clients would take the image for missing
				return invalid("%s", err)
			}
			return err
		}
		m.Name, m.Driver, m.Source = v.Name, v.Driver, v.Source
		m.Anonymous = m.Anonymous || v.Anonymous
		m.NoCopy = m.NoCopy || v.ReadOnly
	}
	return nil
}

// populates says whether image content may have to be copied into the mount.
func populates(m Mount) bool {
	return m.Type == mount.TypeVolume && !m.NoCopy
}

// populate copies what the image has at the place of each volume into it, where
// the volume is empty.
func (s *Service) populate(ctx context.Context, rec *Record) error {
	layer, err := s.d.Rootfs.Mount(ctx, rec.ID)
	if err != nil {
		return err
	}
	if err := makeWorkdir(layer.Merged, rec.Config.WorkingDir); err != nil {
		return err
	}
	for _, m := range rec.Mounts {
		if !populates(m) {
			continue
		}
		src, err := inRoot(layer.Merged, m.Target)
		if err != nil {
			return fmt.Errorf("find %s in the image: %w", m.Target, err)
		}
		st, err := os.Stat(src)
		switch {
		case os.IsNotExist(err):
			continue
		case err != nil:
			return fmt.Errorf("find %s in the image: %w", m.Target, err)
		case !st.IsDir() && m.Anonymous:
			return invalid("cannot mount volume over existing file, file exists %s", m.Target)
		case !st.IsDir():
			continue
		}
		if err := s.d.Volumes.Populate(ctx, m.Name, rec.ID, src, m.Subpath); err != nil {
			return fmt.Errorf("failed to populate volume: %w", err)
		}
	}
	return s.d.Rootfs.Unmount(ctx, rec.ID)
}
