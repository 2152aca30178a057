package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestLogs(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--name", "ll", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done; printf unterminated")
	r := d.DockerResult("logs", "ll")
	equal(t, "stdout", r.Out, "out1\nout2\nout3\nout4\nout5\nunterminated")
	equal(t, "stderr", r.Err, "err1\nerr2\nerr3\nerr4\nerr5\n")
	// Of two streams nobody knows which line came last: the tail of both is told by
	// its length, that of one by its lines.
	r = d.DockerResult("logs", "--tail", "2", "ll")
	if n := len(strings.Fields(r.Out + "\n" + r.Err)); n != 2 {
		t.Errorf("tail 2: %s", r)
	}
	d.Docker("run", "--name", "one", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo out$i; done; printf unterminated")
	equal(t, "tail 2 of one stream", d.DockerResult("logs", "--tail", "2", "one").Out, "out5\nunterminated")
	equal(t, "tail 0", d.Docker("logs", "--tail", "0", "ll"), "")
	for line := range strings.Lines(d.Docker("logs", "-t", "ll")) {
		stamp, _, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			t.Errorf("timestamp: %v", err)
		}
	}
	for query, want := range map[string]string{"stdout=1": "out1", "stderr=1": "err1"} {
		code, body := d.API(http.MethodGet, "/containers/ll/logs?"+query, nil)
		var out, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &errs, bytes.NewReader(body)); err != nil || code != 200 {
			t.Errorf("%s: %d %v", query, code, err)
		}
		if got := out.String() + errs.String(); !strings.HasPrefix(got, want) || out.Len() > 0 && errs.Len() > 0 {
			t.Errorf("%s: %q %q", query, out.String(), errs.String())
		}
	}
	if code, body := d.API(http.MethodGet, "/containers/ll/logs", nil); code != 400 {
		t.Errorf("no stream chosen: %d %s", code, body)
	}
}

func TestLogsSinceUntilFollow(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "ff", "busybox", "sh", "-c", "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; while [ ! -e /end ]; do sleep 0.05; done; echo third")
	waitLog(d, "ff", "first")
	stamp, _, _ := strings.Cut(d.Docker("logs", "-t", "ff"), " ")
	first, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		t.Fatal(err)
	}
	split := first.Add(time.Nanosecond).Format(time.RFC3339Nano)
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	follow := d.Command(ctx, "docker", "logs", "-f", "ff")
	var followed bytes.Buffer
	follow.Stdout = &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	d.Docker("exec", "ff", "touch", "/go")
	waitLog(d, "ff", "second")
	equal(t, "since", d.Docker("logs", "--since", split, "ff"), "second")
	equal(t, "until", d.Docker("logs", "--until", split, "ff"), "first")
	d.Docker("exec", "ff", "touch", "/end")
	if err := follow.Wait(); err != nil {
		t.Fatalf("follow ends with the container: %v", err)
	}
	equal(t, "followed", followed.String(), "first\nsecond\nthird\n")
}

func TestLogsAreComplete(t *testing.T) {
	d := daemon(t)
	const lines = 20000
	d.Docker("run", "--name", "many", "busybox", "sh", "-c", fmt.Sprintf("seq 1 %d", lines))
	out := strings.Split(d.Docker("logs", "many"), "\n")
	if len(out) != lines || out[0] != "1" || out[lines-1] != fmt.Sprint(lines) {
		t.Errorf("%d lines, %q … %q", len(out), out[0], out[len(out)-1])
	}
	// One line longer than any buffer comes back whole.
	d.Docker("run", "--name", "long", "busybox", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo")
	if n := len(d.Docker("logs", "long")); n != 100000 {
		t.Errorf("long line: %d bytes", n)
	}
}

func TestAttach(t *testing.T) {
	d := daemon(t)
	d.Docker("create", "-i", "--name", "aa", "busybox", "sh", "-c", "while read line; do echo got $line; echo e-$line >&2; done; echo bye")
	r := d.Run("one\ntwo\n", "docker", "start", "-ai", "aa")
	if r.Out != "got one\ngot two\nbye\n" || r.Err != "e-one\ne-two\n" || r.Code != 0 {
		t.Errorf("%s", r)
	}
	up(d, "--name", "out", "busybox", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; echo late; exit 3")
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	attach := d.Command(ctx, "docker", "attach", "--no-stdin", "out")
	pipe, err := attach.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	d.Docker("exec", "out", "touch", "/go")
	late, err := io.ReadAll(pipe)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "attached", string(late), "late\n")
	if err := attach.Wait(); attach.ProcessState.ExitCode() != 3 {
		t.Errorf("attach ends with the container's exit code: %v", err)
	}
	notOnTwin(t, "the client speaks newer versions only")
	// Through the moby client: raw streams with a terminal, detached by keys.
	up(d, "-it", "--name", "tty", "busybox", "sh")
	att, err := d.Client().ContainerAttach(ctx, "tty", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Close()
	if _, err := att.Conn.Write([]byte("echo $((40+2))\n")); err != nil {
		t.Fatal(err)
	}
	var seen []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(seen, []byte("42")) {
		n, err := att.Reader.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
		seen = append(seen, buf[:n]...)
	}
	if _, err := att.Conn.Write([]byte{16, 17}); err != nil { // ctrl-p ctrl-q
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, att.Reader); err != nil {
		t.Fatalf("detach: %v", err)
	}
	equal(t, "runs on", format(d, "tty", "{{.State.Status}}"), "running")
}

func TestExec(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "ee", "-e", "BASE=1", "busybox", "sleep", "600")
	r := d.DockerResult("exec", "-e", "X=2", "-w", "/tmp", "-u", "www", "ee", "sh", "-c", `echo $BASE $X $(pwd) $(id -u); echo oops >&2; exit 5`)
	if r.Out != "1 2 /tmp 33\n" || r.Err != "oops\n" || r.Code != 5 {
		t.Errorf("%s", r)
	}
	// The client asks for the code the moment the output ends: it must be known.
	for range 20 {
		if r := d.DockerResult("exec", "ee", "sh", "-c", "exit 9"); r.Code != 9 {
			t.Fatalf("exit code: %s", r)
		}
	}
	r = d.Run("through\n", "docker", "exec", "-i", "ee", "cat")
	equal(t, "stdin", r.Out, "through\n")
	contains(t, "terminal", d.Docker("exec", "-t", "ee", "tty"), "/dev/pts/")
	d.Docker("exec", "-d", "ee", "touch", "/detached")
	d.Eventually(settle, "detached exec ran", func() (bool, string) {
		r := d.DockerResult("exec", "ee", "ls", "/detached")
		return r.Code == 0, r.String()
	})
	if r := d.DockerResult("exec", "ee", "/nothing"); r.Code != 127 && r.Code != 126 {
		t.Errorf("missing program: %s", r)
	}
	d.DockerFails("No such container: nobody", "exec", "nobody", "true")
	d.Docker("create", "--name", "idle", "busybox")
	d.DockerFails("is not running", "exec", "idle", "true")
	// inspect of an exec, while and after it runs
	code, body := d.API(http.MethodPost, "/containers/ee/exec", `{"Cmd":["sh","-c","exit 6"],"AttachStdout":true}`)
	var made struct{ ID string }
	decode(t, body, &made)
	if code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	if code, body := d.API(http.MethodPost, "/exec/"+made.ID+"/start", `{"Detach":true}`); code != 200 {
		t.Fatalf("start: %d %s", code, body)
	}
	d.Eventually(settle, "exec ended with 6", func() (bool, string) {
		_, body := d.API(http.MethodGet, "/exec/"+made.ID+"/json", nil)
		var s struct {
			Running  bool
			ExitCode *int
		}
		decode(t, body, &s)
		return !s.Running && s.ExitCode != nil && *s.ExitCode == 6, string(body)
	})
	if code, body := d.API(http.MethodPost, "/exec/"+made.ID+"/start", `{"Detach":true}`); code != 409 {
		t.Errorf("start twice: %d %s", code, body)
	}
	if code, body := d.API(http.MethodGet, "/exec/feedbeef/json", nil); code != 404 || !strings.Contains(string(body), "No such exec instance: feedbeef") {
		t.Errorf("unknown exec: %d %s", code, body)
	}
}

// Clients such as docker-py read the header through a buffer that they then
// drop: what comes in one read with the header is lost to them.
func TestHijackedOutputComesAfterTheHeader(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "hh", "busybox", "sh", "-c", "echo logged; sleep 600")
	waitLog(d, "hh", "logged")
	start := func(path, body string) string {
		c, err := d.DialAPI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		buf := make([]byte, 8192)
		n, err := c.Read(buf)
		if err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
			t.Fatalf("the first read of %s has more than the header: %q, %v", path, buf[:n], err)
		}
		n, err = c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	for range 10 {
		_, body := d.API(http.MethodPost, "/containers/hh/exec", `{"Cmd":["echo","said"],"AttachStdout":true}`)
		var made struct{ ID string }
		decode(t, body, &made)
		contains(t, "exec", start("/exec/"+made.ID+"/start", `{"Detach":false,"Tty":false}`), "said")
		contains(t, "attach", start("/containers/hh/attach?logs=1&stdout=1&stream=1", ""), "logged")
	}
}

func TestResize(t *testing.T) {
	d := daemon(t)
	up(d, "-t", "--name", "sz", "busybox", "sleep", "600")
	if code, body := d.API(http.MethodPost, "/containers/sz/resize?h=30&w=90", nil); code != 200 {
		t.Errorf("resize: %d %s", code, body)
	}
	if code, body := d.API(http.MethodPost, "/containers/sz/resize?h=x&w=90", nil); code != 400 {
		t.Errorf("bad size: %d %s", code, body)
	}
	equal(t, "size", d.Docker("exec", "sz", "sh", "-c", "stty size < /dev/pts/0"), "30 90")
}

func TestDiff(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--name", "dd", "busybox", "sh", "-c", "echo x >> /etc/group; rm /etc/passwd; mkdir /new; echo y > /new/file; echo z > /tmp/t")
	got := strings.Split(d.Docker("diff", "dd"), "\n")
	want := map[string]bool{"C /etc": true, "C /etc/group": true, "D /etc/passwd": true, "A /new": true, "A /new/file": true, "C /tmp": true, "A /tmp/t": true}
	for _, l := range got {
		if !want[l] && !strings.Contains(l, "/root") {
			t.Errorf("unexpected %q", l)
		}
		delete(want, l)
	}
	if len(want) > 0 {
		t.Errorf("missing %v among %q", want, got)
	}
}

func TestCopyBothWays(t *testing.T) {
	d := daemon(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"file": "alone", "tree/a": "A", "tree/sub/b": "B"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"running", "created"} {
		t.Run(state, func(t *testing.T) {
			name := "cp-" + state
			d.Docker("create", "--name", name, "-v", "cpvol-"+state+":/vol", "busybox", "sleep", "600")
			if state == "running" {
				d.Docker("start", name)
			}
			d.Docker("cp", filepath.Join(dir, "file"), name+":/tmp/renamed")
			d.Docker("cp", filepath.Join(dir, "tree"), name+":/tmp")
			d.Docker("cp", filepath.Join(dir, "file"), name+":/vol/")
			back := t.TempDir()
			d.Docker("cp", name+":/tmp/tree", back)
			d.Docker("cp", name+":/vol/file", filepath.Join(back, "fromvol"))
			for p, want := range map[string]string{"tree/a": "A", "tree/sub/b": "B", "fromvol": "alone", "tree/link": "A"} {
				b, err := os.ReadFile(filepath.Join(back, p))
				if err != nil || string(b) != want {
					t.Errorf("%s: %q, %v", p, b, err)
				}
			}
			if l, err := os.Readlink(filepath.Join(back, "tree/link")); err != nil || l != "a" {
				t.Errorf("link: %q, %v", l, err)
			}
			r := d.Run("", "sh", "-c", "tar -C "+dir+" -c file | "+testkit.RequireProgram(t, "docker")+" cp - "+name+":/root && "+testkit.RequireProgram(t, "docker")+" cp "+name+":/root/file - | tar -xO")
			equal(t, "through pipes", r.Out, "alone")
			d.DockerFails("Could not find the file /absent in container "+name, "cp", name+":/absent", back)
		})
	}
	if code, body := d.API(http.MethodHead, "/containers/cp-created/archive?path=/etc/passwd", nil); code != 200 || len(body) != 0 {
		t.Errorf("stat: %d %s", code, body)
	}
}

func TestExport(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--name", "ex", "-v", "exv:/vol", "busybox", "sh", "-c", "echo in-layer > /made; echo v > /vol/x; rm /etc/group")
	file := filepath.Join(t.TempDir(), "ex.tar")
	d.Docker("export", "-o", file, "ex")
	out, err := exec.Command("tar", "-tf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for want, there := range map[string]bool{"made": true, "bin/busybox": true, "etc/group": false, "vol/x": false} {
		if strings.Contains("\n"+string(out), "\n"+want+"\n") != there {
			t.Errorf("%s there: %v", want, !there)
		}
	}
	d.Docker("import", "-c", `CMD ["cat","/made"]`, file, "exported:v1")
	equal(t, "imported", d.Docker("run", "--rm", "exported:v1"), "in-layer")
}

// A client that wants a stream which the process gave up stays until the end:
// only then is there an exit code to ask for.
func TestStreamsOutliveWhatIsClosed(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "mute", "busybox", "sleep", "600")
	r := d.DockerResult("exec", "mute", "sh", "-c", "exec >/dev/null 2>&1; sleep 4; exit 7")
	if r.Code != 7 {
		t.Errorf("exec without output: %s", r)
	}
	r = d.Run("hello\n", "docker", "run", "--rm", "-i", "busybox", "sh", "-c", "exec >&2; cat; sleep 1; exit 8")
	if r.Code != 8 || r.Err != "hello\n" {
		t.Errorf("run without stdout: %s", r)
	}
	code, body := d.API("POST", "/containers/nosuch/attach?stream=1&stdout=1", nil)
	if code != 404 || string(body) != "No such container: nosuch\r\n" {
		t.Errorf("attach to nothing: %d %q", code, body)
	}
	d.Docker("pause", "mute")
	d.DockerFails("Container mute is paused, unpause the container before exec", "exec", "mute", "true")
	d.Docker("unpause", "mute")
}

func TestCopyWhatTheDaemonWrote(t *testing.T) {
	d := daemon(t)
	d.Docker("create", "--name", "early", "-w", "/made/by/create", "busybox", "true")
	dir := t.TempDir()
	d.Docker("cp", "early:/made/by/create", dir)
	d.Docker("run", "--name", "late", "busybox", "cp", "/etc/resolv.conf", "/kept")
	d.Docker("cp", "late:/etc/resolv.conf", dir+"/resolv")
	d.Docker("cp", "late:/kept", dir+"/kept")
	a, err := os.ReadFile(dir + "/resolv")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/kept")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "resolv.conf of a stopped container", string(a), string(b))
}
