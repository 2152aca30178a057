package volume

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Actions of moving data in and out.
const (
	ActionExport events.Action = "export"
	ActionImport events.Action = "import"
)

// ExportOptions say what to export.
type ExportOptions struct {
	Volume   string
	Snapshot string // empty: the present state
	Live     bool
}

// Export hands the directory of a volume, or of a snapshot of it, to write.
// Nobody removes it meanwhile.
func (s *Service) Export(ctx context.Context, o ExportOptions, write func(dir string) error) (err error) {
	h, end, err := s.beginShared(ctx, o.Volume, "export")
	if err != nil {
		return err
	}
	defer end(&err)
	dir := h.dr.Path(h.rec.spec())
	consistency := Clean
	if can := h.dr.Capabilities(); o.Snapshot == "" && len(h.users) > 0 && can.Snapshot && can.PointInTime && !o.Live {
		// One moment can be had, and then be read at leisure.
		snap, _, serr := s.Snapshot(ctx, SnapshotOptions{Volume: o.Volume, Labels: map[string]string{"holdfast.for": "export"}})
		if serr != nil {
			return serr
		}
		defer func() { err = errors.Join(err, s.RemoveSnapshot(context.WithoutCancel(ctx), o.Volume, snap.Name)) }()
		o.Snapshot, consistency = snap.Name, snap.Consistency
	}
	if o.Snapshot != "" {
		i, aerr := s.Acquire(ctx, Request{Name: o.Volume + SnapshotSeparator + o.Snapshot, Container: h.as})
		if aerr != nil {
			return aerr
		}
		defer func() { err = errors.Join(err, s.Release(context.WithoutCancel(ctx), i.Name, h.as)) }()
		dir = i.Source
	} else if consistency, err = h.moment(o.Live, Capabilities{}); err != nil { // a walk is never one moment
		return err
	}
	if err := write(dir); err != nil {
		return err
	}
	if o.Snapshot == "" {
		if err := s.still(h, consistency, false); err != nil {
			return err
		}
	}
	s.publish(ActionExport, o.Volume, map[string]string{"driver": h.rec.Driver, "snapshot": o.Snapshot, "consistency": string(consistency)})
	return nil
}

// Import makes a volume that fill gives its content. What a fill that fails did
// is removed.
func (s *Service) Import(ctx context.Context, o CreateOptions, fill func(dir string) error) (volume.Volume, error) {
	v, err := s.filled(ctx, o, "import", fill)
	if err == nil {
		s.publish(ActionImport, o.Name, map[string]string{"driver": v.Driver})
	}
	return v, err
}

func (s *Service) filled(ctx context.Context, o CreateOptions, origin string, fill func(dir string) error) (_ volume.Volume, err error) {
	if err := checkName(o.Name); err != nil {
		return volume.Volume{}, err
	}
	dr, err := s.find(ctx, o.Driver)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := dr.CheckOptions(o.Options); err != nil {
		return volume.Volume{}, err
	}
	unlock, err := s.locks.Lock(ctx, o.Name)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	if err := s.isFree(o.Name); err != nil {
		return volume.Volume{}, err
	}
	if ad, ok := dr.(Adopter); ok { // what others made is not filled, and not removed where filling fails
		there, err := ad.Exists(ctx, Spec{Name: o.Name, Options: o.Options})
		if err != nil {
			return volume.Volume{}, err
		}
		if there {
			return volume.Volume{}, fault.New(errdefs.ErrConflict, "driver '%s' already has volume '%s'", dr.Name(), o.Name)
		}
	}
	r := Record{Name: o.Name, Driver: dr.Name(), Options: o.Options, Labels: o.Labels, Created: s.d.Clock.Now().UTC(), Origin: origin, State: Creating}
	e, err := s.make(ctx, dr, r, func() (err error) {
		if err := mount(ctx, dr, r.spec()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dr.Unmount(context.WithoutCancel(ctx), r.spec())) }()
		return fill(dr.Path(r.spec()))
	})
	if err != nil {
		return volume.Volume{}, err
	}
	return s.show(e), nil
}

// About is a volume with what Docker's inspect does not show.
type About struct {
	Record
	Snapshots    []SnapshotOf
	Users        []string
	Mounted      []string
	Capabilities Capabilities
}

// About shows a volume.
func (s *Service) About(ctx context.Context, name string) (About, error) {
	e, err := s.get(name)
	if err != nil {
		return About{}, err
	}
	snaps, err := s.Snapshots(ctx, name)
	if err != nil {
		return About{}, err
	}
	a := About{Snapshots: snaps, Users: s.refs(e), Mounted: s.mounted(e)}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Record = e.rec.clone()
	if dr, ok := s.known(e.rec.Driver); ok {
		a.Capabilities = dr.Capabilities()
		_, sn := dr.(Snapshotter)
		_, cl := dr.(Cloner)
		_, rn := dr.(Renamer)
		_, li := dr.(Limiter)
		_, se := dr.(Sender)
		a.Capabilities.Send = a.Capabilities.Send && se
		a.Capabilities.Incremental = a.Capabilities.Incremental && se
		a.Capabilities.Snapshot = a.Capabilities.Snapshot && sn
		a.Capabilities.Clone = a.Capabilities.Clone && cl
		a.Capabilities.Rename = a.Capabilities.Rename && rn
		a.Capabilities.Quota = a.Capabilities.Quota && li
	}
	return a, nil
}
