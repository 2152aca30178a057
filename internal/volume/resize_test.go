package volume

import (
	"context"
	"testing"
)

// limitFake is a snapFake whose volumes have limits.
type limitFake struct{ *snapFake }

func (f limitFake) Capabilities() Capabilities {
	c := f.snapFake.Capabilities()
	c.Quota = true
	return c
}

func (f limitFake) Resize(_ context.Context, v Spec, _ int64) error {
	return f.do("resize", v, func() {})
}

// A new limit waits for the snapshot that is being made: what is open on the record is
// being done then, and must not be taken for what a dead daemon left.
func TestResizeWaitsForASnapshot(t *testing.T) {
	r := newSnapRig(t)
	r.d.Drivers = []Driver{limitFake{r.snap}, r.other}
	s, err := New(t.Context(), r.d)
	must(t, err)
	resized := make(chan error, 1)
	r.snap.during = func() {
		r.snap.during = nil
		go func() { resized <- s.Resize(t.Context(), "data", 1<<20) }()
		// It cannot be seen waiting for a lock; that it does not get on is seen here as
		// long as another request for the volume takes.
		for range 100 {
			must(t, s.with(t.Context(), "data", func(e *entry, _ Driver) error {
				if e.rec.Doing == nil {
					t.Error("the snapshot's intent was taken away while it was made")
				}
				return nil
			}))
		}
	}
	_, _, err = s.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "one"})
	must(t, err)
	must(t, <-resized)
	all, err := s.Snapshots(t.Context(), "data")
	if err != nil || len(all) != 1 || !r.snap.snaps["data@one"] {
		t.Errorf("the snapshot: %v, %v, %v", all, r.snap.snaps, err)
	}
	if got := s.byName["data"].rec.Options[OptSize]; got != "1048576" {
		t.Errorf("the limit: %q", got)
	}
}
