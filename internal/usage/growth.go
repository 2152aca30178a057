package usage

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Sample is what everything took at one time, in bytes by name ("volume data").
type Sample struct {
	ID    string
	At    time.Time
	Sizes map[string]int64
	// Totals are sums by kind ("volumes"), in which what things share counts once.
	Totals map[string]int64 `json:",omitempty"`
}

// Samples keeps samples durably.
type Samples interface {
	Put(id string, s *Sample) error
	Delete(id string) error
	All() ([]*Sample, error)
}

// Spans over which growth is told.
const (
	Hour = time.Hour
	Day  = 24 * time.Hour
	Week = 7 * Day
)

// steps are how far apart samples of an age are kept: some twelve for the last
// hour, twenty-four for the day, fourteen for the week.
var steps = []struct{ upTo, apart time.Duration }{
	{Hour + 5*time.Minute, 5 * time.Minute},
	{Day + Hour, Hour},
	{Week + 12*Hour, 12 * Hour},
}

// thin says which samples are no longer needed. They come oldest first.
func thin(now time.Time, at []time.Time) (drop []int) {
	var kept time.Time
	for i, t := range at {
		age, apart := now.Sub(t), time.Duration(0)
		for _, s := range steps {
			if age <= s.upTo {
				apart = s.apart
				break
			}
		}
		// A little less than the distance: samples are not taken to the second.
		if apart == 0 || !kept.IsZero() && t.Sub(kept) < apart-apart/10 {
			drop = append(drop, i)
			continue
		}
		kept = t
	}
	return drop
}

// Growth is how much more something takes than it did. Where it is younger than
// the span all of it counts; ok is false where no sample is that old.
type Growth struct {
	Name  string
	Bytes int64
	By    map[time.Duration]int64
	Known map[time.Duration]bool
}

// Grown compares what is now with samples, oldest first, and sorts by growth over
// the span.
func Grown(now Sample, past []*Sample, span time.Duration) []Growth {
	base := map[time.Duration]*Sample{}
	for _, d := range []time.Duration{Hour, Day, Week} {
		for _, s := range past {
			// The newest that is old enough; a little younger is, too.
			if now.At.Sub(s.At) >= d-d/10 {
				base[d] = s
			}
		}
	}
	names := maps.Clone(now.Sizes)
	for _, s := range base {
		for name := range s.Sizes { // what has gone has shrunk
			if _, ok := names[name]; !ok {
				names[name] = 0
			}
		}
	}
	out := make([]Growth, 0, len(names))
	for name, bytes := range names {
		g := Growth{Name: name, Bytes: bytes, By: map[time.Duration]int64{}, Known: map[time.Duration]bool{}}
		for d, s := range base {
			g.By[d], g.Known[d] = bytes-s.Sizes[name], true
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Growth) int {
		return cmp.Or(cmp.Compare(b.By[span], a.By[span]), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Recorder takes samples.
type Recorder struct {
	d       JanitorDeps
	samples Samples
	take    Take
}

// Take tells what everything takes now: by name, and in sums by kind.
type Take func(ctx context.Context) (sizes, totals map[string]int64, err error)

// NewRecorder returns a Recorder; of d it needs the clock and the log.
func NewRecorder(d JanitorDeps, samples Samples, take Take) *Recorder {
	return &Recorder{d: d, samples: samples, take: take}
}

// Run takes a sample now and every few minutes until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		if err := r.record(ctx); err != nil && ctx.Err() == nil {
			r.d.Log.Warn("sizes not sampled", logkey.Err, err)
		}
		if clock.Sleep(ctx, r.d.Clock, steps[0].apart) != nil {
			return nil
		}
	}
}

func (r *Recorder) record(ctx context.Context) error {
	s, err := r.now(ctx)
	if err != nil {
		return err
	}
	if err := r.samples.Put(s.ID, &s); err != nil {
		return err
	}
	all, err := r.samples.All()
	if err != nil {
		return err
	}
	at := make([]time.Time, len(all))
	for i, s := range all {
		at[i] = s.At
	}
	for _, i := range thin(s.At, at) {
		if err := r.samples.Delete(all[i].ID); err != nil {
			return err
		}
	}
	return nil
}

func (r *Recorder) now(ctx context.Context) (Sample, error) {
	sizes, totals, err := r.take(ctx)
	at := r.d.Clock.Now().UTC()
	return Sample{ID: fmt.Sprintf("%020d", at.UnixNano()), At: at, Sizes: sizes, Totals: totals}, err
}

// History is what was sampled, oldest first, and what is now.
func (r *Recorder) History(ctx context.Context) ([]*Sample, error) {
	now, err := r.now(ctx)
	if err != nil {
		return nil, err
	}
	past, err := r.samples.All()
	if err != nil {
		return nil, err
	}
	return append(past, &now), nil
}

// Top tells who grew over the span.
func (r *Recorder) Top(ctx context.Context, span time.Duration) ([]Growth, error) {
	s, err := r.now(ctx)
	if err != nil {
		return nil, err
	}
	past, err := r.samples.All()
	if err != nil {
		return nil, err
	}
	return Grown(s, past, span), nil
}
