package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/docker/go-units"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/usage"
)

// Config is everything a user can set. The JSON names are the keys of daemon.json.
type Config struct {
	// Root holds what outlives a reboot; ExecRoot what doesn't.
	Root     string `json:"data-root"`
	ExecRoot string `json:"exec-root"`
	Pidfile  string `json:"pidfile"` // empty: none

	// Hosts are the addresses of the API: unix:///path, tcp://host:port, fd://.
	Hosts []string `json:"hosts"`
	// Group owns unix sockets. GroupSet tells whether the user named it: then it must exist.
	Group    string `json:"group"`
	GroupSet bool   `json:"-"`
	// TLS and TLSVerify: nil where the user didn't say. See UseTLS, PlainTCP.
	TLS       *bool  `json:"tls"`
	TLSVerify *bool  `json:"tlsverify"`
	TLSCACert string `json:"tlscacert"`
	TLSCert   string `json:"tlscert"`
	TLSKey    string `json:"tlskey"`

	Debug     bool   `json:"debug"`
	LogLevel  string `json:"log-level"`  // debug, info, warn, error
	LogFormat string `json:"log-format"` // text, json

	// StorageDriver is always overlayfs.
	StorageDriver string `json:"storage-driver"`

	// DefaultVolumeDriver is the driver of volumes that name none.
	DefaultVolumeDriver string `json:"default-volume-driver"`
	// VolumeTrashDays is how long removed volumes can be had back; 0: not at all.
	// VolumeTrashMinFree is the percentage of a disk below which they give way; 0:
	// only where the storage policy has a rule for the trash.
	VolumeTrashDays    int `json:"volume-trash-days"`
	VolumeTrashMinFree int `json:"volume-trash-min-free"`
	// VolumePreflight says what happens where a database starts on a file system that
	// is no place for it: warn, refuse or off.
	VolumePreflight string `json:"volume-preflight"`

	// StoragePolicy says what unused things are removed without being asked for.
	StoragePolicy usage.Policy `json:"storage-policy"`
	// Backup is for volumes whose labels say nothing of backups.
	Backup backup.Settings `json:"backup"`

	// DashboardAddr is where the dashboard is served, to those who have its token;
	// empty: on the API's sockets only.
	DashboardAddr string `json:"dashboard-addr"`

	// LiveRestore keeps containers running while the daemon is stopped (the
	// default); false stops them at a clean shutdown.
	LiveRestore bool `json:"live-restore"`
	// ShutdownTimeout is the seconds that containers get to stop at shutdown, -1
	// no limit. A container's own stop timeout may lengthen it.
	ShutdownTimeout int `json:"shutdown-timeout"`

	// Defaults of new containers.
	LogDriver           string            `json:"log-driver"`
	LogOpts             map[string]string `json:"log-opts"`
	Ulimits             map[string]Ulimit `json:"default-ulimits"`
	ShmSize             Bytes             `json:"default-shm-size"`
	Init                bool              `json:"init"`
	InitPath            string            `json:"init-path"` // empty: the one beside the daemon
	NoNewPrivileges     bool              `json:"no-new-privileges"`
	SeccompProfile      string            `json:"seccomp-profile"` // builtin, unconfined or a file
	CgroupParent        string            `json:"cgroup-parent"`
	CgroupNamespaceMode string            `json:"default-cgroupns-mode"` // private, host; empty: by the machine's cgroup version
	IpcMode             string            `json:"default-ipc-mode"`      // private, shareable
	ExecOpts            []string          `json:"exec-opts"`             // native.cgroupdriver=cgroupfs|systemd
	StopTimeout         int               `json:"default-stop-timeout"`  // seconds
	CDISpecDirs         []string          `json:"cdi-spec-dirs"`         // where files describe devices; empty: none

	DNS        []netip.Addr `json:"dns"`
	DNSSearch  []string     `json:"dns-search"`
	DNSOptions []string     `json:"dns-opts"`

	// The default bridge network.
	Bridge        string     `json:"bridge"` // "none": no default network
	BridgeIP      string     `json:"bip"`
	FixedCIDR     string     `json:"fixed-cidr"`
	FixedCIDRv6   string     `json:"fixed-cidr-v6"`
	MTU           int        `json:"mtu"` // 0: the kernel's
	ICC           bool       `json:"icc"`
	IPv6          bool       `json:"ipv6"`
	IPMasq        bool       `json:"ip-masq"`
	DefaultIP     netip.Addr `json:"ip"` // where ports are published when the user names no address
	IPForward     bool       `json:"ip-forward"`
	UserlandProxy bool       `json:"userland-proxy"` // the forwarder for loopback and hairpin
	AddressPools  []Pool     `json:"default-address-pools"`

	InsecureRegistries     []string `json:"insecure-registries"`
	RegistryMirrors        []string `json:"registry-mirrors"`
	MaxConcurrentDownloads int      `json:"max-concurrent-downloads"`
	MaxConcurrentUploads   int      `json:"max-concurrent-uploads"`

	// PluginDirs hold sockets, .spec and .json files of volume plugins.
	PluginDirs []string `json:"plugin-dirs"`

	// Labels describe the daemon ("key=value").
	Labels   []string        `json:"labels"`
	Features map[string]bool `json:"features"`
}

// Pool is a range that networks without a subnet of their own get theirs from.
type Pool struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"` // prefix length of each network
}

// Ulimit is a default limit of containers.
type Ulimit struct {
	Name string
	Soft int64
	Hard int64
}

// Bytes is a size that may be written as a number or as "64m".
type Bytes int64

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err == nil {
		return b.Set(s)
	}
	return json.Unmarshal(data, (*int64)(b))
}

// Set implements pflag.Value.
func (b *Bytes) Set(s string) error {
	n, err := units.RAMInBytes(s)
	*b = Bytes(n)
	return err
}

// String implements pflag.Value.
func (b *Bytes) String() string { return units.BytesSize(float64(*b)) }

// Type implements pflag.Value.
func (b *Bytes) Type() string { return "bytes" }

// pluginDirs are Docker's, and ours beside them.
func pluginDirs() []string {
	return []string{"/run/docker/plugins", "/run/holdfast/plugins", "/etc/docker/plugins", "/etc/holdfast/plugins", "/usr/lib/docker/plugins"}
}

// DefaultFile is the configuration file that need not exist.
const DefaultFile = "/etc/holdfast/daemon.json"

// Default returns the configuration without flags and file.
func Default() Config {
	return Config{
		Root:                   "/var/lib/holdfast",
		ExecRoot:               "/run/holdfast",
		Pidfile:                "/run/holdfast.pid",
		Hosts:                  []string{"unix:///run/holdfast.sock"},
		Group:                  "holdfast",
		TLSCACert:              "/etc/holdfast/ca.pem",
		TLSCert:                "/etc/holdfast/cert.pem",
		TLSKey:                 "/etc/holdfast/key.pem",
		LogLevel:               "info",
		LogFormat:              "text",
		StorageDriver:          "overlayfs",
		DefaultVolumeDriver:    "local",
		VolumeTrashDays:        7,
		VolumePreflight:        "warn",
		LiveRestore:            true,
		ShutdownTimeout:        15,
		LogDriver:              "json-file",
		LogOpts:                map[string]string{},
		Ulimits:                map[string]Ulimit{},
		ShmSize:                64 << 20,
		SeccompProfile:         "builtin",
		IpcMode:                "private",
		StopTimeout:            10,
		CDISpecDirs:            []string{"/etc/cdi", "/var/run/cdi"},
		ICC:                    true,
		IPMasq:                 true,
		DefaultIP:              netip.IPv4Unspecified(),
		IPForward:              true,
		UserlandProxy:          true,
		PluginDirs:             pluginDirs(),
		MaxConcurrentDownloads: 3,
		MaxConcurrentUploads:   5,
		Features:               map[string]bool{},
	}
}

// UseTLS reports whether tcp sockets speak TLS: where it is asked for by
// either switch, as in Docker.
func (c *Config) UseTLS() bool { return isTrue(c.TLS) || isTrue(c.TLSVerify) }

// PlainTCP reports whether the user insists on tcp without TLS.
func (c *Config) PlainTCP() bool { return c.TLS != nil && !*c.TLS && !isTrue(c.TLSVerify) }

// SystemdCgroup reports whether systemd manages the cgroups of containers.
func (c *Config) SystemdCgroup() bool {
	return slices.Contains(c.ExecOpts, execOptCgroup+"=systemd")
}

func isTrue(b *bool) bool { return b != nil && *b }

// Reload takes over what a running daemon can change and returns the result.
// applied names the keys that changed; restart those that differ but stay as
// they are until the daemon starts anew.
func (c *Config) Reload(next Config) (out Config, applied, restart []string) {
	out = *c
	from, to, dst := reflect.ValueOf(*c), reflect.ValueOf(next), reflect.ValueOf(&out).Elem()
	for i := range from.NumField() {
		key := from.Type().Field(i).Tag.Get("json")
		if key == "-" || reflect.DeepEqual(from.Field(i).Interface(), to.Field(i).Interface()) {
			continue
		}
		if !reloadable(key) {
			restart = append(restart, key)
			continue
		}
		dst.Field(i).Set(to.Field(i))
		applied = append(applied, key)
	}
	return out, applied, restart
}

func reloadable(key string) bool {
	switch key {
	case "debug", "log-level", "labels", "storage-policy", "backup", "live-restore", "shutdown-timeout":
		return true
	}
	return false
}

// keys returns the keys of the file.
func keys() []string {
	known := map[string]bool{}
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("json"); k != "-" {
			known[k] = true
		}
	}
	return slices.Sorted(maps.Keys(known))
}

// unserved tells why a key of Docker's is refused here; empty for keys that
// Docker doesn't have either.
func unserved(key string) string {
	switch key {
	case "iptables", "ip6tables", "firewall-backend", "ip-forward-no-drop", "allow-direct-routing", "bridge-accept-fwmark":
		return "Holdfast programs nftables in tables of its own"
	case "userland-proxy-path":
		return "the forwarder is part of the daemon"
	case "containerd", "containerd-namespace", "containerd-plugin-namespace", "cri-containerd":
		return "containerd is part of the daemon"
	case "metrics-addr", "experimental", "node-generic-resources", "swarm-default-advertise-addr",
		"swarm-raft-heartbeat-tick", "swarm-raft-election-tick", "authorization-plugins", "builder",
		"userns-remap", "selinux-enabled", "rootless", "runtimes", "default-runtime", "storage-opts",
		"cpu-rt-period", "cpu-rt-runtime", "network-control-plane-mtu", "network-diagnostic-port",
		"default-network-opts", "default-gateway", "default-gateway-v6", "bip6", "host-gateway-ip",
		"host-gateway-ips", "max-download-attempts", "nri-opts", "min-api-version",
		"resolv-conf", "default-init", "raw-logs":
		return "not served yet"
	case "http-proxy", "https-proxy", "no-proxy", "proxies":
		return "set HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the daemon's environment"
	}
	return ""
}

func notServed(name, why string) error {
	return fmt.Errorf("%s is not supported by Holdfast: %s", name, why)
}
