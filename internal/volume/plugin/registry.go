package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/volume"
)

// Config says where plugins are.
type Config struct {
	Dirs   []string // that hold sockets, .spec and .json files
	State  string   // file that outlives the daemon; its folder exists
	Keep   []string // directories of the engine's own: no plugin's volume is there
	Limits Limits
	Log    *slog.Logger
	// Managed are plugins that the engine itself runs; they come before those of
	// the directories. May be nil.
	Managed Managed
}

// Managed knows the plugins that the engine runs.
type Managed interface {
	// Find returns a plugin by the name that a user gives it.
	Find(name string) (ManagedPlugin, bool)
	// Names lists those that run.
	Names() []string
}

// ManagedPlugin is a plugin that the engine runs, with a root of its own: paths
// that it tells are not the machine's.
type ManagedPlugin struct {
	Name    string // its full name, with a tag
	Enabled bool
	Socket  string
	// Inside is where the plugin mounts things that the machine finds at Outside;
	// empty: nowhere. Other paths of its own are below Root.
	Inside, Outside, Root string
}

// Registry knows the plugins. It implements volume.Plugins.
type Registry struct {
	cfg   Config
	state *state

	mu      sync.Mutex // guards drivers; never held during a call
	drivers map[string]*Driver
}

var _ volume.Plugins = (*Registry)(nil)

// volumeDriver is the part of the protocol that is spoken here.
const volumeDriver = "VolumeDriver"

// New returns a Registry. It asks no plugin anything.
func New(c Config) (*Registry, error) {
	c.Limits.fill()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the machine's boot ID: %w", err)
	}
	s, err := openState(c.State, strings.TrimSpace(string(boot)))
	if err != nil {
		return nil, err
	}
	return &Registry{cfg: c, state: s, drivers: map[string]*Driver{}}, nil
}

// Driver implements volume.Plugins.
func (r *Registry) Driver(ctx context.Context, name string) (volume.Driver, error) {
	e, err := r.find(name)
	if err != nil {
		return nil, err // and nothing is kept of a name that anybody may make up
	}
	if e.managed != nil {
		name = e.managed.Name
	}
	d := r.driver(name)
	if _, err := d.activate(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Known implements volume.Plugins.
func (r *Registry) Known(name string) volume.Driver {
	if !nameRule.MatchString(name) && !managedRule.MatchString(name) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.drivers[name]; d != nil {
		return d
	}
	return &Driver{r: r, name: name}
}

// Names implements volume.Plugins.
func (r *Registry) Names() []string {
	r.mu.Lock()
	ds := slices.Collect(maps.Values(r.drivers))
	r.mu.Unlock()
	var out []string
	for _, d := range ds {
		if d.isActive() {
			out = append(out, d.name)
		}
	}
	slices.Sort(out)
	return out
}

func (r *Registry) driver(name string) *Driver {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.drivers[name]
	if d == nil {
		d = &Driver{r: r, name: name}
		r.drivers[name] = d
	}
	return d
}

// Run asks everything that may be a plugin who it is, now and then again, until
// ctx ends, so that what the engine says of its drivers is true.
func (r *Registry) Run(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// look asks side by side: one that hangs delays no other.
func (r *Registry) look(ctx context.Context) {
	names, err := scan(r.cfg.Dirs)
	if err != nil {
		r.cfg.Log.Warn("not all volume plugins are found", logkey.Err, err)
	}
	if r.cfg.Managed != nil {
		names = append(names, r.cfg.Managed.Names()...)
	}
	r.mu.Lock()
	names = slices.Compact(slices.Sorted(slices.Values(slices.AppendSeq(names, maps.Keys(r.drivers)))))
	r.mu.Unlock()
	const atOnce = 16
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for _, n := range names {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			d := r.driver(n)
			was := d.isActive()
			_, err := d.activate(ctx)
			switch {
			case ctx.Err() != nil, errors.Is(err, errNoVolumes):
			case err != nil:
				r.cfg.Log.Debug("plugin not active", logkey.Driver, n, logkey.Err, err)
			case !was:
				r.cfg.Log.Info("volume plugin active", logkey.Driver, n, logkey.Text, d.Capabilities().Scope)
			}
		})
	}
	wg.Wait()
}

var errNoVolumes = errors.New("it has no volumes")

// activation is what a plugin said of itself.
type activation struct {
	at    endpoint
	scope string
}

// activate asks the plugin who it is, unless it is known and nothing has changed.
func (d *Driver) activate(ctx context.Context) (activation, error) {
	e, err := d.r.find(d.name)
	if err != nil {
		d.forget()
		return activation{}, err
	}
	d.mu.Lock()
	if a := d.active; a != nil && same(a.at, e) {
		defer d.mu.Unlock()
		return *a, nil
	}
	d.mu.Unlock()
	l := d.r.cfg.Limits
	var who struct{ Implements []string }
	if err := call(ctx, e, d.name, "Plugin.Activate", struct{}{}, &who, l.Quick, l); err != nil {
		return activation{}, err
	}
	if !slices.Contains(who.Implements, volumeDriver) {
		return activation{}, fault.Wrap(errdefs.ErrNotFound, errNoVolumes, "plugin %q is no volume plugin", d.name)
	}
	a := activation{at: e, scope: d.askScope(ctx, e)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = &a
	return a, nil
}

func same(a, b endpoint) bool {
	return a.network == b.network && a.addr == b.addr && a.stamp == b.stamp && (a.tls == nil) == (b.tls == nil) && (a.tls == nil || *a.tls == *b.tls) &&
		(a.managed == nil) == (b.managed == nil) && (a.managed == nil || *a.managed == *b.managed)
}

// find looks for a plugin among those that the engine runs, then in the directories.
func (r *Registry) find(name string) (endpoint, error) {
	if r.cfg.Managed == nil {
		return find(r.cfg.Dirs, name)
	}
	m, ok := r.cfg.Managed.Find(name)
	switch {
	case !ok:
		return find(r.cfg.Dirs, name)
	case !m.Enabled:
		return endpoint{}, fault.New(errdefs.ErrUnavailable, "plugin %q found but disabled", m.Name)
	}
	e, err := unixEndpoint(m.Socket)
	if errors.Is(err, os.ErrNotExist) { // it is just being started: whoever calls it tries again
		e, err = endpoint{network: "unix", addr: m.Socket}, nil
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("look for plugin %s: %w", m.Name, err)
	}
	e.managed = &m
	return e, nil
}

// askScope asks whether volumes are there on all machines. Plugins older than
// the question have theirs on one.
func (d *Driver) askScope(ctx context.Context, e endpoint) string {
	l := d.r.cfg.Limits
	var out struct{ Capabilities struct{ Scope string } }
	err := call(ctx, e, d.name, "VolumeDriver.Capabilities", struct{}{}, &out, l.Quick, l)
	switch s := strings.ToLower(out.Capabilities.Scope); {
	case err == nil && (s == local || s == "global"):
		return s
	case err == nil && s == "":
	default:
		d.r.cfg.Log.Warn("volume plugin does not say where its volumes are: taken for local", logkey.Driver, d.name, logkey.Text, words(out.Capabilities.Scope), logkey.Err, err)
	}
	return local
}

const local = "local"

func (d *Driver) isActive() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active != nil
}

// forget makes the next call ask again who the plugin is.
func (d *Driver) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = nil
}
