package api

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh/agent"

	"holdfast.dev/holdfast/internal/testkit"
)

// A step reaches the agent of who builds, and only in the RUN that asks for it.
func TestBuildReachesTheSSHAgent(t *testing.T) {
	d := buildx(t)
	d.Image("nettool")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const comment = "key-of-the-one-who-builds"
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: comment}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(keys, c) // ends with the connection
				_ = c.Close()
			}()
		}
	}()
	dir := buildDir(t, map[string]string{"Dockerfile": `FROM nettool
RUN --mount=type=ssh nettool agent $SSH_AUTH_SOCK > /keys
RUN test -z "$SSH_AUTH_SOCK" && test ! -S /run/buildkit/ssh_agent.0
RUN --mount=type=ssh,id=other,target=/other.sock,uid=65534,mode=0600 nettool agent /other.sock > /others && stat -c '%u %a' /other.sock > /stat
`})
	d.Holdfast("build", "-t", "agent", "--ssh", "default="+socket, "--ssh", "other="+socket, dir)
	equal(t, "the key's name", d.Docker("run", "--rm", "agent", "sh", "-c", "grep -o "+comment+" /keys; grep -o "+comment+" /others; cat /stat"), comment+"\n"+comment+"\n65534 600")
	r := holdfastBuild(t, d, buildDir(t, map[string]string{"Dockerfile": "FROM nettool\nRUN --mount=type=ssh,required=true true\n"}))
	if r.Code == 0 || !strings.Contains(r.Err, "unset ssh forward key default") {
		t.Errorf("a step that needs an agent, without one: %s", r)
	}
}

func TestCopyOptions(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{
		"Dockerfile": `FROM busybox AS from
RUN mkdir /d && echo in > /d/kept && echo out > /d/left.md
FROM busybox AS base
RUN ln -s /elsewhere /linked
FROM base
COPY --chmod=u=rw,go= --chown=123:456 a /octal/symbolic
COPY --chmod=0751 --chown=nobody a /octal/
COPY --exclude=*.md --exclude=sub/** tree /excluded/
COPY --from=from --exclude=*.md --link /d /fromstage/
COPY --link a /linked/
COPY --parents tree/./sub/deep/f /parents/
ADD --chmod=600 --checksum=sha256:87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7 http://127.0.0.1:1/never /x
`,
		"a": "a\n", "tree/x.go": "go", "tree/x.md": "md", "tree/sub/deep/f": "f",
	})
	r := holdfastBuild(t, d, dir)
	if r.Code == 0 || !strings.Contains(r.Err, "127.0.0.1:1") {
		t.Errorf("ADD of what cannot be had: %s", r)
	}
	text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(strings.Join(lines[:len(lines)-2], "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for way, build := range map[string]func(){
		"buildx":  func() { d.Holdfast("build", "-t", "copied", dir) },
		"classic": func() { d.Docker("build", "--no-cache", "-t", "copied", dir) },
	} {
		build()
		equal(t, way, d.Docker("run", "--rm", "copied", "sh", "-c",
			"stat -c '%n %a %u:%g' /octal/symbolic /octal/a; find /excluded /fromstage /parents -type f | sort; ls /linked"),
			"/octal/symbolic 600 123:456\n/octal/a 751 65534:65534\n/excluded/x.go\n/fromstage/kept\n/parents/sub/deep/f\na")
	}
}

func TestBuildCacheInTheImage(t *testing.T) {
	d := buildx(t)
	host := newRegistry(t, d, registryOptions{}).addr
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"})
	d.Holdfast("build", "-t", host+"/inline:1", "--push", "--cache-to", "type=inline", dir)
	d.Holdfast("build", "--no-cache", "-t", host+"/plain:1", "--push", dir)
	for name, want := range map[string]bool{"inline": true, "plain": false} {
		d.Docker("rmi", "-f", host+"/"+name+":1")
		d.Holdfast("builder", "prune", "-af")
		first := d.Docker("run", "--rm", host+"/"+name+":1", "cat", "/id")
		d.Docker("rmi", "-f", host+"/"+name+":1")
		d.Holdfast("builder", "prune", "-af")
		// By buildx and, as --cache-from of the classic endpoint, in the same words.
		for way, build := range map[string]func(){
			"buildx":  func() { d.Holdfast("build", "-t", "again", "--cache-from", host+"/"+name+":1", dir) },
			"classic": func() { d.Docker("build", "-t", "again", "--cache-from", host+"/"+name+":1", dir) },
		} {
			build()
			if got := d.Docker("run", "--rm", "again", "cat", "/id"); (got == first) != want {
				t.Errorf("%s of %s: taken from the cache: %v, want %v", way, name, got == first, want)
			}
			d.Docker("rmi", "-f", "again")
			d.Holdfast("builder", "prune", "-af")
		}
	}
}

// counted passes connections on to a daemon and counts what clients send.
func counted(t *testing.T, d *testkit.Daemon) (host string, sent *atomic.Int64) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	sent = new(atomic.Int64)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", d.Socket())
			if err != nil {
				_ = c.Close()
				continue
			}
			pass := func(to, from net.Conn, n *atomic.Int64) {
				b := make([]byte, 32<<10)
				for {
					got, err := from.Read(b)
					n.Add(int64(got))
					if _, werr := to.Write(b[:got]); err != nil || werr != nil {
						break
					}
				}
				_ = to.(*net.UnixConn).CloseWrite()
			}
			go pass(up, c, sent)
			go pass(c, up, new(atomic.Int64))
		}
	}()
	return "unix://" + socket, sent
}

// Of a context only what changed is sent, and nothing that no step asks for.
func TestBuildSendsOnlyWhatChanged(t *testing.T) {
	d := buildx(t)
	const big, small = 8 << 20, 64 << 10
	random := func(n int) string {
		b := make([]byte, n)
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	dir := buildDir(t, map[string]string{
		"Dockerfile": "FROM busybox\nCOPY big small /\n", "big": random(big), "small": "one", "unasked": random(big), "ignored/big": random(big), ".dockerignore": "ignored\n",
	})
	host, sent := counted(t, d)
	build := func() int64 {
		before := sent.Load()
		cmd := d.Command(t.Context(), "holdfast", "build", "-t", "sent", dir)
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+host)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return sent.Load() - before
	}
	if n := build(); n < big || n > big+big/2 {
		t.Errorf("the first build sent %d bytes of a context of %d, of which half is asked for", n, 2*big)
	}
	if n := build(); n > small {
		t.Errorf("nothing changed, and %d bytes were sent", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "small"), []byte(random(small)), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := build(); n < small || n > 3*small {
		t.Errorf("%d bytes changed, and %d were sent", small, n)
	}
	equal(t, "what changed is in the image", d.Docker("run", "--rm", "sent", "wc", "-c", "/small"), fmt.Sprint(small, " /small"))
}

// What a failed step said can be read afterwards, and a build that is interrupted
// ends its step.
func TestBuildxFailuresAreKept(t *testing.T) {
	d := buildx(t)
	holdfast := testkit.RequireBin(t, "holdfast")
	r := holdfastBuild(t, d, buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo told before it failed; exit 7\n"}))
	if r.Code == 0 {
		t.Fatal(r)
	}
	last := func() (id, status string) {
		line, _, _ := strings.Cut(d.Holdfast("buildx", "history", "ls", "--format", "{{.Ref}} {{.Status}}"), "\n")
		ref, status, _ := strings.Cut(line, " ")
		return filepath.Base(ref), status
	}
	id, status := last()
	equal(t, "status", status, "Error")
	kept := d.Run("", holdfast, "buildx", "history", "logs", id)
	contains(t, "log of the failed build", kept.Out+kept.Err, "told before it failed")
	contains(t, "inspected", d.Holdfast("buildx", "history", "inspect", id), "exit code: 7")

	cmd := d.Command(t.Context(), holdfast, "build", "--progress", "plain", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo begun; sleep 4323\n"}))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	step := func() (string, error) { return cmdline("sleep\x004323") }
	d.Eventually(settle, "the step runs", func() (bool, string) { s, err := step(); return s != "", fmt.Sprint(err) })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("an interrupted build succeeded: %s", out.String())
	}
	d.Eventually(settle, "the step ends with its client", func() (bool, string) { s, err := step(); return s == "", s + fmt.Sprint(err) })
	d.Eventually(settle, "the build counts as canceled", func() (bool, string) {
		id, s := last()
		if s == "Running" {
			return false, s
		}
		s = d.Holdfast("buildx", "history", "inspect", id, "--format", "{{.Status}}")
		return s == "canceled", s
	})
}
