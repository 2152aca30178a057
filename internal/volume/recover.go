package volume

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// recover finishes a change that an earlier daemon began. It returns the record
// as it is then, or nil if the volume is gone. What cannot be finished now stays
// as it is, for the next start.
func (s *Service) recover(ctx context.Context, r *Record) (*Record, error) {
	settled := r.State == Ready || r.State == InTrash
	if settled && (r.Doing == nil || r.Doing.Verb == DoReplace) { // the latter was tried already
		return r, nil
	}
	dr, ok := s.known(r.Driver)
	if !ok {
		return r, unknownDriver(r.Driver)
	}
	if settled {
		done, err := s.settleIntent(ctx, dr, r)
		if err != nil {
			return r, fmt.Errorf("settle %s: %w", r.Doing.Verb, err)
		}
		return done, nil
	}
	if ad, ok := dr.(Adopter); ok && r.State == Creating {
		// It may hold what others put there: it stays if it is there.
		there, err := ad.Exists(ctx, r.spec())
		if err != nil {
			return r, err
		}
		if !there {
			return nil, s.d.Records.Delete(r.Name)
		}
		n := r.clone()
		n.State = Ready
		return &n, s.d.Records.Put(n.Name, &n)
	}
	if r.State == Creating {
		// Nobody was told that it exists. Create refuses data that isn't ours, and
		// then there is nothing to take away.
		if err := dr.Create(ctx, r.spec()); err != nil {
			s.d.Log.Warn("half-made volume given up", logkey.Volume, r.Name, logkey.Err, err)
			return nil, s.d.Records.Delete(r.Name)
		}
	}
	if err := dr.Remove(ctx, r.spec()); err != nil {
		return r, err
	}
	s.d.Log.Info("volume removed", logkey.Volume, r.Name, logkey.Why, "the daemon ended while it was "+string(r.State))
	return nil, s.d.Records.Delete(r.Name)
}

// settleIntent ends what was being done to a volume that is itself whole.
func (s *Service) settleIntent(ctx context.Context, dr Driver, r *Record) (*Record, error) {
	n := r.clone()
	do := *r.Doing
	n.Doing = nil
	done := false
	var err error
	switch do.Verb {
	case DoSnapshot, DoRemoveSnapshot:
		sn, err := snapshotter(dr)
		if err != nil {
			return nil, err
		}
		if err := sn.RemoveSnapshot(ctx, r.spec(), do.Snapshot); err != nil {
			return nil, err
		}
		n.dropSnapshot(do.Snapshot)
		done = do.Verb == DoRemoveSnapshot
	case DoRollback:
		sn, err := snapshotter(dr)
		if err != nil {
			return nil, err
		}
		if done, err = sn.SettleRollback(ctx, r.spec(), do.Keep); err != nil {
			return nil, err
		}
		if done {
			n.Snapshots = append(n.Snapshots, s.kept(do, methodOf(r, do.Snapshot)))
		}
	case DoMove:
		if done, err = s.settleMove(ctx, r); err != nil {
			return nil, err
		}
	case DoRename:
		if n, err = s.finishRename(ctx, dr, r, do); err != nil {
			return nil, err
		}
		done = true
	default:
		return nil, fault.New(errdefs.ErrNotImplemented, "this Holdfast does not know the change %q", do.Verb)
	}
	if do.Verb != DoRename {
		if err := s.d.Records.Put(n.Name, &n); err != nil {
			return nil, err
		}
	}
	s.d.Log.Info("change of a volume settled", logkey.Volume, r.Name, logkey.Why, "the daemon ended during "+string(do.Verb), logkey.Applied, done)
	return &n, nil
}
