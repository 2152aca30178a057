package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/platforms"
	dockercontainer "github.com/moby/moby/api/types/container"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cdi"
	"holdfast.dev/holdfast/internal/cluster/attach"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/daemon/config"
	"holdfast.dev/holdfast/internal/dash"
	"holdfast.dev/holdfast/internal/event"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/dns"
	"holdfast.dev/holdfast/internal/network/forward"
	"holdfast.dev/holdfast/internal/network/link"
	"holdfast.dev/holdfast/internal/network/nft"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/btrfs"
	"holdfast.dev/holdfast/internal/volume/local"
	"holdfast.dev/holdfast/internal/volume/plugin"
	"holdfast.dev/holdfast/internal/volume/populate"
)

// spareNamespaces are network namespaces kept ready for the next containers.
const spareNamespaces = 4

// bringUp builds the parts in the order in which they need each other. Each
// part that must be taken down again says so by onStop before the next one
// starts, so that a failure half-way leaves nothing running.
func (d *Daemon) bringUp(ctx context.Context) error {
	for _, dir := range []string{d.cfg.Root, d.cfg.ExecRoot, d.paths.Containers, d.paths.ContainersRun, d.paths.Temp} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the daemon's directory: %w", err)
		}
	}
	// The database comes first: its lock is what keeps a second daemon off this root.
	db, err := store.Open(d.paths.Database, store.Options{Log: d.log})
	if err != nil {
		return err
	}
	d.db = db
	d.onStop(func(context.Context) error { return db.Close() })
	if err := emptyTemp(d.paths.Temp); err != nil {
		return err
	}
	// Libraries put theirs where the process has its temporary things, BuildKit mounts
	// too: they belong where the next start finds what a kill left.
	if err := os.Setenv("TMPDIR", d.paths.Temp); err != nil {
		return fmt.Errorf("name the directory for temporary things: %w", err)
	}
	if d.id, err = identity(d.cfg.Root); err != nil {
		return err
	}
	d.events = event.NewBus(d.clock)

	for _, step := range []func(context.Context) error{
		d.startEngine, d.startImages, d.startLedger, d.openPlugins, d.startVolumes, d.startNetworks, d.startPlugins, d.startContainers, d.startBackups, d.runLedger, d.startBuilder, d.runJanitor, d.runRecorder, d.startSwarm,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if d.pages, err = dash.New(dashboard{storageBackend{d}}, d.clock, d.log); err != nil {
		return err
	}
	d.server = httpapi.New(httpapi.Options{
		Log:     d.log,
		Clock:   d.clock,
		Version: d.version.Version,
		Routers: append(d.routers(), dashboardRoutes{d.pages}),
	})
	return nil
}

func (d *Daemon) startEngine(ctx context.Context) error {
	e, err := ctrd.Start(ctx, ctrd.Config{
		Root:          filepath.Join(d.cfg.Root, "containerd"),
		State:         filepath.Join(d.cfg.ExecRoot, "containerd"),
		RootfsDir:     filepath.Join(d.cfg.Root, "rootfs"),
		TempDir:       d.paths.Temp,
		ShimPath:      d.paths.Shim,
		RuncPath:      d.paths.Runc,
		SystemdCgroup: d.cfg.SystemdCgroup(),
		Log:           d.log,
	})
	if err != nil {
		return fmt.Errorf("start the embedded containerd: %w", err)
	}
	d.engine = e
	d.onStop(func(context.Context) error { return e.Close() })
	d.runcVersion, err = e.RuncVersion(ctx)
	return err
}

func (d *Daemon) startImages(context.Context) error {
	if err := imagestore.CheckHosts(registries(d.cfg, d.version)); err != nil {
		return err
	}
	c := d.engine.Client()
	d.imageStore = imagestore.New(imagestore.Deps{
		Namespace:   ctrd.Namespace,
		Snapshotter: ctrd.Snapshotter,
		Content:     c.ContentStore(),
		Images:      c.ImageService(),
		Leases:      c.LeasesService(),
		Snapshots:   c.SnapshotService(ctrd.Snapshotter),
		Applier:     c.DiffService(),
		Log:         d.log,
		TempDir:     d.paths.Temp,
		Platform:    platforms.DefaultSpec(),
		Hosts:       registries(d.cfg, d.version),
		Downloads:   d.cfg.MaxConcurrentDownloads,
		Uploads:     d.cfg.MaxConcurrentUploads,
	})
	d.images = image.New(image.Deps{
		Clock:    d.clock,
		Log:      d.log,
		Events:   d.events,
		Users:    imageUsers{d},
		Records:  d.imageStore,
		Content:  d.imageStore,
		Layers:   d.imageStore,
		Archives: d.imageStore,
		Registry: d.imageStore,
		Moves:    store.NewCollection[image.Move](d.db, "image-moves"),
		Platform: platforms.DefaultSpec(),
		TempDir:  d.paths.Temp,
	})
	return nil
}

func (d *Daemon) startVolumes(ctx context.Context) error {
	driver, err := local.New(d.paths.Volumes, resolveHost)
	if err != nil {
		return err
	}
	if d.pools, err = btrfs.Open(ctx, btrfs.Deps{
		Dir: d.paths.Pools, Records: store.NewCollection[btrfs.Record](d.db, "pools"), Clock: d.clock, Log: d.log,
	}); err != nil {
		return err
	}
	d.plugins, err = plugin.New(plugin.Config{
		Dirs: d.cfg.PluginDirs, State: filepath.Join(d.cfg.Root, "volume-plugins.json"),
		Keep: []string{d.cfg.Root, d.cfg.ExecRoot}, Log: d.log, Managed: managedPlugins{d.managed},
	})
	if err != nil {
		return err
	}
	d.volumes, err = volume.New(ctx, volume.Deps{
		Clock:     d.clock,
		Random:    rand.Reader,
		Log:       d.log,
		Events:    observed{d.events, d.ledger},
		Records:   store.NewCollection[volume.Record](d.db, "volumes"),
		Populator: populate.Copier{},
		Drivers:   []volume.Driver{driver, btrfs.New(d.pools)},
		Default:   d.cfg.DefaultVolumeDriver,
		Trash:     volume.TrashPolicy{Keep: time.Duration(d.cfg.VolumeTrashDays) * 24 * time.Hour, MinFree: d.cfg.VolumeTrashMinFree},
		Plugins:   d.plugins,
		Quiescer:  quieter{d},
		Size:      d.volumeSize,
	})
	return err
}

// resolveHost finds a file server's address, as mount(2) wants it.
func resolveHost(ctx context.Context, host string) (string, error) {
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

func (d *Daemon) startNetworks(ctx context.Context) error {
	id := instance(d.cfg.Root)
	l, err := link.New(link.Config{
		Dir: filepath.Join(d.cfg.ExecRoot, "netns"), Instance: id, Spare: spareNamespaces, Log: d.log,
	})
	if err != nil {
		return err
	}
	fw, err := nft.New(id)
	if err != nil {
		return err
	}
	s, err := network.New(network.Deps{
		Clock:     d.clock,
		Log:       d.log,
		Random:    rand.Reader,
		Records:   store.NewCollection[network.Record](d.db, "networks"),
		Events:    d.events,
		Link:      l,
		Firewall:  fw,
		Resolver:  dns.New(d.log),
		Forwarder: forward.New(forward.Config{Off: !d.cfg.UserlandProxy, Log: d.log}),
		Settings:  d.networkSettings(id),
	})
	if err != nil {
		return err
	}
	d.networks = s
	d.onStop(func(context.Context) error { return errors.Join(s.Close(), fw.Close()) })
	d.mesh = mesh.New(mesh.Deps{Clock: d.clock, Log: d.log, Networks: s})
	d.attach = attach.New(attach.Deps{Clock: d.clock, Log: d.log, Mesh: d.mesh, Networks: s})
	d.onStop(d.attach.Close)
	return s.Start(ctx)
}

func (d *Daemon) networkSettings(instance string) network.Settings {
	c := d.cfg
	s := network.Settings{
		Instance:      instance,
		BridgeName:    c.Bridge,
		MTU:           c.MTU,
		ICC:           c.ICC,
		IPMasq:        c.IPMasq,
		IPForward:     c.IPForward,
		IPv6:          c.IPv6,
		UserlandProxy: c.UserlandProxy,
		HostBindIP:    c.DefaultIP,
		DNS:           c.DNS,
		DNSSearch:     c.DNSSearch,
		DNSOptions:    c.DNSOptions,
	}
	if s.NoBridge = c.Bridge == "none"; s.NoBridge {
		s.BridgeName = ""
	}
	if s.BridgeName == "" && instance != "" {
		s.BridgeName = "hf-" + instance
	}
	if p, err := netip.ParsePrefix(c.BridgeIP); err == nil { // checked by config
		s.BIP = p
	}
	if p, err := netip.ParsePrefix(c.FixedCIDRv6); err == nil {
		s.BIP6 = netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits())
	}
	if p, err := netip.ParsePrefix(c.FixedCIDR); err == nil {
		s.FixedCIDR = p
	}
	for _, p := range c.AddressPools {
		s.DefaultPools = append(s.DefaultPools, network.Pool{Base: p.Base, Size: p.Size})
	}
	return s
}

func (d *Daemon) startContainers(ctx context.Context) error {
	d.devices = cdi.New(d.cfg.CDISpecDirs)
	tried, err := newPreflights(d)
	if err != nil {
		return fmt.Errorf("read what file systems are known: %w", err)
	}
	d.containers = container.New(container.Deps{
		Clock:     d.clock,
		Log:       d.log,
		Records:   store.NewCollection[container.Record](d.db, "containers"),
		Events:    d.events,
		Images:    containerImages{d.images},
		Rootfs:    measuredRootfs{d.engine.Rootfs(), d.ledger},
		Runtime:   d.engine.Runtime(),
		Volumes:   containerVolumes{d.volumes, d.ledger},
		Networks:  containerNetworks{d.networks, d},
		Devices:   d.devices,
		Preflight: tried,
		Settings:  d.containerSettings(),
	})
	d.attach.Serve(d.containers)
	if err := d.containers.Restore(ctx); err != nil {
		return fmt.Errorf("restore containers: %w", err)
	}
	d.startQuiesce(ctx)
	d.volumes.Settle(ctx)
	d.supervise(ctx, "trash of volumes", d.volumes.Run)
	d.supervise(ctx, "volume plugins", func(ctx context.Context) error {
		d.volumes.SettlePlugins(ctx)
		return d.plugins.Run(ctx, lookForPlugins)
	})
	if err := d.networks.Sweep(ctx, d.containers.RunningIDs()); err != nil {
		return fmt.Errorf("remove leftovers of networks: %w", err)
	}
	d.supervise(ctx, "containers", d.containers.Run)
	d.onStop(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, d.stopLimit())
		defer cancel()
		d.containers.Shutdown(ctx, !d.settings().LiveRestore)
		return nil
	})
	d.supervise(ctx, "networks", d.networks.Run)
	return nil
}

// lookForPlugins is how often new plugins are looked for. Those that are asked
// for by name are found at once.
const lookForPlugins = 30 * time.Second

// pruneGrace is more than clients take from creating a container to starting it.
const pruneGrace = 5 * time.Second

func (d *Daemon) containerSettings() container.Settings {
	c := d.cfg
	ulimits := make(map[string]*dockercontainer.Ulimit, len(c.Ulimits))
	for name, u := range c.Ulimits {
		ulimits[name] = &dockercontainer.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}
	}
	seccomp := c.SeccompProfile
	if seccomp == "builtin" {
		seccomp = ""
	}
	return container.Settings{
		Dir:           d.paths.Containers,
		RunDir:        d.paths.ContainersRun,
		InitPath:      d.paths.Init,
		DefaultLog:    dockercontainer.LogConfig{Type: c.LogDriver, Config: c.LogOpts},
		ShmSize:       int64(c.ShmSize),
		CgroupParent:  c.CgroupParent,
		CgroupVersion: d.facts.Cgroup.Version,
		SystemdCgroup: c.SystemdCgroup(),
		Ulimits:       ulimits,
		Capabilities:  d.facts.Capabilities,
		NoNewPrivs:    c.NoNewPrivileges,
		SeccompPath:   seccomp,
		InitByDefault: c.Init,
		IpcMode:       dockercontainer.IpcMode(c.IpcMode),
		CgroupnsMode:  dockercontainer.CgroupnsMode(c.CgroupNamespaceMode),
		PruneGrace:    pruneGrace,
		StopTimeout:   &c.StopTimeout,
	}
}

// certsDir holds certificates of registries, one folder per host.
const certsDir = "/etc/holdfast/certs.d"

func registries(c config.Config, v Version) imagestore.HostOptions {
	return imagestore.HostOptions{
		CertsDirs: []string{certsDir, "/etc/docker/certs.d"},
		Insecure:  c.InsecureRegistries,
		Mirrors:   c.RegistryMirrors,
		UserAgent: "Holdfast/" + v.Version,
	}
}

// supervise runs a part until the daemon goes down. One that fails is logged
// at once and its error is Run's.
func (d *Daemon) supervise(ctx context.Context, name string, run func(context.Context) error) {
	// Parts end in their order at takedown, not all at once with the caller.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if err != nil {
			d.log.Error("part of the daemon ended", logkey.Part, name, logkey.Err, err)
			d.fail(fmt.Errorf("%s: %w", name, err))
		}
		done <- err
	}()
	d.onStop(func(context.Context) error {
		stop()
		_ = <-done // its error was told already
		return nil
	})
}

// instance tells the kernel objects of daemons with different roots apart. The
// default root needs no mark.
func instance(root string) string {
	if root == config.Default().Root {
		return ""
	}
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:3])
}

func (d *Daemon) listen(ctx context.Context) ([]net.Listener, error) {
	o := httpapi.ListenOptions{
		Log:           d.log,
		Group:         d.cfg.Group,
		GroupRequired: d.cfg.GroupSet,
		PlainTCP:      d.cfg.PlainTCP(),
	}
	if d.cfg.UseTLS() {
		t, err := httpapi.LoadTLS(httpapi.TLSFiles{
			CA: d.cfg.TLSCACert, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey,
			Verify: d.cfg.TLSVerify != nil && *d.cfg.TLSVerify,
		})
		if err != nil {
			return nil, err
		}
		o.TLS = t
	}
	var out []net.Listener
	for _, h := range d.cfg.Hosts {
		ls, err := httpapi.Listen(ctx, h, o)
		if err != nil {
			for _, l := range out {
				_ = l.Close() // the first error is the one to tell
			}
			return nil, fmt.Errorf("listen on %s: %w", h, err)
		}
		out = append(out, ls...)
	}
	return out, nil
}
