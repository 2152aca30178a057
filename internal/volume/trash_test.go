package volume

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
)

// setClock is a clock that a test sets.
type setClock struct {
	clock.System
	now atomic.Int64
}

func (c *setClock) Now() time.Time { return time.Unix(c.now.Load(), 0) }

// diskFake is a snapFake that knows how full its disk is.
type diskFake struct {
	*snapFake
	free uint64
}

func (f *diskFake) Space(Spec) (free, total uint64, err error) {
	return f.free - uint64(len(f.made)), 100, nil
}

func (f *diskFake) Keeps(v Spec) bool { return v.Options["elsewhere"] == "" }

type trashRig struct {
	*snapRig
	disk  *diskFake
	clock *setClock
}

func newTrashRig(t *testing.T) *trashRig {
	t.Helper()
	r := &trashRig{snapRig: newSnapRig(t), clock: &setClock{}}
	r.clock.now.Store(1_000_000)
	r.disk = &diskFake{snapFake: r.snap, free: 100}
	r.restartTrash(t)
	return r
}

func (r *trashRig) restartTrash(t *testing.T) {
	t.Helper()
	d := r.d
	d.Clock, d.Drivers = r.clock, []Driver{r.disk, r.other}
	d.Trash = TrashPolicy{Keep: time.Hour, MinFree: 5}
	s, err := New(t.Context(), d)
	must(t, err)
	r.Service = s
}

func (r *trashRig) trashNames() string {
	var out []string
	for _, e := range r.InTrash() {
		out = append(out, e.Name)
	}
	return strings.Join(out, " ")
}

func TestRemovedVolumeCanBeHadBack(t *testing.T) {
	r := newTrashRig(t)
	r.take(t, "one")
	must(t, r.Remove(t.Context(), "data", false)) // its snapshots go along
	_, err := r.Inspect(t.Context(), "data")
	wantErr(t, err, errdefs.IsNotFound, "get data: no such volume")
	if vs, err := r.List(t.Context(), nil); err != nil || len(vs) != 0 || r.trashNames() != "data" {
		t.Errorf("listed %v, %v; in the trash %s", vs, err, r.trashNames())
	}
	r.create(t, "data") // the name is free at once
	_, err = r.Undelete(t.Context(), "data", "")
	wantErr(t, err, errdefs.IsConflict, "volume data already exists")
	_, err = r.Undelete(t.Context(), "data", "no/name")
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad name: %v", err)
	}
	r.restartTrash(t)
	v, err := r.Undelete(t.Context(), "data", "back")
	if err != nil || v.Name != "back" || v.Labels["a"] != "b" {
		t.Errorf("undeleted: %+v, %v", v, err)
	}
	if all, err := r.Snapshots(t.Context(), "back"); err != nil || len(all) != 1 || !r.local.made["back"] {
		t.Errorf("its snapshots: %v, %v", all, err)
	}
	_, err = r.Undelete(t.Context(), "data", "")
	wantErr(t, err, errdefs.IsNotFound, "no such volume in the trash: data")
	must(t, r.Remove(t.Context(), "back", false))
	must(t, r.Remove(t.Context(), "data", false))
	if got := r.trashNames(); got != "back data" && got != "data back" {
		t.Errorf("in the trash: %s", got)
	}
	must(t, r.Purge(t.Context(), "back"))
	if gone, err := r.EmptyTrash(t.Context()); err != nil || len(gone) != 1 || len(r.recs.recs) != 0 || len(r.local.made) != 0 {
		t.Errorf("emptied: %v, %v; left %v %v", gone, err, r.recs.recs, r.local.made)
	}
}

func TestWhatDoesNotGoToTheTrash(t *testing.T) {
	r := newTrashRig(t)
	anon, err := r.Create(t.Context(), CreateOptions{})
	must(t, err)
	_, err = r.Create(t.Context(), CreateOptions{Name: "share", Options: map[string]string{"elsewhere": "yes"}})
	must(t, err)
	_, err = r.Create(t.Context(), CreateOptions{Name: "plain", Driver: "other"}) // it cannot rename
	must(t, err)
	for _, name := range []string{anon.Name, "share", "plain"} {
		must(t, r.Remove(t.Context(), name, false))
	}
	if got := r.trashNames(); got != "" || len(r.recs.recs) != 1 {
		t.Errorf("in the trash: %s, on record %v", got, r.recs.recs)
	}
	must(t, r.Protect(t.Context(), "data", "", true))
	if err := r.Remove(t.Context(), "data", true); !errdefs.IsConflict(err) {
		t.Errorf("protected: %v", err)
	}
	must(t, r.Protect(t.Context(), "data", "", false))
	r.local.failing["rename"] = errors.New("stuck")
	if err := r.Remove(t.Context(), "data", false); err == nil {
		t.Error("a failure was not told")
	}
	r.local.failing = map[string]error{}
	must(t, r.Remove(t.Context(), "data", false)) // what was begun is finished
	if r.trashNames() != "data" {
		t.Errorf("in the trash: %s", r.trashNames())
	}
	must(t, r.Purge(t.Context(), "data"))
	// A prune of named volumes is the slip that the trash is for.
	r.create(t, "named")
	report, err := r.Prune(t.Context(), map[string][]string{"all": {"true"}})
	if err != nil || len(report.VolumesDeleted) != 1 || report.SpaceReclaimed != 0 || r.trashNames() != "named" {
		t.Errorf("prune: %+v, %v; in the trash %s", report, err, r.trashNames())
	}
}

func TestTrashExpires(t *testing.T) {
	r := newTrashRig(t)
	must(t, r.Remove(t.Context(), "data", false))
	run := func() { r.sweepTrash(t.Context()) }
	r.clock.now.Add(3599)
	if run(); r.trashNames() != "data" {
		t.Error("gone too early")
	}
	r.clock.now.Add(1)
	if run(); r.trashNames() != "" || len(r.recs.recs) != 0 || len(r.local.made) != 0 {
		t.Errorf("stays: %s %v", r.trashNames(), r.recs.recs)
	}
}

// On a disk that is nearly full the oldest go, and no more than must.
func TestTrashGivesWay(t *testing.T) {
	r := newTrashRig(t)
	for _, n := range []string{"v1", "v2", "v3"} {
		r.create(t, n)
	}
	for _, n := range []string{"v1", "v2", "v3"} {
		r.clock.now.Add(1)
		must(t, r.Remove(t.Context(), n, false))
	}
	if r.trashNames() != "v1 v2 v3" {
		t.Fatal(r.trashNames())
	}
	r.clock.now.Add(1)
	r.disk.free = 7                               // less the four that are there: 3
	must(t, r.Remove(t.Context(), "data", false)) // two must go for 5
	if got := r.trashNames(); got != "v3 data" {
		t.Errorf("in the trash: %s", got)
	}
}

// A daemon that was killed on the way in or out of the trash ends it.
func TestTrashRecovery(t *testing.T) {
	r := newTrashRig(t)
	rec := r.recs.recs["data"]
	rec.Doing = &Intent{Verb: DoRename, To: trashPrefix + "0a", At: r.clock.Now()}
	r.recs.recs["data"] = rec
	r.restartTrash(t)
	if r.trashNames() != "data" || len(r.recs.recs) != 1 || !r.local.made[trashPrefix+"0a"] {
		t.Errorf("in: %s, %v, %v", r.trashNames(), r.recs.recs, r.local.made)
	}
	rec = r.recs.recs[trashPrefix+"0a"]
	rec.Doing = &Intent{Verb: DoRename, To: "data"}
	r.recs.recs[trashPrefix+"0a"] = rec
	r.restartTrash(t)
	if _, err := r.Inspect(t.Context(), "data"); err != nil || r.trashNames() != "" || len(r.recs.recs) != 1 || r.recs.recs["data"].State != Ready {
		t.Errorf("out: %v, %s, %v", err, r.trashNames(), r.recs.recs)
	}
	must(t, r.Remove(t.Context(), "data", false))
	id := trashPrefix + r.InTrash()[0].ID
	rec = r.recs.recs[id]
	rec.State = Removing
	r.recs.recs[id] = rec
	r.restartTrash(t)
	if len(r.recs.recs) != 0 || len(r.local.made) != 0 {
		t.Errorf("purge: %v, %v", r.recs.recs, r.local.made)
	}
}

// What a failed change left is settled before the volume goes to the trash.
func TestUnsettledVolumeGoesToTheTrashWhole(t *testing.T) {
	r := newTrashRig(t)
	r.take(t, "one")
	e, err := r.get("data")
	must(t, err)
	must(t, r.change(e, func(rec *Record) { rec.Doing = &Intent{Verb: DoSnapshot, Snapshot: "half"} }))
	r.snap.snaps["data@half"] = true
	must(t, r.Remove(t.Context(), "data", false))
	if r.snap.snaps["data@half"] {
		t.Error("the half snapshot is still there")
	}
	if _, err := r.Undelete(t.Context(), "data", ""); err != nil || r.names(t) != "one" {
		t.Errorf("had back: %v, %s", err, r.names(t))
	}
}
