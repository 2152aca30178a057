package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Actions of volumes that Docker does not know.
const (
	ActionSnapshot       events.Action = "snapshot"
	ActionSnapshotRemove events.Action = "snapshot-remove"
	ActionRollback       events.Action = "rollback"
	ActionClone          events.Action = "clone"
	ActionProtect        events.Action = "protect"
	ActionUnprotect      events.Action = "unprotect"
)

// SnapshotSeparator stands between a volume's name and a snapshot's.
const SnapshotSeparator = "@"

// SnapshotOptions make a snapshot.
type SnapshotOptions struct {
	Volume string
	Name   string // empty: made of the time
	Labels map[string]string
	Live   bool // copy it although containers write, where one moment is not to be had
	// Quiesce says whether containers that write are to hold still.
	Quiesce QuiesceMode
}

// Snapshots of long verbs among the users of a volume.
const (
	asSnapshot = "snapshot in the making"
	asClone    = "clone in the making"
	asRemoval  = "removal of a snapshot"
)

// Snapshot keeps the present state of a volume.
func (s *Service) Snapshot(ctx context.Context, o SnapshotOptions) (Snapshot, Made, error) {
	all, err := s.SnapshotGroup(ctx, GroupOptions{
		Volumes: []string{o.Volume}, Name: o.Name, Labels: o.Labels, Live: o.Live, Quiesce: o.Quiesce,
	})
	if err != nil {
		return Snapshot{}, Made{}, err
	}
	return all[0].Snapshot, all[0].Made, nil
}

const timeName = "20060102-150405"

// freeName makes a name of a snapshot that the volume does not have.
func freeName(r *Record, name string) string {
	free := name
	for i := 2; r.snapshot(free) != nil; i++ {
		free = fmt.Sprintf("%s-%d", name, i)
	}
	return free
}

func checkSnapshotName(name string) error {
	if err := checkName(name); err != nil {
		return fault.New(errdefs.ErrInvalidArgument, "snapshot name: %s", err)
	}
	return nil
}

func noSnapshot(volume, name string) error {
	return fault.New(errdefs.ErrNotFound, "get %s: no such snapshot", volume+SnapshotSeparator+name)
}

// SnapshotOf is a snapshot with its place.
type SnapshotOf struct {
	Snapshot
	Volume string
	Driver string
	Path   string
	Users  []string // containers that refer to it
}

// Snapshots lists the snapshots of a volume, oldest first; of all volumes where
// the name is empty.
func (s *Service) Snapshots(_ context.Context, volume string) ([]SnapshotOf, error) {
	es := s.entries()
	if volume != "" {
		e, err := s.get(volume)
		if err != nil {
			return nil, err
		}
		es = []*entry{e}
	}
	out := []SnapshotOf{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		for _, snap := range e.rec.Snapshots {
			out = append(out, s.showSnapshot(e, snap))
		}
	}
	return out, nil
}

// showSnapshot is called with mu held.
func (s *Service) showSnapshot(e *entry, snap Snapshot) SnapshotOf {
	o := SnapshotOf{Snapshot: snap, Volume: e.rec.Name, Driver: e.rec.Driver, Users: []string{}}
	if sn, ok := s.drivers[e.rec.Driver].(Snapshotter); ok {
		o.Path = sn.SnapshotPath(e.rec.spec(), snap.Name)
	}
	for u := range e.snapRefs {
		if c, at, _ := strings.Cut(u, SnapshotSeparator); at == snap.Name {
			o.Users = append(o.Users, c)
		}
	}
	slices.Sort(o.Users)
	return o
}

// SnapshotInfo shows one snapshot and its size, which may take a walk.
func (s *Service) SnapshotInfo(ctx context.Context, volume, name string) (_ SnapshotOf, size int64, err error) {
	h, end, err := s.beginShared(ctx, volume, "inspection")
	if err != nil {
		return SnapshotOf{}, 0, err
	}
	defer end(&err)
	sn, err := snapshotter(h.dr)
	if err != nil {
		return SnapshotOf{}, 0, err
	}
	all, err := s.Snapshots(ctx, volume)
	if err != nil {
		return SnapshotOf{}, 0, err
	}
	i := slices.IndexFunc(all, func(o SnapshotOf) bool { return o.Name == name })
	if i < 0 {
		return SnapshotOf{}, 0, noSnapshot(volume, name)
	}
	size, err = sn.SnapshotUsage(ctx, h.rec.spec(), name)
	return all[i], size, err
}

// RemoveSnapshot deletes a snapshot. One that a container refers to, or that is
// protected, is refused.
func (s *Service) RemoveSnapshot(ctx context.Context, volume, name string) (err error) {
	h, end, err := s.begin(ctx, volume, asRemoval)
	if err != nil {
		return err
	}
	defer end(&err)
	sn, err := snapshotter(h.dr)
	if err != nil {
		return err
	}
	unlock, err := s.locks.Lock(ctx, volume) // nobody takes it up between the look and the intent
	if err != nil {
		return err
	}
	err = s.intendRemoval(h.e, name)
	unlock()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	err = failpoint.Hit("volume.snapshotRemove.afterIntent")
	if err == nil {
		err = sn.RemoveSnapshot(ctx, h.rec.spec(), name)
	}
	if err == nil {
		err = failpoint.Hit("volume.snapshotRemove.afterDriver")
	}
	if err == nil {
		err = s.changeNow(ctx, h.e, func(r *Record) { r.dropSnapshot(name); r.Doing = nil })
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s of volume %s, which the next start of the daemon will finish: %w", name, volume, err)
	}
	s.publish(ActionSnapshotRemove, volume, map[string]string{"driver": h.rec.Driver, "snapshot": name})
	return nil
}

func (s *Service) intendRemoval(e *entry, name string) error {
	snap := e.rec.snapshot(name)
	if snap == nil {
		return noSnapshot(e.rec.Name, name)
	}
	if snap.Protected {
		return fault.New(errdefs.ErrConflict, "snapshot %s of volume %s is protected: unprotect it first", name, e.rec.Name)
	}
	s.mu.Lock()
	users := s.showSnapshot(e, *snap).Users
	s.mu.Unlock()
	if len(users) > 0 {
		return fault.New(errdefs.ErrConflict, "snapshot %s of volume %s is in use - [%s]", name, e.rec.Name, strings.Join(users, ", "))
	}
	return s.change(e, func(r *Record) { r.Doing = &Intent{Verb: DoRemoveSnapshot, Snapshot: name} })
}

// SnapshotPolicy says which snapshots a prune takes. The zero value takes none.
type SnapshotPolicy struct {
	Volume    string        // empty: all volumes
	KeepLast  int           // of each volume that many newest stay; negative: the number does not matter
	OlderThan time.Duration // only older ones go
	All       bool          // without this, a policy that would take every snapshot takes none
	DryRun    bool
}

// PruneSnapshots removes what the policy takes and tells what went, or would go.
func (s *Service) PruneSnapshots(ctx context.Context, p SnapshotPolicy) ([]SnapshotOf, error) {
	if p.KeepLast <= 0 && p.OlderThan <= 0 && !p.All {
		return nil, fault.New(errdefs.ErrInvalidArgument, "say which snapshots to keep: how many, how young, or that all shall go")
	}
	all, err := s.Snapshots(ctx, p.Volume)
	if err != nil {
		return nil, err
	}
	plan := planSnapshotPrune(s.d.Clock.Now(), all, p)
	if p.DryRun {
		return plan, nil
	}
	gone := []SnapshotOf{}
	for _, o := range plan {
		if ctx.Err() != nil {
			return gone, ctx.Err()
		}
		if err := s.RemoveSnapshot(ctx, o.Volume, o.Name); err != nil {
			s.d.Log.Warn("snapshot not pruned", logkey.Volume, o.Volume, logkey.Name, o.Name, logkey.Err, err)
			continue
		}
		gone = append(gone, o)
	}
	return gone, nil
}

// planSnapshotPrune picks from snapshots, oldest first within each volume.
func planSnapshotPrune(now time.Time, all []SnapshotOf, p SnapshotPolicy) []SnapshotOf {
	left := map[string]int{}
	for _, o := range all {
		left[o.Volume]++
	}
	out := []SnapshotOf{}
	for _, o := range all {
		newest := left[o.Volume] <= max(p.KeepLast, 0)
		left[o.Volume]--
		if newest || o.Protected || len(o.Users) > 0 || now.Sub(o.Created) < p.OlderThan {
			continue
		}
		out = append(out, o)
	}
	return out
}

// kept is the snapshot that a rollback makes of what it replaces.
func (s *Service) kept(do Intent, method string) Snapshot {
	return Snapshot{
		Name: do.Keep, Created: s.d.Clock.Now().UTC(), Consistency: Clean, Method: method,
		Why: "replaced by a rollback to " + do.Snapshot,
	}
}

func methodOf(r *Record, snapshot string) string {
	if snap := r.snapshot(snapshot); snap != nil {
		return snap.Method
	}
	return ""
}

// Rollback puts the state of a snapshot in place of the volume's, which is kept
// as the snapshot keep (empty: a name is made).
func (s *Service) Rollback(ctx context.Context, volume, name, keep string) (_ Snapshot, made Made, err error) {
	if keep != "" {
		if err := checkSnapshotName(keep); err != nil {
			return Snapshot{}, made, err
		}
	}
	unlockOps, err := s.ops.Lock(ctx, volume)
	if err != nil {
		return Snapshot{}, made, err
	}
	defer unlockOps()
	var kept Snapshot
	err = s.with(ctx, volume, func(e *entry, dr Driver) error {
		if err := s.mend(ctx, e, dr); err != nil {
			return err
		}
		sn, err := s.mayRollBack(e, dr, name)
		if err != nil {
			return err
		}
		do := Intent{Verb: DoRollback, Snapshot: name, Keep: keep}
		if keep == "" {
			do.Keep = freeName(&e.rec, "before-rollback-"+s.d.Clock.Now().UTC().Format(timeName))
		} else if e.rec.snapshot(keep) != nil {
			return fault.New(errdefs.ErrConflict, "volume %s already has a snapshot %s", volume, keep)
		}
		kept = s.kept(do, methodOf(&e.rec, name))
		made, err = s.rollBack(ctx, sn, e, do, kept)
		return err
	})
	if err != nil {
		return Snapshot{}, made, err
	}
	return kept, made, nil
}

func (s *Service) mayRollBack(e *entry, dr Driver, name string) (Snapshotter, error) {
	if err := whole(e); err != nil {
		return nil, err
	}
	sn, err := snapshotter(dr)
	if err != nil {
		return nil, err
	}
	if e.rec.snapshot(name) == nil {
		return nil, noSnapshot(e.rec.Name, name)
	}
	if users := s.mounted(e); len(users) > 0 { // readers too: they would see another volume
		return nil, fault.New(errdefs.ErrConflict, "volume %s is in use by running containers [%s]: stop them first", e.rec.Name, strings.Join(users, ", "))
	}
	return sn, nil
}

// rollBack is intent, deed and result.
func (s *Service) rollBack(ctx context.Context, sn Snapshotter, e *entry, do Intent, kept Snapshot) (made Made, err error) {
	if err := s.change(e, func(r *Record) { r.Doing = &do }); err != nil {
		return made, err
	}
	err = failpoint.Hit("volume.rollback.afterIntent")
	if err == nil {
		made, err = sn.Rollback(ctx, e.rec.spec(), do.Snapshot, do.Keep)
	}
	if err != nil {
		if derr := s.change(e, func(r *Record) { r.Doing = nil }); derr != nil {
			s.d.Log.Warn("record of a change that was not made stays", logkey.Volume, e.rec.Name, logkey.Err, derr)
		}
		return made, err
	}
	if err := failpoint.Hit("volume.rollback.afterDriver"); err != nil {
		return made, err
	}
	err = s.change(e, func(r *Record) {
		r.Doing = nil
		r.Snapshots = append(r.Snapshots, kept)
	})
	if err != nil {
		return made, fmt.Errorf("volume %s was rolled back, but that is not on record until the daemon starts again: %w", e.rec.Name, err)
	}
	s.publish(ActionRollback, e.rec.Name, map[string]string{"driver": e.rec.Driver, "snapshot": do.Snapshot, "kept": do.Keep})
	return made, nil
}

// Protect forbids, or allows again, that a volume or a snapshot is removed.
func (s *Service) Protect(ctx context.Context, volume, snapshot string, on bool) error {
	return s.with(ctx, volume, func(e *entry, _ Driver) error {
		if snapshot != "" && e.rec.snapshot(snapshot) == nil {
			return noSnapshot(volume, snapshot)
		}
		err := s.change(e, func(r *Record) {
			if snapshot == "" {
				r.Protected = on
				return
			}
			r.snapshot(snapshot).Protected = on
		})
		if err != nil {
			return err
		}
		action := ActionUnprotect
		if on {
			action = ActionProtect
		}
		about := map[string]string{"driver": e.rec.Driver}
		if snapshot != "" {
			maps.Copy(about, map[string]string{"snapshot": snapshot})
		}
		s.publish(action, volume, about)
		return nil
	})
}
