package volume

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var errDead = errors.New("the daemon is dead")

// world is a disk and a database that a daemon works with until it dies.
type world struct {
	*snapFake
	data map[string]string // what is in each volume
	recs *fakeRecords
	left int // calls until the daemon dies; negative: it lives
}

// step counts a call. The daemon dies before it or, having done it, after it.
func (w *world) step(do func() error) error {
	switch {
	case w.left < 0:
		return do()
	case w.left == 0:
		return errDead
	}
	w.left--
	if err := do(); err != nil {
		return err
	}
	if w.left == 0 {
		return errDead
	}
	w.left--
	return nil
}

func (w *world) Rename(_ context.Context, from, to Spec) error {
	return w.step(func() error {
		_, there := w.data[from.Name]
		_, done := w.data[to.Name]
		switch {
		case !there && done:
			return nil
		case !there:
			return os.ErrNotExist
		case done:
			return errdefs.ErrAlreadyExists
		}
		w.data[to.Name] = w.data[from.Name]
		delete(w.data, from.Name)
		return nil
	})
}

func (w *world) Keeps(Spec) bool { return true }

func (w *world) Create(_ context.Context, v Spec) error { w.data[v.Name] = ""; return nil }
func (w *world) Remove(_ context.Context, v Spec) error { delete(w.data, v.Name); return nil }

func (w *world) Put(id string, r *Record) error {
	return w.step(func() error { return w.recs.Put(id, r) })
}

func (w *world) Delete(id string) error {
	return w.step(func() error { return w.recs.Delete(id) })
}

func (w *world) All() ([]*Record, error) { return w.recs.All() }

func newWorld(t *testing.T, trash bool) (*world, func() *Service) {
	t.Helper()
	r := newRig(t)
	w := &world{snapFake: &snapFake{fakeDriver: r.local, snaps: map[string]bool{}}, data: map[string]string{}, recs: r.recs, left: -1}
	d := r.d
	d.Drivers, d.Records = []Driver{w}, w
	if trash {
		d.Trash = TrashPolicy{Keep: 1 << 50}
	}
	start := func() *Service {
		s, err := New(t.Context(), d)
		must(t, err)
		return s
	}
	return w, start
}

func TestReplacePutsOneVolumesDataInPlaceOfAnothers(t *testing.T) {
	for _, trash := range []bool{true, false} {
		w, start := newWorld(t, trash)
		s := start()
		for _, n := range []string{"data", "fresh"} {
			_, err := s.Create(t.Context(), CreateOptions{Name: n, Labels: map[string]string{"of": n}})
			must(t, err)
			w.data[n] = "content of " + n
		}
		_, err := s.Acquire(t.Context(), Request{Name: "data", Container: "c1"})
		must(t, err)
		_, _, err = s.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "snap"})
		must(t, err)
		_, err = s.Mount(t.Context(), "data", "c1")
		must(t, err)
		_, err = s.Replace(t.Context(), "data", "fresh")
		wantErr(t, err, errdefs.IsConflict, "volume data is in use by running containers [c1]: stop them first")
		must(t, s.Unmount(t.Context(), "data", "c1"))
		out, err := s.Replace(t.Context(), "data", "fresh")
		must(t, err)
		if out.InTrash != trash || w.data["data"] != "content of fresh" || len(w.data) != 2 {
			t.Errorf("trash %v: %+v, %v", trash, out, w.data)
		}
		a, err := s.About(t.Context(), "data")
		if err != nil || len(a.Snapshots) != 0 || a.Labels["of"] != "data" || !slices.Equal(a.Users, []string{"c1"}) {
			t.Errorf("the volume then: %+v, %v", a, err)
		}
		kept := out.Name
		if trash {
			must(t, s.Release(t.Context(), "data", "c1"))
			v, err := s.Undelete(t.Context(), "data", "back")
			must(t, err)
			kept = v.Name
		}
		a, err = s.About(t.Context(), kept)
		if err != nil || len(a.Snapshots) != 1 || w.data[kept] != "content of data" {
			t.Errorf("what was replaced: %+v, %q, %v", a, w.data[kept], err)
		}
	}
}

// Whatever the daemon is at when it dies, the volume is the old or the new one, and
// nothing is lost.
func TestReplaceSurvivesADeathAtEveryStep(t *testing.T) {
	for _, trash := range []bool{true, false} {
		for calls := 0; ; calls++ {
			w, start := newWorld(t, trash)
			s := start()
			for _, n := range []string{"data", "fresh"} {
				_, err := s.Create(t.Context(), CreateOptions{Name: n})
				must(t, err)
				w.data[n] = "content of " + n
			}
			w.left = calls
			_, err := s.Replace(t.Context(), "data", "fresh")
			if err != nil && !errors.Is(err, errDead) {
				t.Fatalf("after %d calls: %v", calls, err)
			}
			w.left = -1
			s = start()
			have := slices.Sorted(maps.Values(w.data))
			if !slices.Equal(have, []string{"content of data", "content of fresh"}) {
				t.Fatalf("after %d calls: %v", calls, w.data)
			}
			var names []string
			all, lerr := s.List(t.Context(), nil)
			must(t, lerr)
			for _, v := range all {
				names = append(names, v.Name)
				if w.recs.recs[v.Name].Doing != nil || w.data[v.Name] == "" {
					t.Errorf("after %d calls: volume %s: %+v, %q", calls, v.Name, w.recs.recs[v.Name].Doing, w.data[v.Name])
				}
			}
			switch w.data["data"] {
			case "content of data": // nothing happened
				if !slices.Equal(names, []string{"data", "fresh"}) {
					t.Errorf("after %d calls: %v", calls, names)
				}
			case "content of fresh":
				kept := len(s.InTrash()) == 1
				if !trash {
					kept = len(names) == 2 && strings.HasPrefix(names[1], "data.before-")
				}
				if slices.Contains(names, "fresh") || !kept {
					t.Errorf("after %d calls: %v, in the trash %v", calls, names, s.InTrash())
				}
			}
			if err == nil {
				break
			}
		}
	}
}

func TestReadStateSaysWhatItIs(t *testing.T) {
	r := newSnapRig(t)
	read := func() (got Reading) {
		must(t, r.ReadState(t.Context(), "data", "backup", QuiesceOff, func(x Reading) error { got = x; return nil }))
		return got
	}
	if got := read(); got.Consistency != Clean || got.Snapshot != "" || !got.Stable || got.Dir != "/fake/data" {
		t.Errorf("unused: %+v", got)
	}
	_, err := r.Acquire(t.Context(), Request{Name: "data", Container: "c1"})
	must(t, err)
	_, err = r.Mount(t.Context(), "data", "c1")
	must(t, err)
	if got := read(); got.Consistency != Live || got.Snapshot != "" {
		t.Errorf("in use, without one moment: %+v", got)
	}
	r.snap.pointInTime = true
	if got := read(); got.Consistency != Crash || got.Snapshot == "" || got.Dir != "/fake/data@"+got.Snapshot {
		t.Errorf("in use, with one moment: %+v", got)
	}
	if r.names(t) != "" {
		t.Errorf("left: %s", r.names(t))
	}
	// A daemon that dies while it reads leaves a snapshot; the next one removes it.
	_, _, err = r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Labels: map[string]string{passing: "backup"}})
	must(t, err)
	r.take(t, "mine")
	r.restartSnap(t)
	r.DropPassing(t.Context())
	if r.names(t) != "mine" {
		t.Errorf("after a restart: %s", r.names(t))
	}
}

func TestScratchLeavesNothing(t *testing.T) {
	r := newSnapRig(t)
	before := len(r.recs.recs)
	used := false
	must(t, r.Scratch(t.Context(), CreateOptions{Name: "verify-1"}, func(string) error { used = true; return nil }))
	bad := errors.New("bad")
	if err := r.Scratch(t.Context(), CreateOptions{Name: "verify-1"}, func(string) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	r.local.failing["remove"] = errors.New("cannot")
	if err := r.Scratch(t.Context(), CreateOptions{Name: "verify-1"}, func(string) error { return nil }); err == nil {
		t.Error("a scratch volume that stays is no error")
	}
	if !used || len(r.recs.recs) != before {
		t.Errorf("used %v, records %v", used, r.recs.recs)
	}
}
