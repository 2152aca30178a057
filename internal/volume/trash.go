package volume

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// TrashPolicy says how long removed volumes can be had back. The zero value is
// no trash: what is removed is gone.
type TrashPolicy struct {
	Keep time.Duration
	// MinFree is the percentage of a file system that is kept free: below it the
	// trash on it is emptied, the oldest first.
	MinFree int
}

// trashPrefix begins the names of volumes in the trash. No volume can have such
// a name, so what was removed is in nobody's way.
const trashPrefix = ".trash-"

// ActionUndelete is the event of a volume that was taken out of the trash.
const ActionUndelete events.Action = "undelete"

// Trashed is a volume in the trash.
type Trashed struct {
	ID        string
	Name      string // what it was
	Driver    string
	Created   time.Time
	Removed   time.Time
	Expires   time.Time
	Snapshots int
}

// trashes tells whether removing the volume puts it into the trash: it was named
// by somebody, and its data is here.
func (s *Service) trashes(r *Record) bool {
	dr := s.drivers[r.Driver]
	_, renames := dr.(Renamer)
	_, anonymous := r.Labels[AnonymousLabel]
	return s.d.Trash.Keep > 0 && !r.Anonymous && !anonymous && r.State == Ready &&
		renames && dr.Capabilities().Rename && s.keepsHere(r)
}

// toTrash gives the volume a name in the trash. The caller has its lock. It
// reports false, with nothing done, where it can only be removed for good.
func (s *Service) toTrash(ctx context.Context, dr Driver, e *entry) (bool, error) {
	if err := s.mend(ctx, e, dr); err != nil {
		return false, err
	}
	var b [6]byte
	if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
		return false, fmt.Errorf("make a name in the trash: %w", err)
	}
	name := e.rec.Name
	do := Intent{Verb: DoRename, To: trashPrefix + hex.EncodeToString(b[:]), At: s.d.Clock.Now().UTC()}
	if onItsWay(&e.rec) { // one that failed in the middle goes where that was to go
		do = *e.rec.Doing
	}
	err := s.rename(ctx, dr, e, do)
	switch {
	case errors.Is(err, os.ErrNotExist): // there is no data
		return false, nil
	case errors.Is(err, errdefs.ErrResourceExhausted) && e.rec.Doing == nil: // no room for the intent
		s.d.Log.Warn("volume removed for good: the disk is full", logkey.Volume, name, logkey.Err, err)
		return false, nil
	}
	return err == nil, err
}

// onItsWay tells of a volume whose way into the trash was not finished.
func onItsWay(r *Record) bool {
	return r.Doing != nil && r.Doing.Verb == DoRename && strings.HasPrefix(r.Doing.To, trashPrefix)
}

// renamed is a record after a rename: in the trash, out of it, or neither.
func renamed(r *Record, do Intent) Record {
	n := r.clone()
	n.Name, n.Doing = do.To, nil
	switch {
	case strings.HasPrefix(do.To, trashPrefix):
		n.State, n.Was, n.Removed = InTrash, r.Name, do.At
	case r.State == InTrash:
		n.State, n.Was, n.Removed = Ready, "", time.Time{}
	}
	return n
}

// InTrash lists what is in the trash, oldest first.
func (s *Service) InTrash() []Trashed {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Trashed{}
	for _, e := range s.trash {
		r := e.rec
		out = append(out, Trashed{
			ID: strings.TrimPrefix(r.Name, trashPrefix), Name: r.Was, Driver: r.Driver, Created: r.Created,
			Removed: r.Removed, Expires: r.Removed.Add(s.d.Trash.Keep), Snapshots: len(r.Snapshots),
		})
	}
	slices.SortFunc(out, func(a, b Trashed) int {
		return cmp.Or(a.Removed.Compare(b.Removed), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// trashed finds a volume in the trash by its number, or the one that was removed
// last of those with a name.
func (s *Service) trashed(idOrName string) (*entry, error) {
	list := s.InTrash()
	for _, t := range slices.Backward(list) {
		if t.ID == idOrName || t.Name == idOrName {
			s.mu.Lock()
			defer s.mu.Unlock()
			if e, ok := s.trash[trashPrefix+t.ID]; ok {
				return e, nil
			}
		}
	}
	return nil, fault.New(errdefs.ErrNotFound, "no such volume in the trash: %s", idOrName)
}

// inTrash runs do with a trashed volume, locked.
func (s *Service) inTrash(ctx context.Context, idOrName string, do func(*entry, Driver) error) error {
	e, err := s.trashed(idOrName)
	if err != nil {
		return err
	}
	name := s.nameOf(e)
	unlock, err := s.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	still := s.trash[name] == e
	s.mu.Unlock()
	if !still {
		return fault.New(errdefs.ErrNotFound, "no such volume in the trash: %s", idOrName)
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return err
	}
	return do(e, dr)
}

// Undelete takes a volume out of the trash, under its name or another.
func (s *Service) Undelete(ctx context.Context, idOrName, as string) (v volume.Volume, err error) {
	err = s.inTrash(ctx, idOrName, func(e *entry, dr Driver) error {
		if as == "" {
			as = e.rec.Was
		}
		if err := checkName(as); err != nil {
			return err
		}
		unlock, err := s.locks.Lock(ctx, as)
		if err != nil {
			return err
		}
		defer unlock()
		if err := s.isFree(as); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
		defer cancel()
		if err := s.rename(ctx, dr, e, Intent{Verb: DoRename, To: as}); err != nil {
			return fmt.Errorf("take volume %s out of the trash: %w", as, err)
		}
		s.publish(events.ActionCreate, as, map[string]string{"driver": dr.Name()})
		s.publish(ActionUndelete, as, map[string]string{"driver": dr.Name()})
		v = s.show(e)
		return nil
	})
	return v, err
}

// Purge removes a volume from the trash, for good.
func (s *Service) Purge(ctx context.Context, idOrName string) error {
	return s.inTrash(ctx, idOrName, func(e *entry, dr Driver) error {
		ctx := context.WithoutCancel(ctx)
		name, was := e.rec.Name, e.rec.Was
		if err := s.removeData(ctx, dr, e); err != nil {
			return fmt.Errorf("remove volume %s from the trash: %w", was, err)
		}
		if err := s.d.Records.Delete(name); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.trash, name)
		return nil
	})
}

// EmptyTrash removes all that is in the trash and tells what went.
func (s *Service) EmptyTrash(ctx context.Context) ([]Trashed, error) {
	gone := []Trashed{}
	var errs []error
	for _, t := range s.InTrash() {
		if err := s.Purge(ctx, t.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		gone = append(gone, t)
	}
	return gone, errors.Join(errs...)
}

// Spacer tells how full the file system of a volume is.
type Spacer interface {
	Space(v Spec) (free, total uint64, err error)
}

// expired picks what has been in the trash for long enough.
func expired(now time.Time, list []Trashed) []Trashed {
	return slices.DeleteFunc(slices.Clone(list), func(t Trashed) bool { return now.Before(t.Expires) })
}

// makeRoom empties the trash of file systems that are nearly full, the oldest first.
func (s *Service) makeRoom(ctx context.Context) {
	for _, t := range s.InTrash() {
		e, err := s.trashed(t.ID)
		if err != nil {
			continue // somebody took it
		}
		sp, ok := s.drivers[t.Driver].(Spacer)
		if !ok {
			continue
		}
		s.mu.Lock()
		spec := e.rec.spec()
		s.mu.Unlock()
		free, total, err := sp.Space(spec)
		if err != nil || free >= total/100*uint64(max(s.d.Trash.MinFree, 0)) { //nolint:gosec // not negative
			if err != nil {
				s.d.Log.Warn("free space of a volume unknown", logkey.Volume, t.Name, logkey.Err, err)
			}
			continue
		}
		s.purgeBecause(ctx, t, "its disk is nearly full")
	}
}

func (s *Service) purgeBecause(ctx context.Context, t Trashed, why string) {
	if err := s.Purge(ctx, t.ID); err != nil && !errdefs.IsNotFound(err) {
		s.d.Log.Warn("volume not removed from the trash", logkey.Volume, t.Name, logkey.Err, err)
		return
	}
	s.d.Log.Info("volume removed from the trash", logkey.Volume, t.Name, logkey.Why, why)
}

// trashEvery is how often the trash is looked at.
const trashEvery = time.Minute

// Run empties the trash of what has expired, or is in the way, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	timer := s.d.Clock.NewTimer(trashEvery)
	defer timer.Stop()
	for {
		s.sweepTrash(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
			timer.Reset(trashEvery)
		}
	}
}

func (s *Service) sweepTrash(ctx context.Context) {
	for _, t := range expired(s.d.Clock.Now(), s.InTrash()) {
		s.purgeBecause(ctx, t, "it has been there for long enough")
	}
	s.makeRoom(ctx)
}

// placeEntry puts an entry where its record says it is. The caller has mu.
func (s *Service) placeEntry(e *entry) {
	maps.DeleteFunc(s.byName, func(_ string, o *entry) bool { return o == e })
	maps.DeleteFunc(s.trash, func(_ string, o *entry) bool { return o == e })
	if strings.HasPrefix(e.rec.Name, trashPrefix) {
		s.trash[e.rec.Name] = e
		return
	}
	s.byName[e.rec.Name] = e
}
