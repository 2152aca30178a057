package api

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// noise is data that does not compress.
func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// disk is the daemon's root on a small disk.
type disk struct {
	t *testing.T
	d *testkit.Daemon
}

// fill takes the last byte.
func (k disk) fill() {
	k.t.Helper()
	k.d.Exec("sh", "-c", "cd "+k.d.Root()+"; for bs in 1M 64k 4k 1k; do dd if=/dev/zero of=ballast.$bs bs=$bs 2>/dev/null; done; true")
	out := k.d.Exec("sh", "-c", "df --output=avail -k "+k.d.Root()+" | tail -1")
	equal(k.t, "space left", strings.TrimSpace(out), "0")
}

func (k disk) free() { k.d.Exec("sh", "-c", "rm -f "+k.d.Root()+"/ballast.*") }

// things is all that the engine says it has.
func (k disk) things() string {
	return strings.Join([]string{
		k.d.Docker("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"),
		k.d.Docker("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}"),
		k.d.Docker("volume", "ls", "-q"),
		k.d.Docker("network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}"),
	}, "\n")
}

// refuses says that a command fails for want of space and changes nothing.
func (k disk) refuses(args ...string) {
	k.t.Helper()
	before := k.things()
	r := k.d.DockerResult(args...)
	if r.Code == 0 || !strings.Contains(r.Err, "no space left on device") {
		k.t.Errorf("on a full disk: %s", r)
	}
	if after := k.things(); after != before {
		k.t.Errorf("%s changed\n%s\nto\n%s", strings.Join(args, " "), before, after)
	}
}

// mayRefuse says that a small command on a full disk either works or fails as
// refuses says.
func (k disk) mayRefuse(undo []string, args ...string) {
	k.t.Helper()
	before := k.things()
	if k.d.DockerResult(args...).Code == 0 {
		k.d.Docker(undo...)
	} else {
		k.refuses(args...)
	}
	if after := k.things(); after != before {
		k.t.Errorf("%s and back changed\n%s\nto\n%s", strings.Join(args, " "), before, after)
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its files are elsewhere")
	d := own(t, testkit.Options{RootExt4: 64})
	d.Image("busybox")
	k := disk{t, d}
	r := newRegistry(t, d, registryOptions{})
	big := testkit.ImageSpec{Ref: r.addr + "/big:v1", Layers: [][]byte{testkit.Layer{"noise": {Body: noise(6 << 20)}}.Tar()}}
	d.Load(big)
	d.Docker("push", big.Ref)
	d.Docker("rmi", big.Ref)
	dir := d.Dir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(dir+"/big.tar", big.Archive(), 0o600))
	must(os.WriteFile(dir+"/layer.tar", big.Layers[0], 0o600))
	must(os.WriteFile(dir+"/small.tar", testkit.Layer{"f": {Body: "x"}}.Tar(), 0o600))

	up(d, "--name", "kept", "-v", "data:/data", "busybox", "sh", "-c",
		"echo precious > /data/f; echo layer > /f; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done")
	d.Docker("run", "--name", "ended", "busybox", "sh", "-c", "echo one")
	d.Docker("create", "--name", "fresh", "-v", "other:/etc", "busybox", "true")
	up(d, "--name", "doomed", "busybox", "sleep", "600")
	waitLog(d, "kept", "line 3")

	k.fill()
	k.refuses("load", "-i", dir+"/big.tar")
	k.refuses("import", dir+"/layer.tar", "imported")
	k.refuses("import", dir+"/small.tar", "imported")
	k.refuses("pull", big.Ref)
	k.refuses("create", "--name", "new", "busybox")
	k.refuses("create", "--name", "new", "-v", "populated:/etc", "busybox")
	k.refuses("commit", "kept", "committed")
	k.refuses("volume", "create", "new")
	k.mayRefuse([]string{"network", "rm", "new"}, "network", "create", "new")
	k.mayRefuse([]string{"rmi", "again"}, "tag", "busybox", "again")
	k.mayRefuse([]string{"rename", "renamed", "ended"}, "rename", "ended", "renamed")
	k.refuses("cp", dir+"/big.tar", "ended:/big")
	if res := d.DockerResult("exec", "kept", "sh", "-c", "echo more > /g && echo written"); res.Code == 0 {
		t.Errorf("wrote to a full disk: %s", res)
	}
	equal(t, "what runs, runs", format(d, "kept", "{{.State.Status}}"), "running")
	equal(t, "exec", d.Docker("exec", "kept", "cat", "/data/f", "/f"), "precious\nlayer")

	// A daemon comes up on it, cleanly ended or not.
	before := k.things()
	d.Restart()
	d.KillAndStart()
	equal(t, "after two starts", k.things(), before)
	k.refuses("volume", "create", "new")
	equal(t, "exec", d.Docker("exec", "kept", "cat", "/data/f", "/f"), "precious\nlayer")

	// Stopping and removing need no room.
	d.Docker("stop", "-t", "0", "doomed")
	d.Docker("rm", "doomed")
	k.fill() // it made some
	pid := format(d, "kept", "{{.State.Pid}}")

	k.free()
	equal(t, "same process", format(d, "kept", "{{.State.Pid}}"), pid)
	seen := d.Docker("logs", "--tail", "1", "kept")
	d.Eventually(settle, "log goes on", func() (bool, string) {
		now := d.Docker("logs", "--tail", "1", "kept")
		return now != seen, now
	})
	for line := range strings.Lines(d.Docker("logs", "kept")) {
		if !strings.HasPrefix(line, "line ") {
			t.Errorf("torn line in the log: %q", line)
		}
	}
	for _, args := range [][]string{
		{"load", "-i", dir + "/big.tar"},
		{"rmi", big.Ref},
		{"pull", big.Ref},
		{"import", dir + "/layer.tar", "imported"},
		{"create", "--name", "new", "-v", "populated:/etc", "busybox"},
		{"commit", "kept", "committed"},
		{"volume", "create", "new"},
		{"network", "create", "new"},
		{"start", "ended", "fresh"},
		{"rename", "ended", "renamed"},
		{"run", "--rm", "committed", "cat", "/f"},
	} {
		d.Docker(args...)
	}
}

// TestStartOnAFullDisk: a start that finds no room says so and can be done again.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its files are elsewhere")
	d := own(t, testkit.Options{RootExt4: 40})
	d.Image("busybox")
	k := disk{t, d}
	d.Docker("create", "--name", "cc", "-v", "data:/data", "-p", "8080:80", "busybox", "sleep", "600")
	k.fill()
	before := d.Leftovers()
	res := d.DockerResult("start", "cc")
	if res.Code == 0 {
		d.WaitState("cc", "running") // it needed no room
		d.Docker("kill", "cc")
	} else {
		contains(t, "start", res.Err, "no space left on device")
		equal(t, "state", format(d, "cc", "{{.State.Status}}"), "created")
		d.Eventually(settle, "nothing left of the start", func() (bool, string) {
			after := d.Leftovers()
			return slices.Equal(before, after), fmt.Sprint(after)
		})
	}
	k.free()
	d.Docker("start", "cc")
	equal(t, "runs", d.Docker("exec", "cc", "echo", "hi"), "hi")
}

// TestContainerFillsTheDisk: a container that writes until nothing is left takes
// neither the daemon nor its neighbours with it.
func TestContainerFillsTheDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "its files are elsewhere")
	d := own(t, testkit.Options{RootExt4: 40})
	d.Image("busybox")
	up(d, "--name", "neighbour", "busybox", "sleep", "600")
	up(d, "--name", "glutton", "--restart", "always", "busybox", "sh", "-c", "while :; do cat /bin/busybox >> /fat || sleep 0.1; done")
	d.Eventually(settle, "disk is full", func() (bool, string) {
		out := strings.TrimSpace(d.Exec("sh", "-c", "df --output=avail -k "+d.Root()+" | tail -1"))
		return out == "0", out
	})
	code, body := d.API(http.MethodPost, "/volumes/create", map[string]any{"Name": "vol"})
	if code != 500 || !bytes.Contains(body, []byte("no space left on device")) {
		t.Errorf("volume create: %d %s", code, body)
	}
	d.KillAndStart()
	equal(t, "neighbour", d.Docker("exec", "neighbour", "echo", "hi"), "hi")
	d.Docker("rm", "-f", "glutton")
	equal(t, "room again", d.Docker("run", "--rm", "busybox", "echo", "hi"), "hi")
	d.Eventually(settle, "its layer goes", func() (bool, string) {
		left, err := filepath.Glob(filepath.Join(d.Path(d.Root()), "containerd/snapshots/snapshots/*/fs/fat"))
		return err == nil && len(left) == 0, fmt.Sprint(left, err)
	})
}
