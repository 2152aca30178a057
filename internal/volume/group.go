package volume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// QuiesceMode says whether those who write to a volume hold still while it is copied.
type QuiesceMode string

// Modes.
const (
	QuiesceOff    QuiesceMode = ""
	QuiesceFreeze QuiesceMode = "freeze" // they are frozen
	QuiesceOn     QuiesceMode = "on"     // their applications are told; where that fails there is no copy
	QuiesceTry    QuiesceMode = "try"    // … where that fails the copy is as after a crash
)

// CheckQuiesceMode refuses what is none.
func CheckQuiesceMode(m QuiesceMode) error {
	switch m {
	case QuiesceOff, QuiesceFreeze, QuiesceOn, QuiesceTry:
		return nil
	}
	return fault.New(errdefs.ErrInvalidArgument, "unknown way to quiesce %q: want on, try or freeze", m)
}

// Quiescer has containers hold still.
type Quiescer interface {
	// Quiesce returns when those who write to the volumes are quiet. Its result must be
	// resumed once.
	Quiesce(ctx context.Context, r QuietRequest) (Quiet, error)
}

// QuietRequest says what shall be quiet.
type QuietRequest struct {
	Volumes []string
	Hooks   bool // tell the applications
	Try     bool // do without what fails of that
	Freeze  bool // nothing must be written until Resume
}

// Quiet is until Resume, which has them go on whatever became of the copy.
type Quiet struct {
	Application map[string]bool   // by volume: all who write to it were told
	Hooks       map[string]string // by volume: what was done
	Failed      error             // what was done without
	Resume      func(ctx context.Context) Resumed
}

// Resumed is how a quiet time ended.
type Resumed struct {
	Paused time.Duration // how long who writes had to wait
	Broken error         // they were not quiet until the end
	Post   error         // what went wrong afterwards
}

// GroupOptions make snapshots of several volumes as of one moment.
type GroupOptions struct {
	Volumes []string
	Name    string // of each; empty: made of the time
	Labels  map[string]string
	Live    bool
	Quiesce QuiesceMode
}

// Taken is one snapshot of a group.
type Taken struct {
	Snapshot
	Volume string
	Made   Made
}

// SnapshotGroup keeps the present states of volumes as of one moment: all of them, or
// none. Containers that write to several are frozen for it.
func (s *Service) SnapshotGroup(ctx context.Context, o GroupOptions) (_ []Taken, err error) {
	g := &group{s: s, o: o}
	if err := g.check(); err != nil {
		return nil, err
	}
	for _, name := range g.o.Volumes { // in order, so that two of us never wait for each other
		h, end, berr := s.begin(ctx, name, asSnapshot)
		if berr != nil {
			return nil, berr
		}
		defer end(&err)
		g.of = append(g.of, &member{held: h})
	}
	if err := g.plan(); err != nil {
		return nil, err
	}
	if err := g.make(ctx); err != nil {
		return nil, err
	}
	out := make([]Taken, len(g.of))
	for i, m := range g.of {
		out[i] = Taken{Snapshot: m.snap, Volume: m.rec.Name, Made: m.made}
		about := map[string]string{
			"driver": m.rec.Driver, "snapshot": m.snap.Name, "consistency": string(m.snap.Consistency), "method": m.snap.Method,
		}
		for k, v := range map[string]string{"hook": m.snap.Hook, "group": m.snap.Group} {
			if v != "" {
				about[k] = v
			}
		}
		if m.snap.Paused > 0 {
			about["paused"] = m.snap.Paused.String()
		}
		s.publish(ActionSnapshot, m.rec.Name, about)
	}
	return out, nil
}

// group is one in the making.
type group struct {
	s  *Service
	o  GroupOptions
	id string // empty for a single one
	of []*member
}

// member is a volume of a group.
type member struct {
	held
	sn       Snapshotter
	snap     Snapshot
	made     Made
	intended bool
	taken    bool // the driver may have it
}

func (g *group) check() error {
	if g.o.Name != "" {
		if err := checkSnapshotName(g.o.Name); err != nil {
			return err
		}
	}
	if err := CheckQuiesceMode(g.o.Quiesce); err != nil {
		return err
	}
	if g.o.Live && g.o.Quiesce != QuiesceOff {
		return fault.New(errdefs.ErrInvalidArgument, "a live copy and a quiet one exclude each other")
	}
	g.o.Volumes = slices.Compact(slices.Sorted(slices.Values(g.o.Volumes)))
	if len(g.o.Volumes) == 0 {
		return fault.New(errdefs.ErrInvalidArgument, "there is no volume to keep the state of")
	}
	if len(g.o.Volumes) == 1 {
		return nil
	}
	if g.o.Live {
		return fault.New(errdefs.ErrInvalidArgument, "several volumes are kept as of one moment: a live copy is of none")
	}
	var b [6]byte
	if _, err := io.ReadFull(g.s.d.Random, b[:]); err != nil {
		return fmt.Errorf("make a name for a group of snapshots: %w", err)
	}
	g.id = hex.EncodeToString(b[:])
	return nil
}

// plan gives the snapshots their names and refuses what cannot be made.
func (g *group) plan() (err error) {
	now := g.s.d.Clock.Now().UTC()
	name := g.o.Name
	for again := name == ""; again; { // one name for all
		name, again = now.Format(timeName), false
		for i := 2; slices.ContainsFunc(g.of, func(m *member) bool { return m.rec.snapshot(name) != nil }); i++ {
			name = fmt.Sprintf("%s-%d", now.Format(timeName), i)
		}
	}
	for _, m := range g.of {
		if m.sn, err = snapshotter(m.dr); err != nil {
			if g.id != "" {
				err = fmt.Errorf("volume %s: %w", m.rec.Name, err)
			}
			return err
		}
		if m.rec.snapshot(name) != nil {
			return fault.New(errdefs.ErrConflict, "volume %s already has a snapshot %s", m.rec.Name, name)
		}
		m.snap = Snapshot{Name: name, Created: now, Labels: g.o.Labels, Group: g.id}
	}
	return nil
}

// quietRequest says what must be quiet; nothing, where its Volumes are empty.
func (g *group) quietRequest() (QuietRequest, error) {
	r := QuietRequest{Hooks: g.o.Quiesce == QuiesceOn || g.o.Quiesce == QuiesceTry, Try: g.o.Quiesce == QuiesceTry}
	var used []*member
	for _, m := range g.of {
		if len(m.users) > 0 {
			used = append(used, m)
			r.Volumes = append(r.Volumes, m.rec.Name)
			r.Freeze = r.Freeze || !m.dr.Capabilities().PointInTime
		}
	}
	r.Freeze = r.Freeze || g.id != "" || g.o.Quiesce == QuiesceFreeze
	if g.o.Live || len(used) == 0 || g.o.Quiesce == QuiesceOff && g.id == "" {
		for _, m := range g.of { // what they are is known now
			c, err := m.moment(g.o.Live, m.dr.Capabilities())
			if err != nil {
				return r, err
			}
			m.snap.Consistency = c
		}
		return QuietRequest{}, nil
	}
	if g.s.d.Quiescer == nil {
		return r, fault.New(errdefs.ErrNotImplemented, "nobody here can have containers hold still")
	}
	return r, nil
}

// make is intents, deeds and results.
func (g *group) make(ctx context.Context) error {
	want, err := g.quietRequest()
	if err != nil {
		return err
	}
	err = g.intend(ctx)
	if err == nil {
		err = failpoint.Hit("volume.snapshot.afterIntent")
	}
	if err == nil {
		err = g.take(ctx, want)
	}
	if err == nil {
		err = failpoint.Hit("volume.snapshot.afterDriver")
	}
	if err == nil {
		err = g.record(ctx)
	}
	if err != nil {
		g.undo(context.WithoutCancel(ctx))
	}
	return err
}

func (g *group) intend(ctx context.Context) error {
	for _, m := range g.of {
		err := g.s.changeNow(ctx, m.e, func(r *Record) {
			r.Doing = &Intent{Verb: DoSnapshot, Snapshot: m.snap.Name, Group: g.id}
		})
		if err != nil {
			return err
		}
		m.intended = true
	}
	return nil
}

// take has the writers be quiet, asks the drivers, and has the writers go on.
func (g *group) take(ctx context.Context, want QuietRequest) (err error) {
	q := Quiet{Resume: func(context.Context) Resumed { return Resumed{} }}
	if len(want.Volumes) > 0 {
		if q, err = g.s.d.Quiescer.Quiesce(ctx, want); err != nil {
			return err
		}
		for _, m := range g.of {
			m.snap.Consistency = m.quietly(q)
			m.snap.Hook = q.Hooks[m.rec.Name]
			m.snap.Created = g.s.d.Clock.Now().UTC()
		}
	}
	err = g.drive(ctx)
	after := q.Resume(ctx)
	if err != nil {
		return errors.Join(err, after.Post)
	}
	var why []string
	for _, e := range []error{q.Failed, after.Post} {
		if e != nil {
			why = append(why, e.Error())
		}
	}
	if after.Broken != nil {
		// A hook that was lost leaves what a crash would; a freeze that was lost, nothing.
		if !want.Try || want.Freeze {
			return fault.Wrap(errdefs.ErrConflict, after.Broken, "what writes to the volume was not quiet until the end")
		}
		why = append(why, after.Broken.Error())
	}
	for _, m := range g.of {
		if after.Broken != nil && m.snap.Consistency == Application {
			m.snap.Consistency = Crash
		}
		if len(m.users) > 0 {
			m.snap.Paused = after.Paused
		}
		m.snap.Why = strings.Join(why, "; ")
	}
	return nil
}

// quietly says what a copy is that is made while those who write are quiet.
func (m *member) quietly(q Quiet) Consistency {
	switch {
	case len(m.users) == 0:
		return Clean
	case q.Application[m.rec.Name]:
		return Application
	}
	return Crash // a driver with one moment, or they are frozen
}

func (g *group) drive(ctx context.Context) (err error) {
	for _, m := range g.of {
		m.taken = true
		if m.made, err = m.sn.Snapshot(ctx, m.rec.spec(), m.snap.Name); err != nil {
			return err
		}
		m.snap.Method = m.made.Method
		if err := failpoint.Hit("volume.snapshot.afterOne"); err != nil {
			return err
		}
	}
	for _, m := range g.of { // until the last of them was copied
		if err := g.s.still(m.held, m.snap.Consistency, m.dr.Capabilities().PointInTime && g.id == ""); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) record(ctx context.Context) error {
	for _, m := range g.of {
		err := g.s.changeNow(ctx, m.e, func(r *Record) {
			r.Doing = nil
			r.Snapshots = append(r.Snapshots, m.snap)
		})
		if err == nil && g.id != "" {
			err = failpoint.Hit("volume.snapshot.afterOneRecord")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// undo takes away all of them. What it cannot is found by the next start.
func (g *group) undo(ctx context.Context) {
	for _, m := range g.of {
		if m.taken {
			if err := m.sn.RemoveSnapshot(ctx, m.rec.spec(), m.snap.Name); err != nil {
				g.s.d.Log.Warn("snapshot that nobody knows stays until the next start", logkey.Volume, m.rec.Name, logkey.Name, m.snap.Name, logkey.Err, err)
				continue // with its intent
			}
		}
		if !m.intended {
			continue
		}
		if err := g.s.changeNow(ctx, m.e, func(r *Record) { r.Doing = nil; r.dropSnapshot(m.snap.Name) }); err != nil {
			// The next start finds it, and nothing to do.
			g.s.d.Log.Warn("record of a change that was not made stays", logkey.Volume, m.rec.Name, logkey.Err, err)
		}
	}
}

// brokenGroups finds groups of snapshots of which some were not written down when the
// daemon ended, and has the others removed too: nobody was told of them.
func brokenGroups(recs []*Record) []*Record {
	open := map[string]bool{}
	for _, r := range recs {
		if do := r.Doing; do != nil && do.Verb == DoSnapshot && do.Group != "" {
			open[do.Group] = true
		}
	}
	if len(open) == 0 {
		return recs
	}
	var first, then []*Record // the open intents last: they are what tells, should we die too
	for _, r := range recs {
		i := slices.IndexFunc(r.Snapshots, func(snap Snapshot) bool { return open[snap.Group] && r.Doing == nil })
		if i < 0 {
			then = append(then, r)
			continue
		}
		r.Doing = &Intent{Verb: DoRemoveSnapshot, Snapshot: r.Snapshots[i].Name}
		first = append(first, r)
	}
	return append(first, then...)
}
