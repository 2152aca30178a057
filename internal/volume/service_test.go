package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
)

// fakeDriver keeps volumes in a map and does what its hooks say.
type fakeDriver struct {
	mu      sync.Mutex
	name    string
	made    map[string]bool
	mounted map[string]bool
	failing map[string]error // by verb
	calls   []string
}

func newFake(name string) *fakeDriver {
	return &fakeDriver{name: name, made: map[string]bool{}, mounted: map[string]bool{}, failing: map[string]error{}}
}

func (f *fakeDriver) do(verb string, v Spec, then func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, verb+" "+v.Name)
	if err := f.failing[verb]; err != nil {
		return err
	}
	then()
	return nil
}

func (f *fakeDriver) Name() string               { return f.name }
func (f *fakeDriver) Capabilities() Capabilities { return Capabilities{Scope: "local"} }
func (f *fakeDriver) Path(v Spec) string         { return "/fake/" + v.Name }
func (f *fakeDriver) CheckOptions(o map[string]string) error {
	if _, bad := o["bad"]; bad {
		return fault.New(errdefs.ErrInvalidArgument, "invalid option: %q", "bad")
	}
	return nil
}

func (f *fakeDriver) Create(_ context.Context, v Spec) error {
	return f.do("create", v, func() { f.made[v.Name] = true })
}

func (f *fakeDriver) Remove(_ context.Context, v Spec) error {
	return f.do("remove", v, func() { delete(f.made, v.Name) })
}

func (f *fakeDriver) Mount(_ context.Context, v Spec) error {
	return f.do("mount", v, func() { f.mounted[v.Name] = true })
}

func (f *fakeDriver) Unmount(_ context.Context, v Spec) error {
	return f.do("unmount", v, func() { delete(f.mounted, v.Name) })
}

func (f *fakeDriver) Usage(context.Context, Spec) (int64, error) { return 1000, nil }

// fakeRecords keeps copies, as a database would.
type fakeRecords struct {
	mu   sync.Mutex
	recs map[string]Record
	err  error
}

func (f *fakeRecords) Put(id string, r *Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.recs[id] = *r
	return nil
}

func (f *fakeRecords) Delete(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.recs, id)
	return nil
}

func (f *fakeRecords) All() ([]*Record, error) {
	var out []*Record
	for _, k := range slices.Sorted(maps.Keys(f.recs)) {
		r := f.recs[k]
		out = append(out, &r)
	}
	return out, nil
}

type fakeEvents struct {
	mu  sync.Mutex
	got []string
}

func (f *fakeEvents) Publish(m events.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
		attrs = append(attrs, k+"="+m.Actor.Attributes[k])
	}
	f.got = append(f.got, fmt.Sprintf("%s %s %s", m.Action, m.Actor.ID, strings.Join(attrs, ",")))
}

type fakePopulator struct{ calls []string }

func (f *fakePopulator) Populate(_ context.Context, src, dst, _ string) error {
	f.calls = append(f.calls, src+" -> "+dst)
	return nil
}

type rig struct {
	*Service
	local, other *fakeDriver
	recs         *fakeRecords
	events       *fakeEvents
	populator    *fakePopulator
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{local: newFake("local"), other: newFake("other"), recs: &fakeRecords{recs: map[string]Record{}}, events: &fakeEvents{}, populator: &fakePopulator{}}
	r.restart(t)
	return r
}

func (r *rig) restart(t *testing.T) {
	t.Helper()
	s, err := New(t.Context(), Deps{
		Clock: clock.System{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Records: r.recs,
		Events: r.events, Populator: r.populator, Drivers: []Driver{r.local, r.other},
	})
	must(t, err)
	r.Service = s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) create(t *testing.T, name string, labels ...string) {
	t.Helper()
	m := map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	_, err := r.Create(t.Context(), CreateOptions{Name: name, Labels: m})
	must(t, err)
}

func wantErr(t *testing.T, err error, is func(error) bool, text string) {
	t.Helper()
	if err == nil || err.Error() != text || !is(err) {
		t.Errorf("got %v, want %s", err, text)
	}
}

func TestCreateInspectRemove(t *testing.T) {
	r := newRig(t)
	v, err := r.Create(t.Context(), CreateOptions{Name: "data", Labels: map[string]string{"a": "b"}, Options: map[string]string{"o": "x"}})
	must(t, err)
	if v.Name != "data" || v.Driver != "local" || v.Mountpoint != "/fake/data" || v.Scope != "local" || v.Labels["a"] != "b" || v.Options["o"] != "x" || v.CreatedAt == "" {
		t.Errorf("got %+v", v)
	}
	again, err := r.Create(t.Context(), CreateOptions{Name: "data", Driver: "local"})
	if err != nil || again.Labels["a"] != "b" {
		t.Errorf("again: %+v, %v", again, err)
	}
	r.restart(t)
	got, err := r.Inspect(t.Context(), "data")
	if err != nil || got.CreatedAt != v.CreatedAt || got.Options["o"] != "x" {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	must(t, r.Remove(t.Context(), "data", false))
	_, err = r.Inspect(t.Context(), "data")
	wantErr(t, err, errdefs.IsNotFound, "get data: no such volume")
	if len(r.recs.recs) != 0 || len(r.local.made) != 0 {
		t.Errorf("left: %v, %v", r.recs.recs, r.local.made)
	}
	if want := []string{"create data driver=local", "destroy data driver=local"}; !slices.Equal(r.events.got, want) {
		t.Errorf("events %v", r.events.got)
	}
}

func TestRefusalsInDockersWords(t *testing.T) {
	r := newRig(t)
	r.create(t, "data")
	for _, c := range []struct {
		o    CreateOptions
		is   func(error) bool
		text string
	}{
		{CreateOptions{Name: "data", Driver: "other"}, errdefs.IsConflict, "create data: driver 'local' already has volume 'data': volume name must be unique"},
		{CreateOptions{Name: "x"}, errdefs.IsInvalidArgument, "create x: volume name is too short, names should be at least two alphanumeric characters"},
		{CreateOptions{Name: "a/b"}, errdefs.IsInvalidArgument, `create a/b: "a/b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`},
		{CreateOptions{Name: "..", Driver: "local"}, errdefs.IsInvalidArgument, `create ..: ".." includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`},
		{CreateOptions{Name: "vol", Driver: "nope"}, errdefs.IsNotFound, `create vol: error looking up volume plugin nope: plugin "nope" not found`},
		{CreateOptions{Name: "vol", Options: map[string]string{"bad": ""}}, errdefs.IsInvalidArgument, `create vol: invalid option: "bad"`},
	} {
		_, err := r.Create(t.Context(), c.o)
		wantErr(t, err, c.is, c.text)
	}
	if _, err := r.Create(t.Context(), CreateOptions{Name: strings.Repeat("x", 256)}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("long name: %v", err)
	}
	wantErr(t, r.Remove(t.Context(), "nothing", false), errdefs.IsNotFound, "get nothing: no such volume")
	must(t, r.Remove(t.Context(), "nothing", true))
	_, err := r.Acquire(t.Context(), Request{Name: "data", Container: "c1"})
	must(t, err)
	_, err = r.Acquire(t.Context(), Request{Name: "data", Container: "c2"})
	must(t, err)
	wantErr(t, r.Remove(t.Context(), "data", true), errdefs.IsConflict, "remove data: volume is in use - [c1, c2]")
	if len(r.recs.recs) != 1 {
		t.Errorf("records: %v", r.recs.recs)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	r := newRig(t)
	full := errors.New("no space left on device")
	r.local.failing["create"] = full
	if _, err := r.Create(t.Context(), CreateOptions{Name: "data"}); !errors.Is(err, full) || err.Error() != "create data: no space left on device" {
		t.Errorf("got %v", err)
	}
	if len(r.recs.recs) != 0 || len(r.events.got) != 0 {
		t.Errorf("left %v, events %v", r.recs.recs, r.events.got)
	}
	delete(r.local.failing, "create")
	r.create(t, "data")
}

func TestForcedRemoveForgetsWhatTheDriverKeeps(t *testing.T) {
	r := newRig(t)
	r.create(t, "data")
	r.local.failing["remove"] = errors.New("stuck")
	if err := r.Remove(t.Context(), "data", false); err == nil || err.Error() != "remove data: stuck" {
		t.Errorf("got %v", err)
	}
	if _, err := r.Create(t.Context(), CreateOptions{Name: "data"}); !errdefs.IsConflict(err) {
		t.Errorf("half-removed volume given out: %v", err)
	}
	must(t, r.Remove(t.Context(), "data", true))
	if len(r.recs.recs) != 0 {
		t.Errorf("left %v", r.recs.recs)
	}
}

func TestRefusedRemoveChangesNothing(t *testing.T) {
	r := newRig(t)
	r.create(t, "data")
	r.local.failing["remove"] = fault.New(errdefs.ErrFailedPrecondition, "something is mounted")
	if err := r.Remove(t.Context(), "data", false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	delete(r.local.failing, "remove")
	if _, err := r.Mount(t.Context(), "data", "c1"); err != nil {
		t.Errorf("mount after it: %v", err)
	}
}

// What a daemon that was killed leaves is finished by the next.
func TestRecovery(t *testing.T) {
	for _, c := range []struct {
		state    State
		made     bool
		failing  string
		wantKept bool
	}{
		{Ready, true, "", true},
		{Creating, false, "", false},
		{Creating, true, "", false},
		{Creating, true, "create", false}, // data that isn't ours
		{Removing, true, "", false},
		{Removing, false, "", false},
		{Removing, true, "remove", true},
	} {
		t.Run(fmt.Sprintf("%s made=%v failing=%s", c.state, c.made, c.failing), func(t *testing.T) {
			r := newRig(t)
			r.recs.recs["data"] = Record{Name: "data", Driver: "local", State: c.state}
			r.local.made["data"] = c.made
			if c.failing != "" {
				r.local.failing[c.failing] = errors.New("no")
			}
			r.restart(t)
			_, err := r.Inspect(t.Context(), "data")
			if (err == nil) != c.wantKept || (len(r.recs.recs) == 1) != c.wantKept {
				t.Errorf("inspect: %v, records %v", err, r.recs.recs)
			}
			if c.failing == "create" && slices.Contains(r.local.calls, "remove data") {
				t.Error("removed data that it did not make")
			}
			if c.failing == "" && !c.wantKept && r.local.made["data"] {
				t.Error("data left without a record")
			}
		})
	}
}

func TestMountsAreCounted(t *testing.T) {
	r := newRig(t)
	for _, c := range []string{"c1", "c2"} {
		i, err := r.Acquire(t.Context(), Request{Name: "data", Container: c})
		must(t, err)
		if i != (Info{Name: "data", Driver: "local", Source: "/fake/data"}) {
			t.Errorf("got %+v", i)
		}
		for range 2 {
			if p, err := r.Mount(t.Context(), "data", c); err != nil || p != "/fake/data" {
				t.Errorf("got %s, %v", p, err)
			}
		}
	}
	must(t, r.Unmount(t.Context(), "data", "c1"))
	must(t, r.Unmount(t.Context(), "data", "c1"))
	if !r.local.mounted["data"] {
		t.Error("unmounted under c2")
	}
	must(t, r.Unmount(t.Context(), "data", "c2"))
	if r.local.mounted["data"] {
		t.Error("still mounted")
	}
	want := []string{
		"create data driver=local", "mount data container=c1,driver=local", "mount data container=c2,driver=local",
		"unmount data container=c1,driver=local", "unmount data container=c2,driver=local",
	}
	if !slices.Equal(r.events.got, want) {
		t.Errorf("events %q", r.events.got)
	}
	_, err := r.Mount(t.Context(), "nothing", "c1")
	wantErr(t, err, errdefs.IsNotFound, "get nothing: no such volume")
	r.local.failing["mount"] = fault.New(errdefs.ErrDataLoss, "gone")
	_, err = r.Mount(t.Context(), "data", "c1")
	wantErr(t, err, errdefs.IsDataLoss, "error while mounting volume '/fake/data': gone")
}

func TestDaemonRestartUnderContainers(t *testing.T) {
	r := newRig(t)
	for _, n := range []string{"used", "ended"} {
		_, err := r.Acquire(t.Context(), Request{Name: n, Container: "c1"})
		must(t, err)
		_, err = r.Mount(t.Context(), n, "c1")
		must(t, err)
	}
	r.restart(t)
	must(t, r.Reattach(t.Context(), "used", "c1", true))
	must(t, r.Reattach(t.Context(), "ended", "c1", false))
	r.Settle(t.Context())
	if !r.local.mounted["used"] || r.local.mounted["ended"] {
		t.Errorf("mounted: %v", r.local.mounted)
	}
	for _, n := range []string{"used", "ended"} {
		if err := r.Remove(t.Context(), n, false); !errdefs.IsConflict(err) {
			t.Errorf("remove %s: %v", n, err)
		}
	}
	must(t, r.Unmount(t.Context(), "used", "c1"))
	if r.local.mounted["used"] {
		t.Error("still mounted")
	}
	if err := r.Reattach(t.Context(), "nothing", "c1", false); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestAnonymous(t *testing.T) {
	r := newRig(t)
	i, err := r.Acquire(t.Context(), Request{Container: "c1"})
	must(t, err)
	if len(i.Name) != 64 || !i.Anonymous || strings.Trim(i.Name, "0123456789abcdef") != "" {
		t.Errorf("got %+v", i)
	}
	v, err := r.Inspect(t.Context(), i.Name)
	if _, ok := v.Labels["com.docker.volume.anonymous"]; err != nil || !ok {
		t.Errorf("got %+v, %v", v, err)
	}
	must(t, r.RemoveAnonymous(t.Context(), i.Name))
	if _, err := r.Inspect(t.Context(), i.Name); err != nil {
		t.Error("removed while in use")
	}
	must(t, r.Release(t.Context(), i.Name, "c1"))
	must(t, r.Release(t.Context(), i.Name, "c1"))
	r.restart(t) // it is still known to be anonymous
	must(t, r.RemoveAnonymous(t.Context(), i.Name))
	must(t, r.RemoveAnonymous(t.Context(), i.Name))
	if _, err := r.Inspect(t.Context(), i.Name); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	r.create(t, "named")
	must(t, r.RemoveAnonymous(t.Context(), "named"))
	if _, err := r.Inspect(t.Context(), "named"); err != nil {
		t.Error("a named volume was removed")
	}
}

func TestPopulate(t *testing.T) {
	r := newRig(t)
	r.create(t, "data")
	must(t, r.Populate(t.Context(), "data", "c1", "/img/data", ""))
	if !slices.Equal(r.populator.calls, []string{"/img/data -> /fake/data"}) || r.local.mounted["data"] {
		t.Errorf("calls %v, mounted %v", r.populator.calls, r.local.mounted)
	}
	_, err := r.Mount(t.Context(), "data", "c2")
	must(t, err)
	must(t, r.Populate(t.Context(), "data", "c1", "/img/data", ""))
	if !r.local.mounted["data"] {
		t.Error("unmounted under c2")
	}
}

func TestListFilters(t *testing.T) {
	r := newRig(t)
	r.create(t, "web-data", "env=prod", "x=")
	r.create(t, "db-data", "env=test")
	_, err := r.Create(t.Context(), CreateOptions{Name: "far", Driver: "other"})
	must(t, err)
	_, err = r.Acquire(t.Context(), Request{Name: "db-data", Container: "c"})
	must(t, err)
	for _, c := range []struct {
		filters map[string][]string
		want    string
	}{
		{nil, "db-data far web-data"},
		{map[string][]string{"name": {"data"}}, "db-data web-data"},
		{map[string][]string{"name": {"^db"}}, "db-data"},
		{map[string][]string{"driver": {"other"}}, "far"},
		{map[string][]string{"label": {"env"}}, "db-data web-data"},
		{map[string][]string{"label": {"env=prod", "x"}}, "web-data"},
		{map[string][]string{"dangling": {"true"}}, "far web-data"},
		{map[string][]string{"dangling": {"0"}}, "db-data"},
		{map[string][]string{"name": {"nothing"}}, ""},
	} {
		vs, err := r.List(t.Context(), c.filters)
		must(t, err)
		var names []string
		for _, v := range vs {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != c.want || vs == nil {
			t.Errorf("%v: %s", c.filters, got)
		}
	}
	_, err = r.List(t.Context(), map[string][]string{"colour": {"x"}})
	wantErr(t, err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	_, err = r.List(t.Context(), map[string][]string{"dangling": {"maybe"}})
	wantErr(t, err, errdefs.IsInvalidArgument, "invalid filter 'dangling=[maybe]'")
}

func TestPrune(t *testing.T) {
	r := newRig(t)
	var anonymous []string
	for _, c := range []string{"c1", "c2", "c3"} {
		i, err := r.Acquire(t.Context(), Request{Container: c, Labels: map[string]string{"of": c}})
		must(t, err)
		anonymous = append(anonymous, i.Name)
		if c != "c1" {
			must(t, r.Release(t.Context(), i.Name, c))
		}
	}
	r.create(t, "named", "keep=")
	r.create(t, "named2")
	_, err := r.Create(t.Context(), CreateOptions{Name: "share", Options: map[string]string{"type": "nfs"}})
	must(t, err)

	for _, c := range []struct {
		filters map[string][]string
		want    []string
	}{
		{map[string][]string{"label": {"of=c3"}}, anonymous[2:]},
		{nil, anonymous[1:2]},
		{map[string][]string{"all": {"true"}, "label!": {"keep"}}, []string{"named2"}},
		{map[string][]string{"all": {"1"}}, []string{"named"}},
	} {
		r.events.got = nil
		rep, err := r.Prune(t.Context(), c.filters)
		must(t, err)
		if !slices.Equal(rep.VolumesDeleted, c.want) || rep.SpaceReclaimed != 1000*uint64(len(c.want)) {
			t.Errorf("%v: got %+v, want %v", c.filters, rep, c.want)
		}
		if last := r.events.got[len(r.events.got)-1]; last != fmt.Sprintf("prune  reclaimed=%d", rep.SpaceReclaimed) {
			t.Errorf("event %q", last)
		}
	}
	_, err = r.Prune(t.Context(), map[string][]string{"name": {"x"}})
	wantErr(t, err, errdefs.IsInvalidArgument, "invalid filter 'name'")
	_, err = r.Prune(t.Context(), map[string][]string{"all": {"a", "b"}})
	wantErr(t, err, errdefs.IsInvalidArgument, "invalid filter 'all=[a b]': only one value is expected")
	if vs, err := r.List(t.Context(), nil); err != nil || len(vs) != 2 {
		t.Errorf("left: %v, %v", vs, err)
	}
}

func TestDiskUsage(t *testing.T) {
	r := newRig(t)
	r.create(t, "a1")
	_, err := r.Acquire(t.Context(), Request{Name: "b1", Container: "c"})
	must(t, err)
	_, err = r.Create(t.Context(), CreateOptions{Name: "share", Options: map[string]string{"type": "nfs"}})
	must(t, err)
	u, err := r.DiskUsage(t.Context(), func(context.Context, string) (int64, error) { return 1000, nil })
	must(t, err)
	if u.TotalCount != 2 || u.ActiveCount != 1 || u.TotalSize != 2000 || u.Reclaimable != 1000 || len(u.Items) != 2 ||
		u.Items[1].UsageData.RefCount != 1 || u.Items[0].UsageData.Size != 1000 {
		t.Errorf("got %+v", u)
	}
}

// Everything at once; the race detector and the end state judge.
func TestConcurrentUse(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			c := fmt.Sprint("c", i)
			name := fmt.Sprint("vol", i%3)
			if _, err := r.Acquire(t.Context(), Request{Name: name, Container: c}); err != nil {
				t.Error(err)
				return
			}
			if _, err := r.Mount(t.Context(), name, c); err != nil {
				t.Error(err)
			}
			if err := r.Remove(t.Context(), name, true); !errdefs.IsConflict(err) {
				t.Errorf("removed in use: %v", err)
			}
			if _, err := r.List(t.Context(), map[string][]string{"dangling": {"true"}}); err != nil {
				t.Error(err)
			}
			if err := errors.Join(r.Unmount(t.Context(), name, c), r.Release(t.Context(), name, c)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(r.local.mounted) != 0 {
		t.Errorf("mounted: %v", r.local.mounted)
	}
	for i := range 3 {
		must(t, r.Remove(t.Context(), fmt.Sprint("vol", i), false))
	}
}

func TestNamesAreRandom(t *testing.T) {
	r := newRig(t)
	r.d.Random = bytes.NewReader(bytes.Repeat([]byte{0xab}, 32))
	v, err := r.Create(t.Context(), CreateOptions{})
	if err != nil || v.Name != strings.Repeat("ab", 32) {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := r.Create(t.Context(), CreateOptions{}); err == nil {
		t.Error("no randomness, no error")
	}
}
