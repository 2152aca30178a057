package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	execOptCgroup = "native.cgroupdriver"
	// socketPathLimit keeps room below exec-root for the sockets and fifos of
	// containers: a unix socket's path may have 107 characters.
	socketPathLimit = 60
)

// Check refuses what cannot work, before anything is touched.
func (c *Config) Check() error {
	return errors.Join(
		c.checkPaths(),
		c.checkAPI(),
		c.checkContainers(),
		c.checkNetwork(),
		c.checkRegistries(),
		c.StoragePolicy.Check(),
		c.Backup.Check(),
		c.checkDashboard(),
	)
}

func (c *Config) checkDashboard() error {
	if c.DashboardAddr == "" {
		return nil
	}
	if _, port, err := net.SplitHostPort(c.DashboardAddr); err != nil || port == "" {
		return fmt.Errorf("invalid dashboard-addr %q: want address:port, as 127.0.0.1:2380", c.DashboardAddr)
	}
	return nil
}

func oneOf(key, v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("invalid %s %q: want one of %s", key, v, strings.Join(allowed, ", "))
}

func (c *Config) checkPaths() error {
	var errs []error
	for key, p := range map[string]string{"data-root": c.Root, "exec-root": c.ExecRoot} {
		if !filepath.IsAbs(p) {
			errs = append(errs, fmt.Errorf("invalid %s %q: must be an absolute path", key, p))
		}
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.ExecRoot) {
		errs = append(errs, errors.New("data-root and exec-root must be different directories"))
	}
	if len(c.ExecRoot) > socketPathLimit {
		errs = append(errs, fmt.Errorf("invalid exec-root %q: longer than %d characters leaves no room for the sockets below it", c.ExecRoot, socketPathLimit))
	}
	if c.VolumeTrashDays < 0 || c.VolumeTrashDays > 3650 {
		errs = append(errs, fmt.Errorf("invalid volume-trash-days %d: want 0 (no trash) to 3650", c.VolumeTrashDays))
	}
	if c.VolumeTrashMinFree < 0 || c.VolumeTrashMinFree > 90 {
		errs = append(errs, fmt.Errorf("invalid volume-trash-min-free %d: want a percentage from 0 to 90", c.VolumeTrashMinFree))
	}
	errs = append(errs, oneOf("volume-preflight", c.VolumePreflight, "warn", "refuse", "off"))
	errs = append(errs, oneOf("default-volume-driver", c.DefaultVolumeDriver, "local", "btrfs"))
	if c.StorageDriver != "" && c.StorageDriver != "overlayfs" {
		errs = append(errs, fmt.Errorf("invalid storage-driver %q: only overlayfs is supported", c.StorageDriver))
	}
	return errors.Join(errs...)
}

func (c *Config) checkAPI() error {
	errs := []error{
		oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error"),
		oneOf("log-format", c.LogFormat, "text", "json"),
	}
	if len(c.Hosts) == 0 {
		errs = append(errs, errors.New("hosts is empty: nothing could talk to the daemon"))
	}
	tcp := false
	for _, h := range c.Hosts {
		proto, at, ok := strings.Cut(h, "://")
		switch {
		case !ok || !slices.Contains([]string{"unix", "tcp", "fd"}, proto):
			errs = append(errs, fmt.Errorf("invalid host %q: want unix:///path, tcp://host:port or fd://", h))
		case proto == "unix" && !filepath.IsAbs(at):
			errs = append(errs, fmt.Errorf("invalid host %q: the path of the socket must be absolute", h))
		case proto == "tcp":
			tcp = true
			if _, _, err := net.SplitHostPort(at); err != nil {
				errs = append(errs, fmt.Errorf("invalid host %q: %w", h, err))
			}
		}
	}
	if tcp {
		errs = append(errs, c.checkTCP())
	}
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			errs = append(errs, fmt.Errorf("bad attribute format: %s", l))
		}
	}
	if c.ShutdownTimeout < -1 {
		errs = append(errs, fmt.Errorf("invalid shutdown-timeout %d: want -1 (no limit) or more", c.ShutdownTimeout))
	}
	return errors.Join(errs...)
}

// checkTCP holds that the API is open to the network without client
// certificates only where the user wrote so: whoever reaches it is root here.
func (c *Config) checkTCP() error {
	switch {
	case isTrue(c.TLSVerify), c.PlainTCP():
		return nil
	case !c.UseTLS():
		return errors.New("tcp needs mutual TLS: give --tlsverify with --tlscacert, --tlscert and --tlskey (or insist on an open port, where anyone who reaches it is root here, with --tls=false)")
	case c.TLSVerify == nil:
		return errors.New("--tls alone lets in clients without a certificate: give --tlsverify (or insist with --tls --tlsverify=false)")
	}
	return nil
}

func (c *Config) checkContainers() error {
	errs := []error{
		oneOf("log-driver", c.LogDriver, "json-file", "local", "none", "syslog", "journald"),
		oneOf("default-cgroupns-mode", c.CgroupNamespaceMode, "", "host", "private"),
		oneOf("default-ipc-mode", c.IpcMode, "private", "shareable"),
	}
	if c.ShmSize <= 0 {
		errs = append(errs, fmt.Errorf("invalid default-shm-size %d: must be more than 0", c.ShmSize))
	}
	if c.StopTimeout < -1 {
		errs = append(errs, fmt.Errorf("invalid default-stop-timeout %d: want -1 (no limit) or more", c.StopTimeout))
	}
	for name, u := range c.Ulimits {
		if u.Hard != -1 && u.Soft > u.Hard {
			errs = append(errs, fmt.Errorf("invalid default-ulimits: %s: soft limit %d is above the hard limit %d", name, u.Soft, u.Hard))
		}
	}
	if s := c.SeccompProfile; s != "" && s != "builtin" && s != "unconfined" && !filepath.IsAbs(s) {
		errs = append(errs, fmt.Errorf("invalid seccomp-profile %q: want builtin, unconfined or an absolute path", s))
	}
	for _, o := range c.ExecOpts {
		k, v, _ := strings.Cut(o, "=")
		if k != execOptCgroup {
			errs = append(errs, fmt.Errorf("invalid exec-opt %q: only %s is known", o, execOptCgroup))
			continue
		}
		errs = append(errs, oneOf("exec-opt "+execOptCgroup, v, "cgroupfs", "systemd"))
	}
	return errors.Join(errs...)
}

func (c *Config) checkNetwork() error {
	var errs []error
	for key, p := range map[string]string{"bip": c.BridgeIP, "fixed-cidr": c.FixedCIDR, "fixed-cidr-v6": c.FixedCIDRv6} {
		if p == "" {
			continue
		}
		pre, err := netip.ParsePrefix(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("invalid %s: %w", key, err))
			continue
		}
		if pre.Addr().Is4() == (key == "fixed-cidr-v6") {
			errs = append(errs, fmt.Errorf("invalid %s %q: wrong address family", key, p))
		}
	}
	if c.Bridge != "" && c.Bridge != "none" && c.BridgeIP != "" {
		errs = append(errs, errors.New("you specified -b & --bip, mutually exclusive options. Please specify only one"))
	}
	if c.FixedCIDRv6 != "" && !c.IPv6 {
		errs = append(errs, errors.New("fixed-cidr-v6 needs ipv6: the default network has no IPv6 without it"))
	}
	if c.MTU < 0 {
		errs = append(errs, fmt.Errorf("invalid default MTU value: %d", c.MTU))
	}
	for _, p := range c.AddressPools {
		if !p.Base.IsValid() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen() {
			errs = append(errs, fmt.Errorf("invalid default-address-pools: base %s cannot be cut into networks of size %d", p.Base, p.Size))
		}
	}
	for _, s := range c.DNSSearch {
		if err := checkDomain(s); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func checkDomain(s string) error {
	s = strings.TrimSpace(s)
	if s == "." {
		return nil
	}
	if ok, err := regexp.MatchString(`^(?i:[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.(?i:[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?))*\.?$`, s); err != nil || !ok || len(s) > 255 {
		return fmt.Errorf("%s is not a valid domain", s)
	}
	return nil
}

func (c *Config) checkRegistries() error {
	var errs []error
	for _, r := range c.InsecureRegistries {
		if strings.Contains(r, "://") {
			errs = append(errs, fmt.Errorf("insecure registry %s should not contain '://'", r))
			continue
		}
		if _, err := netip.ParsePrefix(r); err == nil {
			continue
		}
		if r == "" || strings.ContainsAny(r, "/ ?#") {
			errs = append(errs, fmt.Errorf("insecure registry %q is not valid: want host, host:port or a CIDR", r))
		}
	}
	for _, m := range c.RegistryMirrors {
		u, err := url.Parse(m)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("invalid mirror: %q is not a valid URI: %w", m, err))
		case u.Scheme != "http" && u.Scheme != "https":
			errs = append(errs, fmt.Errorf("invalid mirror: %q: want http:// or https://", m))
		case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			errs = append(errs, fmt.Errorf("invalid mirror: query, fragment or credentials at end of the URI %q", m))
		}
	}
	for name, on := range c.Features {
		// What Docker lets one choose by these is how Holdfast works anyway.
		if known := name == "buildkit" || name == "containerd-snapshotter"; !known || !on {
			errs = append(errs, fmt.Errorf("invalid features: %s=%v is not supported by Holdfast", name, on))
		}
	}
	for _, dir := range c.PluginDirs {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("invalid plugin directory %q: it must be absolute", dir))
		}
	}
	if c.MaxConcurrentDownloads < 1 {
		errs = append(errs, fmt.Errorf("invalid max concurrent downloads: %d", c.MaxConcurrentDownloads))
	}
	if c.MaxConcurrentUploads < 1 {
		errs = append(errs, fmt.Errorf("invalid max concurrent uploads: %d", c.MaxConcurrentUploads))
	}
	return errors.Join(errs...)
}
