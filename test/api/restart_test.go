package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// count writes numbered lines for ever, every third to the error stream.
const count = `i=0; while :; do echo o $i; i=$((i+1)); echo o $i; i=$((i+1)); echo e $i >&2; i=$((i+1)); sleep 0.005; done`

// numbers are the numbers that a counting container logged, in order. It fails
// the test where one is missing or doubled.
func numbers(t *testing.T, d *testkit.Daemon, name string) int {
	t.Helper()
	r := d.DockerResult("logs", name)
	next := map[string]int{"o": 0, "e": 2}
	for _, line := range append(strings.Fields(strings.ReplaceAll(r.Out, " ", ":")), strings.Fields(strings.ReplaceAll(r.Err, " ", ":"))...) {
		kind, num, _ := strings.Cut(line, ":")
		got, err := strconv.Atoi(num)
		if want, ok := next[kind]; !ok || err != nil || got != want {
			t.Fatalf("log of %s: after the lines before it comes %q, want %q", name, line, fmt.Sprint(kind, ":", want))
		}
		switch {
		case kind == "e":
			next[kind] = got + 3
		case got%3 == 0:
			next[kind] = got + 1
		default:
			next[kind] = got + 2
		}
	}
	return max(next["o"], next["e"])
}

// flags makes a folder on the host that containers see as /flags, so that a test
// can tell them something while the daemon is away.
func flags(t *testing.T, d *testkit.Daemon) (dir string, raise func(name string)) {
	t.Helper()
	dir = d.Dir() + "/flags"
	d.Exec("mkdir", "-p", dir)
	return dir, func(name string) { d.Exec("touch", dir+"/"+name) }
}

// waitFlag is a shell line that waits for a flag.
func waitFlag(name string) string {
	return "while [ ! -e /flags/" + name + " ]; do sleep 0.02; done; "
}

// exitedInside polls the kernel, not the daemon, until the process is gone.
func exitedInside(d *testkit.Daemon, pid string) {
	d.Eventually(settle, "process "+pid+" ends", func() (bool, string) {
		out := d.Exec("sh", "-c", "cat /proc/"+pid+"/stat 2>/dev/null || echo gone")
		return strings.HasPrefix(out, "gone") || strings.Contains(out, ") Z "), out
	})
}

func TestKilledDaemonFindsItsContainersAgain(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "dockerd keeps containers only with live-restore")
	d := own(t, testkit.Options{})
	dir, raise := flags(t, d)
	vol := []string{"-v", dir + ":/flags:ro"}
	run := func(name string, script string, args ...string) {
		t.Helper()
		up(d, append(append(append([]string{"--name", name}, vol...), args...), "busybox", "sh", "-c", script)...)
	}
	d.Docker("network", "create", "net")
	web(d, "web", "--network", "net", "-p", "8080:80")
	probe(d, "probe", "--network", "net")
	run("counter", count)
	run("ended", "echo begin; "+waitFlag("end")+"printf last; exit 7")
	run("failing", waitFlag("end")+"echo once; exit 3", "--restart", "on-failure:2")
	run("always", "echo up; "+waitFlag("end")+"sleep 600", "--restart", "always")
	run("stopped", "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done", "--restart", "unless-stopped")
	run("healthy", "sleep 600", "--health-cmd", "test -e /flags/end", "--health-interval", "200ms", "--health-retries", "1000")
	run("temp", waitFlag("end")+"exit 0", "--rm", "-v", "/anon")
	run("temp2", waitFlag("end2")+"exit 0", "--rm")
	run("user", "sleep 600", "-v", "data:/data")
	run("paused", "echo up; sleep 600")
	run("split", "printf 'one two '; echo said >&2; "+waitFlag("end")+"echo three; sleep 600")
	up(d, "--name", "cat", "-i", "busybox", "cat")
	up(d, "--name", "tty", "-it", "busybox", "sh")
	waitLog(d, "split", "said")
	waitLog(d, "stopped", "up")
	d.Docker("stop", "-t", "5", "stopped")
	d.Docker("pause", "paused")
	anon := d.Docker("inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}", "temp")
	anon = regexp.MustCompile(`[0-9a-f]{64}`).FindString(anon)
	code, body := d.API(http.MethodPost, "/containers/counter/exec", map[string]any{"Cmd": []string{"sleep", "600"}, "AttachStdout": true})
	var ex struct{ ID string }
	decode(t, body, &ex)
	if code != 201 {
		t.Fatalf("exec: %d %s", code, body)
	}
	if code, body = d.API(http.MethodPost, "/exec/"+ex.ID+"/start", map[string]any{"Detach": true}); code != 200 {
		t.Fatalf("exec: %d %s", code, body)
	}
	pids := map[string]string{}
	for _, n := range []string{"web", "counter", "ended", "failing", "healthy", "temp", "cat", "user"} {
		pids[n] = format(d, n, "{{.State.Pid}}")
	}
	health := format(d, "healthy", "{{.State.Health.Status}}")
	equal(t, "health before", health, "starting")

	d.Kill()
	away := time.Now()
	raise("end")
	for _, n := range []string{"ended", "failing", "temp"} {
		exitedInside(d, pids[n])
	}
	resp, err := d.HTTP().Get("http://127.0.0.1:8080/")
	if err == nil { // by the kernel's rules alone; the forwarder for [::1] is away
		_ = resp.Body.Close()
	}
	back := time.Now()
	d.Start()

	for _, n := range []string{"web", "counter", "healthy", "cat", "user"} {
		equal(t, n+" is the same process", format(d, n, "{{.State.Status}} {{.State.Pid}}"), "running "+pids[n])
	}
	d.WaitState("ended", "exited")
	equal(t, "ended", format(d, "ended", "{{.State.ExitCode}} {{.State.Pid}} {{.State.Error}}"), "7 0 ")
	equal(t, "last words", d.Docker("logs", "ended"), "begin\nlast")
	at, err := time.Parse(time.RFC3339Nano, format(d, "ended", "{{.State.FinishedAt}}"))
	if err != nil || at.Before(away.Add(-time.Second)) || at.After(back.Add(time.Second)) {
		t.Errorf("finished at %v, %v; it ended between %v and %v", at, err, away, back)
	}
	// Once before the daemon left, twice again: no more.
	d.WaitState("failing", "exited")
	d.Eventually(settle, "restarts end", func() (bool, string) {
		s := format(d, "failing", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}")
		return s == "exited 2 3", s
	})
	equal(t, "runs", d.Docker("logs", "failing"), "once\nonce\nonce")
	equal(t, "always", format(d, "always", "{{.State.Status}} {{.RestartCount}}"), "running 0")
	equal(t, "stopped by its user", format(d, "stopped", "{{.State.Status}}"), "exited")
	d.Eventually(settle, "health goes on", func() (bool, string) {
		s := format(d, "healthy", "{{.State.Health.Status}}")
		return s == "healthy", s
	})
	d.Eventually(settle, "--rm that ended is removed", func() (bool, string) {
		r := d.DockerResult("inspect", "temp")
		return r.Code != 0, r.String()
	})
	if anon == "" || d.DockerResult("volume", "inspect", anon).Code == 0 {
		t.Errorf("anonymous volume %q of a removed container is left", anon)
	}
	d.DockerFails("volume is in use", "volume", "rm", "data")
	equal(t, "paused", format(d, "paused", "{{.State.Status}}"), "paused")
	d.Docker("unpause", "paused")
	equal(t, "unpaused", format(d, "paused", "{{.State.Status}}"), "running")
	get(d, "probe", "http://web/", "web")
	d.Eventually(settle, "published port", func() (bool, string) {
		resp, err := d.HTTP().Get("http://127.0.0.1:8080/")
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)) == "web", fmt.Sprint(string(b), err)
	})
	d.DockerFails("port is already allocated", "run", "--rm", "-p", "8080:80", "busybox", "true")
	waitLog(d, "split", "three")
	equal(t, "a line begun before the daemon left", d.DockerResult("logs", "split").Out, "one two three\n")
	if code, _ := d.API(http.MethodGet, "/exec/"+ex.ID+"/json", nil); code != 404 {
		t.Errorf("exec of the daemon that was killed: %d", code)
	}
	equal(t, "new exec", d.Docker("exec", "counter", "echo", "hi"), "hi")
	attachEcho(t, d, "cat", "ping\n", "ping\n")
	attachEcho(t, d, "tty", "echo a$((1+1))b\n", "a2b")

	before := numbers(t, d, "counter")
	d.Eventually(settle, "counter goes on", func() (bool, string) {
		n := numbers(t, d, "counter")
		return n > before, fmt.Sprint(n)
	})
	for range 5 {
		d.KillAndStart()
	}
	d.Docker("kill", "counter")
	numbers(t, d, "counter")
	raise("end2")
	d.Eventually(settle, "--rm of a later daemon", func() (bool, string) {
		r := d.DockerResult("inspect", "temp2")
		return r.Code != 0, r.String()
	})
	d.Docker("stop", "-t", "1", "web")
	equal(t, "stopped by its new daemon", format(d, "web", "{{.State.Status}}"), "exited")
}

// attachEcho attaches to a container, writes, and waits for the answer.
func attachEcho(t *testing.T, d *testkit.Daemon, name, in, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	conn, err := d.DialAPI(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if dl, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(dl) // a unix socket has deadlines
	}
	fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n%s", name, in)
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), want) {
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Errorf("attach to %s: %v after %q, want %q", name, err, got.String(), want)
			return
		}
	}
}

func TestCleanShutdownKeepsOrStopsContainers(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "dockerd keeps containers only with live-restore")
	const patient = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.02; done"
	t.Run("keep", func(t *testing.T) {
		d := own(t, testkit.Options{})
		up(d, "--name", "counter", "busybox", "sh", "-c", count)
		pid := format(d, "counter", "{{.State.Pid}}")
		for range 3 {
			d.Restart()
		}
		equal(t, "kept", format(d, "counter", "{{.State.Status}} {{.State.Pid}}"), "running "+pid)
		d.Docker("kill", "counter")
		numbers(t, d, "counter")
	})
	t.Run("stop", func(t *testing.T) {
		d := own(t, testkit.Options{Config: map[string]any{"live-restore": false, "shutdown-timeout": 3}})
		up(d, "--name", "plain", "busybox", "sh", "-c", patient)
		up(d, "--name", "always", "--restart", "always", "busybox", "sh", "-c", patient)
		up(d, "--name", "unless", "--restart", "unless-stopped", "busybox", "sh", "-c", patient)
		up(d, "--name", "failure", "--restart", "on-failure", "busybox", "sh", "-c", patient)
		up(d, "--name", "temp", "--rm", "busybox", "sh", "-c", patient)
		up(d, "--name", "deaf", "--stop-timeout", "1", "busybox", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done")
		up(d, "--name", "stopped", "--restart", "unless-stopped", "busybox", "sh", "-c", patient)
		for _, n := range []string{"plain", "always", "unless", "failure", "temp", "deaf", "stopped"} {
			waitLog(d, n, "up")
		}
		d.Docker("stop", "stopped")
		begin := time.Now()
		d.Stop()
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("shutdown took %v", took)
		}
		d.Start()
		equal(t, "plain", format(d, "plain", "{{.State.Status}} {{.State.ExitCode}}"), "exited 4")
		equal(t, "its last words", d.Docker("logs", "plain"), "up\nbye")
		equal(t, "deaf", format(d, "deaf", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137")
		equal(t, "stopped", format(d, "stopped", "{{.State.Status}}"), "exited")
		for _, n := range []string{"always", "unless", "failure"} {
			d.WaitState(n, "running")
		}
		if r := d.DockerResult("inspect", "temp"); r.Code == 0 {
			t.Errorf("--rm is left: %s", r)
		}
	})
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "our own limits")
	d := own(t, testkit.Options{Config: map[string]any{"live-restore": false, "shutdown-timeout": 1}})
	up(d, "--name", "deaf", "--stop-timeout", "600", "busybox", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
	waitLog(d, "deaf", "up")
	begin := time.Now()
	d.Stop()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("shutdown took %v", took)
	}
	d.Start()
	equal(t, "after", format(d, "deaf", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137")
}

func TestPowerLoss(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the kit cannot take its helpers down")
	d := own(t, testkit.Options{})
	d.Docker("network", "create", "net")
	web(d, "web", "--network", "net", "-p", "8080:80", "--restart", "always")
	probe(d, "probe", "--network", "net", "--restart", "unless-stopped")
	up(d, "--name", "plain", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/f; echo layer > /f; sync; echo up; sleep 600")
	up(d, "--name", "failure", "--restart", "on-failure:5", "busybox", "sleep", "600")
	up(d, "--name", "temp", "--rm", "-v", "/anon", "busybox", "sleep", "600")
	up(d, "--name", "stopped", "--restart", "unless-stopped", "busybox", "sleep", "600")
	up(d, "--name", "astopped", "--restart", "always", "busybox", "sleep", "600")
	d.Docker("create", "--name", "created", "--restart", "always", "busybox", "sleep", "600")
	up(d, "--name", "paused", "--restart", "always", "busybox", "sleep", "600")
	d.Docker("pause", "paused")
	d.Docker("stop", "-t", "0", "stopped", "astopped")
	waitLog(d, "plain", "up")
	d.PowerLoss()
	d.Start()
	for _, n := range []string{"web", "probe", "failure", "astopped", "paused"} {
		d.WaitState(n, "running")
	}
	equal(t, "plain", format(d, "plain", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 255 0")
	equal(t, "stopped by its user", format(d, "stopped", "{{.State.Status}}"), "exited")
	equal(t, "never started", format(d, "created", "{{.State.Status}}"), "created")
	if r := d.DockerResult("inspect", "temp"); r.Code == 0 {
		t.Errorf("--rm is left: %s", r)
	}
	get(d, "probe", "http://web/", "web")
	d.Eventually(settle, "published port", func() (bool, string) {
		resp, err := d.HTTP().Get("http://127.0.0.1:8080/")
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)) == "web", fmt.Sprint(string(b), err)
	})
	d.Docker("start", "plain")
	equal(t, "volume and layer", d.Docker("exec", "plain", "cat", "/data/f", "/f"), "kept\nlayer")
	waitLog(d, "plain", "up\nup")
}

func TestDeadShims(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its shims are its own")
	d := own(t, testkit.Options{})
	up(d, "--name", "plain", "-p", "8080:80", "busybox", "sleep", "600")
	up(d, "--name", "always", "--restart", "always", "busybox", "sleep", "600")
	pid := format(d, "plain", "{{.State.Pid}}")
	if n := d.KillShims(); n != 2 {
		t.Errorf("%d shims, want one a container", n)
	}
	d.WaitState("plain", "exited")
	equal(t, "exit code", format(d, "plain", "{{.State.ExitCode}}"), "137")
	exitedInside(d, pid)
	d.Eventually(settle, "restarted", func() (bool, string) {
		s := format(d, "always", "{{.State.Status}} {{.RestartCount}}")
		return s == "running 1", s
	})
	d.Docker("start", "plain")
	d.Kill()
	d.KillShims()
	d.Start()
	d.WaitState("plain", "exited")
	d.WaitState("always", "running")
	d.Docker("start", "plain")
	equal(t, "works again", d.Docker("exec", "plain", "echo", "hi"), "hi")
}

// TestKillsUnderAFloodOfOutput kills the daemon while it handles output all the
// time: not a line is lost, nor logged twice.
func TestKillsUnderAFloodOfOutput(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it does not promise this")
	d := own(t, testkit.Options{})
	// In bursts, with pauses that bound it: reading millions of lines shows no more.
	up(d, "--name", "flood", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); [ $((i%500)) != 0 ] || usleep 10000; done")
	for i := range 8 {
		d.Eventually(settle, "the flood goes on", func() (bool, string) {
			r := d.DockerResult("logs", "--tail", "1", "flood")
			n, err := strconv.Atoi(strings.TrimSpace(r.Out))
			return err == nil && n >= i*1000, r.String()
		})
		d.KillAndStart()
	}
	d.Docker("kill", "flood")
	next := 0
	for line := range strings.Lines(d.Docker("logs", "flood")) {
		if got := strings.TrimSuffix(line, "\n"); got != strconv.Itoa(next) {
			t.Fatalf("line %d is %q", next, got)
		}
		next++
	}
	t.Logf("%d lines", next)
}
