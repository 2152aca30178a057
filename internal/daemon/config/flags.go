package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// keyAnnotation holds the file's key of a flag whose name differs (--label, "labels").
const keyAnnotation = "key"

func keyOf(f *pflag.Flag) string {
	if k := f.Annotations[keyAnnotation]; len(k) > 0 {
		return k[0]
	}
	return f.Name
}

// bind makes the flags that set c.
func bind(fs *pflag.FlagSet, c *Config) {
	b := binder{fs}
	bindDaemon(b, c)
	bindContainers(b, c)
	bindDevices(b, c)
	bindNetwork(b, c)
}

type binder struct{ *pflag.FlagSet }

// list makes a repeatable flag whose first use replaces the default.
func (b binder) list(dst *[]string, name, short, key, usage string) {
	b.value(&listValue{dst: dst}, name, short, key, usage)
}

func (b binder) value(v pflag.Value, name, short, key, usage string) {
	f := b.VarPF(v, name, short, usage)
	if key != name {
		f.Annotations = map[string][]string{keyAnnotation: {key}}
	}
	if _, ok := v.(*optBool); ok {
		f.NoOptDefVal = "true"
	}
}

func bindDaemon(b binder, c *Config) {
	b.StringVar(&c.Root, "data-root", c.Root, "Root directory of persistent state")
	root := b.VarPF(b.Lookup("data-root").Value, "root", "", "The same as --data-root")
	root.Annotations = map[string][]string{keyAnnotation: {"data-root"}}
	b.StringVar(&c.ExecRoot, "exec-root", c.ExecRoot, "Root directory for execution state files")
	b.StringVarP(&c.Pidfile, "pidfile", "p", c.Pidfile, "Path to use for daemon PID file")
	b.list(&c.Hosts, "host", "H", "hosts", "Socket to serve the API on (unix:///path, tcp://host:port, fd://)")
	b.value(&setString{&c.Group, &c.GroupSet}, "group", "G", "group", "Group for the unix socket")
	b.value(&optBool{&c.TLS}, "tls", "", "tls", "Use TLS on tcp sockets; implied by --tlsverify; --tls=false insists on tcp without TLS")
	b.value(&optBool{&c.TLSVerify}, "tlsverify", "", "tlsverify", "Use TLS and verify the client's certificate")
	b.StringVar(&c.TLSCACert, "tlscacert", c.TLSCACert, "Trust certificates signed only by this CA")
	b.StringVar(&c.TLSCert, "tlscert", c.TLSCert, "Path to TLS certificate file")
	b.StringVar(&c.TLSKey, "tlskey", c.TLSKey, "Path to TLS key file")
	b.BoolVarP(&c.Debug, "debug", "D", c.Debug, "Enable debug mode")
	b.StringVarP(&c.LogLevel, "log-level", "l", c.LogLevel, `Set the logging level ("debug"|"info"|"warn"|"error")`)
	b.StringVar(&c.LogFormat, "log-format", c.LogFormat, `Set the logging format ("text"|"json")`)
	b.IntVar(&c.VolumeTrashDays, "volume-trash-days", c.VolumeTrashDays, "Days for which removed volumes can be had back (0: not at all)")
	b.IntVar(&c.VolumeTrashMinFree, "volume-trash-min-free", c.VolumeTrashMinFree, "Percentage of a disk below which removed volumes give way, the oldest first (0: only as storage-policy says)")
	b.StringVar(&c.VolumePreflight, "volume-preflight", c.VolumePreflight, `Look whether a database's new file system suits it, and "warn" or "refuse" the start ("off": do not look)`)
	b.StringVar(&c.DefaultVolumeDriver, "default-volume-driver", c.DefaultVolumeDriver, "Driver of volumes that name none (local, btrfs)")
	b.StringVarP(&c.StorageDriver, "storage-driver", "s", c.StorageDriver, "Storage driver to use (overlayfs)")
	b.Var(&c.Backup, "backup", "Back up volumes that have no label for it: schedule, keep, repository, as JSON")
	b.Var(&c.StoragePolicy, "storage-policy", "Remove unused things by rules, as JSON")
	b.StringVar(&c.DashboardAddr, "dashboard-addr", c.DashboardAddr, "Address and port (127.0.0.1:2380) to serve the dashboard at, for those who have the token in data-root/dashboard-token")
	b.BoolVar(&c.LiveRestore, "live-restore", c.LiveRestore, "Keep containers running when the daemon stops; false stops them")
	b.IntVar(&c.ShutdownTimeout, "shutdown-timeout", c.ShutdownTimeout, "Set the default shutdown timeout in seconds")
	b.list(&c.InsecureRegistries, "insecure-registry", "", "insecure-registries", "Enable insecure registry communication")
	b.list(&c.RegistryMirrors, "registry-mirror", "", "registry-mirrors", "Preferred registry mirror")
	b.IntVar(&c.MaxConcurrentDownloads, "max-concurrent-downloads", c.MaxConcurrentDownloads, "Set the max concurrent downloads")
	b.IntVar(&c.MaxConcurrentUploads, "max-concurrent-uploads", c.MaxConcurrentUploads, "Set the max concurrent uploads")
	b.list(&c.PluginDirs, "plugin-dir", "", "plugin-dirs", "Directory that holds sockets, .spec and .json files of volume plugins")
	b.list(&c.Labels, "label", "", "labels", "Set key=value labels to the daemon")
	b.value(mapValue[bool]{&c.Features, strconv.ParseBool}, "feature", "", "features", "Enable feature in the daemon")
}

func bindContainers(b binder, c *Config) {
	b.StringVar(&c.LogDriver, "log-driver", c.LogDriver, "Default driver for container logs")
	b.value(mapValue[string]{&c.LogOpts, asIs}, "log-opt", "", "log-opts", "Default log driver options for containers")
	b.value(&ulimits{&c.Ulimits}, "default-ulimit", "", "default-ulimits", "Default ulimits for containers")
	b.value(&c.ShmSize, "default-shm-size", "", "default-shm-size", "Default shm size for containers")
	b.BoolVar(&c.Init, "init", c.Init, "Run an init in the container to forward signals and reap processes")
	b.StringVar(&c.InitPath, "init-path", c.InitPath, "Path to the init program")
	b.BoolVar(&c.NoNewPrivileges, "no-new-privileges", c.NoNewPrivileges, "Set no-new-privileges by default for new containers")
	b.StringVar(&c.SeccompProfile, "seccomp-profile", c.SeccompProfile, `Path to seccomp profile, "builtin" or "unconfined"`)
	b.StringVar(&c.CgroupParent, "cgroup-parent", c.CgroupParent, "Set parent cgroup for all containers")
	b.StringVar(&c.CgroupNamespaceMode, "default-cgroupns-mode", c.CgroupNamespaceMode, `Default mode for containers cgroup namespace ("host"|"private")`)
	b.StringVar(&c.IpcMode, "default-ipc-mode", c.IpcMode, `Default mode for containers ipc ("shareable"|"private")`)
	b.list(&c.ExecOpts, "exec-opt", "", "exec-opts", "Runtime execution options (native.cgroupdriver=cgroupfs|systemd)")
	b.IntVar(&c.StopTimeout, "default-stop-timeout", c.StopTimeout, "Set the default container stop timeout in seconds (0 to terminate immediately)")
}

func bindDevices(b binder, c *Config) {
	b.list(&c.CDISpecDirs, "cdi-spec-dir", "", "cdi-spec-dirs", "CDI specification directories to use")
}

func bindNetwork(b binder, c *Config) {
	b.value(&addrs{&c.DNS}, "dns", "", "dns", "DNS server to use")
	b.list(&c.DNSSearch, "dns-search", "", "dns-search", "DNS search domains to use")
	b.list(&c.DNSOptions, "dns-opt", "", "dns-opts", "DNS options to use")
	b.StringVarP(&c.Bridge, "bridge", "b", c.Bridge, `Attach containers to a network bridge; "none" for no default network`)
	b.StringVar(&c.BridgeIP, "bip", c.BridgeIP, "IPv4 address for the default bridge")
	b.StringVar(&c.FixedCIDR, "fixed-cidr", c.FixedCIDR, "IPv4 subnet for the default bridge network")
	b.StringVar(&c.FixedCIDRv6, "fixed-cidr-v6", c.FixedCIDRv6, "IPv6 subnet for the default bridge network")
	b.IntVar(&c.MTU, "mtu", c.MTU, "Set the MTU for the default bridge network")
	b.BoolVar(&c.ICC, "icc", c.ICC, "Enable inter-container communication for the default bridge network")
	b.BoolVar(&c.IPv6, "ipv6", c.IPv6, "Enable IPv6 networking for the default bridge network")
	b.BoolVar(&c.IPMasq, "ip-masq", c.IPMasq, "Enable IP masquerading for the default bridge network")
	b.value(&addr{&c.DefaultIP}, "ip", "", "ip", "Host IP for port publishing from the default bridge network")
	b.BoolVar(&c.IPForward, "ip-forward", c.IPForward, "Enable IP forwarding in system configuration")
	b.BoolVar(&c.UserlandProxy, "userland-proxy", c.UserlandProxy, "Forward published ports of loopback traffic")
	b.value(&pools{&c.AddressPools}, "default-address-pool", "", "default-address-pools", "Default address pools for local networks (base=CIDR,size=N)")
}

func asIs(s string) (string, error) { return s, nil }

type listValue struct {
	dst *[]string
	set bool
}

func (l *listValue) String() string { return fmt.Sprint(*l.dst) }
func (l *listValue) Type() string   { return "list" }
func (l *listValue) Set(s string) error {
	if !l.set {
		*l.dst, l.set = nil, true
	}
	*l.dst = append(*l.dst, s)
	return nil
}

type mapValue[V any] struct {
	dst   *map[string]V
	parse func(string) (V, error)
}

func (m mapValue[V]) String() string {
	out := make([]string, 0, len(*m.dst))
	for k, v := range *m.dst {
		out = append(out, fmt.Sprintf("%s=%v", k, v))
	}
	slices.Sort(out)
	return "[" + strings.Join(out, " ") + "]"
}

func (m mapValue[V]) Type() string { return "map" }
func (m mapValue[V]) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return errors.New("want key=value")
	}
	x, err := m.parse(v)
	if err != nil {
		return err
	}
	(*m.dst)[k] = x
	return nil
}

type optBool struct{ dst **bool }

func (o *optBool) String() string {
	if o.dst == nil || *o.dst == nil {
		return ""
	}
	return strconv.FormatBool(**o.dst)
}

func (o *optBool) Type() string     { return "bool" }
func (o *optBool) IsBoolFlag() bool { return true }
func (o *optBool) Set(s string) error {
	v, err := strconv.ParseBool(s)
	*o.dst = &v
	return err
}

type setString struct {
	dst *string
	set *bool
}

func (s *setString) String() string { return *s.dst }
func (s *setString) Type() string   { return "string" }
func (s *setString) Set(v string) error {
	*s.dst, *s.set = v, true
	return nil
}

type ulimits struct{ dst *map[string]Ulimit }

func (u *ulimits) String() string { return fmt.Sprint(*u.dst) }
func (u *ulimits) Type() string   { return "ulimit" }
func (u *ulimits) Set(s string) error {
	l, err := units.ParseUlimit(s)
	if err != nil {
		return err
	}
	(*u.dst)[l.Name] = Ulimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard}
	return nil
}

type addr struct{ dst *netip.Addr }

func (a *addr) String() string { return a.dst.String() }
func (a *addr) Type() string   { return "ip" }
func (a *addr) Set(s string) (err error) {
	*a.dst, err = netip.ParseAddr(s)
	return err
}

type addrs struct{ dst *[]netip.Addr }

func (a *addrs) String() string { return fmt.Sprint(*a.dst) }
func (a *addrs) Type() string   { return "ip" }
func (a *addrs) Set(s string) error {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("IP address is not correctly formatted: %s", s)
	}
	*a.dst = append(*a.dst, ip)
	return nil
}

type pools struct{ dst *[]Pool }

func (p *pools) String() string { return fmt.Sprint(*p.dst) }
func (p *pools) Type() string   { return "pool-options" }
func (p *pools) Set(s string) error {
	var out Pool
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(field, "=")
		var err error
		switch {
		case !ok:
			err = fmt.Errorf("invalid field %q must be a key=value pair", field)
		case k == "base":
			out.Base, err = netip.ParsePrefix(v)
		case k == "size":
			out.Size, err = strconv.Atoi(v)
		default:
			err = fmt.Errorf("unexpected key '%s' in '%s'", k, field)
		}
		if err != nil {
			return err
		}
	}
	*p.dst = append(*p.dst, out)
	return nil
}
