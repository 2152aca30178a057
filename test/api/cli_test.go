package api

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// clients are the stock client and ours, which speaks newer versions than the
// twin's.
func clients() []string {
	if engine == testkit.Dockerd {
		return []string{"docker"}
	}
	return []string{"docker", "holdfast"}
}

func TestContexts(t *testing.T) {
	d := daemon(t)
	for _, cli := range clients() {
		run := func(args ...string) testkit.Result {
			t.Helper()
			// `env -u` takes away what the kit sets: the context alone leads to the engine.
			if cli == "holdfast" {
				return d.Run("", "env", append([]string{"-u", "DOCKER_HOST", "-u", "DOCKER_CONTEXT", testkit.RequireBin(t, cli)}, args...)...)
			}
			return d.Run("", "env", append([]string{"-u", "DOCKER_HOST", "-u", "DOCKER_CONTEXT", cli}, args...)...)
		}
		must := func(args ...string) string {
			t.Helper()
			r := run(args...)
			if r.Code != 0 {
				t.Fatalf("%s", r)
			}
			return strings.TrimSpace(r.Out)
		}
		name := "ours-" + cli
		must("context", "create", name, "--docker", "host="+d.Host())
		contains(t, "contexts", must("context", "ls", "--format", "{{.Name}} {{.DockerEndpoint}}"), name+" "+d.Host())
		equal(t, cli+" --context", must("--context", name, "run", "--rm", "busybox", "echo", "hi"), "hi")
		must("context", "use", name)
		equal(t, cli+" current", must("context", "show"), name)
		equal(t, cli+" current context", must("run", "--rm", "busybox", "echo", "there"), "there")
		must("context", "use", "default")
		must("context", "rm", name)
		if r := run("--context", name, "ps"); r.Code == 0 || !strings.Contains(r.Err, "context not found") {
			t.Errorf("a context that is gone: %s", r)
		}
	}
}

func TestCompletionAsksTheEngine(t *testing.T) {
	d := daemon(t)
	d.Docker("create", "--name", "complete-me", "busybox")
	d.Docker("volume", "create", "vol-to-complete")
	d.Docker("network", "create", "net-to-complete")
	for _, cli := range clients() {
		for _, tc := range [][]string{
			{"complete-me", "start", ""},
			{"vol-to-complete", "volume", "rm", ""},
			{"net-to-complete", "run", "--network", ""},
			{"busybox:latest", "run", ""},
		} {
			r := d.Run("", cli, append([]string{"__complete"}, tc[1:]...)...)
			if r.Code != 0 || !strings.Contains(r.Out, tc[0]) {
				t.Errorf("want %s: %s", tc[0], r)
			}
		}
		contains(t, "script", d.Run("", cli, "completion", "bash").Out, cli)
	}
}

func TestExitCodesOfRun(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "running", "busybox", "sleep", "600")
	for _, cli := range clients() {
		for _, tc := range []struct {
			args []string
			code int
		}{
			{[]string{"run", "--rm", "busybox", "sh", "-c", "exit 0"}, 0},
			{[]string{"run", "--rm", "busybox", "sh", "-c", "exit 42"}, 42},
			{[]string{"run", "--rm", "--init", "busybox", "sh", "-c", "kill -TERM $$"}, 143},
			{[]string{"run", "--rm", "busybox", "/nothing"}, 127},
			{[]string{"run", "--rm", "busybox", "/etc/passwd"}, 126},
			{[]string{"run", "--rm", "--nonsense", "busybox"}, 125},
			{[]string{"run", "--rm", "--pull", "never", "absent"}, 125},
			{[]string{"run", "--rm", "--name", "running", "busybox"}, 125},
			{[]string{"exec", "running", "sh", "-c", "exit 9"}, 9},
			{[]string{"exec", "running", "/nothing"}, 127},
			{[]string{"exec", "running", "/etc/passwd"}, 126},
			{[]string{"exec", "absent", "true"}, 1},
			{[]string{"start", "absent"}, 1},
			{[]string{"nonsense"}, 1},
		} {
			if r := d.Run("", cli, tc.args...); r.Code != tc.code {
				t.Errorf("want exit code %d: %s", tc.code, r)
			}
		}
	}
}

// Ctrl-C reaches the container, whose exit code is the client's; where there is
// no container of its own, the client ends with 130.
func TestInterrupt(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "talks", "busybox", "sh", "-c", "echo ready; exec sleep 600")
	waitLog(d, "talks", "ready")
	for _, cli := range clients() {
		for _, tc := range []struct {
			args []string
			code int
		}{
			{[]string{"run", "--rm", "--init", "busybox", "sh", "-c", "echo ready; exec sleep 600"}, 130},
			{[]string{"run", "--rm", "busybox", "sh", "-c", "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done"}, 7},
			{[]string{"logs", "-f", "talks"}, 130},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), settle)
			cmd := d.Command(ctx, cli, tc.args...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 6)
			if n, err := out.Read(buf); err != nil {
				t.Errorf("%s %q is not ready: %q %v %s", cli, tc.args, buf[:n], err, stderr.String())
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the exit code tells
			cancel()
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("%s %q: exit code %d, want %d: %s", cli, tc.args, code, tc.code, stderr.String())
			}
		}
	}
}

func TestProgressOnATerminal(t *testing.T) {
	notOnTwin(t, "our own client")
	testkit.RequireProgram(t, "script")
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{})
	ref := r.addr + "/big:v1"
	noise := make([]byte, 8<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ { // enough that it takes some reads, and does not compress
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	layer := testkit.Layer{"noise": {Body: string(noise)}}.Tar()
	dir := t.TempDir()
	archive, rootfs := filepath.Join(dir, "image.tar"), filepath.Join(dir, "root.tar")
	for path, body := range map[string][]byte{
		archive: testkit.ImageSpec{Ref: ref, Layers: [][]byte{layer}}.Archive(), rootfs: layer,
	} {
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin := testkit.RequireBin(t, "holdfast")
	tty := func(command string) string {
		t.Helper()
		r := d.Run("", "script", "-qec", "stty rows 40 cols 150; "+bin+" "+command, "/dev/null")
		if r.Code != 0 {
			t.Fatalf("%s", r)
		}
		return r.Out
	}
	const bar = "=>"
	for _, tc := range []struct{ command, action string }{
		{"load -i " + archive, "Loading layer"},
		{"push " + ref, "Pushing"},
		{"rmi -f " + ref, ""},
		{"pull " + ref, "Downloading"},
		{"import " + rootfs + " imported:1", "Importing"},
		{"image analyze imported:1", "layer 1/1: Read"},
	} {
		out := tty(tc.command)
		if tc.action != "" && (!strings.Contains(out, tc.action) || !strings.Contains(out, bar)) {
			t.Errorf("%s: no bar with %q: %q", tc.command, tc.action, out)
		}
	}
	// Nothing of it where no terminal is, and the same image.
	res := d.Run("", "holdfast", "import", rootfs, "imported:2")
	if res.Code != 0 || strings.Contains(res.Out+res.Err, bar) {
		t.Errorf("%s", res)
	}
	equal(t, "imported", format(d, "imported:1", "{{.RootFS.Layers}} {{.Comment}}"), format(d, "imported:2", "{{.RootFS.Layers}} {{.Comment}}"))
}

func TestMountAsTheNotesMisprintIt(t *testing.T) {
	notOnTwin(t, "our own client")
	d := daemon(t)
	for _, tc := range []struct{ mount, want string }{
		{"type-volume,source=/usr/data,target=/container/usr/data", "did you mean type=volume?"},
		{"type-volume,source=/usr/data,target=/container/usr/data,ro", "did you mean type=volume?"},
		{"type=volume,source=/usr/data,target=/container/usr/data", "for the folder /usr/data of the host say type=bind"},
		{"type=nope,target=/x", "mount type unknown"},
	} {
		r := d.Run("", "holdfast", "container", "run", "--mount", tc.mount, "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Err, tc.want) {
			t.Errorf("want 125 and %q: %s", tc.want, r)
		}
		if strings.Contains(r.Err, "docker:") || strings.Contains(r.Err, "'docker ") {
			t.Errorf("another program's name: %s", r)
		}
	}
	equal(t, "nothing half made", d.Docker("ps", "-aq")+d.Docker("volume", "ls", "-q"), "")
}

// What is not served yet says so, and says it in a sentence.
func TestCommandsNotServedSaySo(t *testing.T) {
	notOnTwin(t, "docker serves them")
	d := daemon(t)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"swarm", "init", "--advertise-addr", "nowhere"}, "advertise address must be a non-zero IP address"},
		{[]string{"swarm", "join", "--token", "x", "127.0.0.1"}, "invalid join token"},
		{[]string{"service", "ls"}, "not a swarm manager"},
		{[]string{"node", "ls"}, "not a swarm manager"},
		{[]string{"stack", "ls"}, "not a swarm manager"},
		{[]string{"secret", "ls"}, "not a swarm manager"},
		{[]string{"config", "ls"}, "not a swarm manager"},
		{[]string{"checkpoint", "ls", "x"}, "experimental"},
	} {
		for _, cli := range clients() {
			if r := d.Run("", cli, tc.args...); r.Code == 0 || !strings.Contains(r.Err, tc.want) {
				t.Errorf("want %q: %s", tc.want, r)
			}
		}
	}
}
