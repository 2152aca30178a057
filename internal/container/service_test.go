package container

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// world runs a test with its own machine and daemon, in time that passes only
// when everybody waits.
func world(t *testing.T, f func(m *machine, d *daemon)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		defer d.stop()
		f(m, d)
		synctest.Wait()
		for _, l := range m.check(d.Service) {
			t.Error("lie: " + l)
		}
	})
}

func TestLifeOfAContainer(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("web", nil)
		if st := d.state("web"); st.Status != container.StateCreated || st.Running {
			t.Fatalf("created container is %+v", st)
		}
		d.must(d.Start(d.t.Context(), "web"))
		if st := d.state(id[:10]); st.Status != container.StateRunning || !st.Running || st.Pid == 0 {
			t.Fatalf("started container is %+v", st)
		}
		if err := d.Start(d.t.Context(), "web"); !errdefs.IsNotModified(err) {
			t.Errorf("second start: %v", err)
		}
		if err := d.Remove(d.t.Context(), "web", RemoveOptions{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "container is running: stop the container before removing or force remove") {
			t.Errorf("remove of running: %v", err)
		}
		d.must(d.Stop(d.t.Context(), "web", "", nil))
		if st := d.state("web"); st.Status != container.StateExited || st.ExitCode != 143 || st.Pid != 0 {
			t.Fatalf("stopped container is %+v", st)
		}
		if err := d.Stop(d.t.Context(), "web", "", nil); !errdefs.IsNotModified(err) {
			t.Errorf("second stop: %v", err)
		}
		d.must(d.Remove(d.t.Context(), "/web", RemoveOptions{}))
		if d.Exists("web") {
			t.Error("removed container is still there")
		}
		want := []string{"create", "start", "kill", "die", "stop", "destroy"}
		if got := m.actions(); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

func TestStopKillsAfterItsTimeout(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		m.onSignal = func(_ string, sig syscall.Signal) *Exit {
			if sig == syscall.SIGKILL {
				return &Exit{Code: 137}
			}
			return nil
		}
		d.create("deaf", nil)
		d.must(d.Start(d.t.Context(), "deaf"))
		begin := time.Now()
		three := 3
		d.must(d.Stop(d.t.Context(), "deaf", "SIGUSR1", &three))
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("stop took %v", took)
		}
		if st := d.state("deaf"); st.ExitCode != 137 {
			t.Errorf("state %+v", st)
		}
		if !slices.Contains(d.calls, "runtime.kill(10)") || !slices.Contains(d.calls, "runtime.kill(9)") {
			t.Errorf("calls %v", d.calls)
		}
	})
}

func TestAutoRemoveGoesWithItsVolumes(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("", func(c *container.Config, h *container.HostConfig) { c.Image = "db"; h.AutoRemove = true })
		if len(m.vols) != 1 || m.vols["anon0"].filled == "" {
			t.Fatalf("volumes %v", m.vols)
		}
		wait, err := d.Wait(d.t.Context(), id, container.WaitConditionRemoved)
		d.must(err)
		d.must(d.Start(d.t.Context(), id))
		m.exit(id, 7)
		if r := <-wait; r.StatusCode != 7 {
			t.Errorf("wait says %+v", r)
		}
		if len(m.vols) != 0 || len(m.records) != 0 {
			t.Errorf("left: volumes %v, records %v", m.vols, m.records)
		}
		if got, want := m.actions(), []string{"create", "start", "die", "destroy"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

// Who waits for a removal that fails is told so, with the exit code, instead of
// waiting for ever; so is who asks later, and the removal can be done again.
func TestWaitForARemovalThatFails(t *testing.T) {
	for _, rm := range []bool{true, false} {
		world(t, func(m *machine, d *daemon) {
			broken := true
			m.mu.Lock()
			d.fault = func(_ int, call string) verdict {
				if broken && call == "rootfs.remove" {
					return failBefore
				}
				return goOn
			}
			m.mu.Unlock()
			id := d.create("stuck", func(_ *container.Config, h *container.HostConfig) { h.AutoRemove = rm })
			wait, err := d.Wait(d.t.Context(), id, container.WaitConditionRemoved)
			d.must(err)
			d.must(d.Start(d.t.Context(), id))
			m.exit(id, 7)
			synctest.Wait()
			if !rm {
				if err := d.Remove(d.t.Context(), id, RemoveOptions{}); !errors.Is(err, errInjected) {
					t.Errorf("removal: %v", err)
				}
			}
			told := func(wait <-chan container.WaitResponse) {
				t.Helper()
				select {
				case r := <-wait:
					if r.StatusCode != 7 || r.Error == nil || !strings.Contains(r.Error.Message, errInjected.Error()) {
						t.Errorf("wait says %+v", r)
					}
				default:
					t.Error("nobody was told")
				}
			}
			told(wait)
			wait, err = d.Wait(d.t.Context(), id, container.WaitConditionRemoved)
			d.must(err)
			told(wait)
			m.mu.Lock()
			broken = false
			m.mu.Unlock()
			d.must(d.Remove(d.t.Context(), id, RemoveOptions{}))
			if len(m.records) != 0 || len(m.layers) != 0 {
				t.Errorf("left: records %v, layers %v", m.records, m.layers)
			}
		})
	}
}

func TestRestartPolicyBacksOff(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("flaky", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy = container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}
		})
		var mu sync.Mutex
		var times []time.Time
		m.onRun = func(id string) {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Now())
			go m.exit(id, 1)
		}
		runs := func() []time.Time {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(times)
		}
		wait, err := d.Wait(d.t.Context(), id, container.WaitConditionNextExit)
		d.must(err)
		d.must(d.Start(d.t.Context(), id))
		if r := <-wait; r.StatusCode != 1 {
			t.Errorf("wait says %+v", r)
		}
		// As in Docker, the first run's end was the next exit; three more follow.
		if n := len(runs()); n != 1 {
			t.Errorf("told after %d starts", n)
		}
		time.Sleep(2 * time.Second)
		starts := runs()
		var gaps []time.Duration
		for i := 1; i < len(starts); i++ {
			gaps = append(gaps, starts[i].Sub(starts[i-1]))
		}
		if want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}; !slices.Equal(gaps, want) {
			t.Errorf("pauses %v, want %v", gaps, want)
		}
		i, err := d.Inspect(d.t.Context(), id, false)
		d.must(err)
		if i.RestartCount != 3 || i.State.Status != container.StateExited {
			t.Errorf("restarts %d, state %+v", i.RestartCount, i.State)
		}
	})
}

func TestStopWhileWaitingForRestart(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy = container.RestartPolicy{Name: "always"}
		})
		d.must(d.Start(d.t.Context(), id))
		m.exit(id, 0)
		synctest.Wait()
		if st := d.state(id); st.Status != container.StateRestarting || !st.Running || !st.Restarting {
			t.Fatalf("state %+v", st)
		}
		if err := d.Pause(d.t.Context(), id); !errdefs.IsConflict(err) {
			t.Errorf("pause: %v", err)
		}
		d.must(d.Stop(d.t.Context(), id, "", nil))
		time.Sleep(time.Minute)
		if st := d.state(id); st.Status != container.StateExited {
			t.Errorf("state %+v", st)
		}
	})
}

func TestFailedStartLeavesCreatedAndExitCode(t *testing.T) {
	for _, c := range []struct {
		text string
		code int
	}{
		{`exec: "nope": executable file not found in $PATH`, 127},
		{`exec: "/etc/passwd": permission denied`, 126},
		{`exec: "/etc": is a directory`, 126},
		{"stat /nope: no such file or directory", 127},
		{"something else", 128},
	} {
		world(t, func(m *machine, d *daemon) {
			m.onCreate = func(TaskConfig) error { return errdefs.ErrUnknown.WithMessage(c.text) }
			id := d.create("", nil)
			err := d.Start(d.t.Context(), id)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("start: %v", err)
			}
			if c.code == 126 && !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("the CLI would not see %q", err)
			}
			if st := d.state(id); st.Status != container.StateCreated || st.ExitCode != c.code || st.Error == "" || st.StartedAt != "0001-01-01T00:00:00Z" {
				t.Errorf("%s: state %+v", c.text, st)
			}
		})
	}
}

func TestPauseAndItsRefusals(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("pp", nil)
		if err := d.Pause(d.t.Context(), "pp"); !errdefs.IsConflict(err) || err.Error() != "container "+id+" is not running" {
			t.Errorf("pause of created: %v", err)
		}
		d.must(d.Start(d.t.Context(), "pp"))
		d.must(d.Pause(d.t.Context(), "pp"))
		if st := d.state("pp"); !st.Running || !st.Paused || st.Status != "paused" {
			t.Errorf("state %+v", st)
		}
		if err := d.Pause(d.t.Context(), "pp"); !errdefs.IsConflict(err) {
			t.Errorf("second pause: %v", err)
		}
		if err := d.Start(d.t.Context(), "pp"); !errdefs.IsConflict(err) {
			t.Errorf("start of paused: %v", err)
		}
		d.must(d.Unpause(d.t.Context(), "pp"))
		d.must(d.Pause(d.t.Context(), "pp"))
		d.must(d.Stop(d.t.Context(), "pp", "", nil))
		if !slices.Contains(d.calls, "runtime.resume") {
			t.Error("a frozen process never sees its signal")
		}
	})
}

func TestPauseOfOneThatJustEnded(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("pp", nil)
		d.must(d.Start(d.t.Context(), "pp"))
		m.mu.Lock()
		m.tasks[id].state.Status = TaskStopped // its exit is not told yet
		m.mu.Unlock()
		if err := d.Pause(d.t.Context(), "pp"); !errdefs.IsConflict(err) || err.Error() != "container "+id+" is not running" {
			t.Errorf("pause: %v", err)
		}
		m.mu.Lock()
		m.tasks[id].state.Status = TaskRunning
		m.mu.Unlock()
		m.exit(id, 0)
	})
}

// TestOneThatWaitsForItsRestartHasNoProcess: what lies about under its name
// from a start that was cut off belongs to nobody.
func TestOneThatWaitsForItsRestartHasNoProcess(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("again", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyAlways}
		})
		d.must(d.Start(d.t.Context(), "again"))
		if got := d.RunningIDs(); !slices.Equal(got, []string{id}) {
			t.Errorf("running: %v", got)
		}
		m.exit(id, 1)
		synctest.Wait()
		if got := d.state("again").Status; got != container.StateRestarting {
			t.Errorf("it is %s", got)
		}
		if got := d.RunningIDs(); len(got) > 0 {
			t.Errorf("running: %v", got)
		}
		d.must(d.Stop(d.t.Context(), "again", "", nil))
	})
}

// TestNothingStartsBeforeRun: after Restore the daemon removes what is left of an
// earlier one, and could not tell a new start from that.
func TestNothingStartsBeforeRun(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("again", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyAlways}
		})
		d.must(d.Start(d.t.Context(), id))
		d.stop()
		m.exit(id, 1) // while nobody looks
		runs := 0
		m.onRun = func(string) { runs++ }
		m.restored = func() {
			time.Sleep(time.Minute)
			if runs > 0 {
				t.Error("started before Run")
			}
		}
		next := m.start(d.t, nil)
		defer next.stop()
		synctest.Wait()
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
	})
}

func TestKill(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		m.onSignal = func(_ string, sig syscall.Signal) *Exit {
			if sig == syscall.SIGHUP {
				return nil
			}
			return &Exit{Code: 128 + int(sig)}
		}
		id := d.create("kk", func(_ *container.Config, h *container.HostConfig) {
			h.RestartPolicy = container.RestartPolicy{Name: "always"}
		})
		if err := d.Kill(d.t.Context(), "kk", ""); !errdefs.IsConflict(err) || err.Error() != "container "+id+" is not running" {
			t.Errorf("kill of created: %v", err)
		}
		if err := d.Kill(d.t.Context(), "kk", "SIGNOPE"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("odd signal: %v", err)
		}
		d.must(d.Start(d.t.Context(), "kk"))
		d.must(d.Kill(d.t.Context(), "kk", "HUP"))
		if st := d.state("kk"); !st.Running {
			t.Errorf("after HUP %+v", st)
		}
		d.must(d.Kill(d.t.Context(), "kk", ""))
		if st := d.state("kk"); st.Running || st.ExitCode != 137 {
			t.Errorf("after KILL %+v", st)
		}
	})
}

func TestNames(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		id := d.create("one", nil)
		_, err := d.Create(d.t.Context(), CreateOptions{Name: "one", Config: &container.Config{Image: "busybox"}})
		want := `Conflict. The container name "/one" is already in use by container "` + id + `". You have to remove (or rename) that container to be able to reuse that name.`
		if !errdefs.IsConflict(err) || err.Error() != want {
			t.Errorf("name in use: %v", err)
		}
		_, err = d.Create(d.t.Context(), CreateOptions{Name: "-x", Config: &container.Config{Image: "busybox"}})
		if !errdefs.IsInvalidArgument(err) || err.Error() != "Invalid container name (-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" {
			t.Errorf("odd name: %v", err)
		}
		d.must(d.Rename(d.t.Context(), "one", "two"))
		if d.Exists("one") || !d.Exists("two") {
			t.Error("not renamed")
		}
		d.create("one", nil)
		if err := d.Rename(d.t.Context(), "two", "one"); !errdefs.IsConflict(err) {
			t.Errorf("rename to a name in use: %v", err)
		}
		random := d.create("", nil)
		i, err := d.Inspect(d.t.Context(), random, false)
		d.must(err)
		if !strings.Contains(i.Name, "_") {
			t.Errorf("random name %q", i.Name)
		}
		if _, err := d.Inspect(d.t.Context(), "nobody", false); !errdefs.IsNotFound(err) || err.Error() != "No such container: nobody" {
			t.Errorf("unknown name: %v", err)
		}
	})
}

func TestNetworkOfAnotherContainer(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		donor := d.create("donor", nil)
		id := d.create("guest", func(_ *container.Config, h *container.HostConfig) { h.NetworkMode = "container:donor" })
		if err := d.Start(d.t.Context(), "guest"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "cannot join network namespace of a non running container: container donor is created") {
			t.Fatalf("start without donor: %v", err)
		}
		d.must(d.Start(d.t.Context(), "donor"))
		d.must(d.Start(d.t.Context(), "guest"))
		var path string
		for _, n := range m.tasks[id].cfg.Spec.Linux.Namespaces {
			if n.Type == "network" {
				path = n.Path
			}
		}
		if path != "/netns/"+donor {
			t.Errorf("guest's network namespace is %q", path)
		}
		d.must(d.Kill(d.t.Context(), "guest", ""))
		d.must(d.Kill(d.t.Context(), "donor", ""))
	})
}

func TestConnectAndDisconnect(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("cc", nil)
		d.must(d.ConnectNetwork(d.t.Context(), "red", "cc", nil))
		d.must(d.Start(d.t.Context(), "cc"))
		d.must(d.ConnectNetwork(d.t.Context(), "blue", "cc", nil))
		if err := d.ConnectNetwork(d.t.Context(), "blue", "cc", nil); !errdefs.IsPermissionDenied(err) {
			t.Errorf("second connect: %v", err)
		}
		if err := d.ConnectNetwork(d.t.Context(), "host", "cc", nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("connect to host: %v", err)
		}
		d.must(d.DisconnectNetwork(d.t.Context(), "red", "cc", false))
		i, err := d.Inspect(d.t.Context(), "cc", false)
		d.must(err)
		if len(i.NetworkSettings.Networks) != 2 || i.NetworkSettings.Networks["blue"].NetworkID != "nblue" || i.NetworkSettings.Networks["bridge"] == nil {
			t.Errorf("networks %v", i.NetworkSettings.Networks)
		}
		if err := d.DisconnectNetwork(d.t.Context(), "red", "cc", false); err == nil || !strings.Contains(err.Error(), "is not connected to network red") {
			t.Errorf("second disconnect: %v", err)
		}
	})
}

// A client that waits for the removal is not told of the error that its start
// got already: docker run would print it twice.
func TestWaitAfterFailedStart(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		m.onCreate = func(TaskConfig) error { return errdefs.ErrUnknown.WithMessage("executable file not found") }
		id := d.create("", func(_ *container.Config, h *container.HostConfig) { h.AutoRemove = true })
		wait, err := d.Wait(d.t.Context(), id, container.WaitConditionRemoved)
		d.must(err)
		if err := d.Start(d.t.Context(), id); err == nil {
			t.Fatal("it started")
		}
		if r := <-wait; r.Error != nil || r.StatusCode != 127 {
			t.Errorf("wait says %+v", r)
		}
	})
}

// A program may print, and the one who reads it send a signal or start an exec,
// before the engine has noted that it runs.
func TestVerbsWaitForAStartUnderWay(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		m.onSignal = func(string, syscall.Signal) *Exit { return nil }
		id := d.create("early", nil)
		got := make(chan error, 2)
		m.onRun = func(string) {
			go func() { got <- d.Kill(d.t.Context(), "early", "HUP") }()
			go func() {
				_, err := d.ExecCreate(d.t.Context(), "early", container.ExecCreateRequest{Cmd: []string{"true"}})
				got <- err
			}()
			others()
		}
		d.must(d.Start(d.t.Context(), "early"))
		d.must(<-got)
		d.must(<-got)
		m.onRun = nil
		m.exit(id, 0)
	})
}

// A container may end between the look at it and the exec.
func TestExecInAContainerThatJustEnded(t *testing.T) {
	world(t, func(_ *machine, d *daemon) {
		id := d.create("brief", nil)
		d.must(d.Start(d.t.Context(), "brief"))
		exec, err := d.ExecCreate(d.t.Context(), "brief", container.ExecCreateRequest{Cmd: []string{"true"}})
		d.must(err)
		err = d.ExecStart(d.t.Context(), exec, ExecStartOptions{Detach: true})
		if !errdefs.IsConflict(err) || err.Error() != "container "+id+" is not running" {
			t.Errorf("exec in an ended container: %v", err)
		}
	})
}
