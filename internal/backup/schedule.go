package backup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/robfig/cron/v3"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Labels of volumes.
const (
	LabelSchedule   = "holdfast.backup.schedule"
	LabelKeep       = "holdfast.backup.keep"
	LabelRepository = "holdfast.backup.repo"
	LabelQuiesce    = "holdfast.backup.quiesce"
)

// ScheduleNone is the label of a volume that is not backed up although the daemon's
// settings have a schedule.
const ScheduleNone = "none"

// State is what is known of a volume's backups by schedule.
type State struct {
	Volume     string
	Since      time.Time `json:",omitzero"` // the schedule counts from here
	Schedule   string    `json:",omitempty"`
	LastBackup time.Time `json:",omitzero"`
	LastTry    time.Time `json:",omitzero"`
	LastError  string    `json:",omitempty"`
	Failures   int       `json:",omitempty"` // since the last success
}

func (st *State) failed(now time.Time, err error) {
	st.LastTry, st.LastError, st.Failures = now.UTC(), err.Error(), st.Failures+1
}

// note changes what is known of a volume. It is of use to the next look at the
// schedule, so a record that cannot be written is no error of the work itself.
func (s *Service) note(volume string, change func(*State)) {
	s.mu.Lock()
	st := State{Volume: volume}
	if have, ok := s.states[volume]; ok {
		st = *have
	}
	s.mu.Unlock()
	change(&st)
	if err := s.d.States.Put(volume, &st); err != nil {
		s.d.Log.Warn("what is known of a volume's backups is not on record", logkey.Volume, volume, logkey.Err, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[volume] = &st
}

func (s *Service) state(volume string) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.states[volume]; ok {
		return *st
	}
	return State{Volume: volume}
}

// Plan is when a volume is backed up, and what is kept.
type Plan struct {
	Volume     string
	Repository string
	Schedule   string
	Keep       Keep
	Bad        string // what of its labels cannot be read
	when       cron.Schedule
}

func parseSchedule(text string) (cron.Schedule, error) {
	when, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fault.New(errdefs.ErrInvalidArgument, "schedule %q: %s (want @hourly, @daily, @weekly, @monthly, @every 6h, or the five fields of cron)", text, err)
	}
	return when, nil
}

// planOf reads a volume's labels, with the daemon's settings for what they leave
// open. ok tells whether it has a schedule. Anonymous volumes have none but their own.
func planOf(v Spec, anonymous bool, d Settings) (p Plan, ok bool) {
	p = Plan{Volume: v.Name, Repository: v.Labels[LabelRepository], Schedule: v.Labels[LabelSchedule]}
	if p.Schedule == "" && !anonymous {
		p.Schedule = d.Schedule
	}
	if p.Schedule == "" || p.Schedule == ScheduleNone {
		return p, false
	}
	var err error
	if p.when, err = parseSchedule(p.Schedule); err != nil {
		p.Bad = err.Error()
		return p, true
	}
	if p.Keep, err = ParseKeep(cmp.Or(v.Labels[LabelKeep], d.Keep)); err != nil {
		p.Bad = err.Error()
	}
	return p, true
}

// Retries after a failure come after 10 minutes, then twice as long each, at most
// 6 hours; but never later than the schedule would.
const (
	firstRetry = 10 * time.Minute
	lastRetry  = 6 * time.Hour
)

// next is when the volume is due. What was missed, however often, is due once: then
// the schedule counts from that.
func (p *Plan) next(st State) time.Time {
	from := st.Since
	for _, t := range []time.Time{st.LastBackup, st.LastTry} {
		if t.After(from) {
			from = t
		}
	}
	due := p.when.Next(from.Local())
	if st.Failures == 0 {
		return due
	}
	wait := lastRetry
	if n := st.Failures - 1; n < 6 {
		wait = min(firstRetry<<n, lastRetry)
	}
	if again := st.LastTry.Add(wait); again.Before(due) {
		return again
	}
	return due
}

// Scheduled is a volume with a schedule, for listings.
type Scheduled struct {
	Plan
	State
	Next time.Time
}

func (s *Service) plans() []Plan {
	var out []Plan
	for _, v := range s.d.Volumes.All() {
		if p, ok := planOf(v, v.Origin == OriginAnonymous, s.d.Settings()); ok {
			out = append(out, p)
		}
	}
	return out
}

// OriginAnonymous marks, in Volumes.All, a volume that nobody named.
const OriginAnonymous = "anonymous"

// Schedules tells of the volumes that have one, and of those whose last backup failed.
func (s *Service) Schedules() []Scheduled {
	out := []Scheduled{}
	for _, p := range s.plans() {
		x := Scheduled{Plan: p, State: s.state(p.Volume)}
		if p.when != nil && !x.Since.IsZero() {
			x.Next = p.next(x.State)
		}
		out = append(out, x)
	}
	return out
}

// lookEvery is how often schedules are looked at: cron's unit.
const lookEvery = time.Minute

// Run backs up what is due until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	timer := s.d.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
			s.look(ctx)
			timer.Reset(lookEvery)
		}
	}
}

// look backs up what is due now, one after the other.
func (s *Service) look(ctx context.Context) {
	there := map[string]bool{}
	for _, p := range s.plans() {
		there[p.Volume] = true
		if ctx.Err() != nil {
			return
		}
		if p.Bad != "" {
			if st := s.state(p.Volume); st.LastError != p.Bad {
				s.d.Log.Error("volume has a schedule that cannot be read", logkey.Volume, p.Volume, logkey.Err, p.Bad)
				s.note(p.Volume, func(st *State) { st.LastError = p.Bad })
			}
			continue
		}
		st := s.state(p.Volume)
		now := s.d.Clock.Now()
		if st.Since.IsZero() || st.Schedule != p.Schedule { // it counts from when it was first seen
			s.note(p.Volume, func(st *State) { st.Since, st.Schedule = now.UTC(), p.Schedule })
			continue
		}
		if now.Before(p.next(st)) {
			continue
		}
		if _, err := s.Backup(ctx, Options{Volume: p.Volume, Repository: p.Repository, Why: WhySchedule}); err != nil {
			if ctx.Err() == nil {
				s.d.Log.Error("scheduled backup failed", logkey.Volume, p.Volume, logkey.Err, err)
				s.early(p.Volume, err)
			}
			continue
		}
		if err := s.retain(ctx, p); err != nil && ctx.Err() == nil {
			s.d.Log.Warn("old backups not removed", logkey.Volume, p.Volume, logkey.Err, err)
		}
	}
	s.forgetStates(there)
}

// early notes a failure that came before the backup itself began.
func (s *Service) early(volume string, err error) {
	if st := s.state(volume); st.LastTry.Before(s.d.Clock.Now().Add(-lookEvery)) {
		s.note(volume, func(st *State) { st.failed(s.d.Clock.Now(), err) })
	}
}

// forgetStates drops what is known of volumes that are no more.
func (s *Service) forgetStates(planned map[string]bool) {
	have := map[string]bool{}
	for _, v := range s.d.Volumes.All() {
		have[v.Name] = true
	}
	s.mu.Lock()
	var gone []string
	for _, v := range slices.Sorted(maps.Keys(s.states)) {
		if !have[v] && !planned[v] {
			gone = append(gone, v)
			delete(s.states, v)
		}
	}
	s.mu.Unlock()
	for _, v := range gone {
		if err := s.d.States.Delete(v); err != nil {
			s.d.Log.Warn("record of a volume's backups stays", logkey.Volume, v, logkey.Err, err)
		}
	}
}

// retain removes what of a volume's backups the plan does not keep.
func (s *Service) retain(ctx context.Context, p Plan) error {
	if p.Keep.IsZero() {
		return nil
	}
	v, err := s.volume(p.Volume)
	if err != nil {
		return err
	}
	r, err := s.choose(p.Repository, v.Labels)
	if err != nil {
		return err
	}
	all, err := s.in(ctx, r)
	if err != nil {
		return err
	}
	var ours []Backup
	for _, b := range all {
		if b.Volume == p.Volume && b.Host == s.d.Host {
			ours = append(ours, b)
		}
	}
	gone := p.Keep.Drop(ours)
	if len(gone) == 0 {
		return nil
	}
	if err := s.forget(ctx, r.Name, gone); err != nil {
		return fmt.Errorf("repository %s: %w", r.Name, err)
	}
	s.d.Log.Info("old backups removed", logkey.Volume, p.Volume, logkey.From, r.Name, logkey.Applied, len(gone))
	return nil
}
