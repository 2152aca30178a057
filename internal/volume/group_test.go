package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// fakeQuiescer says what it is told to and remembers what it was asked.
type fakeQuiescer struct {
	asked   []string
	answer  Quiet
	resumed Resumed
	ends    int
	err     error
}

func (f *fakeQuiescer) Quiesce(_ context.Context, r QuietRequest) (Quiet, error) {
	f.asked = append(f.asked, fmt.Sprintf("%s hooks=%v try=%v freeze=%v", strings.Join(r.Volumes, ","), r.Hooks, r.Try, r.Freeze))
	if f.err != nil {
		return Quiet{}, f.err
	}
	q := f.answer
	q.Resume = func(context.Context) Resumed { f.ends++; return f.resumed }
	return q, nil
}

// groupRig has the volumes data and logs, both in use, and more, which is not.
func groupRig(t *testing.T) (*snapRig, *fakeQuiescer) {
	t.Helper()
	r, q := newSnapRig(t), &fakeQuiescer{}
	r.d.Quiescer = q
	r.restartSnap(t)
	r.create(t, "logs", "a=b")
	r.create(t, "more", "a=b")
	for _, v := range []string{"data", "logs"} {
		_, err := r.Acquire(t.Context(), Request{Name: v, Container: "c1"})
		must(t, err)
		_, err = r.Mount(t.Context(), v, "c1")
		must(t, err)
	}
	return r, q
}

func TestWhoHoldsStill(t *testing.T) {
	type volumes = []string
	for name, tt := range map[string]struct {
		volumes volumes
		point   bool
		mode    QuiesceMode
		app     bool
		asked   string
		want    string
	}{
		"on, where copies take a while":     {volumes{"data"}, false, QuiesceOn, true, "data hooks=true try=false freeze=true", "data:application"},
		"on, where they are one moment":     {volumes{"data"}, true, QuiesceOn, true, "data hooks=true try=false freeze=false", "data:application"},
		"nobody to tell":                    {volumes{"data"}, true, QuiesceTry, false, "data hooks=true try=true freeze=false", "data:crash"},
		"freeze":                            {volumes{"data"}, true, QuiesceFreeze, false, "data hooks=false try=false freeze=true", "data:crash"},
		"nobody asked":                      {volumes{"data"}, true, QuiesceOff, false, "", "data:crash"},
		"nobody uses it":                    {volumes{"more"}, false, QuiesceOn, false, "", "more:clean"},
		"several are always of one moment":  {volumes{"more", "logs", "data", "logs"}, true, QuiesceOff, false, "data,logs hooks=false try=false freeze=true", "data:crash logs:crash more:clean"},
		"several, and the applications too": {volumes{"data", "logs"}, true, QuiesceOn, true, "data,logs hooks=true try=false freeze=true", "data:application logs:application"},
	} {
		r, q := groupRig(t)
		r.snap.pointInTime = tt.point
		q.answer.Application = map[string]bool{"data": tt.app, "logs": tt.app}
		q.resumed.Paused = time.Second
		all, err := r.SnapshotGroup(t.Context(), GroupOptions{Volumes: tt.volumes, Name: "one", Quiesce: tt.mode})
		must(t, err)
		var got []string
		for _, s := range all {
			got = append(got, s.Volume+":"+string(s.Consistency))
			if (s.Group != "") != (len(all) > 1) || (s.Paused > 0) != (tt.asked != "" && s.Consistency != Clean) {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if strings.Join(got, " ") != tt.want || strings.Join(q.asked, "") != tt.asked || q.ends != len(q.asked) {
			t.Errorf("%s: got %v, asked %v, ended %d times", name, got, q.asked, q.ends)
		}
	}
}

// All or nothing, and everybody goes on.
func TestAGroupThatFails(t *testing.T) {
	for name, spoil := range map[string]func(*snapRig, *fakeQuiescer){
		"the second copy": func(r *snapRig, _ *fakeQuiescer) {
			r.snap.failing["snapshot"] = nil
			r.snap.during = failSecond(r.snap)
		},
		"nobody is quiet":           func(_ *snapRig, q *fakeQuiescer) { q.err = errors.New("hook x failed") },
		"somebody was unpaused":     func(_ *snapRig, q *fakeQuiescer) { q.resumed.Broken = errors.New("not paused") },
		"somebody came":             func(r *snapRig, _ *fakeQuiescer) { r.snap.during = func() { r.setIn(r.byName["data"].mounts, "c2") } },
		"it cannot be written down": func(r *snapRig, _ *fakeQuiescer) { r.snap.during = func() { r.recs.err = errors.New("disk full") } },
	} {
		r, q := groupRig(t)
		spoil(r, q)
		if _, err := r.SnapshotGroup(t.Context(), GroupOptions{Volumes: []string{"data", "logs"}, Name: "one", Quiesce: QuiesceOn}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if q.err == nil && q.ends != 1 {
			t.Errorf("%s: ended %d times", name, q.ends)
		}
		r.recs.err = nil
		r.snap.failing["snapshot"] = nil
		r.restartSnap(t)
		all, err := r.Snapshots(t.Context(), "")
		if err != nil || len(all) != 0 || len(r.snap.snaps) != 0 {
			t.Errorf("%s: left %v, %v, %v", name, all, r.snap.snaps, err)
		}
	}
}

func failSecond(f *snapFake) func() {
	n := 0
	return func() {
		if n++; n == 2 {
			f.failing["snapshot"] = errors.New("no room")
		}
	}
}

// A daemon that died when one of two was written down: the next one takes away both,
// also where it dies in the middle of that.
func TestABrokenGroupGoes(t *testing.T) {
	r, _ := groupRig(t)
	all, err := r.SnapshotGroup(t.Context(), GroupOptions{Volumes: []string{"data", "logs"}, Name: "one"})
	must(t, err)
	rec := r.recs.recs["data"] // sorts first, so that a careless start would forget it first
	rec.Doing, rec.Snapshots = &Intent{Verb: DoSnapshot, Snapshot: "one", Group: all[0].Group}, nil
	r.recs.recs["data"] = rec
	recs, err := r.recs.All()
	must(t, err)
	order := brokenGroups(recs)
	if i := slices.IndexFunc(order, func(r *Record) bool { return r.Name == "data" }); i != len(order)-1 && order[0].Name != "logs" {
		t.Errorf("what tells of the group goes before the group")
	}
	r.restartSnap(t)
	left, err := r.Snapshots(t.Context(), "")
	if err != nil || len(left) != 0 || len(r.snap.snaps) != 0 {
		t.Errorf("left %v, %v, %v", left, r.snap.snaps, err)
	}
}

func TestBadGroups(t *testing.T) {
	r, q := groupRig(t)
	for name, o := range map[string]GroupOptions{
		"none":           {},
		"live":           {Volumes: []string{"data", "logs"}, Live: true},
		"live and quiet": {Volumes: []string{"data"}, Live: true, Quiesce: QuiesceOn},
		"unknown mode":   {Volumes: []string{"data"}, Quiesce: "please"},
		"bad name":       {Volumes: []string{"data", "logs"}, Name: "a/b"},
	} {
		if _, err := r.SnapshotGroup(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.SnapshotGroup(t.Context(), GroupOptions{Volumes: []string{"data", "nope"}}); !errdefs.IsNotFound(err) {
		t.Errorf("one that is not there: %v", err)
	}
	// A hook that was lost leaves what a crash would, where that is good enough.
	r.snap.pointInTime = true
	q.answer.Application, q.resumed.Broken = map[string]bool{"data": true}, errors.New("gone")
	_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Quiesce: QuiesceOn})
	wantErr(t, err, errdefs.IsConflict, "what writes to the volume was not quiet until the end: gone")
	snap, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Quiesce: QuiesceTry})
	if err != nil || snap.Consistency != Crash || snap.Why != "gone" {
		t.Errorf("got %+v, %v", snap, err)
	}
}

// A backup of a volume in use, where a copy is no one moment, is one when asked.
func TestReadQuietState(t *testing.T) {
	r, q := groupRig(t)
	q.answer.Application, q.answer.Hooks = map[string]bool{"data": true}, map[string]string{"data": "postgres"}
	for mode, want := range map[QuiesceMode]Consistency{QuiesceOff: Live, QuiesceOn: Application} {
		var got Reading
		must(t, r.ReadState(t.Context(), "data", "backup", mode, func(x Reading) error { got = x; return nil }))
		if got.Consistency != want || (got.Snapshot != "") != (mode == QuiesceOn) || (got.Hook != "") != (mode == QuiesceOn) {
			t.Errorf("%s: %+v", mode, got)
		}
	}
	if got := r.names(t); got != "" {
		t.Errorf("left: %s", got)
	}
}
