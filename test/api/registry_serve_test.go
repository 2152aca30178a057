package api

import (
	"bufio"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// serveRegistry runs `holdfast registry serve` beside the daemon until stop.
func serveRegistry(t *testing.T, d *testkit.Daemon, addr, dir string, flags ...string) (stop func()) {
	t.Helper()
	args := append(d.EnterArgs(), testkit.RequireBin(t, "holdfast"), "registry", "serve", "--listen", addr)
	args = append(append(args, flags...), dir)
	cmd := exec.Command(args[0], args[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := true
	stop = func() {
		if !running {
			return
		}
		running = false
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("its end: %v", err)
		}
	}
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if want := "Serving " + dir + " on http://" + addr + "\n"; line != want {
		t.Errorf("it says %q (%v), want %q", line, err, want)
	}
	return stop
}

// The registry of `holdfast registry serve`, as the stock client uses one: push,
// pull, a stop and a start between, a delete, and the garbage goes by itself.
func TestRegistryServe(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "bin/holdfast is ours")
	d := own(t, testkit.Options{})
	const addr = "127.0.0.1:5044"
	const name = addr + "/team/app:1"
	dir := filepath.Join(t.TempDir(), "registry")
	stop := serveRegistry(t, d, addr, dir)
	d.Docker("tag", "busybox", name)
	d.Docker("push", name)
	digest := strings.TrimPrefix(d.Docker("inspect", "-f", "{{index .RepoDigests 0}}", name), addr+"/team/app@")
	stop()
	d.DockerFails("connection refused", "pull", name)
	stop = serveRegistry(t, d, addr, dir)
	d.Docker("rmi", "busybox", name)
	d.Docker("pull", name)
	if out := d.Docker("run", "--rm", name, "echo", "hello"); out != "hello" {
		t.Errorf("it says %q", out)
	}
	stop()

	// Without its tag, nothing of the image stays on disk.
	serveRegistry(t, d, addr, dir, "--gc-grace", "1ms", "--gc-untagged", "1ms", "--gc-interval", "20ms")
	r, err := http.NewRequest(http.MethodDelete, "http://"+addr+"/v2/team/app/manifests/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := d.HTTP().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("delete %s: %s", digest, resp.Status)
	}
	testkit.Poll(t, settle, "an empty registry", func() (bool, string) {
		left, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*", "*"))
		return err == nil && len(left) == 0, strings.Join(left, "\n")
	})
	d.DockerFails("not found", "pull", name)
}
