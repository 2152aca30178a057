package testkit_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// engines runs the body against ours and, where it is installed, Docker's daemon:
// a harness that only knows one engine hides that engine's mistakes.
func engines(t *testing.T, body func(t *testing.T, e testkit.Engine)) {
	for _, e := range []testkit.Engine{testkit.Holdfastd, testkit.Dockerd} {
		t.Run(string(e), func(t *testing.T) { body(t, e) })
	}
}

func TestDaemonRunsAContainer(t *testing.T) {
	engines(t, func(t *testing.T, e testkit.Engine) {
		d := testkit.New(t, testkit.Options{Engine: e})
		d.Image("busybox")
		if got := d.Docker("run", "--rm", "busybox", "echo", "hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
	})
}

func TestNamespaceOutlivesTheDaemon(t *testing.T) {
	d := testkit.New(t)
	d.Exec("ip", "link", "add", "marker", "type", "bridge")
	d.KillAndStart()
	if links := d.Exec("ip", "-o", "link"); !strings.Contains(links, "marker") {
		t.Errorf("the namespace was not kept: %s", links)
	}
	d.Exec("ip", "link", "del", "marker")
	if _, err := os.Stat("/sys/class/net/docker0"); err == nil {
		t.Error("the daemon's bridge is in the machine's namespace")
	}
}

func TestListenAndForwardReachTheNamespace(t *testing.T) {
	d := testkit.New(t, testkit.Options{Stopped: true, IgnoreLeftovers: true})
	l := d.Listen("tcp", "127.0.0.1:8081")
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, "inside")
		_ = c.Close()
	}()
	c, err := net.Dial("tcp", d.Forward("127.0.0.1:8081"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got string
	if _, err := fmt.Fscan(c, &got); err != nil || got != "inside" {
		t.Errorf("got %q, %v", got, err)
	}
}
