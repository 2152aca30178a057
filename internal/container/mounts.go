package container

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"
)

func validateTarget(p string) error {
	if !path.IsAbs(p) {
		return invalid("invalid mount path: '%s' mount path must be absolute", p)
	}
	if path.Clean(p) == "/" {
		return invalid("invalid specification: destination can't be '/'")
	}
	return nil
}

// validateMount checks one entry of HostConfig.Mounts, in Docker's words.
func (s *Service) validateMount(m *mount.Mount) error {
	if err := checkMount(m, s.d.Host.Exists); err != nil {
		return invalid("invalid mount config for type %q: %s", m.Type, err)
	}
	return nil
}

func checkMount(m *mount.Mount, exists func(string) bool) error {
	for _, f := range []struct {
		kind mount.Type
		set  bool
		name string
	}{
		{mount.TypeBind, m.BindOptions != nil, "BindOptions"},
		{mount.TypeVolume, m.VolumeOptions != nil, "VolumeOptions"},
		{mount.TypeImage, m.ImageOptions != nil, "ImageOptions"},
		{mount.TypeTmpfs, m.TmpfsOptions != nil, "TmpfsOptions"},
		{mount.TypeCluster, m.ClusterOptions != nil, "ClusterOptions"},
	} {
		if f.set && m.Type != f.kind {
			return fmt.Errorf("field %s must not be specified", f.name)
		}
	}
	if m.Target == "" {
		return fmt.Errorf("field Target must not be empty")
	}
	if err := validateTarget(m.Target); err != nil {
		return err
	}
	switch m.Type {
	case mount.TypeBind:
		return checkBind(m, exists)
	case mount.TypeVolume:
		return checkVolumeMount(m)
	case mount.TypeTmpfs:
		if m.Source != "" {
			return fmt.Errorf("field Source must not be specified")
		}
		_, err := tmpfsOptions(m)
		return err
	case mount.TypeImage:
		return checkImageMount(m)
	case mount.TypeCluster, mount.TypeNamedPipe:
		return unserved("--mount type=%s", m.Type)
	}
	return fmt.Errorf("mount type unknown")
}

func checkBind(m *mount.Mount, exists func(string) bool) error {
	if m.Source == "" {
		return fmt.Errorf("field Source must not be empty")
	}
	o := m.BindOptions
	if o != nil && o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation) {
		return fmt.Errorf("invalid propagation mode: %s", o.Propagation)
	}
	if o != nil && o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive {
		return fmt.Errorf("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
	}
	if !path.IsAbs(m.Source) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source)
	}
	if !exists(m.Source) && (o == nil || !o.CreateMountpoint) {
		return fmt.Errorf("bind source path does not exist: %s", m.Source)
	}
	return nil
}

func checkVolumeMount(m *mount.Mount) error {
	if m.VolumeOptions == nil || m.VolumeOptions.Subpath == "" {
		return nil
	}
	if m.Source == "" {
		return fmt.Errorf("must not set Subpath when using anonymous volumes")
	}
	if !filepath.IsLocal(m.VolumeOptions.Subpath) {
		return fmt.Errorf("subpath must be a relative path within the volume")
	}
	return nil
}

func checkImageMount(m *mount.Mount) error {
	if m.Source == "" {
		return fmt.Errorf("field Source must not be empty")
	}
	if o := m.ImageOptions; o != nil && o.Subpath != "" && !filepath.IsLocal(o.Subpath) {
		return fmt.Errorf("subpath must be a relative path within the image")
	}
	return nil
}

// tmpfsOptions turns a tmpfs mount's options into those of mount(8).
func tmpfsOptions(m *mount.Mount) ([]string, error) {
	var out []string
	if m.ReadOnly {
		out = append(out, "ro")
	}
	o := m.TmpfsOptions
	if o == nil {
		return out, nil
	}
	if o.Mode != 0 {
		out = append(out, fmt.Sprintf("mode=%o", o.Mode))
	}
	if o.SizeBytes < 0 {
		return nil, fmt.Errorf("invalid tmpfs size: %d", o.SizeBytes)
	}
	if o.SizeBytes > 0 {
		out = append(out, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	for _, kv := range o.Options {
		if len(kv) < 1 || len(kv) > 2 {
			return nil, fmt.Errorf("invalid option array length")
		}
		if kv[0] != "exec" && kv[0] != "noexec" {
			return nil, fmt.Errorf("invalid option: %s", kv[0])
		}
		out = append(out, strings.Join(kv, "="))
	}
	return out, nil
}

// bindMode is the third part of -v, parsed.
type bindMode struct {
	readOnly    bool
	noCopy      bool
	propagation mount.Propagation
}

// parseMode reads "ro,z,rslave,nocopy": at most one word of each kind.
func parseMode(mode string) (bindMode, error) {
	var out bindMode
	if mode == "" {
		return out, nil
	}
	seen := map[string]bool{}
	for word := range strings.SplitSeq(mode, ",") {
		var kind string
		switch word {
		case "rw", "ro":
			kind = "rw"
			out.readOnly = word == "ro"
		case "z", "Z": // SELinux labels: accepted, there is nothing to label
			kind = "label"
		case "nocopy":
			kind = "copy"
			out.noCopy = true
		case "consistent", "cached", "delegated":
			kind = "consistency"
		default:
			if !slices.Contains(mount.Propagations, mount.Propagation(word)) {
				return out, invalid("invalid mode: %s", mode)
			}
			kind = "propagation"
			out.propagation = mount.Propagation(word)
		}
		if seen[kind] {
			return out, invalid("invalid mode: %s", mode)
		}
		seen[kind] = true
	}
	return out, nil
}

// parseBind reads one -v specification.
func parseBind(spec, volumeDriver string) (Mount, error) {
	bad := func() error { return invalid("invalid volume specification: '%s'", spec) }
	parts := strings.SplitN(spec, ":", 4)
	if parts[0] == "" || len(parts) > 3 {
		return Mount{}, bad()
	}
	var m Mount
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		if _, err := parseMode(parts[1]); err == nil {
			return Mount{}, bad() // "/foo:rw" has no source
		}
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, m.Mode = parts[0], parts[1], parts[2]
	}
	mode, err := parseMode(m.Mode)
	if err != nil {
		return Mount{}, err
	}
	if err := validateTarget(m.Target); err != nil {
		return Mount{}, invalid("invalid volume specification: '%s': %s", spec, err)
	}
	m.Target = path.Clean(m.Target)
	m.ReadOnly, m.NoCopy, m.Propagation = mode.readOnly, mode.noCopy, mode.propagation
	if path.IsAbs(m.Source) {
		if mode.noCopy {
			return Mount{}, invalid("invalid volume specification: '%s': invalid mount config for type \"bind\": field VolumeOptions must not be specified", spec)
		}
		m.Type = mount.TypeBind
		m.Source = path.Clean(m.Source)
		if m.Propagation == "" {
			m.Propagation = mount.PropagationRPrivate
		}
		return m, nil
	}
	if mode.propagation != "" {
		return Mount{}, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": field BindOptions must not be specified", spec)
	}
	m.Type = mount.TypeVolume
	m.Name, m.Source = m.Source, ""
	m.Driver = volumeDriver
	m.Anonymous = m.Name == ""
	return m, nil
}

// askedPropagation is what the user said about a bind's propagation; empty: nothing.
func (m *Mount) askedPropagation() mount.Propagation {
	if m.Options != nil {
		if o := m.Options.BindOptions; o != nil {
			return o.Propagation
		}
		return ""
	}
	mode, err := parseMode(m.Mode)
	if err != nil {
		return ""
	}
	return mode.propagation
}

// mountOf turns a checked entry of HostConfig.Mounts into a Mount.
func mountOf(req mount.Mount) Mount {
	m := Mount{Type: req.Type, Target: path.Clean(req.Target), ReadOnly: req.ReadOnly, Options: &req}
	switch req.Type {
	case mount.TypeBind:
		m.Source = path.Clean(req.Source)
		m.Propagation = mount.PropagationRPrivate
		if o := req.BindOptions; o != nil && o.Propagation != "" {
			m.Propagation = o.Propagation
		}
	case mount.TypeVolume:
		m.Name = req.Source
		m.Anonymous = req.Source == ""
		if o := req.VolumeOptions; o != nil {
			m.NoCopy = o.NoCopy
			m.Subpath = o.Subpath
			if o.DriverConfig != nil {
				m.Driver = o.DriverConfig.Name
			}
		}
	case mount.TypeImage:
		m.Source = req.Source
		m.ReadOnly = true // always, whatever was asked
		if o := req.ImageOptions; o != nil {
			m.Subpath = o.Subpath
		}
	default: // the others have nothing more to say
	}
	return m
}

// parseVolumesFrom reads "container[:ro|rw|z|Z]".
func parseVolumesFrom(spec string) (name string, readOnly bool, err error) {
	if spec == "" {
		return "", false, invalid("volumes-from specification cannot be an empty string")
	}
	name, mode, _ := strings.Cut(spec, ":")
	m, err := parseMode(mode)
	if err == nil && (m.propagation != "" || m.noCopy) {
		err = invalid("invalid mode: %s", mode)
	}
	return name, m.readOnly, err
}

func duplicateMount(target string) error {
	return invalid("Duplicate mount point: %s", target)
}

// pathExists is how the real Host answers Exists: a path that cannot be looked
// at is not called missing.
func pathExists(p string) bool {
	_, err := os.Lstat(p)
	return !os.IsNotExist(err)
}
