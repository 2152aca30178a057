package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// ActionMove is the event of another driver or pool.
const ActionMove events.Action = "move"

const asMove = "move in the making"

// MovePhase is how far a move has come.
type MovePhase string

// Phases of moves.
const (
	MoveIntended MovePhase = ""        // the new place may be made, and is empty
	MoveFilling  MovePhase = "filling" // what is at the new place is ours
	MoveLeaving  MovePhase = "leaving" // the volume is at the new place; the old one goes
)

// MoveOptions say where a volume goes.
type MoveOptions struct {
	Volume  string
	Driver  string            // empty: the one it has
	Options map[string]string // of that driver; a limit on its size goes along where it can
	// Progress, if not nil, is told how many bytes were moved.
	Progress func(bytes int64)
}

// Move gives a volume, with its snapshots, another driver or other options, such
// as another pool. Nobody has it mounted; containers that refer to it go on with
// it where it is then. Until all of it is there, it is where it was.
func (s *Service) Move(ctx context.Context, o MoveOptions) (made Made, err error) {
	unlockOps, err := s.ops.Lock(ctx, o.Volume)
	if err != nil {
		return made, err
	}
	defer unlockOps()
	m := move{s: s, o: o}
	// Only what is short is done with the volume locked: who asks for it meanwhile
	// is told, not kept waiting.
	if err := s.with(ctx, o.Volume, func(e *entry, dr Driver) error { return m.begin(ctx, e, dr) }); err != nil {
		return made, err
	}
	defer func() { s.unset(m.e.refs, asMove) }()
	if err := m.fill(ctx); err != nil {
		return made, fmt.Errorf("move volume %s: %w", o.Volume, errors.Join(err, m.undo(ctx)))
	}
	if err := m.finish(context.WithoutCancel(ctx)); err != nil {
		return m.made, err
	}
	return m.made, nil
}

// move is one in the making.
type move struct {
	s        *Service
	o        MoveOptions
	e        *entry
	from, to Driver
	old, new Spec
	send     Sender
	receive  Sender
	made     Made
}

// begin looks whether the volume can go there, and writes the intent.
func (m *move) begin(ctx context.Context, e *entry, dr Driver) error {
	s := m.s
	if err := errors.Join(s.mend(ctx, e, dr), whole(e)); err != nil {
		return err
	}
	m.e, m.from, m.to = e, dr, dr
	if m.o.Driver != "" {
		to, err := s.find(ctx, m.o.Driver)
		if err != nil {
			return err
		}
		m.to = to
	}
	m.old = e.rec.spec()
	m.new = Spec{Name: e.rec.Name, Options: m.options(&e.rec)}
	if err := m.to.CheckOptions(m.new.Options); err != nil {
		return err
	}
	if m.to.Path(m.new) == m.from.Path(m.old) {
		return fault.New(errdefs.ErrInvalidArgument, "volume %s is there already", m.o.Volume)
	}
	if users := s.inHand(e); len(users) > 0 {
		return fault.New(errdefs.ErrConflict, "volume %s is in use by running containers [%s]: stop them first", m.o.Volume, strings.Join(users, ", "))
	}
	for _, at := range []struct {
		dr Driver
		v  Spec
		to *Sender
	}{{m.from, m.old, &m.send}, {m.to, m.new, &m.receive}} {
		se, ok := at.dr.(Sender)
		if !ok || !at.dr.Capabilities().Send || !s.keepsHere(&Record{Name: at.v.Name, Driver: at.dr.Name(), Options: at.v.Options}) {
			return fault.New(errdefs.ErrNotImplemented, "volume %s cannot be moved: volume driver %s does not keep its data here, or cannot send it", m.o.Volume, at.dr.Name())
		}
		*at.to = se
	}
	if len(e.rec.Snapshots) > 0 {
		if _, err := snapshotter(m.to); err != nil {
			return err
		}
	}
	s.setIn(e.refs, asMove)
	if err := s.change(e, func(r *Record) { r.Doing = m.intent(MoveIntended) }); err != nil {
		s.unset(e.refs, asMove)
		return err
	}
	return nil
}

func (m *move) intent(p MovePhase) *Intent {
	return &Intent{Verb: DoMove, Driver: m.to.Name(), Options: m.new.Options, Phase: p}
}

// options are those that were asked for, and a limit that the volume has.
func (m *move) options(r *Record) map[string]string {
	out := map[string]string{}
	maps.Copy(out, m.o.Options)
	if _, ok := m.to.(Limiter); ok && m.to.Capabilities().Quota && out[OptSize] == "" && r.Options[OptSize] != "" {
		out[OptSize] = r.Options[OptSize]
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// inHand are those who have the volume or a snapshot of it mounted.
func (s *Service) inHand(e *entry) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(joined(e.mounts, e.snapMounts)))
}

// fill makes the volume at its new place and gives it all that it has.
func (m *move) fill(ctx context.Context) error {
	if err := failpoint.Hit("volume.move.afterIntent"); err != nil {
		return err
	}
	if err := m.to.Create(ctx, m.new); err != nil {
		return err
	}
	if err := failpoint.Hit("volume.move.afterCreate"); err != nil {
		return err
	}
	if err := m.s.changeNow(ctx, m.e, func(r *Record) { r.Doing = m.intent(MoveFilling) }); err != nil {
		return err
	}
	if err := failpoint.Hit("volume.move.afterFilling"); err != nil {
		return err
	}
	for _, at := range []struct {
		dr Driver
		v  Spec
	}{{m.from, m.old}, {m.to, m.new}} {
		if err := mount(ctx, at.dr, at.v); err != nil {
			return err
		}
	}
	err := m.content(ctx)
	finish := context.WithoutCancel(ctx)
	return errors.Join(err, m.from.Unmount(finish, m.old), m.to.Unmount(finish, m.new))
}

func (m *move) content(ctx context.Context) error {
	since := ""
	for _, snap := range m.e.rec.Snapshots { // nobody changes it: we have the ops lock
		if err := m.transfer(ctx, snap.Name, since); err != nil {
			return fmt.Errorf("snapshot %s: %w", snap.Name, err)
		}
		since = snap.Name
	}
	if err := failpoint.Hit("volume.move.afterSnapshots"); err != nil {
		return err
	}
	if err := m.transfer(ctx, "", since); err != nil {
		return err
	}
	return failpoint.Hit("volume.move.afterContent")
}

// transfer moves one state; by what changed since an older one, where that is
// there too and has to do with it.
func (m *move) transfer(ctx context.Context, snapshot, since string) error {
	if since != "" && m.from.Capabilities().Incremental && m.to.Capabilities().Incremental {
		err := m.pipe(ctx, snapshot, since)
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			return err
		}
	}
	return m.pipe(ctx, snapshot, "")
}

func (m *move) pipe(ctx context.Context, snapshot, since string) error {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := m.send.Send(ctx, m.old, snapshot, since, counted{w, m.o.Progress})
		_ = w.CloseWithError(err) // always nil
		sent <- err
	}()
	made, err := m.receive.Receive(ctx, m.new, snapshot, since, r)
	_ = r.CloseWithError(errors.Join(errors.New("nobody receives"), err)) // always nil
	serr := <-sent
	m.made.Method = made.Method
	m.made.Files += made.Files
	m.made.Bytes += made.Bytes
	if errors.Is(serr, errdefs.ErrFailedPrecondition) || err == nil {
		return serr
	}
	return err // what the sender has to say came through the pipe
}

// counted tells how much went through it.
type counted struct {
	io.Writer
	tell func(int64) // may be nil
}

// Write implements io.Writer.
func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	if c.tell != nil {
		c.tell(int64(n))
	}
	return n, err
}

// undo removes what there is at the new place.
func (m *move) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	unlock, err := m.s.locks.Lock(ctx, m.o.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return m.s.mend(ctx, m.e, m.from)
}

// finish has the volume be at its new place, and then removes what is at the old.
func (m *move) finish(ctx context.Context) error {
	s, to := m.s, m.to.Name()
	unlock, err := s.locks.Lock(ctx, m.o.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.change(m.e, func(r *Record) {
		r.Doing = &Intent{Verb: DoMove, Driver: r.Driver, Options: r.Options, Phase: MoveLeaving}
		r.Driver, r.Options = to, m.new.Options
		for i := range r.Snapshots {
			r.Snapshots[i].Method = MethodStream
		}
	})
	if err != nil {
		return errors.Join(err, s.mend(ctx, m.e, m.from))
	}
	s.publish(ActionMove, m.o.Volume, map[string]string{"driver": to, "from": m.from.Name()})
	if err = failpoint.Hit("volume.move.afterRecord"); err == nil {
		err = s.mend(ctx, m.e, m.to)
	}
	if err != nil {
		return fmt.Errorf("volume %s was moved; what it leaves behind could not be removed, and will be by the next start of the daemon: %w", m.o.Volume, err)
	}
	return nil
}

// settleMove ends a move: what is not the volume's place goes. It tells whether
// the volume is at the new one.
func (s *Service) settleMove(ctx context.Context, r *Record) (done bool, err error) {
	do := *r.Doing
	other, ok := s.known(do.Driver)
	if !ok {
		return false, unknownDriver(do.Driver)
	}
	v := Spec{Name: r.Name, Options: do.Options}
	if do.Phase == MoveIntended {
		// Create refuses data that isn't ours, and then there is nothing to take away.
		if err := other.Create(ctx, v); err != nil {
			s.d.Log.Warn("place that a volume was to move to given up", logkey.Volume, r.Name, logkey.Err, err)
			return false, nil
		}
	}
	if err := other.Remove(ctx, v); err != nil {
		return false, err
	}
	return do.Phase == MoveLeaving, failpoint.Hit("volume.move.afterRemove")
}
