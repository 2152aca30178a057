package usage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// ActionPolicy is the event of a run that removed something, of type daemon.
const ActionPolicy events.Action = "storage-policy"

const (
	defaultEvery = time.Hour
	// watch is how often the disk is compared with its high-water mark; enough
	// is how long a run that was made for it is left to be the last.
	watch  = 15 * time.Second
	enough = 10 * time.Minute
	// keepRuns is how many runs are remembered.
	keepRuns = 200
)

// Run is one run of a policy.
type Run struct {
	ID    string
	At    time.Time
	Why   string // what made it run
	Used  int64  // of the disk, before
	Total int64
	Gone  []Gone
	Freed int64
	Error string
}

// Gone is something that a run removed or meant to.
type Gone struct {
	Kind, ID, Name string
	Why            string
	Frees          int64
	Removed        bool // false: it was used meanwhile
}

// Runs keeps runs durably.
type Runs interface {
	Put(id string, r *Run) error
	Delete(id string) error
	All() ([]*Run, error)
}

// Store is what a policy looks at and removes from.
type Store interface {
	Disk() (Disk, error)
	// Unused lists what may be removed of the kinds that have a rule.
	Unused(ctx context.Context, rule func(kind string) *Rule) ([]Held, error)
	// Remove removes what of these is still unused, and tells which went.
	Remove(ctx context.Context, all []Held) (gone func(Held) bool, err error)
	// Rule is the rule of a kind, nil if there is none.
	Rule(p Policy, kind string) *Rule
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// JanitorDeps are the parts of a Janitor; all are required.
type JanitorDeps struct {
	Clock  clock.Clock
	Log    *slog.Logger
	Policy func() Policy
	Store  Store
	Runs   Runs
	Events Publisher
	Daemon string // ID, the actor of events
}

// Janitor runs the policy.
type Janitor struct {
	d    JanitorDeps
	busy sync.Mutex // held by a run
}

// NewJanitor returns a Janitor.
func NewJanitor(d JanitorDeps) *Janitor { return &Janitor{d: d} }

// Plan judges everything unused.
func (j *Janitor) Plan(ctx context.Context) (Disk, []Verdict, error) {
	disk, err := j.d.Store.Disk()
	if err != nil {
		return disk, nil, err
	}
	p := j.d.Policy()
	rule := func(kind string) *Rule { return j.d.Store.Rule(p, kind) }
	all, err := j.d.Store.Unused(ctx, rule)
	if err != nil {
		return disk, nil, err
	}
	return disk, Judge(j.d.Clock.Now(), disk, p, rule, all), nil
}

// RunNow plans and removes, and puts down what it did. A run that had nothing
// to do is put down only if it was asked for.
func (j *Janitor) RunNow(ctx context.Context, why string, asked bool) (Run, error) {
	j.busy.Lock()
	defer j.busy.Unlock()
	now := j.d.Clock.Now()
	r := Run{ID: fmt.Sprintf("%020d", now.UnixNano()), At: now.UTC(), Why: why, Gone: []Gone{}}
	disk, plan, err := j.Plan(ctx)
	r.Used, r.Total = disk.Used, disk.Total
	var goes []Held
	if err == nil {
		for _, v := range plan {
			if v.Goes {
				goes = append(goes, v.Held)
				r.Gone = append(r.Gone, Gone{Kind: v.Kind, ID: v.ID, Name: v.Name, Why: v.Why, Frees: v.Frees})
			}
		}
	}
	if len(goes) > 0 {
		var gone func(Held) bool
		if gone, err = j.d.Store.Remove(ctx, goes); gone != nil {
			for i := range r.Gone {
				if gone(goes[i]) {
					r.Gone[i].Removed = true
					r.Freed += r.Gone[i].Frees
				}
			}
		}
	}
	if err != nil {
		r.Error = err.Error()
	}
	if len(goes) == 0 && err == nil && !asked {
		return r, nil
	}
	return r, j.note(r, err)
}

func (j *Janitor) note(r Run, err error) error {
	if perr := j.d.Runs.Put(r.ID, &r); perr != nil {
		j.d.Log.Warn("run of the storage policy not put down", logkey.Err, perr)
	}
	if all, aerr := j.d.Runs.All(); aerr != nil {
		j.d.Log.Warn("runs of the storage policy not read", logkey.Err, aerr)
	} else {
		for i := range len(all) - keepRuns {
			if derr := j.d.Runs.Delete(all[i].ID); derr != nil {
				j.d.Log.Warn("old run of the storage policy not forgotten", logkey.Err, derr)
			}
		}
	}
	removed := 0
	for _, g := range r.Gone {
		if g.Removed {
			removed++
		}
	}
	j.d.Log.Info("storage policy ran", logkey.Why, r.Why, logkey.Applied, removed, logkey.Err, r.Error)
	j.d.Events.Publish(events.Message{
		Type: events.DaemonEventType, Action: ActionPolicy, Scope: "local",
		Actor: events.Actor{ID: j.d.Daemon, Attributes: map[string]string{
			"removed": strconv.Itoa(removed), "reclaimed": strconv.FormatInt(r.Freed, 10), "why": r.Why, "error": r.Error,
		}},
	})
	return err
}

// Log returns the runs, newest first.
func (j *Janitor) Log() ([]*Run, error) {
	all, err := j.d.Runs.All()
	slices.SortFunc(all, func(a, b *Run) int { return b.At.Compare(a.At) })
	return all, err
}

// Run runs the policy at its times until ctx ends.
func (j *Janitor) Run(ctx context.Context) error {
	last := j.d.Clock.Now()
	var forMark time.Time
	for clock.Sleep(ctx, j.d.Clock, watch) == nil {
		p, now := j.d.Policy(), j.d.Clock.Now()
		disk, err := j.d.Store.Disk()
		if err != nil {
			j.d.Log.Warn("disk not looked at", logkey.Err, err)
			continue
		}
		why := reason(p, disk, now, last, forMark)
		if why == "" {
			continue
		}
		last = now
		if Over(p, disk) {
			forMark = now
		}
		if _, err := j.RunNow(ctx, why, false); err != nil && ctx.Err() == nil {
			j.d.Log.Warn("storage policy failed", logkey.Err, err)
		}
	}
	return nil
}

// Over says that the disk is above the policy's high-water mark.
func Over(p Policy, d Disk) bool {
	return p.HighWater != (Mark{}) && d.Used >= p.HighWater.of(d)
}

// reason says why the policy is to run now, or "".
func reason(p Policy, d Disk, now, last, forMark time.Time) string {
	every := time.Duration(p.Every)
	if every == 0 {
		every = defaultEvery
	}
	switch {
	case p.Idle():
		return ""
	case Over(p, d) && now.Sub(forMark) >= enough:
		return "the disk is above the high-water mark of " + p.HighWater.String()
	case p.HighWater == (Mark{}) && now.Sub(last) >= every:
		return "it is time"
	}
	return ""
}
