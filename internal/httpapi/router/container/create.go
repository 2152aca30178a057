package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// maxCreateBody bounds the request body of create.
const maxCreateBody = 8 << 20

// creation is a create request being brought to the newest version's form.
type creation struct {
	version func(atLeast string) bool
	cfg     *container.Config
	host    *container.HostConfig
	net     *network.NetworkingConfig
	// legacy are fields that the current types no longer have.
	legacy struct {
		MacAddress network.HardwareAddr
		HostConfig struct {
			Capabilities []string
		}
	}
	warnings []string
}

func (rt *Router) create(w http.ResponseWriter, r *http.Request) error {
	c, err := rt.decodeCreate(r) //nolint:contextcheck // its closure asks the request for the version
	if err != nil {
		return err
	}
	in := domain.CreateOptions{
		Name:       r.Form.Get("name"),
		Config:     c.cfg,
		HostConfig: c.host,
		Networking: c.net,
	}
	if v := r.Form.Get("platform"); v != "" && c.version("1.41") {
		p, err := platforms.Parse(v)
		if err != nil {
			return invalid("%v", err)
		}
		in.Platform = &p
	}
	out, err := rt.containers.Create(r.Context(), in)
	if err != nil {
		return err
	}
	out.Warnings = append(out.Warnings, c.warnings...)
	if out.Warnings == nil {
		out.Warnings = []string{}
	}
	return route.JSON(w, http.StatusCreated, out)
}

func (rt *Router) decodeCreate(r *http.Request) (*creation, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxCreateBody+1))
	if err != nil {
		return nil, invalid("%v", err)
	}
	if len(body) > maxCreateBody {
		return nil, invalid("invalid JSON: http: request body too large")
	}
	if len(bytes.TrimSpace(body)) == 0 { // Docker has other words for it here than elsewhere
		return nil, invalid("invalid JSON: EOF")
	}
	var req container.CreateRequest
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := route.Decode(r, &req, false); err != nil {
		return nil, err
	}
	if req.Config == nil {
		return nil, invalid("config cannot be empty in order to create a container")
	}
	c := &creation{
		version: func(v string) bool { return route.AtLeast(r.Context(), v) },
		cfg:     req.Config, host: req.HostConfig, net: req.NetworkingConfig,
	}
	// Of fields that no longer are, one of another type is none of ours.
	_ = json.Unmarshal(body, &c.legacy)
	c.defaults()
	for _, step := range []func() error{
		c.mounts, c.endpoints, c.macAddress, c.sysctls,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	c.older(rt.cgroups)
	c.volumeDriver()
	c.ports()
	return c, nil
}

// defaults fills in what a client may leave out.
func (c *creation) defaults() {
	if c.cfg.Volumes == nil {
		c.cfg.Volumes = map[string]struct{}{}
	}
	if c.host == nil {
		c.host = &container.HostConfig{}
	}
	if c.host.PortBindings == nil {
		c.host.PortBindings = network.PortMap{}
	}
	if c.net == nil {
		c.net = &network.NetworkingConfig{}
	}
	if c.net.EndpointsConfig == nil {
		c.net.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	for name, ep := range c.net.EndpointsConfig {
		if ep == nil {
			c.net.EndpointsConfig[name] = &network.EndpointSettings{}
		}
	}
	if c.host.NetworkMode == "" || c.host.NetworkMode.IsDefault() {
		c.host.NetworkMode = network.NetworkBridge
		if ep, ok := c.net.EndpointsConfig[network.NetworkDefault]; ok {
			c.net.EndpointsConfig[network.NetworkBridge] = ep
			delete(c.net.EndpointsConfig, network.NetworkDefault)
		}
	}
	if c.host.PidsLimit != nil && *c.host.PidsLimit <= 0 {
		c.host.PidsLimit = nil
	}
}

// older drops fields that came after the request's version, and sets what that
// version took for granted.
func (c *creation) older(cgroups int) {
	if !c.version("1.40") && c.host.IpcMode.IsEmpty() {
		c.host.IpcMode = container.IPCModeShareable
	}
	if !c.version("1.41") && c.host.CgroupnsMode.IsEmpty() && cgroups == 1 {
		c.host.CgroupnsMode = container.CgroupnsModeHost
	}
	if !c.version("1.42") {
		c.host.ConsoleSize = [2]uint{}
	}
	if !c.version("1.43") {
		c.host.Annotations = nil
	}
	if !c.version("1.44") && c.cfg.Healthcheck != nil {
		c.cfg.Healthcheck.StartInterval = 0
	}
}

func (c *creation) mounts() error {
	for i := range c.host.Mounts {
		m := &c.host.Mounts[i]
		if !c.version("1.42") {
			if m.Type != mount.TypeVolume {
				m.VolumeOptions = nil
			}
			if m.Type != mount.TypeTmpfs {
				m.TmpfsOptions = nil
			}
		}
		if err := c.checkMount(m); err != nil {
			return err
		}
		if m.BindOptions == nil {
			continue
		}
		if !c.version("1.40") {
			m.BindOptions.NonRecursive = false
		}
		if !c.version("1.42") {
			m.BindOptions.CreateMountpoint = false
		}
		if !c.version("1.44") {
			// Read-only binds were not recursive then.
			m.BindOptions.ReadOnlyNonRecursive = m.ReadOnly
		}
	}
	return nil
}

func (c *creation) checkMount(m *mount.Mount) error {
	if c.version("1.42") {
		for _, o := range []struct {
			name string
			has  bool
			only mount.Type
		}{
			{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
			{"BindOptions", m.BindOptions != nil, mount.TypeBind},
			{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
		} {
			if o.has && m.Type != o.only {
				return invalid("%s must not be specified on mount type %q", o.name, m.Type)
			}
		}
	}
	switch {
	case !c.version("1.44") && m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive:
		return invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
	case !c.version("1.45") && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "":
		return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
	case !c.version("1.48") && m.Type == mount.TypeImage:
		return invalid(`Mount type "Image" needs API v1.48 or newer`)
	}
	return nil
}

func (c *creation) endpoints() error {
	if !c.version("1.44") && len(c.net.EndpointsConfig) > 1 {
		var names []string
		for name := range c.net.EndpointsConfig {
			names = append(names, name)
		}
		slices.Sort(names)
		return invalid("Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
	}
	if !c.version("1.48") {
		for _, ep := range c.net.EndpointsConfig {
			ep.GwPriority = 0
		}
	}
	return nil
}

// main finds, or makes, the endpoint that container-wide settings of old
// versions are meant for.
func (c *creation) main() (*network.EndpointSettings, error) {
	name := c.host.NetworkMode.NetworkName()
	if len(c.net.EndpointsConfig) == 0 {
		ep := &network.EndpointSettings{}
		c.net.EndpointsConfig[name] = ep
		return ep, nil
	}
	if !c.version("1.44") {
		for _, ep := range c.net.EndpointsConfig {
			return ep, nil // there is one at most
		}
	}
	ep, ok := c.net.EndpointsConfig[name]
	if !ok {
		return nil, invalid("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
	}
	return ep, nil
}

// macAddress brings the container-wide address of old versions to its endpoint.
func (c *creation) macAddress() error {
	if c.version("1.52") {
		if len(c.legacy.MacAddress) > 0 {
			return invalid("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
		}
		return nil
	}
	if len(c.legacy.HostConfig.Capabilities) > 0 && c.version("1.40") && !c.version("1.41") {
		return invalid("the HostConfig.Capabilities field is not supported by this daemon; use CapAdd and CapDrop to set capabilities")
	}
	mac, mode := c.legacy.MacAddress, c.host.NetworkMode
	joins := mode.IsBridge() || mode.IsUserDefined()
	if !c.version("1.44") {
		if len(mac) == 0 {
			for _, ep := range c.net.EndpointsConfig {
				ep.MacAddress = nil // that version did not know it
			}
			return nil
		}
		if !joins {
			return invalid("conflicting options: mac-address and the network mode")
		}
		ep, err := c.main()
		if err != nil {
			return err
		}
		ep.MacAddress = mac
		return nil
	}
	if len(mac) == 0 {
		return nil
	}
	c.warn("The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.")
	if !joins {
		return nil
	}
	ep, err := c.main()
	if err != nil {
		return invalid("unable to migrate container-wide MAC address to a specific network: %v", err)
	}
	if len(ep.MacAddress) > 0 && !slices.Equal(ep.MacAddress, mac) {
		return invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	ep.MacAddress = mac
	return nil
}

// endpointSysctls is the driver option that holds an endpoint's sysctls.
const endpointSysctls = "com.docker.network.endpoint.sysctls"

// sysctls brings settings of one interface to its endpoint: they can be made
// only once the interface is there. Up to 1.47 that is done for eth0.
func (c *creation) sysctls() error {
	if !c.host.NetworkMode.IsPrivate() {
		return nil
	}
	var moved, settings []string
	for key, v := range c.host.Sysctls {
		part := strings.SplitN(key, ".", 5)
		if len(part) != 5 || part[0] != "net" || !strings.HasPrefix(part[3], "eth") {
			continue
		}
		if c.version("1.48") {
			return invalid("interface specific sysctl setting %q must be supplied using driver option '%s'", key, endpointSysctls)
		}
		if part[3] != "eth0" {
			return invalid("unable to determine network endpoint for sysctl %s, use driver option '%s' to set per-interface sysctls", key, endpointSysctls)
		}
		moved = append(moved, key)
		settings = append(settings, fmt.Sprintf("net.%s.%s.IFNAME.%s=%s", part[1], part[2], part[4], v))
	}
	if len(moved) == 0 {
		return nil
	}
	slices.Sort(moved)
	slices.Sort(settings)
	ep, err := c.main()
	if err != nil {
		return invalid("unable to find a network for sysctl %s: %v", moved[0], err)
	}
	all := strings.Join(settings, ",")
	c.warn(fmt.Sprintf("Migrated sysctl %q to DriverOpts{%q:%q}.", strings.Join(moved, ","), endpointSysctls, all))
	if ep.DriverOpts == nil {
		ep.DriverOpts = map[string]string{}
	}
	if old := ep.DriverOpts[endpointSysctls]; old != "" {
		all += "," + old
	}
	ep.DriverOpts[endpointSysctls] = all
	for _, key := range moved {
		delete(c.host.Sysctls, key)
	}
	return nil
}

func (c *creation) volumeDriver() {
	if c.host.VolumeDriver == "" || !c.version("1.48") {
		return
	}
	for _, m := range c.host.Mounts {
		own := m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil && m.VolumeOptions.DriverConfig.Name != ""
		if m.Type == mount.TypeVolume && !own {
			c.warn("WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead")
			return
		}
	}
}

// ports takes an empty list of bindings for one binding without wishes, as
// engines always did.
func (c *creation) ports() {
	var empty []string
	for port, bindings := range c.host.PortBindings {
		if len(bindings) == 0 {
			c.host.PortBindings[port] = []network.PortBinding{{}}
			empty = append(empty, port.String())
		}
	}
	if len(empty) > 0 && c.version("1.52") {
		slices.Sort(empty)
		c.warn(fmt.Sprintf("Following container port(s) have an empty list of port-bindings: %s. Such bindings will be discarded in a future version.", strings.Join(empty, ", ")))
	}
}

func (c *creation) warn(text string) { c.warnings = append(c.warnings, text) }
