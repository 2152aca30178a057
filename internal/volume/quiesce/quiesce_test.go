package quiesce

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/volume/database"
)

// fakes are containers that do as their test says, and remember the order.
type fakes struct {
	mu      sync.Mutex
	writers []Writer
	calls   []string
	frozen  map[string]bool
	recs    map[string]Record
	// run answers commands; nil: they succeed. session answers what a session is told
	// with lines; it returns false where the program ends.
	run     func(ctx context.Context, cmd string) (string, int, error)
	session func(said string) ([]string, bool)
}

func (f *fakes) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fakes) Writers([]string) []Writer { return slices.Clone(f.writers) }

func (f *fakes) Run(ctx context.Context, id, user string, cmd []string) (string, int, error) {
	f.note("run %s%s %s", user, id, cmd[2])
	if f.run == nil {
		return "", 0, nil
	}
	return f.run(ctx, cmd[2])
}

func (f *fakes) Freeze(_ context.Context, id string) error {
	f.note("freeze %s", id)
	f.frozen[id] = true
	return nil
}

func (f *fakes) Thaw(_ context.Context, id string) error {
	f.note("thaw %s", id)
	if !f.frozen[id] {
		return fault.New(errdefs.ErrConflict, "container %s is not paused", id)
	}
	delete(f.frozen, id)
	return nil
}

func (f *fakes) Open(_ context.Context, id, _ string, _ []string) (Process, error) {
	f.note("open %s", id)
	return &fakeProcess{f: f, lines: make(chan string, 16), end: make(chan struct{})}, nil
}

type fakeProcess struct {
	f     *fakes
	lines chan string
	end   chan struct{}
	once  sync.Once
}

func (p *fakeProcess) Write(b []byte) (int, error) {
	said, _, _ := strings.Cut(string(b), ";")
	p.f.note("say %s", said)
	lines, alive := p.f.session(string(b))
	for _, l := range lines {
		p.lines <- l
	}
	if !alive {
		p.once.Do(func() { close(p.end) })
	}
	return len(b), nil
}

func (p *fakeProcess) Line(ctx context.Context) (string, error) {
	select {
	case l := <-p.lines:
		return l, nil
	default:
	}
	select {
	case l := <-p.lines:
		return l, nil
	case <-p.end:
		return "", io.EOF
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (p *fakeProcess) Wait(context.Context) (int, error) { p.f.note("end"); return 2, nil }
func (p *fakeProcess) Kill()                             { p.f.note("kill") }

func (f *fakes) Put(id string, r *Record) error { f.note("record"); f.recs[id] = *r; return nil }
func (f *fakes) Delete(id string) error         { f.note("forget"); delete(f.recs, id); return nil }
func (f *fakes) All() ([]*Record, error) {
	var out []*Record
	for _, k := range slices.Sorted(maps.Keys(f.recs)) {
		r := f.recs[k]
		out = append(out, &r)
	}
	return out, nil
}

// obeys is a session that does what it is told.
func obeys(said string) ([]string, bool) {
	if strings.Contains(said, doneMark) {
		return []string{"stopped", doneMark}, true
	}
	return []string{"NOTICE", readyMark}, true
}

func newFakes(writers ...Writer) (*fakes, *Conductor) {
	f := &fakes{writers: writers, frozen: map[string]bool{}, recs: map[string]Record{}, session: obeys}
	return f, New(Deps{Clock: clock.System{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Records: f, Containers: f})
}

func writer(name string, labels ...string) Writer {
	w := Writer{ID: name, Name: name, Volumes: []string{"data"}, Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		w.Labels[labels[i]] = labels[i+1]
	}
	return w
}

func (f *fakes) order() string { return strings.Join(f.calls, " | ") }

func TestTreat(t *testing.T) {
	pg := Writer{Name: "db", Facts: database.Facts{Image: "postgres:17"}}
	for name, tt := range map[string]struct {
		w    Writer
		by   treatment
		hook string
		fail string
	}{
		"a database by its image":       {pg, byHook, "postgres", ""},
		"one that nobody knows":         {writer("c"), byFreeze, "", ""},
		"a proxy":                       {Writer{Facts: database.Facts{Ports: []string{"5432/tcp"}}}, byFreeze, "", ""},
		"one that has no hook":          {Writer{Facts: database.Facts{Image: "redis"}}, byFreeze, "", ""},
		"commands go before the image":  {Writer{Labels: map[string]string{LabelPre: "sync"}, Facts: pg.Facts}, byHook, "label", ""},
		"only one after":                {writer("c", LabelPost, "go"), byHook, "label", ""},
		"said by a label":               {writer("c", LabelProfile, "mariadb"), byHook, "mariadb", ""},
		"mysql":                         {writer("c", LabelProfile, "mysql"), byHook, "mysql", ""},
		"its label says that it is not": {Writer{Labels: map[string]string{LabelProfile: "freeze"}, Facts: pg.Facts}, byFreeze, "", ""},
		"its label says nothing to do":  {writer("c", LabelProfile, "none"), byNothing, "", ""},
		"an unknown profile":            {writer("c", LabelProfile, "oracle"), byFreeze, "", `unknown profile "oracle"`},
		"redis has no profile":          {writer("c", LabelProfile, "redis"), byFreeze, "", `unknown profile "redis"`},
		"no time":                       {writer("c", LabelTimeout, "soon"), byFreeze, "", `"soon" is no time`},
		"too much time":                 {writer("c", LabelTimeout, "1h"), byFreeze, "", "is no time"},
	} {
		h, by, err := treat(tt.w)
		if tt.fail != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fail) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if err != nil || by != tt.by || h.Name != tt.hook {
			t.Errorf("%s: got %v, %+v, %v", name, by, h, err)
		}
	}
}

// What is begun is ended in the opposite order, and on record all the time.
func TestQuietAndOn(t *testing.T) {
	f, c := newFakes(writer("web", LabelPre, "stop", LabelPost, "go", LabelUser, "www@"), writer("db", LabelProfile, "postgres"))
	q, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true, Freeze: true})
	if err != nil {
		t.Fatal(err)
	}
	if !q.Application["data"] || q.Hooks["data"] != "freeze+label+postgres" || len(f.recs) != 1 {
		t.Errorf("got %+v, records %v", q, f.recs)
	}
	o := q.Resume(t.Context())
	if o.Broken != nil || o.Post != nil || o.Paused <= 0 {
		t.Errorf("got %+v", o)
	}
	const want = "record | open db | say SELECT current_setting('server_version_num')::int >= 150000 AS named, current_setting('wal_level') <> 'minimal' AS logs \\gset\n\\if :logs\n\\if :named\nSELECT pg_backup_start('holdfast', true) | " +
		"run www@web stop | freeze db | freeze web | thaw web | thaw db | say \\if :logs\n\\if :named\nSELECT pg_backup_stop(false) | end | run www@web go | forget"
	if got := f.order(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	q.Resume(t.Context()) // once more does nothing
	if got := f.order(); got != want {
		t.Errorf("after a second end: %s", got)
	}
}

// Without a need to freeze, who has no hook writes on: that is no state of an application.
func TestOneWithoutHook(t *testing.T) {
	f, c := newFakes(writer("a", LabelProfile, "none"), writer("b"))
	q, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true})
	if err != nil || q.Application["data"] || q.Hooks["data"] != "" {
		t.Errorf("got %+v, %v", q, err)
	}
	if o := q.Resume(t.Context()); o != (Outcome{}) || f.order() != "record | forget" {
		t.Errorf("got %+v, %s", o, f.order())
	}
	f.writers = f.writers[:1]
	if q, err = c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true}); err != nil || !q.Application["data"] {
		t.Errorf("nothing need be done: %+v, %v", q, err)
	}
}

// A hook that fails, hangs, dies or talks nonsense ends what was begun; with try it is
// done without.
func TestBadHooks(t *testing.T) {
	hang := func(ctx context.Context, cmd string) (string, int, error) {
		if cmd == "go" {
			return "", 0, nil
		}
		<-ctx.Done()
		return "still at it", -1, ctx.Err()
	}
	for name, tt := range map[string]struct {
		labels  []string
		run     func(context.Context, string) (string, int, error)
		session func(string) ([]string, bool)
		says    string
		after   string // what must have run
	}{
		"fails": {[]string{LabelPre, "stop", LabelPost, "go"}, func(_ context.Context, cmd string) (string, int, error) {
			if cmd == "stop" {
				return "no disk\n", 3, nil
			}
			return "", 0, nil
		}, nil, "hook label of container c: it ended with exit code 3: no disk", "run c go"},
		"hangs":           {[]string{LabelPre, "stop", LabelPost, "go", LabelTimeout, "20ms"}, hang, nil, "it was not done after 20ms: still at it", "run c go"},
		"session dies":    {[]string{LabelProfile, "mariadb"}, nil, func(string) ([]string, bool) { return []string{"ERROR 1045: Access denied"}, false }, "it ended with exit code 2: ERROR 1045: Access denied", "kill"},
		"session is mute": {[]string{LabelProfile, "mariadb", LabelTimeout, "20ms"}, nil, func(string) ([]string, bool) { return nil, true }, "it was not done after 20ms", "kill"},
	} {
		f, c := newFakes(writer("c", tt.labels...))
		if f.run = tt.run; tt.session != nil {
			f.session = tt.session
		}
		_, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true, Freeze: true})
		if err == nil || !strings.Contains(err.Error(), tt.says) || !errdefs.IsConflict(err) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := f.order(); !strings.Contains(got, tt.after) || strings.Contains(got, "freeze") || len(f.recs) != 0 {
			t.Errorf("%s: %s", name, got)
		}
		f.calls = nil
		q, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true, Try: true, Freeze: true})
		if err != nil {
			t.Errorf("%s, try: %v", name, err)
			continue
		}
		if q.Application["data"] || q.Failed == nil || !strings.Contains(q.Failed.Error(), tt.says) || q.Hooks["data"] != "freeze" {
			t.Errorf("%s, try: got %+v", name, q)
		}
		if o := q.Resume(t.Context()); o.Broken != nil || o.Post != nil || len(f.frozen) != 0 {
			t.Errorf("%s, try: %+v", name, o)
		}
	}
}

// What does not last until the end is said.
func TestBroken(t *testing.T) {
	f, c := newFakes(writer("c", LabelProfile, "mariadb"))
	f.session = func(said string) ([]string, bool) {
		if strings.Contains(said, doneMark) {
			return []string{"server has gone away"}, false
		}
		return []string{readyMark}, true
	}
	q, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true, Freeze: true})
	if err != nil {
		t.Fatal(err)
	}
	delete(f.frozen, "c") // somebody unpaused it
	o := q.Resume(t.Context())
	if o.Broken == nil || !strings.Contains(o.Broken.Error(), "is not paused") || !strings.Contains(o.Broken.Error(), "did not last: it ended with exit code 2: server has gone away") {
		t.Errorf("got %v", o.Broken)
	}
	f, c = newFakes(writer("c", LabelPre, "stop", LabelPost, "go"))
	f.run = func(_ context.Context, cmd string) (string, int, error) {
		return "", map[string]int{"go": 1}[cmd], nil
	}
	if q, err = c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true}); err != nil {
		t.Fatal(err)
	}
	if o = q.Resume(t.Context()); o.Broken != nil || o.Post == nil || len(f.recs) != 0 {
		t.Errorf("got %+v", o)
	}
}

// What a killed daemon left is undone by the next one, each thing whatever becomes of
// the others.
func TestSettle(t *testing.T) {
	f, c := newFakes(writer("a", LabelPost, "go a"), writer("b", LabelPost, "go b"))
	if _, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true, Freeze: true}); err != nil {
		t.Fatal(err)
	}
	f.calls = nil
	f.run = func(context.Context, string) (string, int, error) { return "", -1, errors.New("no such container") }
	delete(f.frozen, "a") // it ended meanwhile
	if err := c.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.order(); got != "thaw a | thaw b | run b go b | run a go a | forget" || len(f.frozen) != 0 {
		t.Errorf("got %s", got)
	}
	if err := c.Settle(t.Context()); err != nil || len(f.recs) != 0 {
		t.Errorf("again: %v", err)
	}
}

// One that was paused before stays so; a hook cannot run in it.
func TestPausedBefore(t *testing.T) {
	w := writer("c")
	w.Paused = true
	f, c := newFakes(w)
	q, err := c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Freeze: true})
	if err != nil {
		t.Fatal(err)
	}
	q.Resume(t.Context())
	if got := f.order(); got != "record | forget" {
		t.Errorf("got %s", got)
	}
	f.writers[0].Labels[LabelProfile] = "postgres"
	if _, err = c.Quiesce(t.Context(), Request{Volumes: []string{"data"}, Hooks: true}); err == nil || !strings.Contains(err.Error(), "it is paused") {
		t.Errorf("got %v", err)
	}
}
