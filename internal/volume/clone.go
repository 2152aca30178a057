package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// CloneOptions make a volume of another.
type CloneOptions struct {
	Volume   string
	Snapshot string // empty: the present state
	To       string
	Labels   map[string]string // nil: those of the volume
	Live     bool
}

// Clone makes a new volume with the state of another or of its snapshot.
func (s *Service) Clone(ctx context.Context, o CloneOptions) (_ volume.Volume, made Made, err error) {
	if err := checkName(o.To); err != nil {
		return volume.Volume{}, made, err
	}
	h, end, err := s.begin(ctx, o.Volume, asClone)
	if err != nil {
		return volume.Volume{}, made, err
	}
	defer end(&err)
	cl, ok := h.dr.(Cloner)
	if !ok || !h.dr.Capabilities().Clone {
		return volume.Volume{}, made, lacks(h.dr, "clones")
	}
	consistency, origin := Clean, o.Volume
	if o.Snapshot != "" {
		if h.rec.snapshot(o.Snapshot) == nil {
			return volume.Volume{}, made, noSnapshot(o.Volume, o.Snapshot)
		}
		origin += SnapshotSeparator + o.Snapshot
	} else if consistency, err = h.moment(o.Live, h.dr.Capabilities()); err != nil {
		return volume.Volume{}, made, err
	}
	labels := o.Labels
	if labels == nil {
		labels = maps.Clone(h.rec.Labels)
		delete(labels, AnonymousLabel)
	}
	unlock, err := s.locks.Lock(ctx, o.To)
	if err != nil {
		return volume.Volume{}, made, err
	}
	defer unlock()
	if err := s.isFree(o.To); err != nil {
		return volume.Volume{}, made, err
	}
	r := Record{
		Name: o.To, Driver: h.rec.Driver, Options: h.rec.Options, Labels: labels,
		Created: s.d.Clock.Now().UTC(), Origin: origin, State: Creating,
	}
	e, err := s.make(ctx, h.dr, r, func() (err error) {
		if made, err = cl.Clone(ctx, h.rec.spec(), o.Snapshot, r.spec()); err != nil || o.Snapshot != "" {
			return err
		}
		return s.still(h, consistency, h.dr.Capabilities().PointInTime)
	})
	if err != nil {
		return volume.Volume{}, made, err
	}
	s.publish(ActionClone, o.To, map[string]string{
		"driver": r.Driver, "from": origin, "consistency": string(consistency), "method": made.Method,
	})
	return s.show(e), made, nil
}

func (s *Service) isFree(name string) error {
	if _, err := s.get(name); err == nil {
		return fault.New(errdefs.ErrConflict, "volume %s already exists", name)
	}
	return nil
}

// ActionResize is the event of another limit.
const ActionResize events.Action = "resize"

// Resize changes what a volume may hold; 0 is no limit.
func (s *Service) Resize(ctx context.Context, name string, bytes int64) error {
	if bytes < 0 {
		return fault.New(errdefs.ErrInvalidArgument, "invalid size: %d", bytes)
	}
	unlock, err := s.ops.Lock(ctx, name) // what is being done to it is not to be mended
	if err != nil {
		return err
	}
	defer unlock()
	return s.with(ctx, name, func(e *entry, dr Driver) error {
		if err := errors.Join(s.mend(ctx, e, dr), whole(e)); err != nil {
			return err
		}
		li, ok := dr.(Limiter)
		if !ok || !dr.Capabilities().Quota {
			return lacks(dr, "limits")
		}
		was := e.rec.Options
		options := map[string]string{}
		maps.Copy(options, was)
		delete(options, OptSize)
		if bytes > 0 {
			options[OptSize] = strconv.FormatInt(bytes, 10)
		}
		// The record first: what makes the data anew sets the limit that it says.
		if err := s.change(e, func(r *Record) { r.Options = options }); err != nil {
			return err
		}
		if err := li.Resize(ctx, e.rec.spec(), bytes); err != nil {
			return errors.Join(err, s.change(e, func(r *Record) { r.Options = was }))
		}
		s.publish(ActionResize, name, map[string]string{"driver": dr.Name(), "size": strconv.FormatInt(bytes, 10)})
		return nil
	})
}

// ActionRename is the event of a new name.
const ActionRename events.Action = "rename"

// Rename gives a volume another name, with its snapshots. One that a container
// refers to is refused: containers know their volumes by name.
func (s *Service) Rename(ctx context.Context, name, to string) error {
	if err := checkName(to); err != nil {
		return err
	}
	if name == to {
		return fault.New(errdefs.ErrInvalidArgument, "volume %s has that name", name)
	}
	unlockOps, err := s.ops.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlockOps()
	names := []string{name, to}
	slices.Sort(names) // two renames never wait for each other
	for _, n := range names {
		unlock, err := s.locks.Lock(ctx, n)
		if err != nil {
			return err
		}
		defer unlock()
	}
	e, err := s.get(name)
	if err != nil {
		return err
	}
	dr, err := s.driverOf(e)
	if err != nil {
		return err
	}
	if err := errors.Join(s.mend(ctx, e, dr), whole(e)); err != nil {
		return err
	}
	if refs := s.refs(e); len(refs) > 0 {
		return fault.New(errdefs.ErrConflict, "rename %s: volume is in use - [%s]", name, strings.Join(refs, ", "))
	}
	if err := s.isFree(to); err != nil {
		return err
	}
	if _, ok := dr.(Renamer); !ok || !dr.Capabilities().Rename {
		return lacks(dr, "renaming")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	if err := s.rename(ctx, dr, e, Intent{Verb: DoRename, To: to}); err != nil {
		return fmt.Errorf("rename volume %s to %s: %w", name, to, err)
	}
	s.publish(ActionRename, to, map[string]string{"driver": dr.Name(), "oldName": name})
	return nil
}

// rename is intent, deed and result. The caller has both locks.
func (s *Service) rename(ctx context.Context, dr Driver, e *entry, do Intent) error {
	if err := dr.Unmount(ctx, e.rec.spec()); err != nil {
		return err
	}
	if err := s.change(e, func(r *Record) { r.Doing = &do }); err != nil {
		return err
	}
	if err := failpoint.Hit("volume.rename.afterIntent"); err != nil {
		return err
	}
	r := e.rec
	n, err := s.finishRename(ctx, dr, &r, do)
	if err != nil {
		if errors.Is(err, errdefs.ErrAlreadyExists) || errors.Is(err, errdefs.ErrFailedPrecondition) || errors.Is(err, os.ErrNotExist) { // nothing was touched
			if derr := s.change(e, func(r *Record) { r.Doing = nil }); derr != nil {
				s.d.Log.Warn("record of a change that was not made stays", logkey.Volume, r.Name, logkey.Err, derr)
			}
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.rec = n
	s.placeEntry(e)
	return nil
}

// finishRename does what the record's intent says; it may be repeated.
func (s *Service) finishRename(ctx context.Context, dr Driver, r *Record, do Intent) (Record, error) {
	rn, ok := dr.(Renamer)
	if !ok {
		return Record{}, lacks(dr, "renaming")
	}
	n := renamed(r, do)
	if err := rn.Rename(ctx, r.spec(), n.spec()); err != nil {
		return n, err
	}
	if err := failpoint.Hit("volume.rename.afterDriver"); err != nil {
		return n, err
	}
	if err := s.d.Records.Put(n.Name, &n); err != nil {
		return n, err
	}
	if err := failpoint.Hit("volume.rename.afterNewRecord"); err != nil {
		return n, err
	}
	return n, s.d.Records.Delete(r.Name)
}
