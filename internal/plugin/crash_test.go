package plugin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/base/clock"
)

// world is what outlives a daemon. Each call of the daemon's counts; at one of
// them it dies, before or after the deed.
type world struct {
	dir string

	mu     sync.Mutex
	recs   map[string]Record
	claims map[string]bool
	tasks  map[string]chan struct{} // closed when the process ends
	shared map[string]bool

	calls int
	dieAt int // 0: never
	after bool
	dead  bool
}

var errDead = errors.New("the daemon is dead")

// do is a call. A dead daemon makes none.
func (w *world) do(deed func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	w.calls++
	die := w.calls == w.dieAt
	w.dead = die
	if !die || w.after {
		deed()
	}
	if die {
		return errDead
	}
	return nil
}

func (w *world) Put(id string, r *Record) error { return w.do(func() { w.recs[id] = *r }) }
func (w *world) Delete(id string) error         { return w.do(func() { delete(w.recs, id) }) }
func (w *world) All() (out []*Record, _ error) {
	for _, r := range w.recs {
		out = append(out, &r)
	}
	return out, nil
}
func (*world) Publish(events.Message)  {}
func (*world) Volumes(string) []string { return nil }

type fakeContent struct{ *world }

func (fakeContent) Look(context.Context, string, Remote) ([]byte, error) { return []byte(whole), nil }

func (c fakeContent) Pull(_ context.Context, claim, _ string, _ Remote, _ Progress) (Artifact, error) {
	return Artifact{Config: []byte(whole)}, c.do(func() { c.claims[claim] = true })
}

func (c fakeContent) Pack(_ context.Context, claim string, r io.Reader, config func(string) ([]byte, error)) (Artifact, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return Artifact{}, err
	}
	b, err := config("sha256:x")
	return Artifact{Config: b}, errors.Join(err, c.do(func() { c.claims[claim] = true }))
}

func (c fakeContent) Extract(_ context.Context, _ []ocispec.Descriptor, dir string) error {
	var err error
	if derr := c.do(func() { err = os.WriteFile(filepath.Join(dir, "program"), nil, 0o600) }); derr != nil {
		return derr
	}
	return err
}

func (fakeContent) Push(context.Context, string, ocispec.Descriptor, Remote, Progress) error {
	return nil
}

func (c fakeContent) Drop(_ context.Context, claim string) error {
	return c.do(func() { delete(c.claims, claim) })
}

func (c fakeContent) Claims(context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.claims)), nil
}

type fakeTasks struct{ *world }

func (fakeTasks) Base(context.Context) (*specs.Spec, error) {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}, nil
}

func (f fakeTasks) Start(_ context.Context, id string, _ *specs.Spec, _ func(string)) error {
	return f.do(func() { f.tasks[id] = make(chan struct{}) })
}

func (f fakeTasks) Adopt(_ context.Context, id string, _ func(string)) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tasks[id] != nil, nil
}

func (f fakeTasks) Wait(ctx context.Context, id string) (int, error) {
	f.mu.Lock()
	end := f.tasks[id]
	f.mu.Unlock()
	if end == nil {
		return 0, errdefs.ErrNotFound
	}
	select {
	case <-end:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (f fakeTasks) Terminate(_ context.Context, id string) error {
	f.mu.Lock()
	end := f.tasks[id]
	f.mu.Unlock()
	if end == nil {
		return errdefs.ErrNotFound
	}
	return f.do(func() {
		close(end)
		delete(f.tasks, id)
	})
}

func (f fakeTasks) Delete(_ context.Context, id string) error {
	return f.do(func() { delete(f.tasks, id) })
}

func (f fakeTasks) List(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.tasks)), nil
}

type fakeMachine struct{ *world }

func (m fakeMachine) Share(dir string) error { return m.do(func() { m.shared[dir] = true }) }

func (m fakeMachine) Unshare(dir string) error                { return m.do(func() { delete(m.shared, dir) }) }
func (m fakeMachine) Listening(context.Context, string) error { return m.do(func() {}) }
func (fakeMachine) Device(p string) (specs.LinuxDevice, error) {
	return specs.LinuxDevice{Path: p}, nil
}

type silent struct{}

func (silent) Message(string, string)              {}
func (silent) Update(string, string, int64, int64) {}
func (silent) Aux(any)                             {}

func newWorld(t *testing.T) *world {
	return &world{dir: t.TempDir(), recs: map[string]Record{}, claims: map[string]bool{}, tasks: map[string]chan struct{}{}, shared: map[string]bool{}}
}

// boot is a daemon's start.
func (w *world) boot(t *testing.T) *Service {
	t.Helper()
	w.mu.Lock()
	w.dead, w.dieAt = false, 0
	w.mu.Unlock()
	s, err := New(Deps{
		Clock: clock.System{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Events: w, Records: w, Content: fakeContent{w},
		Tasks: fakeTasks{w}, Machine: fakeMachine{w}, Users: w, Dir: filepath.Join(w.dir, "p"), RunDir: filepath.Join(w.dir, "run"),
		Capabilities: []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}, Cgroup: func(id string) string { return "/" + id },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// sound tells what is wrong after a start: half a plugin, or anything of none.
func (w *world) sound(s *Service) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var claims, dirs []string
	for id, r := range w.recs {
		if r.Phase != Ready {
			return fmt.Errorf("plugin %s is %s", r.Name, r.Phase)
		}
		claims = append(claims, r.Claim)
		dirs = append(dirs, filepath.Join("p", id, r.Root, "program"))
		if !r.Enabled && (w.tasks[id] != nil || w.shared[s.at(&r).propagated]) {
			return fmt.Errorf("plugin %s is disabled, and runs", r.Name)
		}
	}
	for id := range w.tasks {
		if _, ok := w.recs[id]; !ok {
			return errors.New("a process of no plugin runs")
		}
	}
	slices.Sort(claims)
	if have := slices.Sorted(maps.Keys(w.claims)); !slices.Equal(have, claims) {
		return fmt.Errorf("content is kept for %v, plugins have %v", have, claims)
	}
	var have []string
	err := filepath.WalkDir(filepath.Join(w.dir, "p"), func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Name() == "program" {
			rel, rerr := filepath.Rel(w.dir, p)
			have = append(have, rel)
			err = rerr
		}
		return err
	})
	slices.Sort(dirs)
	if !slices.Equal(have, dirs) {
		err = errors.Join(err, fmt.Errorf("on the disk are %v, plugins have %v", have, dirs))
	}
	return err
}

// The daemon dies before and after each of its calls, in each verb: after the next
// start every plugin is whole or gone, and what it was told to do it does again.
func TestADaemonThatDiesLeavesPluginsWhole(t *testing.T) {
	ref, err := reference.ParseNormalizedNamed("host:5000/team/p:2")
	if err != nil {
		t.Fatal(err)
	}
	c := config(t, whole)
	granted := privileges(&c)
	verbs := map[string]struct {
		before, do func(s *Service) error
	}{
		"pull":    {nil, func(s *Service) error { return s.Pull(context.Background(), ref, "p:1", granted, Remote{}, silent{}) }},
		"create":  {nil, func(s *Service) error { return create(t, s) }},
		"enable":  {func(s *Service) error { return create(t, s) }, func(s *Service) error { return s.Enable(context.Background(), "p:1", 0) }},
		"disable": {func(s *Service) error { return enabled(t, s) }, func(s *Service) error { return s.Disable(context.Background(), "p:1", false) }},
		"remove":  {func(s *Service) error { return enabled(t, s) }, func(s *Service) error { return s.Remove(context.Background(), "p:1", true) }},
		"upgrade": {func(s *Service) error { return create(t, s) }, func(s *Service) error {
			return s.Upgrade(context.Background(), "p:1", ref, granted, Remote{}, silent{})
		}},
		"set": {func(s *Service) error { return create(t, s) }, func(s *Service) error { return s.Set(context.Background(), "p:1", []string{"DEBUG=7"}) }},
	}
	for name, v := range verbs {
		t.Run(name, func(t *testing.T) {
			for _, after := range []bool{false, true} {
				for n := 1; ; n++ {
					w := newWorld(t)
					s := w.boot(t)
					if v.before != nil {
						if err := v.before(s); err != nil {
							t.Fatal(err)
						}
					}
					w.mu.Lock()
					w.calls, w.dieAt, w.after = 0, n, after
					w.mu.Unlock()
					err := v.do(s)
					w.mu.Lock()
					died := w.dead
					w.mu.Unlock()
					if died != (err != nil) {
						t.Fatalf("call %d: died %v, error %v", n, died, err)
					}
					s.stop()
					s.wg.Wait()
					s = w.boot(t)
					if err := w.sound(s); err != nil {
						t.Errorf("died at call %d, after it %v: %v", n, after, err)
					}
					if err := s.Stop(context.Background(), true); err != nil {
						t.Error(err)
					}
					if !died {
						break // there are no more calls
					}
				}
			}
		})
	}
}

func create(t *testing.T, s *Service) error {
	return s.Create(context.Background(), "p:1", strings.NewReader(string(archiveOf(t, tarConfig))))
}

func enabled(t *testing.T, s *Service) error {
	if err := create(t, s); err != nil {
		return err
	}
	return s.Enable(context.Background(), "p:1", 0)
}
