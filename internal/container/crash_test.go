package container

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
)

// scenario is a verb that is cut short at each of its port calls.
type scenario struct {
	name  string
	setup func(d *daemon) string            // runs undisturbed; returns the container
	act   func(d *daemon, id string)        // is cut short
	wants func(d *daemon, id string) string // what must hold in the end; "" is fine
}

func plainDB(c *container.Config, h *container.HostConfig) { c.Image = "db" }

func scenarios() []scenario {
	start := func(d *daemon, id string) { _ = d.Start(d.t.Context(), id) }
	running := func(edit func(*container.Config, *container.HostConfig)) func(d *daemon) string {
		return func(d *daemon) string {
			id := d.create("db", edit)
			d.must(d.Start(d.t.Context(), id))
			return id
		}
	}
	with := func(policy container.RestartPolicyMode, rm bool) func(*container.Config, *container.HostConfig) {
		return func(c *container.Config, h *container.HostConfig) {
			plainDB(c, h)
			h.RestartPolicy.Name, h.AutoRemove = policy, rm
		}
	}
	gone := func(d *daemon, id string) string {
		if d.Exists(id) {
			return "it is still there"
		}
		return ""
	}
	is := func(want container.ContainerState) func(d *daemon, id string) string {
		return func(d *daemon, id string) string {
			if got := d.state(id).Status; got != want {
				return fmt.Sprintf("it is %s, not %s", got, want)
			}
			return ""
		}
	}
	return []scenario{
		{"create", func(*daemon) string { return "" }, func(d *daemon, _ string) {
			c, h := &container.Config{Image: "db"}, &container.HostConfig{Binds: []string{"named:/n"}}
			_, _ = d.Create(d.t.Context(), CreateOptions{Name: "db", Config: c, HostConfig: h})
		}, nil},
		{"create without volumes", func(*daemon) string { return "" }, func(d *daemon, _ string) {
			_, _ = d.Create(d.t.Context(), CreateOptions{Name: "db", Config: &container.Config{Image: "busybox"}})
		}, nil},
		{"start", func(d *daemon) string { return d.create("db", plainDB) }, start, nil},
		{"start again", func(d *daemon) string {
			id := running(plainDB)(d)
			d.must(d.Stop(d.t.Context(), id, "", nil))
			return id
		}, start, nil},
		{"start with --rm", func(d *daemon) string { return d.create("db", with("no", true)) }, start, nil},
		{"stop", running(with("unless-stopped", false)), func(d *daemon, id string) { _ = d.Stop(d.t.Context(), id, "", nil) }, nil},
		{"kill with --rm", running(with("no", true)), func(d *daemon, id string) { _ = d.Kill(d.t.Context(), id, "") }, nil},
		{"restart", running(plainDB), func(d *daemon, id string) { _ = d.Restart(d.t.Context(), id, "", nil) }, nil},
		{"remove by force", running(plainDB), func(d *daemon, id string) {
			_ = d.Remove(d.t.Context(), id, RemoveOptions{Force: true, Volumes: true})
		}, nil},
		{"exit", running(plainDB), func(d *daemon, id string) { d.m.exit(id, 3) }, func(d *daemon, id string) string {
			if st := d.state(id); st.Status != container.StateExited || st.ExitCode != 3 {
				return fmt.Sprintf("its end is not known: %+v", st)
			}
			return ""
		}},
		{"exit with --rm", running(with("no", true)), func(d *daemon, id string) { d.m.exit(id, 3) }, gone},
		{"exit with policy", running(with("always", false)), func(d *daemon, id string) { d.m.exit(id, 3) }, is(container.StateRunning)},
	}
}

// TestCrashAnywhere kills the daemon before and after every port call of every
// verb and holds what the next daemon makes of it against the machine.
func TestCrashAnywhere(t *testing.T) {
	for _, sc := range scenarios() {
		for _, v := range []verdict{crashBefore, crashAfter, failBefore} {
			name := map[verdict]string{crashBefore: "crash before", crashAfter: "crash after", failBefore: "fail"}[v]
			t.Run(sc.name+"/"+name, func(t *testing.T) {
				for n := 0; ; n++ {
					if !cutShort(t, sc, v, n) {
						break
					}
				}
			})
		}
	}
}

// cutShort runs the scenario with the verdict at its n-th call. It says false
// once there are fewer calls than that.
func cutShort(t *testing.T, sc scenario, v verdict, n int) (reached bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		id := sc.setup(d)
		synctest.Wait()
		var at string
		m.mu.Lock()
		from := d.n
		d.fault = func(i int, call string) verdict {
			if i-from != n {
				return goOn
			}
			at, reached = call, true
			return v
		}
		m.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { defer cancel(); sc.act(d, id) }()
		<-ctx.Done()
		time.Sleep(time.Hour) // whatever goes on in the background ends
		m.mu.Lock()
		d.dead = true
		m.mu.Unlock()
		d.stop()

		next := m.start(t, nil)
		defer next.stop()
		time.Sleep(time.Hour)
		for _, l := range m.check(next.Service) {
			t.Errorf("at call %d, %s: %s", n, at, l)
		}
		if sc.wants != nil {
			if why := sc.wants(next, id); why != "" {
				t.Errorf("at call %d, %s: %s", n, at, why)
			}
		}
		if id != "" && next.Exists(id) { // it can be used as if nothing had been
			_ = next.Start(t.Context(), id)
			if st := next.state(id); !st.Running {
				t.Errorf("at call %d, %s: it does not start any more: %+v", n, at, st)
			}
			next.must(next.Remove(t.Context(), id, RemoveOptions{Force: true, Volumes: true}))
		}
		synctest.Wait()
		for _, l := range m.check(next.Service) {
			t.Errorf("at call %d, %s, in the end: %s", n, at, l)
		}
	})
	return reached
}

// TestDaemonRestartKeepsContainers starts a daemon again under containers in
// every state.
func TestDaemonRestartKeepsContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		policy := func(p container.RestartPolicyMode) func(*container.Config, *container.HostConfig) {
			return func(c *container.Config, h *container.HostConfig) { plainDB(c, h); h.RestartPolicy.Name = p }
		}
		ids := map[string]string{
			"created": d.create("created", policy("always")),
			"runs":    d.create("runs", plainDB),
			"paused":  d.create("paused", plainDB),
			"ends":    d.create("ends", plainDB),
			"comes":   d.create("comes", policy("unless-stopped")),
			"stopped": d.create("stopped", policy("unless-stopped")),
			"always":  d.create("always", policy("always")),
			"lost":    d.create("lost", plainDB),
		}
		for _, n := range []string{"runs", "paused", "ends", "comes", "stopped", "always", "lost"} {
			d.must(d.Start(t.Context(), n))
		}
		d.must(d.Pause(t.Context(), "paused"))
		d.must(d.Stop(t.Context(), "stopped", "", nil))
		d.must(d.Stop(t.Context(), "always", "", nil))
		pid := d.state("runs").Pid
		m.mu.Lock()
		d.dead = true // kill -9
		m.mu.Unlock()
		d.stop()
		m.exit(ids["ends"], 5)
		m.exit(ids["comes"], 0)
		m.mu.Lock()
		delete(m.tasks, ids["lost"])
		m.mu.Unlock()

		next := m.start(t, nil)
		defer next.stop()
		time.Sleep(time.Minute)
		for name, want := range map[string]container.ContainerState{
			"created": "created", "runs": "running", "paused": "paused", "ends": "exited", "comes": "running",
			"stopped": "exited", "always": "running", "lost": "exited",
		} {
			if got := next.state(name); got.Status != want {
				t.Errorf("%s is %+v, want %s", name, got, want)
			}
		}
		if st := next.state("runs"); st.Pid != pid || st.StartedAt == "" {
			t.Errorf("runs has PID %d, had %d", st.Pid, pid)
		}
		if st := next.state("ends"); st.ExitCode != 5 {
			t.Errorf("ends: %+v", st)
		}
		if st := next.state("lost"); st.ExitCode != exitLost {
			t.Errorf("lost: %+v", st)
		}
		// The streams and exits of an adopted container go on.
		m.exit(ids["runs"], 9)
		synctest.Wait()
		if st := next.state("runs"); st.ExitCode != 9 {
			t.Errorf("runs ended as %+v", st)
		}
		for _, l := range m.check(next.Service) {
			t.Error("lie: " + l)
		}
	})
}

// TestRecordSurvivesItsForm writes a record and reads it back.
func TestRecordSurvivesItsForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		defer d.stop()
		id := d.create("form", plainDB)
		d.must(d.Start(t.Context(), id))
		var r Record
		if err := json.Unmarshal(m.records[id], &r); err != nil {
			t.Fatal(err)
		}
		if r.Phase != Starting || r.Sandbox == nil || len(r.Sandbox.Ports) != 1 || r.Mounts[0].Name == "" {
			t.Errorf("record on disk: %+v", r)
		}
	})
}
