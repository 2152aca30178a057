package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// AnonymousLabel marks a volume whose name was made for it, as in Docker.
	AnonymousLabel = "com.docker.volume.anonymous"
	// finishLimit bounds a change that is past the point of no return.
	finishLimit = time.Minute
)

// Service is the volume domain.
type Service struct {
	d       Deps
	drivers map[string]Driver
	ops     keylock.Locker // by volume name; held for a long verb, taken before locks
	locks   keylock.Locker // by volume name; held across driver calls, taken before mu
	pruning atomic.Bool
	serial  atomic.Int64 // tells users that are no containers apart

	mu     sync.Mutex // guards byName and what it points to; never held across I/O
	byName map[string]*entry
	trash  map[string]*entry // by the name there
}

// entry is a volume and who uses it.
type entry struct {
	rec    Record
	refs   map[string]struct{} // containers that refer to it
	mounts map[string]struct{} // containers that have it mounted
	// places are where in each of them, but for those of an earlier daemon's time:
	// each is told of when it comes and when it goes.
	places map[string][]string
	// The same for snapshots of it, as container@snapshot.
	snapRefs   map[string]struct{}
	snapMounts map[string]struct{}
}

// New reads the records and finishes what an earlier daemon was doing when it
// ended. Containers then refer to their volumes by Reattach, and Settle ends
// the start.
func New(ctx context.Context, d Deps) (*Service, error) {
	s := &Service{d: d, drivers: map[string]Driver{}, byName: map[string]*entry{}, trash: map[string]*entry{}}
	for _, dr := range d.Drivers {
		s.drivers[dr.Name()] = dr
	}
	recs, err := d.Records.All()
	if err != nil {
		return nil, fmt.Errorf("read volume records: %w", err)
	}
	for _, r := range s.recoverReplaced(ctx, brokenGroups(recs)) {
		kept, err := s.recover(ctx, r)
		if err != nil {
			d.Log.Error("volume not recovered", logkey.Volume, r.Name, logkey.From, r.State, logkey.Err, err)
		}
		if kept != nil {
			s.placeEntry(newEntry(*kept))
		}
	}
	return s, nil
}

func newEntry(r Record) *entry {
	return &entry{
		rec: r, refs: map[string]struct{}{}, mounts: map[string]struct{}{},
		snapRefs: map[string]struct{}{}, snapMounts: map[string]struct{}{},
	}
}

// Settle unmounts what no container uses after all of them were reattached:
// their users ended while no daemon was there. Plugins may take their time: theirs
// is SettlePlugins.
func (s *Service) Settle(ctx context.Context) { s.settleThose(ctx, false) }

// SettlePlugins is Settle for volumes of plugins.
func (s *Service) SettlePlugins(ctx context.Context) { s.settleThose(ctx, true) }

func (s *Service) settleThose(ctx context.Context, plugins bool) {
	var names []string
	s.mu.Lock()
	for name, e := range s.byName {
		if _, own := s.drivers[e.rec.Driver]; own != plugins {
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(slices.Values(names)) {
		if err := s.settle(ctx, name); err != nil {
			s.d.Log.Warn("unused volume not unmounted", logkey.Volume, name, logkey.Err, err)
		}
	}
}

func (s *Service) settle(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := s.get(name)
	if err != nil || s.inUse(e) {
		return nil
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return err
	}
	return dr.Unmount(ctx, e.rec.spec())
}

// Drivers names the drivers, for `docker info`.
func (s *Service) Drivers() []string {
	names := slices.Collect(maps.Keys(s.drivers))
	if s.d.Plugins != nil {
		names = append(names, s.d.Plugins.Names()...)
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// find is the driver of that name, a plugin's among them; empty: the default one.
func (s *Service) find(ctx context.Context, name string) (Driver, error) {
	if name == "" {
		return s.defaultDriver(), nil
	}
	if dr, ok := s.drivers[name]; ok {
		return dr, nil
	}
	if s.d.Plugins == nil {
		return nil, unknownDriver(name)
	}
	dr, err := s.d.Plugins.Driver(ctx, name)
	if err != nil {
		return nil, fault.Wrap(errdefs.Resolve(err), err, "error looking up volume plugin %s", name)
	}
	return dr, nil
}

// known is the driver of a volume that is on record. A plugin need not be there:
// what it is asked then says so.
func (s *Service) known(name string) (Driver, bool) {
	if dr, ok := s.drivers[name]; ok {
		return dr, true
	}
	if s.d.Plugins == nil {
		return nil, false
	}
	dr := s.d.Plugins.Known(name)
	return dr, dr != nil
}

func (s *Service) defaultDriver() Driver {
	if dr, ok := s.drivers[s.d.Default]; ok {
		return dr
	}
	return s.d.Drivers[0]
}

// keepsHere tells whether the volume's data is its driver's own, on this machine.
func (s *Service) keepsHere(r *Record) bool {
	dr := s.drivers[r.Driver]
	if k, ok := dr.(Keeper); ok {
		return k.Keeps(r.spec())
	}
	return dr != nil && dr == s.d.Drivers[0] && len(r.Options) == 0
}

func unknownDriver(name string) error {
	return fault.New(errdefs.ErrNotFound, `error looking up volume plugin %s: plugin %q not found`, name, name)
}

func (s *Service) driverOf(e *entry) (Driver, error) {
	dr, ok := s.known(e.rec.Driver)
	if !ok {
		return nil, unknownDriver(e.rec.Driver)
	}
	return dr, nil
}

// get finds a volume. Its record doesn't change while the caller holds the
// volume's lock.
func (s *Service) get(name string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byName[name]; ok {
		return e, nil
	}
	return nil, fault.New(errdefs.ErrNotFound, "get %s: no such volume", name)
}

func (s *Service) put(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[e.rec.Name] = e
}

func (s *Service) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byName, name)
}

func (s *Service) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.byName))
}

// refs are the containers that refer to the volume or to snapshots of it.
func (s *Service) refs(e *entry) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(joined(e.refs, e.snapRefs)))
}

func joined(a, b map[string]struct{}) map[string]struct{} {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func (s *Service) mounted(e *entry) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(e.mounts))
}

// inUse tells whether anybody has the volume or a snapshot of it mounted.
func (s *Service) inUse(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(e.mounts)+len(e.snapMounts) > 0
}

// setIn and unset change one of an entry's sets.
func (s *Service) setIn(set map[string]struct{}, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set[key] = struct{}{}
}

func (s *Service) unset(set map[string]struct{}, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(set, key)
}

func (s *Service) publish(action events.Action, name string, attributes map[string]string) {
	s.d.Events.Publish(events.Message{
		Type: events.VolumeEventType, Action: action,
		Actor: events.Actor{ID: name, Attributes: attributes},
	})
}

// toAPI shows a volume as the API does.
func (s *Service) toAPI(e *entry) volume.Volume {
	r := e.rec
	v := volume.Volume{
		Name:      r.Name,
		Driver:    r.Driver,
		CreatedAt: r.Created.Format(time.RFC3339),
		Labels:    r.Labels,
		Options:   r.Options,
		Scope:     "local",
	}
	if dr, ok := s.known(r.Driver); ok {
		v.Mountpoint = dr.Path(r.spec())
		v.Scope = dr.Capabilities().Scope
	}
	return v
}
