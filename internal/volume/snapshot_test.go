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

// snapFake is a fakeDriver with the optional verbs.
type snapFake struct {
	*fakeDriver
	pointInTime bool
	snaps       map[string]bool
	during      func() // runs while a snapshot is being made
}

func (f *snapFake) Capabilities() Capabilities {
	return Capabilities{Scope: "local", Snapshot: true, Clone: true, Rename: true, PointInTime: f.pointInTime}
}

func (f *snapFake) Snapshot(_ context.Context, v Spec, snapshot string) (Made, error) {
	if f.during != nil {
		f.during()
	}
	return Made{Method: MethodCopy}, f.do("snapshot", v, func() { f.snaps[v.Name+"@"+snapshot] = true })
}

func (f *snapFake) RemoveSnapshot(_ context.Context, v Spec, snapshot string) error {
	return f.do("snapshot-rm", v, func() { delete(f.snaps, v.Name+"@"+snapshot) })
}

func (f *snapFake) SnapshotPath(v Spec, snapshot string) string {
	return "/fake/" + v.Name + "@" + snapshot
}

func (f *snapFake) SnapshotUsage(context.Context, Spec, string) (int64, error) { return 7, nil }

func (f *snapFake) Rollback(_ context.Context, v Spec, _, keep string) (Made, error) {
	return Made{Method: MethodCopy}, f.do("rollback", v, func() { f.snaps[v.Name+"@"+keep] = true })
}

func (f *snapFake) SettleRollback(_ context.Context, v Spec, keep string) (bool, error) {
	return f.snaps[v.Name+"@"+keep], f.do("settle", v, func() {})
}

func (f *snapFake) Clone(_ context.Context, _ Spec, _ string, to Spec) (Made, error) {
	if f.during != nil {
		f.during()
	}
	return Made{Method: MethodCopy}, f.do("clone", to, func() {})
}

func (f *snapFake) Rename(_ context.Context, from, to Spec) error {
	return f.do("rename", from, func() { delete(f.made, from.Name); f.made[to.Name] = true })
}

type snapRig struct {
	*rig
	snap *snapFake
}

func newSnapRig(t *testing.T) *snapRig {
	t.Helper()
	r := &snapRig{rig: newRig(t)}
	r.snap = &snapFake{fakeDriver: r.local, snaps: map[string]bool{}}
	r.restartSnap(t)
	r.create(t, "data", "a=b")
	return r
}

func (r *snapRig) restartSnap(t *testing.T) {
	t.Helper()
	d := r.d
	d.Drivers = []Driver{r.snap, r.other}
	s, err := New(t.Context(), d)
	must(t, err)
	r.Service = s
}

func (r *snapRig) take(t *testing.T, name string) Snapshot {
	t.Helper()
	snap, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: name})
	must(t, err)
	return snap
}

func (r *snapRig) names(t *testing.T) string {
	t.Helper()
	all, err := r.Snapshots(t.Context(), "data")
	must(t, err)
	var out []string
	for _, o := range all {
		out = append(out, o.Name)
	}
	return strings.Join(out, " ")
}

func TestSnapshotsAreOnRecord(t *testing.T) {
	r := newSnapRig(t)
	if snap := r.take(t, "first"); snap.Consistency != Clean || snap.Method != MethodCopy {
		t.Errorf("got %+v", snap)
	}
	if snap := r.take(t, ""); !strings.HasPrefix(snap.Name, "20") {
		t.Errorf("made name %q", snap.Name)
	}
	r.restartSnap(t)
	if got := strings.Fields(r.names(t)); len(got) != 2 || got[0] != "first" {
		t.Errorf("after a restart: %v", got)
	}
	_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "first"})
	wantErr(t, err, errdefs.IsConflict, "volume data already has a snapshot first")
	_, _, err = r.Snapshot(t.Context(), SnapshotOptions{Volume: "nope", Name: "first"})
	wantErr(t, err, errdefs.IsNotFound, "get nope: no such volume")
	for _, bad := range []string{"a/b", "..", "x", "a@b", strings.Repeat("x", 256)} {
		if _, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	wantErr(t, r.RemoveSnapshot(t.Context(), "data", "nope"), errdefs.IsNotFound, "get data@nope: no such snapshot")
	must(t, r.RemoveSnapshot(t.Context(), "data", "first"))
	if got := r.names(t); strings.Contains(got, "first") || r.snap.snaps["data@first"] {
		t.Errorf("removed: %s", got)
	}
}

// A volume in use is copied only where that gives one moment, or on request.
func TestConsistencyIsSaid(t *testing.T) {
	r := newSnapRig(t)
	_, err := r.Acquire(t.Context(), Request{Name: "data", Container: "c1"})
	must(t, err)
	_, err = r.Mount(t.Context(), "data", "c1")
	must(t, err)
	const refusal = "volume data is in use by running containers [c1], and here it cannot be copied as of one moment: stop them, or ask for a live copy"
	_, _, err = r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "one"})
	wantErr(t, err, errdefs.IsConflict, refusal)
	_, _, err = r.Clone(t.Context(), CloneOptions{Volume: "data", To: "copy"})
	wantErr(t, err, errdefs.IsConflict, refusal)
	snap, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "one", Live: true})
	if err != nil || snap.Consistency != Live {
		t.Errorf("live: %+v, %v", snap, err)
	}
	r.snap.pointInTime = true
	if snap := r.take(t, "two"); snap.Consistency != Crash {
		t.Errorf("point in time: %+v", snap)
	}
	_, _, err = r.Rollback(t.Context(), "data", "two", "")
	wantErr(t, err, errdefs.IsConflict, "volume data is in use by running containers [c1]: stop them first")
	must(t, r.Unmount(t.Context(), "data", "c1"))
	kept, _, err := r.Rollback(t.Context(), "data", "two", "")
	if err != nil || kept.Why != "replaced by a rollback to two" || r.names(t) != "one two "+kept.Name {
		t.Errorf("rollback: %+v, %v, %s", kept, err, r.names(t))
	}
}

// One who starts on the volume while it is copied makes the copy worthless.
func TestContainerThatComesDuringACopy(t *testing.T) {
	r := newSnapRig(t)
	r.snap.during = func() {
		_, err := r.Mount(t.Context(), "data", "c1") // nothing makes it wait
		must(t, err)
	}
	_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "one"})
	wantErr(t, err, errdefs.IsConflict, "container c1 started on volume data while it was copied: nothing was kept")
	must(t, r.Unmount(t.Context(), "data", "c1"))
	_, _, err = r.Clone(t.Context(), CloneOptions{Volume: "data", To: "copy"})
	wantErr(t, err, errdefs.IsConflict, "container c1 started on volume data while it was copied: nothing was kept")
	if got := r.names(t); got != "" || len(r.snap.snaps) != 0 || r.local.made["copy"] || len(r.recs.recs) != 1 {
		t.Errorf("kept: %q %v %v", got, r.snap.snaps, r.recs.recs)
	}
}

// Nobody takes a volume away while it is copied, and no container waits for it.
func TestVolumeStaysWhileItIsCopied(t *testing.T) {
	r := newSnapRig(t)
	r.snap.during = func() {
		wantErr(t, r.Remove(t.Context(), "data", true), errdefs.IsConflict, "remove data: volume is in use - [snapshot in the making]")
		if !r.local.mounted["data"] {
			t.Error("not mounted")
		}
		_, err := r.Inspect(t.Context(), "data")
		must(t, err)
	}
	r.take(t, "one")
	if r.local.mounted["data"] {
		t.Error("still mounted")
	}
	must(t, r.RemoveSnapshot(t.Context(), "data", "one"))
	must(t, r.Remove(t.Context(), "data", false))
}

func TestProtectionAndSnapshotsHoldAVolume(t *testing.T) {
	r := newSnapRig(t)
	r.take(t, "one")
	must(t, r.Protect(t.Context(), "data", "one", true))
	wantErr(t, r.RemoveSnapshot(t.Context(), "data", "one"), errdefs.IsConflict, "snapshot one of volume data is protected: unprotect it first")
	must(t, r.Protect(t.Context(), "data", "one", false))
	must(t, r.RemoveSnapshot(t.Context(), "data", "one"))
	must(t, r.Protect(t.Context(), "data", "", true))
	r.restartSnap(t)
	wantErr(t, r.Remove(t.Context(), "data", true), errdefs.IsConflict, "remove data: volume is protected: unprotect it first")
	if report, err := r.Prune(t.Context(), map[string][]string{"all": {"true"}}); err != nil || len(report.VolumesDeleted) != 0 {
		t.Errorf("pruned %v, %v", report, err)
	}
	must(t, r.Protect(t.Context(), "data", "", false))
	must(t, r.Remove(t.Context(), "data", false))
	wantErr(t, r.Protect(t.Context(), "data", "", true), errdefs.IsNotFound, "get data: no such volume")
}

func TestCloneAndRename(t *testing.T) {
	r := newSnapRig(t)
	r.take(t, "one")
	v, _, err := r.Clone(t.Context(), CloneOptions{Volume: "data", Snapshot: "one", To: "copy"})
	if err != nil || v.Name != "copy" || v.Labels["a"] != "b" || r.recs.recs["copy"].Origin != "data@one" {
		t.Errorf("clone: %+v, %v", v, err)
	}
	_, _, err = r.Clone(t.Context(), CloneOptions{Volume: "data", To: "copy"})
	wantErr(t, err, errdefs.IsConflict, "volume copy already exists")
	_, _, err = r.Clone(t.Context(), CloneOptions{Volume: "data", Snapshot: "nope", To: "copy2"})
	wantErr(t, err, errdefs.IsNotFound, "get data@nope: no such snapshot")
	wantErr(t, r.Rename(t.Context(), "data", "copy"), errdefs.IsConflict, "volume copy already exists")
	_, err = r.Acquire(t.Context(), Request{Name: "data", Container: "c1"})
	must(t, err)
	wantErr(t, r.Rename(t.Context(), "data", "moved"), errdefs.IsConflict, "rename data: volume is in use - [c1]")
	must(t, r.Release(t.Context(), "data", "c1"))
	must(t, r.Rename(t.Context(), "data", "moved"))
	r.restartSnap(t)
	if all, err := r.Snapshots(t.Context(), "moved"); err != nil || len(all) != 1 {
		t.Errorf("snapshots: %v, %v", all, err)
	}
	_, err = r.Inspect(t.Context(), "data")
	wantErr(t, err, errdefs.IsNotFound, "get data: no such volume")
	r.create(t, "data")
}

// A driver that fails leaves the volume as it was, and the verb can be tried again.
func TestDriverThatFails(t *testing.T) {
	r := newSnapRig(t)
	r.take(t, "one")
	broken := errors.New("broken")
	for _, c := range []struct {
		verb string
		do   func() error
	}{
		{"snapshot", func() error {
			_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "two"})
			return err
		}},
		{"rollback", func() error { _, _, err := r.Rollback(t.Context(), "data", "one", "three"); return err }},
		{"clone", func() error {
			_, _, err := r.Clone(t.Context(), CloneOptions{Volume: "data", To: "copy"})
			return err
		}},
	} {
		r.local.failing[c.verb] = broken
		if err := c.do(); !errors.Is(err, broken) {
			t.Errorf("%s: %v", c.verb, err)
		}
		if d := r.recs.recs["data"].Doing; d != nil {
			t.Errorf("%s: intent stays: %+v", c.verb, d)
		}
		delete(r.local.failing, c.verb)
		if err := c.do(); err != nil {
			t.Errorf("%s again: %v", c.verb, err)
		}
	}
	if got := r.names(t); got != "one two three" {
		t.Errorf("snapshots %s", got)
	}
}

// Drivers without the verbs refuse by name.
func TestDriverWithoutSnapshots(t *testing.T) {
	r := newRig(t)
	r.create(t, "data")
	_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "one"})
	wantErr(t, err, errdefs.IsNotImplemented, "volume driver local has no snapshots here")
	_, _, err = r.Clone(t.Context(), CloneOptions{Volume: "data", To: "copy"})
	wantErr(t, err, errdefs.IsNotImplemented, "volume driver local has no clones here")
	wantErr(t, r.Rename(t.Context(), "data", "moved"), errdefs.IsNotImplemented, "volume driver local has no renaming here")
}

func TestPlanSnapshotPrune(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	var all []SnapshotOf
	for _, vol := range []string{"va", "vb"} {
		for age := 5; age > 0; age-- {
			all = append(all, SnapshotOf{Volume: vol, Snapshot: Snapshot{Name: fmt.Sprint(vol, age), Created: now.Add(-time.Duration(age) * time.Hour)}})
		}
	}
	all[0].Protected = true       // va5
	all[5].Users = []string{"c1"} // vb5
	for _, c := range []struct {
		p    SnapshotPolicy
		want string
	}{
		{SnapshotPolicy{KeepLast: 3}, "va4 vb4"},
		{SnapshotPolicy{KeepLast: 9}, ""},
		{SnapshotPolicy{OlderThan: 150 * time.Minute}, "va4 va3 vb4 vb3"},
		{SnapshotPolicy{OlderThan: 150 * time.Minute, KeepLast: 3}, "va4 vb4"},
		{SnapshotPolicy{All: true}, "va4 va3 va2 va1 vb4 vb3 vb2 vb1"},
	} {
		var got []string
		for _, o := range planSnapshotPrune(now, all, c.p) {
			got = append(got, o.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, want %s", c.p, got, c.want)
		}
	}
	r := newSnapRig(t)
	r.take(t, "one")
	if _, err := r.PruneSnapshots(t.Context(), SnapshotPolicy{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no policy: %v", err)
	}
	if plan, err := r.PruneSnapshots(t.Context(), SnapshotPolicy{All: true, DryRun: true}); err != nil || len(plan) != 1 || r.names(t) != "one" {
		t.Errorf("dry run: %v, %v", plan, err)
	}
	if gone, err := r.PruneSnapshots(t.Context(), SnapshotPolicy{All: true}); err != nil || len(gone) != 1 || r.names(t) != "" {
		t.Errorf("prune: %v, %v", gone, err)
	}
}

// What a daemon that was killed left of a snapshot is settled by the next.
func TestRecoveryOfIntents(t *testing.T) {
	for _, c := range []struct {
		do   Intent
		disk []string
		want string // snapshots then
	}{
		{Intent{Verb: DoSnapshot, Snapshot: "new"}, []string{"data@one", "data@new"}, "one"},
		{Intent{Verb: DoSnapshot, Snapshot: "new"}, []string{"data@one"}, "one"},
		{Intent{Verb: DoRemoveSnapshot, Snapshot: "one"}, []string{"data@one"}, ""},
		{Intent{Verb: DoRemoveSnapshot, Snapshot: "one"}, nil, ""},
		{Intent{Verb: DoRollback, Snapshot: "one", Keep: "kept"}, []string{"data@one", "data@kept"}, "one kept"},
		{Intent{Verb: DoRollback, Snapshot: "one", Keep: "kept"}, []string{"data@one"}, "one"},
	} {
		r := newSnapRig(t)
		r.take(t, "one")
		rec := r.recs.recs["data"]
		rec.Doing = &c.do
		r.recs.recs["data"] = rec
		clear(r.snap.snaps)
		for _, s := range c.disk {
			r.snap.snaps[s] = true
		}
		r.restartSnap(t)
		if got := r.names(t); got != c.want || r.recs.recs["data"].Doing != nil || len(r.snap.snaps) != len(strings.Fields(c.want)) {
			t.Errorf("%+v: %q on record, %v on disk, %+v", c.do, got, r.snap.snaps, r.recs.recs["data"].Doing)
		}
	}
	r := newSnapRig(t)
	rec := r.recs.recs["data"]
	rec.Doing = &Intent{Verb: DoRename, To: "moved"}
	r.recs.recs["data"] = rec
	r.restartSnap(t)
	if vs, err := r.List(t.Context(), nil); err != nil || len(vs) != 1 || vs[0].Name != "moved" || !slices.Contains(r.local.calls, "rename data") || len(r.recs.recs) != 1 {
		t.Errorf("rename: %v, %v, %v", vs, err, r.recs.recs)
	}
}

// A container can have a snapshot as a read-only volume, and holds it.
func TestSnapshotAsAVolume(t *testing.T) {
	r := newSnapRig(t)
	r.take(t, "one")
	i, err := r.Acquire(t.Context(), Request{Name: "data@one", Container: "c1"})
	if err != nil || !i.ReadOnly || i.Name != "data@one" || i.Source != "/fake/data@one" {
		t.Errorf("got %+v, %v", i, err)
	}
	for _, bad := range []string{"data@nope", "nope@one", "@one", "data@"} {
		if _, err := r.Acquire(t.Context(), Request{Name: bad, Container: "c1"}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	path, err := r.MountAt(t.Context(), "data@one", "c1", "/d", false)
	if err != nil || path != "/fake/data@one" {
		t.Errorf("got %s, %v", path, err)
	}
	r.restartSnap(t)
	must(t, r.Reattach(t.Context(), "data@one", "c1", true))
	wantErr(t, r.RemoveSnapshot(t.Context(), "data", "one"), errdefs.IsConflict, "snapshot one of volume data is in use - [c1]")
	wantErr(t, r.Rename(t.Context(), "data", "moved"), errdefs.IsConflict, "rename data: volume is in use - [c1@one]")
	_, _, err = r.Rollback(t.Context(), "data", "one", "kept") // a reader of the snapshot is in nobody's way
	must(t, err)
	must(t, r.Unmount(t.Context(), "data@one", "c1"))
	if r.local.mounted["data"] {
		t.Error("still mounted")
	}
	must(t, r.RemoveAnonymous(t.Context(), "data@one"))
	must(t, r.Release(t.Context(), "data@one", "c1"))
	must(t, r.RemoveSnapshot(t.Context(), "data", "one"))
	must(t, r.Release(t.Context(), "data@one", "c1"))
}
