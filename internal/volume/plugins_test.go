package volume

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
)

// shared is a driver of volumes that others make, too.
type shared struct{ *fakeDriver }

func (s shared) Exists(_ context.Context, v Spec) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made[v.Name], s.failing["exists"]
}

// fakePlugins has one driver, which may be away.
type fakePlugins struct {
	d    shared
	away error
}

func (f *fakePlugins) Driver(_ context.Context, name string) (Driver, error) {
	if name != f.d.name {
		return nil, fault.New(errdefs.ErrNotFound, "plugin %q not found", name)
	}
	return f.d, f.away
}

func (f *fakePlugins) Known(name string) Driver {
	if name != f.d.name {
		return nil
	}
	return f.d
}

func (f *fakePlugins) Names() []string { return []string{f.d.name} }

type pluginRig struct {
	*Service
	plugins *fakePlugins
	recs    *fakeRecords
	deps    Deps
}

func newPluginRig(t *testing.T) *pluginRig {
	t.Helper()
	r := &pluginRig{plugins: &fakePlugins{d: shared{newFake("remote")}}, recs: &fakeRecords{recs: map[string]Record{}}}
	r.deps = Deps{
		Clock: clock.System{}, Random: bytes.NewReader(make([]byte, 64)), Log: slog.New(slog.DiscardHandler),
		Records: r.recs, Events: &fakeEvents{}, Populator: &fakePopulator{}, Drivers: []Driver{newFake("local")}, Plugins: r.plugins,
	}
	r.restart(t)
	return r
}

func (r *pluginRig) restart(t *testing.T) {
	t.Helper()
	s, err := New(t.Context(), r.deps)
	if err != nil {
		t.Fatal(err)
	}
	r.Service = s
}

func TestDriversOfPlugins(t *testing.T) {
	r := newPluginRig(t)
	if d := r.Drivers(); !slices.Equal(d, []string{"local", "remote"}) {
		t.Errorf("drivers %q", d)
	}
	v, err := r.Create(t.Context(), CreateOptions{Name: "data", Driver: "remote"})
	if err != nil || v.Driver != "remote" {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := r.Create(t.Context(), CreateOptions{Name: "no", Driver: "nosuch"}); !errdefs.IsNotFound(err) ||
		err.Error() != `create no: error looking up volume plugin nosuch: plugin "nosuch" not found` {
		t.Errorf("%v", err)
	}
	// Away: what is on record is shown all the same, and nothing new is made.
	r.plugins.away = fault.New(errdefs.ErrUnavailable, "no answer")
	if _, err := r.Create(t.Context(), CreateOptions{Name: "more", Driver: "remote"}); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
	if _, err := r.Inspect(t.Context(), "data"); err != nil {
		t.Error(err)
	}
}

// What others made is never undone: not by a failure, not by a start.
func TestVolumesThatOthersMadeStay(t *testing.T) {
	r := newPluginRig(t)
	d := r.plugins.d
	d.made["theirs"] = true
	r.recs.err = fault.New(errdefs.ErrResourceExhausted, "disk full")
	if _, err := r.Create(t.Context(), CreateOptions{Name: "theirs", Driver: "remote"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("%v", err)
	}
	r.recs.err = nil
	if _, err := r.Create(t.Context(), CreateOptions{Name: "theirs", Driver: "remote"}); err != nil {
		t.Error(err)
	}
	if rec := r.recs.recs["theirs"]; rec.State != Ready {
		t.Errorf("%+v", rec)
	}
	if err := func() error {
		_, err := r.Import(t.Context(), CreateOptions{Name: "theirs2", Driver: "remote"}, func(string) error { return nil })
		return err
	}(); err != nil {
		t.Error(err)
	}
	d.made["theirs3"] = true
	if _, err := r.Import(t.Context(), CreateOptions{Name: "theirs3", Driver: "remote"}, func(string) error { return nil }); !errdefs.IsConflict(err) {
		t.Errorf("import over what others made: %v", err)
	}
	// The daemon ended between the intent and the result.
	r.recs.recs["made"] = Record{Name: "made", Driver: "remote", State: Creating}
	r.recs.recs["unmade"] = Record{Name: "unmade", Driver: "remote", State: Creating}
	d.made["made"] = true
	r.restart(t)
	if rec := r.recs.recs["made"]; rec.State != Ready {
		t.Errorf("made: %+v", rec)
	}
	if _, there := r.recs.recs["unmade"]; there {
		t.Error("unmade is on record")
	}
	// With the plugin away it is found out later.
	r.recs.recs["unsure"] = Record{Name: "unsure", Driver: "remote", State: Creating}
	d.failing["exists"] = fault.New(errdefs.ErrUnavailable, "no answer")
	r.restart(t)
	if rec := r.recs.recs["unsure"]; rec.State != Creating {
		t.Errorf("unsure: %+v", rec)
	}
	for _, c := range d.calls {
		if strings.HasPrefix(c, "remove ") {
			t.Errorf("asked to %s", c)
		}
	}
}

// A start waits for no plugin; what of theirs is unused is unmounted after it.
func TestSettleLeavesPluginsForLater(t *testing.T) {
	r := newPluginRig(t)
	d := r.plugins.d
	for _, name := range []string{"used", "unused"} {
		r.recs.recs[name] = Record{Name: name, Driver: "remote", State: Ready}
	}
	r.restart(t)
	if err := r.Reattach(t.Context(), "used", "c1", true); err != nil {
		t.Fatal(err)
	}
	r.Settle(t.Context())
	if len(d.calls) != 0 {
		t.Errorf("a start asked %q", d.calls)
	}
	r.SettlePlugins(t.Context())
	if !slices.Equal(d.calls, []string{"unmount unused"}) {
		t.Errorf("asked %q", d.calls)
	}
}
