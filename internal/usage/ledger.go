package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/base/keylock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// cleanEntry is there while no daemon runs that could have left the ledger
// behind the truth: it is written when one ends and taken away when one begins.
// After a crash everything is measured again, and until then told with its age.
var cleanEntry = Key{Kind: "state", ID: "clean"}

// Ledger keeps the sizes of what has to be measured.
type Ledger struct {
	d     Deps
	walks keylock.Locker // by key; held across a walk, taken before mu

	mu      sync.Mutex // guards the fields below; never held across I/O
	entries map[Key]*Entry
	changed map[Key]uint64 // the last change of a thing that may differ from what was measured
	changes uint64
	unsaved map[Key]bool // entries that differ from the records; those that are gone included
	purse   purse
	told    chan struct{} // closed, and made anew, when something was measured
}

// New reads the ledger.
func New(d Deps) (*Ledger, error) {
	l := &Ledger{
		d: d, entries: map[Key]*Entry{}, changed: map[Key]uint64{}, unsaved: map[Key]bool{}, told: make(chan struct{}),
	}
	all, err := d.Records.All()
	if err != nil { // sizes can be measured again: no reason not to start
		d.Log.Warn("part of the ledger of sizes lost", logkey.Err, err)
	}
	clean := false
	for _, e := range all {
		if e.Key == cleanEntry {
			clean = true
			continue
		}
		l.entries[e.Key] = e
	}
	if clean {
		if err := d.Records.Delete(recordID(cleanEntry)); err != nil {
			return nil, err
		}
		return l, failpoint.Hit("usage.new.afterMark")
	}
	for k := range l.entries {
		l.Changed(k)
	}
	return l, nil
}

func recordID(k Key) string { return string(k.Kind) + "/" + k.ID }

// Changed says that something was, or may have been, written to the thing.
func (l *Ledger) Changed(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	l.changed[k] = l.changes
}

// Gone says that the thing is no more.
func (l *Ledger) Gone(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(k)
}

// forget is called with mu held.
func (l *Ledger) forget(k Key) {
	delete(l.changed, k)
	if _, ok := l.entries[k]; ok {
		delete(l.entries, k)
		l.unsaved[k] = true
	}
}

// Observe takes what the event tells about volumes. It never blocks.
func (l *Ledger) Observe(m events.Message) {
	if m.Type != events.VolumeEventType || m.Actor.ID == "" {
		return
	}
	if k := (Key{Volume, m.Actor.ID}); m.Action == events.ActionDestroy {
		l.Gone(k)
	} else {
		l.Changed(k)
	}
}

// state is all that is known about a thing now.
func (l *Ledger) state(s Subject) (e *Entry, c uint64, n need) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, c = l.entries[s.Key], l.changed[s.Key]
	return e, c, look(e, s, c > 0)
}

// Told is a size as it is told to callers.
type Told struct {
	Size
	At    time.Time
	Exact bool // nothing wrote to it since At
}

// Size tells a thing's size: measured now where that is needed and quick, else
// the last one. Only what was never measured is waited for. errdefs.ErrNotFound.
func (l *Ledger) Size(ctx context.Context, k Key) (Told, error) {
	s, ok := l.d.Subjects.Find(k)
	if !ok {
		return Told{}, fmt.Errorf("size of %s %s: %w", k.Kind, k.ID, errdefs.ErrNotFound)
	}
	e, _, n := l.state(s)
	if n == unknown || n == aged && l.affordable(e) {
		return l.measure(ctx, k, false, false)
	}
	return told(e, n), nil
}

// Known tells a thing's last size, without measuring.
func (l *Ledger) Known(k Key) (Told, bool) {
	s, ok := l.d.Subjects.Find(k)
	if !ok {
		return Told{}, false
	}
	e, _, n := l.state(s)
	if n == unknown {
		return Told{}, false
	}
	return told(e, n), true
}

func told(e *Entry, n need) Told { return Told{Size: e.Size, At: e.At, Exact: n == exact} }

func (l *Ledger) affordable(e *Entry) bool {
	cost := costOf(e)
	if cost > cheap {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.purse.spend(l.d.Clock.Now(), cost)
}

// Measure tells a thing's size as a walk finds it now.
func (l *Ledger) Measure(ctx context.Context, k Key) (Told, error) {
	return l.measure(ctx, k, false, true)
}

// measure walks, unless somebody else just did. With always it walks in any case.
func (l *Ledger) measure(ctx context.Context, k Key, gentle, always bool) (Told, error) {
	asked := l.d.Clock.Now()
	unlock, err := l.walks.Lock(ctx, recordID(k))
	if err != nil {
		return Told{}, err
	}
	defer unlock()
	s, ok := l.d.Subjects.Find(k)
	if !ok {
		l.Gone(k)
		return Told{}, fmt.Errorf("size of %s %s: %w", k.Kind, k.ID, errdefs.ErrNotFound)
	}
	e, c, n := l.state(s)
	if e != nil && n != unknown && e.At.After(asked) || n == exact && !always {
		return told(e, n), nil
	}
	at := l.d.Clock.Now()
	size, worked, err := l.d.Walker.Walk(ctx, k, gentle)
	if err != nil {
		return Told{}, fmt.Errorf("measure %s %s: %w", k.Kind, k.ID, err)
	}
	if err := failpoint.Hit("usage.measure.afterWalk"); err != nil {
		return Told{}, err
	}
	after, ok := l.d.Subjects.Find(k)
	if !ok {
		l.Gone(k)
		return Told{}, fmt.Errorf("size of %s %s: %w", k.Kind, k.ID, errdefs.ErrNotFound)
	}
	e = &Entry{
		Key: k, Size: size, At: at, Worked: worked, Birth: s.Birth, Stamp: s.Stamp,
		Open: s.Open || after.Open || after.Stamp != s.Stamp,
	}
	return l.keep(e, after, c), nil
}

// keep enters a measurement. A change that came while it was made stays one.
func (l *Ledger) keep(e *Entry, s Subject, c uint64) Told {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[e.Key] = e
	l.unsaved[e.Key] = true
	if l.changed[e.Key] == c {
		delete(l.changed, e.Key)
	}
	close(l.told)
	l.told = make(chan struct{})
	return told(e, look(e, s, l.changed[e.Key] > 0))
}

// Measured is closed when something is measured after the call.
func (l *Ledger) Measured() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

// Fresh measures everything that may have changed since it was measured, or,
// with all, everything; with kinds, of those alone.
func (l *Ledger) Fresh(ctx context.Context, all bool, kinds ...Kind) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, s := range l.d.Subjects.All() {
		if len(kinds) > 0 && !slices.Contains(kinds, s.Key.Kind) {
			continue
		}
		if _, _, n := l.state(s); n == exact && !all {
			continue
		}
		g.Go(func() error {
			if _, err := l.measure(ctx, s.Key, false, all); err != nil && !errdefs.IsNotFound(err) {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				l.d.Log.Warn("size unknown", logkey.Name, recordID(s.Key), logkey.Err, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Item is a measured thing with its size; At is zero where it is not known.
type Item struct {
	Key  Key
	Open bool
	Told
}

// Items tells everything that is measured, without measuring.
func (l *Ledger) Items() []Item {
	all := l.d.Subjects.All()
	out := make([]Item, 0, len(all))
	for _, s := range all {
		i := Item{Key: s.Key, Open: s.Open}
		if e, _, n := l.state(s); n != unknown {
			i.Told = told(e, n)
		}
		out = append(out, i)
	}
	return out
}

// save writes what differs from the records.
func (l *Ledger) save() error {
	l.mu.Lock()
	puts, dels := []*Entry{}, []Key{}
	for k := range l.unsaved {
		if e, ok := l.entries[k]; ok {
			puts = append(puts, e)
		} else {
			dels = append(dels, k)
		}
	}
	l.unsaved = map[Key]bool{}
	l.mu.Unlock()
	// Side by side, so that they share commits.
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards errs
		errs []error
	)
	write := func(k Key, do func() error) {
		wg.Go(func() {
			if err := do(); err != nil {
				l.mu.Lock()
				l.unsaved[k] = true
				l.mu.Unlock()
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	for _, e := range puts {
		write(e.Key, func() error {
			if err := failpoint.Hit("usage.save.beforePut"); err != nil {
				return err
			}
			return errors.Join(l.d.Records.Put(recordID(e.Key), e), failpoint.Hit("usage.save.afterPut"))
		})
	}
	for _, k := range dels {
		write(k, func() error {
			if err := failpoint.Hit("usage.save.beforeDelete"); err != nil {
				return err
			}
			return l.d.Records.Delete(recordID(k))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close writes what is left to write and marks the ledger as true: nothing
// changes from here on but what a later daemon can see by itself.
func (l *Ledger) Close() error {
	if err := l.save(); err != nil {
		return err // without the mark all is measured again
	}
	l.mu.Lock()
	left := slices.Collect(maps.Keys(l.changed))
	l.mu.Unlock()
	for _, k := range left { // known to be behind: better unknown
		l.Gone(k)
	}
	if err := l.save(); err != nil {
		return err
	}
	if err := failpoint.Hit("usage.close.beforeMark"); err != nil {
		return err
	}
	return l.d.Records.Put(recordID(cleanEntry), &Entry{Key: cleanEntry})
}
