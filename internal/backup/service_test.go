package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/base/clock"
)

type setClock struct {
	clock.System
	now atomic.Int64
}

func (c *setClock) Now() time.Time { return time.Unix(c.now.Load(), 0) }

type fakeRecords[T any] map[string]T

func (f fakeRecords[T]) Put(id string, r *T) error { f[id] = *r; return nil }
func (f fakeRecords[T]) Delete(id string) error    { delete(f, id); return nil }
func (f fakeRecords[T]) All() (out []*T, _ error) {
	for _, r := range f {
		out = append(out, &r)
	}
	return out, nil
}

type fakeSecrets map[string]map[string]string

func (f fakeSecrets) Put(n string, s map[string]string) error { f[n] = s; return nil }
func (f fakeSecrets) Get(n string) (map[string]string, error) { return f[n], nil }
func (f fakeSecrets) Delete(n string) error                   { delete(f, n); return nil }

type fakeEvents struct{ got []string }

func (f *fakeEvents) Publish(m events.Message) {
	f.got = append(f.got, string(m.Action)+" "+m.Actor.ID)
}

type fakeEngine struct {
	backups  []Backup
	err      error
	maintain int
	made     int
}

func (f *fakeEngine) Prepare(context.Context, Access) (bool, error) { return true, f.err }
func (f *fakeEngine) List(context.Context, Access) ([]Backup, error) {
	return slices.Clone(f.backups), f.err
}

func (f *fakeEngine) Save(_ context.Context, a Access, r SaveRequest, _ func(tree.Totals)) (Backup, error) {
	if f.err != nil {
		return Backup{}, f.err
	}
	b := r.Backup
	f.made++
	b.ID, b.Host = fmt.Sprintf("%032d", f.made), a.Host
	f.backups = append(f.backups, b)
	return b, nil
}

func (f *fakeEngine) Restore(context.Context, Access, string, string, bool, func(tree.Totals)) (Restored, error) {
	return Restored{}, f.err
}

func (f *fakeEngine) Verify(_ context.Context, _ Access, id, _ string, _ func(tree.Totals)) (Verification, error) {
	return Verification{Backup: id}, f.err
}

func (f *fakeEngine) Remove(_ context.Context, _ Access, ids []string) error {
	f.backups = slices.DeleteFunc(f.backups, func(b Backup) bool { return slices.Contains(ids, b.ID) })
	return nil
}

func (f *fakeEngine) Maintain(context.Context, Access) error { f.maintain++; return nil }

type fakeVolumes struct {
	all   []Spec
	still error // what Read says at its end
	moved string
	clock clock.Clock
}

func (f *fakeVolumes) All() []Spec { return f.all }
func (f *fakeVolumes) Read(_ context.Context, name, _ string, read func(Source) error) error {
	i := slices.IndexFunc(f.all, func(v Spec) bool { return v.Name == name })
	if err := read(Source{Dir: "/d", Labels: f.all[i].Labels, Consistency: "clean", Moment: f.clock.Now()}); err != nil {
		return err
	}
	return f.still
}

func (f *fakeVolumes) Fill(_ context.Context, v Spec, fill func(string) error) error {
	if err := fill("/d"); err != nil {
		return err
	}
	f.all = append(f.all, v)
	return nil
}

func (f *fakeVolumes) Scratch(_ context.Context, _ Spec, use func(string) error) error {
	return use("/s")
}

func (f *fakeVolumes) MayReplace(context.Context, string) error { return nil }
func (f *fakeVolumes) Replace(ctx context.Context, name, with string) (Kept, error) {
	f.moved = with + " over " + name
	return Kept{Name: name, InTrash: true}, f.Discard(ctx, with)
}

func (f *fakeVolumes) Discard(_ context.Context, name string) error {
	f.all = slices.DeleteFunc(f.all, func(v Spec) bool { return v.Name == name })
	return nil
}

type rig struct {
	*Service
	d      Deps
	clock  *setClock
	engine *fakeEngine
	vols   *fakeVolumes
	events *fakeEvents
	jobs   fakeRecords[Job]
}

func newRig(t *testing.T, labels map[string]string) *rig {
	t.Helper()
	r := &rig{clock: &setClock{}, engine: &fakeEngine{}, events: &fakeEvents{}, jobs: fakeRecords[Job]{}}
	r.clock.now.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local).Unix())
	r.vols = &fakeVolumes{all: []Spec{{Name: "data", Driver: "local", Labels: labels}}, clock: r.clock}
	r.d = Deps{
		Clock: r.clock, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Events: r.events,
		Repositories: fakeRecords[Repository]{}, Jobs: r.jobs, States: fakeRecords[State]{}, Secrets: fakeSecrets{},
		Engine: r.engine, Volumes: r.vols, Host: "node1", Dir: t.TempDir(), Settings: func() Settings { return Settings{} },
	}
	r.restart(t)
	if _, _, err := r.AddRepository(t.Context(), "nas", "/srv/b", nil, map[string]string{SecretPassword: "x"}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) restart(t *testing.T) {
	t.Helper()
	s, err := New(t.Context(), r.d)
	if err != nil {
		t.Fatal(err)
	}
	r.Service = s
}

func (r *rig) pass(d time.Duration) { r.clock.now.Add(int64(d / time.Second)) }

func TestSchedulesRunMissedOnesOnceAndKeepWhatTheySay(t *testing.T) {
	r := newRig(t, map[string]string{LabelSchedule: "@daily", LabelKeep: "2"})
	r.look(t.Context())
	r.look(t.Context())
	if len(r.engine.backups) != 0 {
		t.Fatal("it was backed up before it was due")
	}
	r.pass(13 * time.Hour)
	r.look(t.Context())
	r.look(t.Context())
	if len(r.engine.backups) != 1 || r.engine.backups[0].Why != WhySchedule {
		t.Fatalf("at midnight: %+v", r.engine.backups)
	}
	// The daemon is away for five days: what was missed is made once.
	r.pass(5 * 24 * time.Hour)
	r.restart(t)
	r.look(t.Context())
	r.look(t.Context())
	if len(r.engine.backups) != 2 {
		t.Fatalf("after five days: %d backups", len(r.engine.backups))
	}
	if _, err := r.Backup(t.Context(), Options{Volume: "data", Tag: "mine"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.pass(25 * time.Hour)
		r.look(t.Context())
	}
	mine, scheduled := 0, 0
	for _, b := range r.engine.backups {
		if b.Why == WhySchedule {
			scheduled++
		} else {
			mine++
		}
	}
	if scheduled != 2 || mine != 1 || r.engine.maintain == 0 {
		t.Errorf("kept %d of the schedule's, %d of a person's; maintenance ran %d times", scheduled, mine, r.engine.maintain)
	}
	// A failure is shown, told, tried again after ten minutes, and forgotten.
	r.engine.err = errors.New("the disk is on fire")
	r.pass(25 * time.Hour)
	r.look(t.Context())
	s := r.Schedules()
	if len(s) != 1 || !strings.Contains(s[0].LastError, "on fire") || !s[0].Next.Equal(r.clock.Now().Add(firstRetry)) {
		t.Errorf("after a failure: %+v", s)
	}
	if !slices.Contains(r.events.got, "backup-failed data") {
		t.Errorf("events: %v", r.events.got)
	}
	r.engine.err = nil
	r.pass(11 * time.Minute)
	r.look(t.Context())
	if s := r.Schedules(); s[0].LastError != "" || s[0].Failures != 0 {
		t.Errorf("after the next try: %+v", s)
	}
}

func TestABackupThatIsNotWhatItSaysIsTakenBack(t *testing.T) {
	r := newRig(t, nil)
	r.vols.still = errdefs.ErrConflict
	if _, err := r.Backup(t.Context(), Options{Volume: "data"}); !errdefs.IsConflict(err) || len(r.engine.backups) != 0 {
		t.Errorf("got %v and %d backups", err, len(r.engine.backups))
	}
	if len(r.jobs) != 0 {
		t.Errorf("jobs left: %v", r.jobs)
	}
}

func TestRestoreReplacesOnlyWhenTold(t *testing.T) {
	r := newRig(t, map[string]string{LabelSchedule: "@daily", "app": "x"})
	b, err := r.Backup(t.Context(), Options{Volume: "data"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Restore(t.Context(), RestoreOptions{Backup: b.ID}); !errdefs.IsConflict(err) {
		t.Errorf("over a volume: %v", err)
	}
	if _, err := r.Restore(t.Context(), RestoreOptions{Backup: b.ID, To: "copy"}); err != nil {
		t.Error(err)
	}
	if l := r.vols.all[1].Labels; l["app"] != "x" || l[LabelSchedule] != "" {
		t.Errorf("labels of a copy: %v", l)
	}
	out, err := r.Restore(t.Context(), RestoreOptions{Backup: b.ID, Replace: true})
	if err != nil || out.Kept == nil || !strings.HasSuffix(r.vols.moved, " over data") {
		t.Errorf("replace: %+v, %q, %v", out, r.vols.moved, err)
	}
	r.engine.err = errdefs.ErrDataLoss
	n := len(r.vols.all)
	if _, err := r.Restore(t.Context(), RestoreOptions{Backup: b.ID, To: "other"}); err == nil || len(r.vols.all) != n {
		t.Errorf("a damaged one: %v, %v", err, r.vols.all)
	}
}

// What a daemon that was killed left of its work is taken away by the next.
func TestLeftoversOfAKilledDaemonAreTakenAway(t *testing.T) {
	r := newRig(t, nil)
	r.jobs["1"] = Job{ID: "1", Verb: VerbRestore, Volume: "data", Temp: "data.restoring-1"}
	r.jobs["2"] = Job{ID: "2", Verb: VerbBackup, Volume: "data"}
	r.vols.all = append(r.vols.all, Spec{Name: "data.restoring-1"})
	r.restart(t)
	if len(r.jobs) != 0 || len(r.vols.all) != 1 {
		t.Errorf("left: %v, %v", r.jobs, r.vols.all)
	}
	if st := r.state("data"); !strings.Contains(st.LastError, "the daemon ended") {
		t.Errorf("state: %+v", st)
	}
}
