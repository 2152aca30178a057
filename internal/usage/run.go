package usage

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// pause is between two looks at what is due, and how long a write to the
	// records waits for others.
	pause = 2 * time.Second
	// unwell is how long a thing that could not be measured is left alone.
	unwell = 5 * time.Minute
)

// Run measures in the background until ctx ends: one walk at a time, and after
// each a rest many times as long.
func (l *Ledger) Run(ctx context.Context) error {
	failed := map[Key]time.Time{}
	for {
		wait := pause
		if k, ok := l.next(failed); ok {
			began := l.d.Clock.Now()
			if _, err := l.measure(ctx, k, true, false); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
				failed[k] = l.d.Clock.Now()
				l.d.Log.Warn("size not measured", logkey.Name, recordID(k), logkey.Err, err)
			}
			// The walk rested already where it was long.
			wait = min(restFactor*l.d.Clock.Now().Sub(began), pause)
		} else if err := l.save(); err != nil {
			l.d.Log.Warn("ledger of sizes not written", logkey.Err, err)
		}
		if clock.Sleep(ctx, l.d.Clock, wait) != nil {
			return nil
		}
	}
}

// next picks the thing that waits longest, and forgets what is no more.
func (l *Ledger) next(failed map[Key]time.Time) (_ Key, ok bool) {
	now := l.d.Clock.Now()
	var (
		best  Key
		since time.Time
	)
	there := map[Key]bool{}
	for _, s := range l.d.Subjects.All() {
		there[s.Key] = true
		e, _, n := l.state(s)
		due, ever := dueAt(e, s, n)
		if !ever || due.After(now) || now.Sub(failed[s.Key]) < unwell {
			continue
		}
		if !ok || due.Before(since) {
			best, since, ok = s.Key, due, true
		}
	}
	l.sweep(there)
	return best, ok
}

// sweep forgets what its owner no longer knows. Looked at again under the lock
// of its walk, since it may have been made just now.
func (l *Ledger) sweep(there map[Key]bool) {
	l.mu.Lock()
	var gone []Key
	for k := range l.entries {
		if !there[k] {
			gone = append(gone, k)
		}
	}
	l.mu.Unlock()
	for _, k := range gone {
		if _, ok := l.d.Subjects.Find(k); !ok {
			l.Gone(k)
		}
	}
}
