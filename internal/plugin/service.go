package plugin

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/plugin"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/base/keylock"
)

// Deps are what a Service stands on; all are required.
type Deps struct {
	Clock   clock.Clock
	Random  io.Reader
	Log     *slog.Logger
	Events  Publisher
	Records Records
	Content Content
	Tasks   Tasks
	Machine Machine
	Users   Users

	Dir          string   // one folder per plugin; made if it is not there
	RunDir       string   // sockets, one folder per plugin; gone after a reboot
	Capabilities []string // the daemon's own
	Cgroup       func(id string) string
}

// Service keeps plugins.
type Service struct {
	d     Deps
	locks keylock.Locker // by plugin ID: whoever changes one, or its process

	mu   sync.Mutex // guards the fields below; never held across I/O
	recs map[string]*Record
	runs map[string]*run // of enabled plugins
	runc context.Context //nolint:containedctx // of everything that runs until Stop
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// New returns a Service that knows its records. Nothing runs before Start.
func New(d Deps) (*Service, error) {
	s := &Service{d: d, recs: map[string]*Record{}, runs: map[string]*run{}}
	for _, dir := range []string{d.Dir, d.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of plugins: %w", err)
		}
	}
	rs, err := d.Records.All()
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		s.recs[r.ID] = r
	}
	return s, nil
}

func (s *Service) at(r *Record) places {
	dir := filepath.Join(s.d.Dir, r.ID)
	return places{dir: dir, rootfs: filepath.Join(dir, r.Root), propagated: filepath.Join(dir, propagated), run: filepath.Join(s.d.RunDir, r.ID)}
}

const propagated = "propagated-mount"

// put writes a record and makes it what readers see.
func (s *Service) put(r Record) error {
	if err := s.d.Records.Put(r.ID, &r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recs[r.ID] = &r
	return nil
}

func (s *Service) newID() (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func notFound(name string) error { return fault.New(errdefs.ErrNotFound, "plugin %q not found", name) }

// familiar gives a plugin's name the form under which plugins are kept.
func familiar(name string) (string, error) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fault.New(errdefs.ErrInvalidArgument, "failed to parse %q: %s", name, err)
	}
	if _, ok := n.(reference.Digested); ok {
		return "", fault.New(errdefs.ErrInvalidArgument, "canonical reference %q cannot name a plugin", name)
	}
	return reference.FamiliarString(reference.TagNameOnly(n)), nil
}

// find returns a copy of a Ready plugin, by name, ID or the beginning of an ID.
func (s *Service) find(name string) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if full, err := familiar(name); err == nil {
		for _, r := range s.recs {
			if r.Phase == Ready && r.Name == full {
				return *r, nil
			}
		}
	}
	var hit *Record
	for id, r := range s.recs {
		if r.Phase != Ready || name == "" || !strings.HasPrefix(id, name) {
			continue
		}
		if hit != nil {
			return Record{}, fault.New(errdefs.ErrInvalidArgument, "multiple plugins found for %q", name)
		}
		hit = r
	}
	if hit == nil {
		return Record{}, notFound(name)
	}
	return *hit, nil
}

// change runs do with a plugin that nobody else changes meanwhile.
func (s *Service) change(ctx context.Context, name string, do func(r Record) error) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	unlock, err := s.locks.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if r, err = s.find(r.ID); err != nil { // as it is now
		return err
	}
	return do(r)
}

func public(r *Record) plugin.Plugin {
	return plugin.Plugin{ID: r.ID, Name: r.Name, PluginReference: r.Reference, Enabled: r.Enabled, Config: r.Config, Settings: r.Settings}
}

// List returns plugins by name. Filters: enabled, capability.
func (s *Service) List(_ context.Context, filters map[string][]string) ([]plugin.Plugin, error) {
	f := filter.Args(filters)
	if err := f.Check("enabled", "capability"); err != nil {
		return nil, err
	}
	enabled, err := f.Bool("enabled", false)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []plugin.Plugin{}
	for _, r := range s.recs {
		switch {
		case r.Phase != Ready:
		case f.Has("enabled") && r.Enabled != enabled:
		case f.Has("capability") && !slices.ContainsFunc(f["capability"], func(c string) bool { return implements(&r.Config, c) }):
		default:
			out = append(out, public(r))
		}
	}
	slices.SortFunc(out, func(a, b plugin.Plugin) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Inspect returns one plugin. errdefs.ErrNotFound.
func (s *Service) Inspect(_ context.Context, name string) (plugin.Plugin, error) {
	r, err := s.find(name)
	if err != nil {
		return plugin.Plugin{}, err
	}
	return public(&r), nil
}

// Set changes settings of a plugin that is disabled.
func (s *Service) Set(ctx context.Context, name string, args []string) error {
	return s.change(ctx, name, func(r Record) error {
		if r.Enabled {
			return fault.New(errdefs.ErrFailedPrecondition, "cannot set on an active plugin, disable plugin before setting")
		}
		var err error
		if r.Settings, err = set(&r.Config, r.Settings, args); err != nil {
			return err
		}
		return s.put(r)
	})
}

// Remove removes a plugin: one that is enabled, or has volumes, only by force.
// The volumes stay; what is in them is wherever the plugin kept it.
func (s *Service) Remove(ctx context.Context, name string, force bool) error {
	return s.change(ctx, name, func(r Record) error {
		if !force {
			if err := s.unused(&r); err != nil {
				return err
			}
			if r.Enabled {
				return fault.New(errdefs.ErrFailedPrecondition, "plugin %q is enabled", r.Name)
			}
		}
		ctx := context.WithoutCancel(ctx)
		r.Phase, r.Enabled = Removing, false
		if err := s.put(r); err != nil {
			return err
		}
		if err := s.remove(ctx, &r); err != nil {
			return err
		}
		s.emit(events.ActionRemove, r.ID, r.Name)
		return nil
	})
}

func (s *Service) unused(r *Record) error {
	if vs := s.d.Users.Volumes(r.Name); len(vs) > 0 {
		return fault.New(errdefs.ErrFailedPrecondition, "plugin %q is in use", r.Name)
	}
	return nil
}

// remove does what a record in the phase Installing or Removing stands for. It
// may be repeated. The directory goes only when nothing is mounted in it: a
// propagated mount is somebody's data.
func (s *Service) remove(ctx context.Context, r *Record) error {
	at := s.at(r)
	if err := s.halt(ctx, r); err != nil {
		return err
	}
	for _, dir := range []string{at.dir, at.run} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove plugin %s: %w", r.Name, err)
		}
	}
	if err := s.d.Content.Drop(ctx, r.Claim); err != nil {
		return err
	}
	if err := s.d.Records.Delete(r.ID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recs, r.ID)
	return nil
}

func (s *Service) emit(action events.Action, id, name string) {
	s.d.Events.Publish(events.Message{
		Type: events.PluginEventType, Action: action, Actor: events.Actor{ID: id, Attributes: map[string]string{"name": name}},
	})
}

// Served is a plugin as those see it who call it.
type Served struct {
	Name    string
	Enabled bool
	Socket  string
	// Inside is a path of the plugin's that the machine sees at Outside; empty: none.
	// Any other path of the plugin's is below Root.
	Inside, Outside, Root string
}

// Served finds a plugin with volumes by the name that a user gives it.
func (s *Service) Served(name string) (Served, bool) {
	r, err := s.find(name)
	if err != nil || strings.HasPrefix(r.ID, name) || !implements(&r.Config, "volumedriver") {
		return Served{}, false
	}
	at := s.at(&r)
	v := Served{Name: r.Name, Enabled: r.Enabled, Socket: at.socket(&r.Config), Root: at.rootfs}
	if r.Config.PropagatedMount != "" {
		v.Inside, v.Outside = filepath.Clean(r.Config.PropagatedMount), at.propagated
	}
	return v, true
}

// Drivers names the enabled plugins with volumes.
func (s *Service) Drivers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.recs {
		if r.Phase == Ready && r.Enabled && implements(&r.Config, "volumedriver") {
			out = append(out, r.Name)
		}
	}
	slices.Sort(out)
	return out
}

// settle clears away what was left half done, and what belongs to no plugin.
func (s *Service) settle(ctx context.Context) error {
	var errs []error
	known, claims := map[string]bool{}, map[string]bool{}
	for _, r := range s.all() {
		if r.Phase != Ready {
			errs = append(errs, s.remove(ctx, &r))
			continue
		}
		known[r.ID], claims[r.Claim] = true, true
		errs = append(errs, s.sweep(&r))
	}
	tasks, err := s.d.Tasks.List(ctx)
	errs = append(errs, err)
	for _, id := range tasks {
		if !known[id] {
			errs = append(errs, s.d.Tasks.Delete(ctx, id))
		}
	}
	kept, err := s.d.Content.Claims(ctx)
	errs = append(errs, err)
	for _, c := range kept {
		if !claims[c] {
			errs = append(errs, s.d.Content.Drop(ctx, c))
		}
	}
	return errors.Join(errs...)
}

// sweep removes other versions of a plugin: an upgrade was cut off.
func (s *Service) sweep(r *Record) error {
	at := s.at(r)
	es, err := os.ReadDir(at.dir)
	if err != nil {
		return fmt.Errorf("look at plugin %s: %w", r.Name, err)
	}
	var errs []error
	for _, e := range es {
		if e.Name() != r.Root && strings.HasPrefix(e.Name(), "rootfs-") {
			errs = append(errs, os.RemoveAll(filepath.Join(at.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// all returns copies of the records.
func (s *Service) all() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Record, 0, len(s.recs))
	for _, r := range s.recs {
		out = append(out, *r)
	}
	return out
}
