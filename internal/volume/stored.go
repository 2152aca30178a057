package volume

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Stored is data of ours beside that of volumes: a snapshot, or a removed volume
// with its snapshots.
type Stored struct {
	ID     string // volume@snapshot, or the number in the trash
	Name   string // of the snapshot with its volume's, or what the volume was called
	Volume string
	Dirs   []string
	Cheap  bool // its driver tells its size without a walk
	Made   time.Time
	Labels map[string]string
	Kept   string // why it may not go; "" if it may
}

// StoredSnapshots tells of all snapshots whose data is here.
func (s *Service) StoredSnapshots() []Stored {
	var out []Stored
	for _, e := range s.entries() {
		s.mu.Lock()
		if s.keepsHere(&e.rec) {
			for _, snap := range e.rec.Snapshots {
				out = append(out, s.storedSnapshot(e, snap))
			}
		}
		s.mu.Unlock()
	}
	return out
}

// storedSnapshot is called with mu held.
func (s *Service) storedSnapshot(e *entry, snap Snapshot) Stored {
	o := s.showSnapshot(e, snap)
	id := o.Volume + SnapshotSeparator + o.Name
	out := Stored{
		ID: id, Name: id, Volume: o.Volume, Dirs: []string{o.Path}, Cheap: s.cheap(e), Made: o.Created, Labels: maps.Clone(o.Labels),
	}
	switch {
	case o.Protected:
		out.Kept = "it is protected"
	case len(o.Users) > 0:
		out.Kept = "these containers refer to it: " + strings.Join(o.Users, ", ")
	}
	return out
}

func (s *Service) cheap(e *entry) bool {
	dr := s.drivers[e.rec.Driver]
	return dr != nil && dr.Capabilities().CheapSize
}

// StoredTrash tells of all that is in the trash, oldest first.
func (s *Service) StoredTrash() []Stored {
	var out []Stored
	for _, t := range s.InTrash() {
		s.mu.Lock()
		e, ok := s.trash[trashPrefix+t.ID]
		if !ok || s.drivers[e.rec.Driver] == nil {
			s.mu.Unlock()
			continue // somebody took it
		}
		o := Stored{ID: t.ID, Name: t.Name, Volume: t.Name, Cheap: s.cheap(e), Made: t.Removed, Labels: maps.Clone(e.rec.Labels)}
		o.Dirs = append(o.Dirs, s.drivers[e.rec.Driver].Path(e.rec.spec()))
		for _, snap := range e.rec.Snapshots {
			o.Dirs = append(o.Dirs, s.showSnapshot(e, snap).Path)
		}
		s.mu.Unlock()
		out = append(out, o)
	}
	return out
}

// SnapshotUsage is the size of a snapshot as its driver tells it.
func (s *Service) SnapshotUsage(ctx context.Context, id string) (int64, error) {
	volume, name, _ := strings.Cut(id, SnapshotSeparator)
	_, size, err := s.SnapshotInfo(ctx, volume, name)
	return size, err
}

// TrashUsage is the size of a removed volume and its snapshots as its driver tells it.
func (s *Service) TrashUsage(ctx context.Context, id string) (total int64, err error) {
	err = s.inTrash(ctx, id, func(e *entry, dr Driver) error {
		v := e.rec.spec()
		if total, err = dr.Usage(ctx, v); err != nil {
			return err
		}
		sn, ok := dr.(Snapshotter)
		for _, snap := range e.rec.Snapshots {
			if !ok {
				break
			}
			n, err := sn.SnapshotUsage(ctx, v, snap.Name)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, err
}

// PruneSnapshot removes a snapshot if it is still the one that a plan saw.
func (s *Service) PruneSnapshot(ctx context.Context, o Stored) error {
	_, name, _ := strings.Cut(o.ID, SnapshotSeparator)
	all, err := s.Snapshots(ctx, o.Volume)
	if err != nil {
		return err
	}
	for _, is := range all {
		if is.Name == name && is.Created.Equal(o.Made) {
			return s.RemoveSnapshot(ctx, o.Volume, name)
		}
	}
	return fmt.Errorf("snapshot %s: %w", o.ID, errdefs.ErrNotFound)
}
