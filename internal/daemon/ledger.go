package daemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/ctrd"
	"holdfast.dev/holdfast/internal/event"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/usage"
	"holdfast.dev/holdfast/internal/usage/walk"
	"holdfast.dev/holdfast/internal/volume"
)

// startLedger reads the sizes of an earlier daemon. Measuring begins with
// runLedger, when there is somebody to say what there is to measure.
func (d *Daemon) startLedger(context.Context) (err error) {
	d.ledger, err = usage.New(usage.Deps{
		Clock:    d.clock,
		Log:      d.log,
		Records:  store.NewCollection[usage.Entry](d.db, "usage"),
		Subjects: measured{d},
		Walker:   measured{d},
	})
	if err != nil {
		return fmt.Errorf("read the ledger of sizes: %w", err)
	}
	// After all that may write to what it knows.
	d.onStop(func(context.Context) error { return d.ledger.Close() })
	return nil
}

func (d *Daemon) runLedger(ctx context.Context) error {
	d.supervise(ctx, "ledger of sizes", d.ledger.Run)
	return nil
}

// measured tells the ledger what there is and measures it.
type measured struct{ d *Daemon }

var (
	_ usage.Subjects = measured{}
	_ usage.Walker   = measured{}
)

// All implements usage.Subjects.
func (m measured) All() []usage.Subject {
	var out []usage.Subject
	for _, l := range m.d.containers.LayerStates() {
		out = append(out, layerSubject(l))
	}
	for _, p := range m.d.volumes.Places() {
		out = append(out, volumeSubject(p))
	}
	for _, s := range m.d.volumes.StoredSnapshots() {
		out = append(out, storedSubject(usage.Snapshot, s))
	}
	for _, s := range m.d.volumes.StoredTrash() {
		out = append(out, storedSubject(usage.Trash, s))
	}
	return out
}

// stored finds a snapshot, or a volume in the trash.
func (d *Daemon) stored(k usage.Key) (volume.Stored, bool) {
	list := d.volumes.StoredTrash
	if k.Kind == usage.Snapshot {
		list = d.volumes.StoredSnapshots
	}
	for _, s := range list() {
		if s.ID == k.ID {
			return s, true
		}
	}
	return volume.Stored{}, false
}

// storedSubject: nobody writes to what is stored, but where its driver shares it
// with what is written, what it takes alone changes.
func storedSubject(kind usage.Kind, s volume.Stored) usage.Subject {
	return usage.Subject{
		Key: usage.Key{Kind: kind, ID: s.ID}, Open: s.Cheap,
		Birth: strconv.FormatInt(s.Made.UnixNano(), 36),
	}
}

// Find implements usage.Subjects.
func (m measured) Find(k usage.Key) (usage.Subject, bool) {
	switch k.Kind {
	case usage.Layer:
		l, ok := m.d.containers.LayerState(k.ID)
		return layerSubject(l), ok
	case usage.Volume:
		p, ok := m.d.volumes.Place(k.ID)
		return volumeSubject(p), ok
	case usage.Snapshot, usage.Trash:
		s, ok := m.d.stored(k)
		return storedSubject(k.Kind, s), ok
	}
	return usage.Subject{}, false
}

func layerSubject(l container.LayerState) usage.Subject {
	return usage.Subject{Key: usage.Key{Kind: usage.Layer, ID: l.ID}, Open: l.Open, Stamp: l.Stamp}
}

func volumeSubject(p volume.Place) usage.Subject {
	return usage.Subject{
		Key: usage.Key{Kind: usage.Volume, ID: p.Name}, Open: p.Open,
		Birth: strconv.FormatInt(p.Created.UnixNano(), 36),
	}
}

// Walk implements usage.Walker.
func (m measured) Walk(ctx context.Context, k usage.Key, gentle bool) (usage.Size, time.Duration, error) {
	if k.Kind == usage.Layer {
		l, err := m.d.engine.Rootfs().Layer(ctx, k.ID)
		if err != nil {
			return usage.Size{}, 0, err
		}
		found, worked, err := walk.Dir(ctx, l.Upper, gentle)
		return found.Layer(), worked, err
	}
	if k.Kind != usage.Volume {
		return m.walkStored(ctx, k, gentle)
	}
	p, ok := m.d.volumes.Place(k.ID)
	if !ok {
		return usage.Size{}, 0, fmt.Errorf("volume %s: %w", k.ID, errdefs.ErrNotFound)
	}
	if p.Cheap {
		began := m.d.clock.Now()
		n, err := m.d.volumes.Usage(ctx, k.ID)
		return usage.Size{Bytes: n, Disk: n}, m.d.clock.Now().Sub(began), err
	}
	found, worked, err := walk.Dir(ctx, p.Dir, gentle)
	return found.Volume(), worked, err
}

func (m measured) walkStored(ctx context.Context, k usage.Key, gentle bool) (total usage.Size, worked time.Duration, err error) {
	s, ok := m.d.stored(k)
	if !ok {
		return total, 0, fmt.Errorf("%s %s: %w", k.Kind, k.ID, errdefs.ErrNotFound)
	}
	if s.Cheap {
		began := m.d.clock.Now()
		ask := m.d.volumes.TrashUsage
		if k.Kind == usage.Snapshot {
			ask = m.d.volumes.SnapshotUsage
		}
		n, err := ask(ctx, k.ID)
		return usage.Size{Bytes: n, Disk: n}, m.d.clock.Now().Sub(began), err
	}
	for _, dir := range s.Dirs {
		found, took, err := walk.Dir(ctx, dir, gentle)
		if err != nil {
			return total, worked, err
		}
		size := found.Volume()
		total.Bytes, total.Disk, total.Files = total.Bytes+size.Bytes, total.Disk+size.Disk, total.Files+size.Files
		worked += took
	}
	return total, worked, nil
}

// volumeSize is for lists of volumes. One that is not measured within
// firstLook, at its first time, is unknown until the background has it.
func (d *Daemon) volumeSize(ctx context.Context, name string) (int64, error) {
	short, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	t, err := d.ledger.Size(short, usage.Key{Kind: usage.Volume, ID: name})
	if errors.Is(err, context.DeadlineExceeded) {
		return -1, nil //nolint:nilerr // as the API tells an unknown size
	}
	return t.Bytes, err
}

const firstLook = 500 * time.Millisecond

// measuredRootfs is the engine's writable layers, whose sizes the ledger tells.
// Whoever may write to a layer mounts it first.
type measuredRootfs struct {
	*ctrd.Rootfs
	ledger *usage.Ledger
}

func layerKey(id string) usage.Key { return usage.Key{Kind: usage.Layer, ID: id} }

// Mount implements container.Rootfs.
func (r measuredRootfs) Mount(ctx context.Context, id string) (container.Layer, error) {
	r.ledger.Changed(layerKey(id))
	return r.Rootfs.Mount(ctx, id)
}

// Unmount implements container.Rootfs.
func (r measuredRootfs) Unmount(ctx context.Context, id string) error {
	defer r.ledger.Changed(layerKey(id))
	return r.Rootfs.Unmount(ctx, id)
}

// Remove implements container.Rootfs.
func (r measuredRootfs) Remove(ctx context.Context, id string) error {
	if err := r.Rootfs.Remove(ctx, id); err != nil {
		return err
	}
	r.ledger.Gone(layerKey(id))
	return nil
}

// Usage implements container.Rootfs.
func (r measuredRootfs) Usage(ctx context.Context, id string) (rw, rootfs int64, err error) {
	below, err := r.Below(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	t, err := r.ledger.Size(ctx, layerKey(id))
	return t.Bytes, t.Bytes + below, err
}

// observed is the event stream with the ledger looking on, before anybody hears.
type observed struct {
	event.Publisher
	ledger *usage.Ledger
}

// Publish implements event.Publisher.
func (o observed) Publish(m events.Message) {
	o.ledger.Observe(m)
	o.Publisher.Publish(m)
}
