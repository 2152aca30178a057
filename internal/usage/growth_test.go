package usage

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

type fakeSamples struct{ all []*Sample }

func (f *fakeSamples) Put(_ string, s *Sample) error { f.all = append(f.all, s); return nil }
func (f *fakeSamples) All() ([]*Sample, error)       { return append([]*Sample(nil), f.all...), nil }

func (f *fakeSamples) Delete(id string) error {
	for i, s := range f.all {
		if s.ID == id {
			f.all = append(f.all[:i:i], f.all[i+1:]...)
			return nil
		}
	}
	return nil
}

// Over weeks the ring stays small, and always has something for each span.
func TestSamplesAreThinned(t *testing.T) {
	clk, samples := &fakeClock{now: time.Unix(1e9, 0)}, &fakeSamples{}
	size := int64(0)
	r := NewRecorder(JanitorDeps{Clock: clk, Log: slog.New(slog.DiscardHandler)}, samples, func(context.Context) (sizes, totals map[string]int64, err error) {
		return map[string]int64{"volume data": size}, map[string]int64{"volumes": size + 1}, nil
	})
	for range 3 * 7 * 24 * 12 { // three weeks; one byte each five minutes
		size++
		if err := r.record(t.Context()); err != nil {
			t.Fatal(err)
		}
		clk.pass(5*time.Minute + time.Second)
	}
	if n := len(samples.all); n > 60 {
		t.Errorf("%d samples", n)
	}
	top, err := r.Top(t.Context(), Day)
	if err != nil || len(top) != 1 {
		t.Fatalf("%v, %v", top, err)
	}
	for d, want := range map[time.Duration]int64{Hour: 12, Day: 24 * 12, Week: 7 * 24 * 12} {
		if got := top[0].By[d]; !top[0].Known[d] || got < want*8/10 || got > want*12/10 {
			t.Errorf("%s: grew by %d, about %d wanted", d, got, want)
		}
	}
	// The history ends with what is now, and it is in order.
	past, err := r.History(t.Context())
	if err != nil || len(past) != len(samples.all)+1 {
		t.Fatalf("%d of %d samples, %v", len(past), len(samples.all), err)
	}
	for i, s := range past {
		if s.Totals["volumes"] != s.Sizes["volume data"]+1 || i > 0 && !s.At.After(past[i-1].At) {
			t.Errorf("sample %d: %+v", i, s)
		}
	}
}

func TestGrown(t *testing.T) {
	now := Sample{At: time.Unix(1e9, 0), Sizes: map[string]int64{"a": 100, "new": 7, "same": 50}}
	past := []*Sample{
		{At: now.At.Add(-25 * time.Hour), Sizes: map[string]int64{"a": 10, "gone": 5, "same": 50}},
		{At: now.At.Add(-61 * time.Minute), Sizes: map[string]int64{"a": 99, "same": 50}},
		{At: now.At.Add(-5 * time.Minute), Sizes: map[string]int64{"a": 100, "new": 7, "same": 50}},
	}
	got := Grown(now, past, Day)
	if len(got) != 4 || got[0].Name != "a" || got[0].By[Day] != 90 || got[0].By[Hour] != 1 || got[0].Known[Week] ||
		got[1].Name != "new" || got[1].By[Hour] != 7 || got[3].Name != "gone" || got[3].By[Day] != -5 {
		t.Errorf("got %+v", got)
	}
	if got := Grown(now, past, Hour); got[0].Name != "new" {
		t.Errorf("by hour: %+v", got)
	}
}
