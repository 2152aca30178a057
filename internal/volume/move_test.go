package volume

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/containerd/errdefs"
)

// sendFake is a snapFake that sends.
type sendFake struct {
	*snapFake
	place string
	got   map[string]string // what was received, by snapshot
}

func newSendFake(name string) *sendFake {
	return &sendFake{snapFake: &snapFake{fakeDriver: newFake(name), snaps: map[string]bool{}}, place: name, got: map[string]string{}}
}

func (f *sendFake) Capabilities() Capabilities {
	c := f.snapFake.Capabilities()
	c.Send = true
	return c
}

func (f *sendFake) Path(v Spec) string    { return "/" + f.place + "/" + v.Name }
func (f *sendFake) Keeps(v Spec) bool     { return v.Options["elsewhere"] == "" }
func (f *sendFake) removed(v string) bool { return !f.made[v] }

func (f *sendFake) Send(_ context.Context, v Spec, snapshot, _ string, to io.Writer) error {
	if f.during != nil {
		f.during()
	}
	if err := f.do("send", v, func() {}); err != nil {
		return err
	}
	_, err := io.WriteString(to, v.Name+"@"+snapshot)
	return err
}

func (f *sendFake) Receive(_ context.Context, v Spec, snapshot, _ string, from io.Reader) (Made, error) {
	b, err := io.ReadAll(from)
	if err != nil {
		return Made{}, err
	}
	return Made{Method: MethodStream, Bytes: int64(len(b))}, f.do("receive", v, func() { f.got[snapshot] = string(b) })
}

type moveRig struct {
	*rig
	a, b *sendFake
}

func newMoveRig(t *testing.T) *moveRig {
	t.Helper()
	r := &moveRig{rig: newRig(t), a: newSendFake("local"), b: newSendFake("there")}
	r.again(t)
	r.create(t, "data", "x=y")
	_, _, err := r.Snapshot(t.Context(), SnapshotOptions{Volume: "data", Name: "s1"})
	must(t, err)
	return r
}

func (r *moveRig) again(t *testing.T) {
	t.Helper()
	d := r.d
	d.Drivers = []Driver{r.a, r.b, r.other}
	s, err := New(t.Context(), d)
	must(t, err)
	r.Service = s
}

func (r *moveRig) move(t *testing.T, driver string) error {
	t.Helper()
	_, err := r.Move(t.Context(), MoveOptions{Volume: "data", Driver: driver})
	return err
}

func (r *moveRig) driver(t *testing.T) string {
	t.Helper()
	v, err := r.Inspect(t.Context(), "data")
	must(t, err)
	return v.Driver
}

func TestMove(t *testing.T) {
	r := newMoveRig(t)
	var told int64
	made, err := r.Move(t.Context(), MoveOptions{Volume: "data", Driver: "there", Progress: func(n int64) { told += n }})
	must(t, err)
	if made.Method != MethodStream || made.Bytes != int64(len("data@s1data@")) || told != made.Bytes {
		t.Errorf("made %+v, told %d", made, told)
	}
	if r.driver(t) != "there" || !r.a.removed("data") || r.b.got[""] != "data@" || r.b.got["s1"] != "data@s1" {
		t.Errorf("driver %s, left %v, got %v", r.driver(t), r.a.made, r.b.got)
	}
	if driver, source, ok := r.Where("data"); !ok || driver != "there" || source != "/there/data" {
		t.Errorf("where: %s %s %v", driver, source, ok)
	}
	r.again(t)
	a, err := r.About(t.Context(), "data")
	must(t, err)
	if a.Driver != "there" || a.Doing != nil || len(a.Snapshots) != 1 || a.Labels["x"] != "y" || len(a.Users) != 0 {
		t.Errorf("after a restart: %+v", a)
	}
	wantErr(t, r.move(t, "there"), errdefs.IsInvalidArgument, "volume data is there already")
}

func TestMoveRefused(t *testing.T) {
	r := newMoveRig(t)
	_, err := r.Mount(t.Context(), "data", "c1")
	must(t, err)
	wantErr(t, r.move(t, "there"), errdefs.IsConflict, "volume data is in use by running containers [c1]: stop them first")
	must(t, r.Unmount(t.Context(), "data", "c1"))
	wantErr(t, r.move(t, "other"), errdefs.IsNotImplemented, "volume data cannot be moved: volume driver other does not keep its data here, or cannot send it")
	if err := r.move(t, "nope"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown driver: %v", err)
	}
	_, err = r.Move(t.Context(), MoveOptions{Volume: "data", Driver: "there", Options: map[string]string{"elsewhere": "1"}})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("elsewhere: %v", err)
	}
	_, err = r.Move(t.Context(), MoveOptions{Volume: "data", Driver: "there", Options: map[string]string{"bad": "1"}})
	wantErr(t, err, errdefs.IsInvalidArgument, `invalid option: "bad"`)
	if len(r.b.made) != 0 || r.driver(t) != "local" {
		t.Errorf("made %v", r.b.made)
	}
}

// Whoever wants the volume while it moves is told so, and not kept waiting.
func TestNobodyUsesWhatMoves(t *testing.T) {
	r := newMoveRig(t)
	_, err := r.Create(t.Context(), CreateOptions{Name: "other"})
	must(t, err)
	tried := 0
	r.a.during = func() {
		tried++
		_, err := r.Mount(t.Context(), "data", "c1")
		wantErr(t, err, errdefs.IsConflict, "volume 'data' is being moved")
		_, err = r.Mount(t.Context(), "data@s1", "c1")
		wantErr(t, err, errdefs.IsConflict, "volume 'data' is being moved")
		wantErr(t, r.Populate(t.Context(), "data", "c1", "/src", ""), errdefs.IsConflict, "volume 'data' is being moved")
		wantErr(t, r.Export(t.Context(), ExportOptions{Volume: "data"}, nil), errdefs.IsConflict, "volume 'data' is being moved")
		wantErr(t, r.Remove(t.Context(), "data", false), errdefs.IsConflict, "remove data: volume is in use - [move in the making]")
		_, err = r.Replace(t.Context(), "data", "other")
		wantErr(t, err, errdefs.IsConflict, "volume 'data' is being moved")
	}
	must(t, r.move(t, "there"))
	if tried != 2 {
		t.Errorf("sent %d times", tried)
	}
	_, err = r.Mount(t.Context(), "data", "c1")
	must(t, err)
}

// What goes wrong leaves the volume where it was, and nothing where it was to go.
func TestMoveThatFails(t *testing.T) {
	broken := errors.New("broken")
	for verb, at := range map[string]func(*moveRig) *sendFake{
		"create": func(r *moveRig) *sendFake { return r.b }, "receive": func(r *moveRig) *sendFake { return r.b },
		"send": func(r *moveRig) *sendFake { return r.a }, "mount": func(r *moveRig) *sendFake { return r.b },
	} {
		r := newMoveRig(t)
		at(r).failing[verb] = broken
		if err := r.move(t, "there"); !errors.Is(err, broken) {
			t.Errorf("%s: %v", verb, err)
		}
		if r.driver(t) != "local" || len(r.b.made) != 0 || r.a.removed("data") {
			t.Errorf("%s: driver %s, made %v", verb, r.driver(t), r.b.made)
		}
		_, err := r.Mount(t.Context(), "data", "c1")
		must(t, err)
		must(t, r.Unmount(t.Context(), "data", "c1"))
		delete(at(r).failing, verb)
		must(t, r.move(t, "there"))
	}
	// What cannot be removed does not keep anybody from the volume, and goes later.
	r := newMoveRig(t)
	r.a.failing["remove"] = broken
	if err := r.move(t, "there"); !errors.Is(err, broken) {
		t.Errorf("remove: %v", err)
	}
	if r.driver(t) != "there" || r.a.removed("data") {
		t.Errorf("driver %s", r.driver(t))
	}
	r.again(t)
	_, err := r.Mount(t.Context(), "data", "c1")
	must(t, err)
	delete(r.a.failing, "remove")
	r.again(t)
	if !r.a.removed("data") || r.driver(t) != "there" {
		t.Errorf("driver %s, left %v", r.driver(t), r.a.made)
	}
}
