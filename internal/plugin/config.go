package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/plugin"

	"holdfast.dev/holdfast/internal/base/fault"
)

const maxConfig = 1 << 20 // bytes

// parseConfig reads a plugin's config, from whoever made it.
func parseConfig(b []byte) (plugin.Config, error) {
	var c plugin.Config
	invalid := func(err error) (plugin.Config, error) {
		return plugin.Config{}, fault.Wrap(errdefs.ErrInvalidArgument, err, "the plugin's config")
	}
	if len(b) > maxConfig {
		return invalid(errors.New("is longer than 1 MiB"))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&c); err != nil {
		return invalid(err)
	}
	if d.More() {
		return invalid(errors.New("has something after its end"))
	}
	if err := checkConfig(&c); err != nil {
		return invalid(err)
	}
	return c, nil
}

// checkConfig refuses what cannot be run, or would reach where it must not.
func checkConfig(c *plugin.Config) error {
	s := c.Interface.Socket
	switch {
	case len(c.Entrypoint) == 0 || c.Entrypoint[0] == "":
		return errors.New("names no entrypoint")
	case s == "" || s != path.Base(s) || s == "." || s == ".." || len(s) > 64:
		return errors.New("interface.socket must be the plain name of a socket")
	case c.PropagatedMount != "" && (!path.IsAbs(c.PropagatedMount) || path.Clean(c.PropagatedMount) == "/"):
		return errors.New("propagatedMount must be an absolute path below /")
	}
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Destination) {
			return errors.New("the destination of a mount must be an absolute path")
		}
	}
	return nil
}

// unserved names the first interface of a config that the engine has no use for.
func unserved(c *plugin.Config) string {
	for _, t := range c.Interface.Types {
		if t.Prefix != "docker" || t.Capability != "volumedriver" {
			return t.String()
		}
	}
	return ""
}

// implements says whether a config has a capability.
func implements(c *plugin.Config, capability string) bool {
	return slices.ContainsFunc(c.Interface.Types, func(t plugin.CapabilityID) bool { return t.Capability == capability })
}

// privileges lists what a plugin wants beyond a process of its own. Names and
// texts are those that clients show.
func privileges(c *plugin.Config) plugin.Privileges {
	out := plugin.Privileges{}
	add := func(name, description string, value ...string) {
		out = append(out, plugin.Privilege{Name: name, Description: description, Value: value})
	}
	if n := c.Network.Type; n != "" && n != "null" && n != "bridge" {
		add("network", "permissions to access a network", n)
	}
	if c.IpcHost {
		add("host ipc namespace", "allow access to host ipc namespace", "true")
	}
	if c.PidHost {
		add("host pid namespace", "allow access to host pid namespace", "true")
	}
	for _, m := range c.Mounts {
		if m.Source != nil {
			add("mount", "host path to mount", *m.Source)
		}
	}
	for _, d := range c.Linux.Devices {
		if d.Path != nil {
			add("device", "host device to access", *d.Path)
		}
	}
	if c.Linux.AllowAllDevices {
		add("allow-all-devices", "allow 'rwm' access to all devices", "true")
	}
	if len(c.Linux.Capabilities) > 0 {
		add("capabilities", "list of additional capabilities required", c.Linux.Capabilities...)
	}
	return out
}

// samePrivileges says whether exactly what is wanted was granted, in any order.
func samePrivileges(want, granted plugin.Privileges) bool {
	keys := func(ps plugin.Privileges) []string {
		out := make([]string, 0, len(ps))
		for _, p := range ps {
			v := slices.Clone(p.Value)
			slices.Sort(v)
			out = append(out, p.Name+"\x00"+strings.Join(v, "\x00"))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(keys(want), keys(granted))
}

// settingsOf are a new plugin's settings.
func settingsOf(c *plugin.Config) plugin.Settings {
	s := plugin.Settings{
		Mounts: []plugin.Mount{}, Devices: []plugin.Device{}, Env: []string{},
		Args: append([]string{}, c.Args.Value...),
	}
	for _, m := range c.Mounts {
		m.Source = clone(m.Source)
		s.Mounts = append(s.Mounts, m)
	}
	for _, d := range c.Linux.Devices {
		d.Path = clone(d.Path)
		s.Devices = append(s.Devices, d)
	}
	for _, e := range c.Env {
		if e.Value != nil {
			s.Env = append(s.Env, e.Name+"="+*e.Value)
		}
	}
	return s
}

func clone(s *string) *string {
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

// set returns settings with NAME=VALUE or NAME.FIELD=VALUE applied, in their
// order; all of them or none.
func set(c *plugin.Config, s plugin.Settings, args []string) (plugin.Settings, error) {
	s.Env, s.Args = slices.Clone(s.Env), slices.Clone(s.Args)
	s.Mounts, s.Devices = slices.Clone(s.Mounts), slices.Clone(s.Devices)
	for _, a := range args {
		if err := setOne(c, &s, a); err != nil {
			return plugin.Settings{}, err
		}
	}
	return s, nil
}

func setOne(c *plugin.Config, s *plugin.Settings, arg string) error {
	key, value, ok := strings.Cut(arg, "=")
	name, field, _ := strings.Cut(key, ".")
	if name == "" || (!ok && field != "") {
		return fault.New(errdefs.ErrInvalidArgument, "invalid plugin setting %q: NAME=VALUE or NAME.FIELD=VALUE is wanted", arg)
	}
	// may says whether the field, by default the one that its kind has, is settable.
	may := func(own string, settable []string) error {
		f := field
		if f == "" {
			f = own
		}
		if f != own || !slices.Contains(settable, f) {
			return fault.New(errdefs.ErrInvalidArgument, "%q is not settable", key)
		}
		return nil
	}
	for _, e := range c.Env {
		if e.Name != name {
			continue
		}
		if err := may("value", e.Settable); err != nil {
			return err
		}
		s.Env = slices.DeleteFunc(s.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		if ok { // a name alone takes the variable away
			s.Env = append(s.Env, name+"="+value)
		}
		return nil
	}
	for i := range s.Mounts {
		if s.Mounts[i].Name != name {
			continue
		}
		if err := may("source", s.Mounts[i].Settable); err != nil {
			return err
		}
		s.Mounts[i].Source = &value
		return nil
	}
	for i := range s.Devices {
		if s.Devices[i].Name != name {
			continue
		}
		if err := may("path", s.Devices[i].Settable); err != nil {
			return err
		}
		s.Devices[i].Path = &value
		return nil
	}
	if c.Args.Name == name {
		if err := may("value", c.Args.Settable); err != nil {
			return err
		}
		s.Args = strings.Fields(value)
		return nil
	}
	return fault.New(errdefs.ErrInvalidArgument, "setting %q not found in the plugin configuration", name)
}
