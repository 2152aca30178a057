package volume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// nameLimit is the longest name of a directory.
const nameLimit = 255

// Create makes a volume. One of that name and driver that is already there is
// returned as it is.
func (s *Service) Create(ctx context.Context, o CreateOptions) (volume.Volume, error) {
	e, unlock, err := s.ensure(ctx, o)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	return s.toAPI(e), nil
}

// ensure finds or makes the volume and returns it locked.
func (s *Service) ensure(ctx context.Context, o CreateOptions) (_ *entry, unlock func(), err error) {
	anonymous := o.Name == ""
	if anonymous {
		if o.Name, err = s.randomName(); err != nil {
			return nil, nil, err
		}
		labels := map[string]string{AnonymousLabel: ""}
		maps.Copy(labels, o.Labels)
		o.Labels = labels
	}
	unlock, err = s.locks.Lock(ctx, o.Name)
	if err != nil {
		return nil, nil, err
	}
	e, err := s.ensureLocked(ctx, o, anonymous)
	if err != nil {
		unlock()
		return nil, nil, inCreate(o.Name, err)
	}
	return e, unlock, nil
}

// inCreate puts Docker's prefix before the text and keeps the class.
func inCreate(name string, err error) error {
	return fault.Wrap(errdefs.Resolve(err), err, "create %s", name)
}

func (s *Service) randomName() (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.d.Random, b[:]); err != nil {
		return "", fmt.Errorf("make a name for an anonymous volume: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// ensureLocked is called with the volume's lock held.
func (s *Service) ensureLocked(ctx context.Context, o CreateOptions, anonymous bool) (*entry, error) {
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	dr, err := s.find(ctx, o.Driver)
	if err != nil {
		return nil, err
	}
	if e, err := s.get(o.Name); err == nil {
		if o.Driver != "" && o.Driver != e.rec.Driver {
			return nil, fault.New(errdefs.ErrConflict, "driver '%s' already has volume '%s': volume name must be unique", e.rec.Driver, o.Name)
		}
		if e.rec.State == Removing {
			return nil, fault.New(errdefs.ErrConflict, "volume '%s' is half removed: remove it first", o.Name)
		}
		return e, nil
	}
	if err := dr.CheckOptions(o.Options); err != nil {
		return nil, err
	}
	r := Record{
		Name: o.Name, Driver: dr.Name(), Options: o.Options, Labels: o.Labels,
		Created: s.d.Clock.Now().UTC(), Anonymous: anonymous, State: Creating,
	}
	if ad, ok := dr.(Adopter); ok {
		there, err := ad.Exists(ctx, r.spec())
		if err != nil {
			return nil, err
		}
		if there {
			return s.adopt(r)
		}
	}
	return s.make(ctx, dr, r, nil)
}

// adopt takes a volume as it is that others made: there is no deed, and so
// nothing to undo.
func (s *Service) adopt(r Record) (*entry, error) {
	r.State = Ready
	if err := s.d.Records.Put(r.Name, &r); err != nil {
		return nil, err
	}
	e := newEntry(r)
	s.put(e)
	s.publish(events.ActionCreate, r.Name, map[string]string{"driver": r.Driver})
	return e, nil
}

// make writes the intent, does the deed and writes the result. What fails is
// undone. fill, if not nil, gives the volume its first content.
func (s *Service) make(ctx context.Context, dr Driver, r Record, fill func() error) (_ *entry, err error) {
	if err := s.d.Records.Put(r.Name, &r); err != nil {
		return nil, err
	}
	asked := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	created := false
	defer func() {
		if err == nil {
			return
		}
		if created {
			err = errors.Join(err, dr.Remove(ctx, r.spec()))
		}
		if derr := s.d.Records.Delete(r.Name); derr != nil {
			// The next start finds the intent and does it.
			s.d.Log.Warn("record of a volume that was not made stays", logkey.Volume, r.Name, logkey.Err, derr)
		}
	}()
	if err := failpoint.Hit("volume.create.afterIntent"); err != nil {
		return nil, err
	}
	if err := dr.Create(ctx, r.spec()); err != nil {
		return nil, err
	}
	created = true
	if err := failpoint.Hit("volume.create.afterDriver"); err != nil {
		return nil, err
	}
	if fill != nil {
		// From here on what is under this name is ours, whatever it is.
		r.State = Filling
		if err := s.d.Records.Put(r.Name, &r); err != nil {
			return nil, err
		}
		if err := failpoint.Hit("volume.fill.afterIntent"); err != nil {
			return nil, err
		}
		err := fill()
		if err == nil {
			err = asked.Err()
		}
		// It may have taken long, and there is something to finish or to undo.
		finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
		defer cancel()
		ctx = finish
		if err != nil {
			return nil, err
		}
		if err := failpoint.Hit("volume.fill.afterContent"); err != nil {
			return nil, err
		}
	}
	r.State = Ready
	if err := s.d.Records.Put(r.Name, &r); err != nil {
		return nil, err
	}
	e := newEntry(r)
	s.put(e)
	s.publish(events.ActionCreate, r.Name, map[string]string{"driver": r.Driver})
	return e, nil
}

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

func checkName(name string) error {
	if len(name) == 1 {
		return fault.New(errdefs.ErrInvalidArgument, "volume name is too short, names should be at least two alphanumeric characters")
	}
	if len(name) > nameLimit {
		return fault.New(errdefs.ErrInvalidArgument, "volume name is too long, names should be at most %d characters", nameLimit)
	}
	if ok, err := regexp.MatchString("^"+nameChars+"+$", name); err != nil || !ok {
		return fault.New(errdefs.ErrInvalidArgument, "%q includes invalid characters for a local volume name, only %q are allowed. If you intended to pass a host directory, use absolute path", name, nameChars)
	}
	return nil
}
