package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/build/buildkit"
	"holdfast.dev/holdfast/internal/cdi"
	"holdfast.dev/holdfast/internal/cluster"
	"holdfast.dev/holdfast/internal/cluster/attach"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/daemon/config"
	"holdfast.dev/holdfast/internal/daemon/host"
	"holdfast.dev/holdfast/internal/dash"
	"holdfast.dev/holdfast/internal/event"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/image"
	"holdfast.dev/holdfast/internal/network"
	managed "holdfast.dev/holdfast/internal/plugin"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/btrfs"
	"holdfast.dev/holdfast/internal/volume/plugin"
	"holdfast.dev/holdfast/internal/volume/quiesce"
)

// Options for New.
type Options struct {
	Config  config.Config
	Version Version
	// Reload reads the configuration again, at SIGHUP.
	Reload func() (config.Config, error)
	LogTo  io.Writer
}

// Daemon is the running engine.
type Daemon struct {
	cfg     config.Config
	version Version
	reload  func() (config.Config, error)
	log     *slog.Logger
	level   *slog.LevelVar
	clock   clock.Clock
	facts   host.Facts
	paths   paths
	id      string // stable per root

	runcVersion string

	db         *store.DB
	events     *event.Bus
	engine     *ctrd.Server
	imageStore *imagestore.Store
	images     *image.Service
	ledger     *usage.Ledger
	pools      *btrfs.Pools
	janitor    *usage.Janitor
	recorder   *usage.Recorder
	volumes    *volume.Service
	backups    *backup.Service
	plugins    *plugin.Registry
	managed    *managed.Service
	networks   *network.Service
	containers *container.Service
	quiet      *quiesce.Conductor
	devices    *cdi.Registry
	builder    *buildkit.Builder
	swarm      *cluster.Service
	mesh       *mesh.Mesh
	attach     *attach.Attacher
	server     *httpapi.Server
	pages      *dash.Dash

	mu      sync.Mutex // guards current
	current config.Config

	undo []func(context.Context) error // what Run takes back, last first

	failed chan error // a part ended that must not; holds the first
}

// paths are the daemon's own places.
type paths struct {
	Database      string
	Containers    string
	ContainersRun string
	Volumes       string
	Pools         string
	Temp          string
	Init          string
	Member        string // of stateful sets; empty where it was not built
	Backup        string // empty: it is not there, and there are no backups
	Shim          string
	Runc          string
}

// New checks what can be checked without touching anything.
func New(o Options) (*Daemon, error) {
	level := new(slog.LevelVar)
	setLevel(level, o.Config)
	d := &Daemon{
		cfg:     o.Config,
		current: o.Config,
		version: o.Version,
		reload:  o.Reload,
		level:   level,
		log:     newLogger(o.LogTo, o.Config.LogFormat, level),
		clock:   clock.System{},
		failed:  make(chan error, 1),
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the daemon needs to run as root")
	}
	var err error
	if d.facts, err = host.Read(); err != nil {
		return nil, err
	}
	if d.paths, err = findPaths(o.Config); err != nil {
		return nil, err
	}
	return d, nil
}

func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func setLevel(v *slog.LevelVar, c config.Config) {
	if c.Debug {
		v.Set(slog.LevelDebug)
		return
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err == nil { // checked by config
		v.Set(l)
	}
}

// findPaths locates the programs that belong to the daemon: beside it, else in
// libexec of its prefix.
func findPaths(c config.Config) (paths, error) {
	p := paths{
		Database:      filepath.Join(c.Root, "holdfast.db"),
		Containers:    filepath.Join(c.Root, "containers"),
		ContainersRun: filepath.Join(c.ExecRoot, "containers"),
		Volumes:       filepath.Join(c.Root, "volumes"),
		Pools:         filepath.Join(c.Root, "pools"),
		Temp:          filepath.Join(c.Root, "tmp"),
		Init:          c.InitPath,
	}
	self, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("find the daemon's own program: %w", err)
	}
	dir := filepath.Dir(self)
	for _, prog := range []struct {
		name string
		dst  *string
	}{{"containerd-shim-runc-v2", &p.Shim}, {"runc", &p.Runc}, {"holdfast-init", &p.Init}, {"holdfast-member", &p.Member}, {"holdfast-backup", &p.Backup}} {
		if *prog.dst != "" {
			continue
		}
		for _, d := range []string{dir, filepath.Join(dir, "..", "libexec", "holdfast")} {
			if _, err := os.Stat(filepath.Join(d, prog.name)); err == nil {
				*prog.dst = filepath.Join(d, prog.name)
				break
			}
		}
		if *prog.dst == "" && prog.dst != &p.Member && prog.dst != &p.Backup { // what needs it says so
			return p, fmt.Errorf("%s is missing: it belongs beside %s (make build puts it there)", prog.name, self)
		}
	}
	return p, nil
}

// Run brings the engine up, serves until ctx ends, and takes it down again.
// Containers go on or are stopped as live-restore says.
func (d *Daemon) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.takeDown(context.WithoutCancel(ctx))) }()
	if err := d.bringUp(ctx); err != nil {
		return err
	}
	listeners, err := d.listen(ctx)
	if err != nil {
		return err
	}
	board, err := d.listenDashboard(ctx)
	if err != nil {
		return err
	}
	if err := d.writePidfile(); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.server.Serve(gctx, listeners...) })
	g.Go(func() error { return d.serveDashboard(gctx, board) })
	g.Go(func() error { return d.handleSignals(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return nil
		case err := <-d.failed:
			return err
		}
	})
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		d.log.Warn("service manager not told that the daemon is ready", logkey.Err, err)
	}
	d.log.Info("daemon ready", logkey.Path, d.cfg.Root, logkey.Pid, os.Getpid())
	err = g.Wait()
	if _, nerr := daemon.SdNotify(false, daemon.SdNotifyStopping); nerr != nil {
		d.log.Warn("service manager not told that the daemon stops", logkey.Err, nerr)
	}
	return err
}

// fail ends Run with err. Only the first failure counts.
func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// onStop has f called when the daemon goes down, in reverse order.
func (d *Daemon) onStop(f func(context.Context) error) { d.undo = append(d.undo, f) }

// takeDown undoes bringUp, as far as it got.
func (d *Daemon) takeDown(ctx context.Context) error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i](ctx))
	}
	d.undo = nil
	return errors.Join(errs...)
}

// identity reads or makes the daemon's stable ID.
func identity(root string) (string, error) {
	path := filepath.Join(root, "engine-id")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the engine's ID: %w", err)
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("make the engine's ID: %w", err)
	}
	h := hex.EncodeToString(raw[:])
	id := strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	if err := atomicfile.Write(path, []byte(id+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("keep the engine's ID: %w", err)
	}
	return id, nil
}

func (d *Daemon) writePidfile() error {
	path := d.cfg.Pidfile
	if path == "" {
		return nil
	}
	if pid := pidfileOwner(path); pid != 0 && pid != os.Getpid() {
		return fmt.Errorf("the daemon with PID %d of pidfile %s is still running: give this one another --pidfile", pid, path)
	}
	if err := atomicfile.Write(path, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return fmt.Errorf("write pidfile: %w", err)
	}
	d.onStop(func(context.Context) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove pidfile: %w", err)
		}
		return nil
	})
	return nil
}

// pidfileOwner is the daemon that a pidfile names, if it is one and runs; else 0.
// A number that another program has by now, as after a crash, is nobody's.
func pidfileOwner(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0
	}
	ours, err := os.Executable()
	if err != nil || filepath.Base(strings.TrimSuffix(theirs, " (deleted)")) != filepath.Base(ours) {
		return 0
	}
	return pid
}

// handleSignals serves SIGHUP (reload) and SIGUSR1 (stacks into the log).
func (d *Daemon) handleSignals(ctx context.Context) error {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(ch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-ch:
			if s == syscall.SIGUSR1 {
				d.dumpStacks()
				continue
			}
			d.applyReload()
		}
	}
}

// dumpStacks writes all goroutines to a file under the exec root.
func (d *Daemon) dumpStacks() {
	buf := make([]byte, 16<<20)
	buf = buf[:runtime.Stack(buf, true)]
	path := filepath.Join(d.cfg.ExecRoot, "goroutine-stacks-"+d.clock.Now().UTC().Format("20060102T150405Z")+".log")
	if err := atomicfile.Write(path, buf, 0o600); err != nil {
		d.log.Error("goroutine stacks not written", logkey.Err, err)
		return
	}
	d.log.Info("goroutine stacks written", logkey.Path, path)
}

func (d *Daemon) applyReload() {
	next, err := d.reload()
	if err != nil {
		d.log.Error("configuration not reloaded", logkey.Err, err)
		return
	}
	d.mu.Lock()
	out, applied, restart := d.current.Reload(next)
	d.current = out
	d.mu.Unlock()
	setLevel(d.level, out)
	d.log.Info("configuration reloaded", logkey.Applied, applied)
	if len(restart) > 0 {
		d.log.Warn("changed settings wait for a restart of the daemon", logkey.Waiting, restart)
	}
}

func (d *Daemon) settings() config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

func (d *Daemon) labels() []string { return d.settings().Labels }
func (d *Daemon) debug() bool      { return d.settings().Debug }

// stopLimit is how long a clean shutdown that stops containers may take.
func (d *Daemon) stopLimit() time.Duration {
	s := d.settings().ShutdownTimeout
	if s < 0 {
		return 24 * time.Hour
	}
	return time.Duration(s)*time.Second + 5*time.Second
}
