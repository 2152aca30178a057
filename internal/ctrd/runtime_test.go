package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/container"
)

func TestTaskGivesItsOutputAndExitCode(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	_, s := m.create(container.TaskConfig{ID: id, Spec: m.spec(id, sh("echo out; echo err >&2; exit 3")...)})
	stdout, stderr := collect(s.Stdout), collect(s.Stderr)
	st, err := m.rt().State(t.Context(), id, "")
	if err != nil || st.Status != container.TaskCreated {
		t.Errorf("before start: %+v, %v", st, err)
	}
	if err := m.rt().Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if got := stdout.wait(t); got != "out\n" {
		t.Errorf("stdout %q", got)
	}
	if got := stderr.wait(t); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
	if code := m.wait(id, ""); code != 3 {
		t.Errorf("second wait tells %d, want 3", code)
	}
	m.delete(id)
}

func TestStdinReachesTheProcessAndEnds(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	_, s := m.create(container.TaskConfig{ID: id, Spec: m.spec(id, sh("/bin/busybox cat; echo end")...), OpenStdin: true})
	stdout := collect(s.Stdout)
	if err := m.rt().Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s.Stdin, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.rt().CloseStdin(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	if got := stdout.wait(t); got != "hello\nend\n" {
		t.Errorf("stdout %q", got)
	}
	m.wait(id, "")
	m.delete(id)
}

func TestEventsTellEveryEndOnce(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := m.rt().Events(ctx)
	id, _ := m.launch("exit 5")
	select {
	case e := <-events:
		if e.Container != id || e.Exec != "" || e.Kind != container.TaskExited || e.Exit.Code != 5 {
			t.Errorf("event %+v", e)
		}
	case <-time.After(patience):
		t.Fatal("no event of the end")
	}
	m.delete(id)
	select {
	case e := <-events:
		t.Errorf("another event: %+v", e)
	case <-time.After(300 * time.Millisecond):
	}
}

func TestExecRunsBesideTheMainProcess(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	pid, s, err := m.rt().Exec(t.Context(), container.ExecConfig{
		Container: id, ID: "e1",
		Process: &specs.Process{Args: sh("echo in; exit 4"), Cwd: "/", Env: []string{"PATH=/bin"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if pid <= 0 {
		t.Errorf("pid %d", pid)
	}
	if got := collect(s.Stdout).wait(t); got != "in\n" {
		t.Errorf("stdout %q", got)
	}
	if code := m.wait(id, "e1"); code != 4 {
		t.Errorf("exit code %d, want 4", code)
	}
	if err := m.rt().DeleteExec(t.Context(), id, "e1"); err != nil {
		t.Error(err)
	}
	st, err := m.rt().State(t.Context(), id, "")
	if err != nil || st.Status != container.TaskRunning {
		t.Errorf("the main process: %+v, %v", st, err)
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
}

func TestExecInAnEndedProcessIsRefusedAsSuch(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exit 0")
	m.wait(id, "")
	_, _, err := m.rt().Exec(t.Context(), container.ExecConfig{
		Container: id, ID: "e1", Process: &specs.Process{Args: sh("true"), Cwd: "/"},
	})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec: %v", err)
	}
	m.delete(id)
}

// The shim opens its end of an input in the background: a client that is quick,
// on a machine that is busy, must not lose what it wrote.
func TestInputThatEndsAtOnceArrives(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	const each, rounds = 8, 4
	for round := range rounds {
		results := make(chan error, each)
		for i := range each {
			go func() {
				results <- m.echo(id, fmt.Sprintf("e%d-%d", round, i))
			}()
		}
		for range each {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
}

// echo sends a line through cat.
func (m *machine) echo(id, exec string) error {
	ctx := m.t.Context()
	_, s, err := m.rt().Exec(ctx, container.ExecConfig{
		Container: id, ID: exec, OpenStdin: true,
		Process: &specs.Process{Args: []string{"/bin/busybox", "cat"}, Cwd: "/"},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := io.WriteString(s.Stdin, "through\n"); err != nil {
		return err
	}
	if err := errors.Join(s.Stdin.Close(), m.rt().CloseStdin(ctx, id, exec)); err != nil {
		return err
	}
	out := collect(s.Stdout)
	select {
	case <-out.done:
	case <-time.After(patience):
		return errors.New(exec + " does not see the end of its input")
	}
	if out.text != "through\n" {
		return fmt.Errorf("%s gives back %q", exec, out.text)
	}
	if _, err := m.rt().Wait(ctx, id, exec); err != nil {
		return err
	}
	return m.rt().DeleteExec(ctx, id, exec)
}

func TestFailedExecLeavesNoTrace(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	_, _, err := m.rt().Exec(t.Context(), container.ExecConfig{
		Container: id, ID: "e1",
		Process: &specs.Process{Args: []string{"/bin/nothing-here"}, Cwd: "/"},
	})
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("error %v", err)
	}
	left, err := filepath.Glob(filepath.Join(m.state, "io", id, "*e1*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	_, _, err := m.rt().Create(t.Context(), container.TaskConfig{ID: id, Spec: m.spec(id, "/bin/nothing-here")})
	if err == nil {
		err = m.rt().Start(t.Context(), id) // runc looks for the program at create; others at start
		if derr := m.rt().Delete(t.Context(), id, true); derr != nil {
			t.Error(derr)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("error %v", err)
	}
	if _, err := m.rt().State(t.Context(), id, ""); !errdefs.IsNotFound(err) {
		t.Errorf("state %v, want not found", err)
	}
	// newMachine's cleanup looks for shims, fifos and folders.
}

// What runs goes on without the engine; the next one finds it, its output, and
// what ended meanwhile.
func TestTasksOutliveTheEngine(t *testing.T) {
	m := newMachine(t)
	runs, _ := m.launch("echo before; read x; echo got $x; exit 7")
	waits := m.id()
	_, s := m.create(container.TaskConfig{ID: waits, Spec: m.spec(waits, sh("echo one; read x; echo got $x; exit 8")...), OpenStdin: true})
	if err := m.rt().Start(t.Context(), waits); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 4)
	if _, err := io.ReadFull(s.Stdout, one); err != nil || string(one) != "one\n" {
		t.Fatalf("first output %q, %v", one, err)
	}
	s.Close()
	m.wait(runs, "") // no stdin: it has ended
	m.restart()

	tasks, err := m.rt().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st := tasks[runs]; st.Status != container.TaskStopped || st.Exit.Code != 7 {
		t.Errorf("the ended one: %+v", st)
	}
	if st := tasks[waits]; st.Status != container.TaskRunning || st.Pid <= 0 {
		t.Errorf("the running one: %+v", st)
	}
	s, err = m.rt().Reattach(t.Context(), waits, "", true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stdout := collect(s.Stdout)
	if _, err := io.WriteString(s.Stdin, "again\n"); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(waits, ""); code != 8 {
		t.Errorf("exit code %d, want 8", code)
	}
	if got := stdout.wait(t); got != "got again\n" {
		t.Errorf("output after the restart %q", got)
	}
	m.delete(runs)
	m.delete(waits)
}

// The end of a task whose shim is killed is known all the same.
func TestDeadShimIsAnEnd(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	shims := shimsOf(m.state)
	if len(shims) != 1 {
		t.Fatalf("shims %v, want one", shims)
	}
	st, err := m.rt().State(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shims[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code == 0 {
		t.Error("exit code 0 of a task whose shim was killed")
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
	m.eventually("the process is gone", func() error {
		if err := syscall.Kill(st.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			return errors.New("still there")
		}
		return nil
	})
	m.restart() // its socket goes with the next start
}

// A start that fails before it comes to the task leaves nothing.
func TestReadiedTaskIsDroppedOrMade(t *testing.T) {
	m := newMachine(t)
	rt, ctx, id := m.rt(), t.Context(), m.id()
	rt.Ready(ctx, id)
	if tasks, err := rt.List(ctx); err != nil || len(tasks) > 0 {
		t.Errorf("tasks %v, %v: there is none yet", tasks, err)
	}
	if err := rt.Delete(ctx, id, true); err != nil {
		t.Fatal(err)
	}
	m.expectNothingLeft(filepath.Dir(m.root))
	rt.Ready(ctx, id)
	m.create(container.TaskConfig{ID: id, Spec: m.spec(id, sh("exit 6")...)})
	if _, _, err := rt.Create(ctx, container.TaskConfig{ID: id, Spec: m.spec(id, sh("true")...)}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	if err := rt.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code != 6 {
		t.Errorf("exit code %d, want 6", code)
	}
	m.delete(id)
}

// A daemon that is killed between starting a shim and asking it for a task
// leaves one that nobody will ever talk to.
func TestShimWithoutATaskEndsWithTheEngine(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	if err := m.rt().shims.begin(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n := len(shimsOf(m.state)); n != 1 {
		t.Fatalf("%d shims, want one", n)
	}
	if err := m.engine.Close(); err != nil {
		t.Fatal(err)
	}
	m.eventually("the shim ends", func() error {
		if pids := shimsOf(m.state); len(pids) > 0 {
			return fmt.Errorf("shims %v", pids)
		}
		return nil
	})
	m.start()
	if tasks, err := m.rt().List(t.Context()); err != nil || len(tasks) > 0 {
		t.Errorf("tasks %v, %v: there was none", tasks, err)
	}
	// newMachine's cleanup looks for its files.
}

// The same, but the next daemon is quicker than the shim.
func TestShimWithoutATaskIsEndedByTheNextEngine(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	if err := m.rt().shims.begin(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	second, err := Start(t.Context(), m.secondConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if tasks, err := second.Runtime().List(t.Context()); err != nil || len(tasks) > 0 {
		t.Errorf("tasks %v, %v: there was none", tasks, err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// What a killed shim held is ended by the next engine, and known to have ended.
func TestShimThatDiedWhileTheEngineWasAway(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	st, err := m.rt().State(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	shims := shimsOf(m.state)
	if err := m.engine.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	tasks, err := m.rt().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := tasks[id]; got.Status != container.TaskStopped || got.Exit.Code != 137 || got.Exit.At.IsZero() {
		t.Errorf("state %+v, want stopped by 137", got)
	}
	m.eventually("the process is gone", func() error {
		if err := syscall.Kill(st.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			return errors.New("still there")
		}
		return nil
	})
	m.delete(id)
}

// A frozen process can be killed.
// A shim that does not answer, because the machine is busy or it hangs, is no
// dead one: what it holds runs, and must neither be killed nor keep the engine
// from coming up.
func TestSilentShimKeepsItsTask(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	other, _ := m.launch("exec /bin/busybox sleep 1000")
	before, err := m.rt().State(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	shim := m.shimOf(id)
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(shim, syscall.SIGCONT) }() // should the test have ended early
	m.restart()
	tasks, err := m.rt().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st := tasks[id]; st.Status != container.TaskRunning || st.Pid != before.Pid {
		t.Errorf("task of the silent shim: %+v, was %+v", st, before)
	}
	if st := tasks[other]; st.Status != container.TaskRunning {
		t.Errorf("the other task: %+v", st)
	}
	if err := syscall.Kill(before.Pid, 0); err != nil {
		t.Errorf("the process: %v", err)
	}
	if err := syscall.Kill(shim, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := m.rt().Kill(t.Context(), id, "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	m.delete(id)
}

func TestKillReachesAPausedTask(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	if err := m.rt().Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if err := m.rt().Kill(t.Context(), id, "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	m.delete(id)
}

// An exec that an earlier engine started ends with its own code.
func TestExecOutlivesTheEngine(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	_, s, err := m.rt().Exec(t.Context(), container.ExecConfig{
		Container: id, ID: "e1", OpenStdin: true,
		Process: &specs.Process{Args: sh("read x; exit $x"), Cwd: "/", Env: []string{"PATH=/bin"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	m.restart()
	s, err = m.rt().Reattach(t.Context(), id, "e1", true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.WriteString(s.Stdin, "9\n"); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, "e1"); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
	if err := m.rt().DeleteExec(t.Context(), id, "e1"); err != nil {
		t.Error(err)
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
}

// Nobody waits between the death of the shim and the removal.
func TestDeleteOfATaskWhoseShimJustDied(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("exec /bin/busybox sleep 1000")
	st, err := m.rt().State(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range shimsOf(m.state) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.rt().Delete(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	m.eventually("the process is gone", func() error { // its new parent has to reap it
		if err := syscall.Kill(st.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			return errors.New("still there")
		}
		return nil
	})
	// newMachine's cleanup looks for files and for runc's state.
}

// Files that could not be removed with a task do not stop the next.
func TestLeftoverBundleIsNotInTheWay(t *testing.T) {
	m := newMachine(t)
	id := m.id()
	if err := os.MkdirAll(filepath.Join(m.rt().shims.bundle(id), "junk"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.create(container.TaskConfig{ID: id, Spec: m.spec(id, sh("exit 6")...)})
	if err := m.rt().Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if code := m.wait(id, ""); code != 6 {
		t.Errorf("exit code %d, want 6", code)
	}
	m.delete(id)
}

func TestPauseUpdateAndPids(t *testing.T) {
	m := newMachine(t)
	id, _ := m.launch("/bin/busybox sleep 1000 & /bin/busybox sleep 1000")
	rt, ctx := m.rt(), t.Context()
	m.eventually("two processes: the shell becomes the second sleep", func() error {
		pids, err := rt.Pids(ctx, id)
		if err == nil && len(pids) != 2 {
			err = fmt.Errorf("pids %v", pids)
		}
		return err
	})
	if err := rt.Pause(ctx, id); err != nil {
		t.Fatal(err)
	}
	if st, err := rt.State(ctx, id, ""); err != nil || st.Status != container.TaskPaused {
		t.Errorf("paused: %+v, %v", st, err)
	}
	if err := rt.Resume(ctx, id); err != nil {
		t.Fatal(err)
	}
	if st, err := rt.State(ctx, id, ""); err != nil || st.Status != container.TaskRunning {
		t.Errorf("resumed: %+v, %v", st, err)
	}
	shares := uint64(512)
	if err := rt.Update(ctx, id, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}); err != nil {
		t.Error(err)
	}
	if v1, err := os.ReadFile("/sys/fs/cgroup/cpu/hf-ctrd-test/" + id + "/cpu.shares"); err == nil && strings.TrimSpace(string(v1)) != "512" {
		t.Errorf("cpu.shares %s, want 512", v1)
	}
	if _, err := rt.Stats(ctx, id); err != nil {
		t.Error(err)
	}
	if err := rt.Kill(ctx, id, "", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if code := m.wait(id, ""); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	m.delete(id)
}

func TestUnknownTaskIsNotFound(t *testing.T) {
	m := newMachine(t)
	rt, ctx, id := m.rt(), t.Context(), m.id()
	_, errState := rt.State(ctx, id, "")
	_, errWait := rt.Wait(ctx, id, "")
	_, errReattach := rt.Reattach(ctx, id, "", false, false)
	_, errPids := rt.Pids(ctx, id)
	for what, err := range map[string]error{
		"state": errState, "wait": errWait, "reattach": errReattach, "pids": errPids,
		"start": rt.Start(ctx, id), "kill": rt.Kill(ctx, id, "", syscall.SIGTERM), "pause": rt.Pause(ctx, id),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want not found", what, err)
		}
	}
	if err := rt.Delete(ctx, id, true); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
}
