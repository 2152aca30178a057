package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// demo runs examples/store/demo.sh beside whatever else runs on this machine, in
// its own network namespace: packages come through the engine's bridge.
type demo struct {
	t    *testing.T
	dir  string
	port string
	env  []string
}

func newDemo(t *testing.T) demo {
	t.Helper()
	testkit.RequireRoot(t)
	for _, p := range []string{"curl", "mmdebstrap", "nft", "ip"} {
		testkit.RequireProgram(t, p)
	}
	testkit.RequireBin(t, "holdfastd")
	// Not t.TempDir: the path of a socket is short.
	dir, err := os.MkdirTemp("", "hfdemo")
	if err != nil {
		t.Fatal(err)
	}
	d := demo{t: t, dir: filepath.Join(dir, "d"), port: freePort(t)}
	d.env = append(append(os.Environ(), scriptEnv(t)...),
		"HOLDFAST_DEMO_DIR="+d.dir, "STORE_WEB_PORT="+d.port, "STORE_API_PORT="+freePort(t), "http_proxy=", "NO_COLOR=1")
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(filepath.Join(d.dir, "demo", "holdfastd.log")); err == nil {
				lines := strings.Split(string(b), "\n")
				t.Logf("the engine's log ends:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
		if out, err := d.command(context.Background(), "down", "--all").CombinedOutput(); err != nil {
			t.Errorf("down --all: %v\n%s", err, out)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("the demo's folder is not gone: %v", err)
		}
	})
	return d
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (d demo) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(example, "demo.sh"), args...)
	cmd.Env = d.env
	// As in a terminal, where Ctrl-C goes to all that runs in the foreground.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run runs demo.sh, which must succeed, and returns what it says.
func (d demo) run(args ...string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), buildLimit)
	defer cancel()
	out, err := d.command(ctx, args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("demo.sh %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// interrupt runs demo.sh and presses Ctrl-C when it says text.
func (d demo) interrupt(text string, args ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), buildLimit)
	defer cancel()
	cmd := d.command(ctx, args...)
	var out saying
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	testkit.Poll(d.t, settle, "demo.sh says "+text, func() (bool, string) { return strings.Contains(out.String(), text), out.String() })
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
		d.t.Errorf("interrupted, demo.sh ended with %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "run it again") {
		d.t.Errorf("interrupted, demo.sh does not say what to do:\n%s", out.String())
	}
}

// saying keeps what a program writes while it runs.
type saying struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (d demo) holdfast(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(testkit.RequireBin(d.t, "holdfast"), args...)
	cmd.Env = append(d.env, "DOCKER_HOST=unix://"+d.dir+"/sock")
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("holdfast %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// The README's first command: from nothing to the page, again, and away.
func TestTheDemoComesUpAndGoesAway(t *testing.T) {
	d := newDemo(t)
	if out := d.run("down"); !strings.Contains(out, "nothing to remove") {
		t.Errorf("down before up: %s", out)
	}
	d.interrupt("== images", "up")
	const readBack = "read back from the standby at"
	if out := d.run("up"); !strings.Contains(out, readBack) || !strings.Contains(out, "The store is at http://localhost:"+d.port) {
		t.Errorf("up: %s", out)
	}
	bridge := d.holdfast("network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge")
	table := "holdfast-" + strings.TrimPrefix(bridge, "hf-")
	if out, err := exec.Command("nft", "list", "table", "inet", table).CombinedOutput(); err != nil {
		t.Fatalf("the engine's rules are not where this test looks for them: %v: %s", err, out)
	}
	// By every kind of address of this machine.
	outside := d.holdfast("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
	for _, host := range []string{"127.0.0.1", "[::1]", outside} {
		resp, err := http.Get("http://" + host + ":" + d.port + "/")
		if err != nil {
			t.Error(err)
			continue
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(b), "Demo kettle") {
			t.Errorf("%s: %s %v", host, resp.Status, err)
		}
	}
	if out := d.run("up"); !strings.Contains(out, readBack) || strings.Contains(out, "importing") || strings.Contains(out, "starting the engine") {
		t.Errorf("the second up makes what is there: %s", out)
	}

	// The engine is killed, and `up` starts it again under the running containers.
	before := d.holdfast("ps", "-q", "--no-trunc")
	pid, err := os.ReadFile(filepath.Join(d.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := d.run("up"); !strings.Contains(out, readBack) || !strings.Contains(out, "starting the engine") {
		t.Errorf("up after the engine was killed: %s", out)
	}
	if after := d.holdfast("ps", "-q", "--no-trunc"); before == "" || after != before {
		t.Errorf("containers before the kill:\n%s\nafter:\n%s", before, after)
	}

	// Somebody tried more than the store: the demo does not take it away unasked.
	d.holdfast("volume", "create", "mine")
	if out := d.run("down"); !strings.Contains(out, "volume mine") || !strings.Contains(out, "--all") {
		t.Errorf("down with a volume of somebody's: %s", out)
	}
	if left := d.holdfast("ps", "-aq"); left != "" {
		t.Errorf("containers left after down: %s", left)
	}
	if got := d.holdfast("volume", "ls", "-q"); got != "mine" {
		t.Errorf("volumes after down: %q", got)
	}
	d.run("down", "--all")
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", d.dir, err)
	}
	if _, err := os.Stat("/sys/class/net/" + bridge); !os.IsNotExist(err) {
		t.Errorf("interface %s is still there: %v", bridge, err)
	}
	if out, err := exec.Command("nft", "list", "table", "inet", table).CombinedOutput(); err == nil {
		t.Errorf("rules are still there: %s", out)
	}
	for _, p := range []string{"/proc/self/mounts", "/proc/self/mountinfo"} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), d.dir) {
			t.Errorf("something is still mounted below %s:\n%s", d.dir, b)
		}
	}
	if ps := processes(t, d.dir); len(ps) > 0 {
		t.Errorf("still running: %q", ps)
	}
}

func TestTheDemoTellsWhyTheEngineDidNotStart(t *testing.T) {
	d := newDemo(t)
	d.env = append(d.env, "HOLDFAST_DEMO_DIR="+filepath.Join(d.dir, strings.Repeat("long", 30)))
	out, err := d.command(t.Context(), "up").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the engine did not start") || !strings.Contains(string(out), "socket") {
		t.Errorf("up with a socket's path that is too long: %v\n%s", err, out)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		t.Error(err)
	}
}

// processes lists command lines that contain text.
func processes(t *testing.T, text string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		if f == fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			continue
		}
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), text) { // or it has ended
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}
