package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// The developers' cluster is used as they do.
func TestHfdev(t *testing.T) {
	t.Parallel()
	testkit.RequireRoot(t)
	testkit.RequireBin(t, "holdfastd")
	tmp := t.TempDir()
	program := filepath.Join(tmp, "hfdev")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/hfdev").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// A name of its own: another one may be up on this machine.
	name := "test" + strconv.Itoa(os.Getpid())
	hfdev := func(cmd string, args ...string) (string, error) {
		out, err := exec.Command(program, append([]string{cmd, "-name", name}, args...)...).CombinedOutput()
		return string(out), err
	}
	must := func(cmd string, args ...string) string {
		t.Helper()
		out, err := hfdev(cmd, args...)
		if err != nil {
			t.Fatalf("hfdev %s %v: %v\n%s", cmd, args, err, out)
		}
		return out
	}
	up := true
	t.Cleanup(func() {
		if up {
			_, _ = hfdev("down") // the test failed before it did
		}
	})
	must("up", "-n", "2")
	if out, err := hfdev("up"); err == nil || !strings.Contains(out, "is up already") {
		t.Errorf("up again: %v %s", err, out)
	}
	if out := must("exec", "node1", "docker", "node", "ls", "--format", "{{.Hostname}}/{{.Status}}"); strings.TrimSpace(out) != "node1/Ready\nnode2/Ready" {
		t.Errorf("in node1: %s", out)
	}
	if out := must("exec", "2", "hostname"); strings.TrimSpace(out) != "node2" {
		t.Errorf("in node2: %s", out)
	}
	if out := must("logs", "node2"); !strings.Contains(out, "joined a swarm") {
		t.Errorf("logs of node2: %s", out)
	}
	reach := []string{"bash", "-c", "exec 3<>/dev/tcp/10.99.0.1/2377"}
	must("exec", append([]string{"node2"}, reach...)...)
	must("kill", "node2")
	if out := must("ls"); !strings.Contains(out, "node2  10.99.0.2  down") {
		t.Errorf("after kill: %s", out)
	}
	must("start", "node2")
	must("partition", "node2")
	if out, err := hfdev("exec", append([]string{"node2", "timeout", "2"}, reach...)...); err == nil {
		t.Errorf("node2 is cut off and reaches node1: %s", out)
	}
	if out := must("ls"); !strings.Contains(out, "cut off") {
		t.Errorf("after partition: %s", out)
	}
	must("heal", "node2")
	must("exec", append([]string{"node2", "timeout", "20"}, reach...)...)
	must("stop", "node2")
	if out, err := hfdev("kill", "node3"); err == nil || !strings.Contains(out, "no node 3: there are 2") {
		t.Errorf("a node that there is not: %v %s", err, out)
	}
	must("down")
	up = false
	if out, err := hfdev("ls"); err == nil || !strings.Contains(out, "no cluster") {
		t.Errorf("after down: %v %s", err, out)
	}
}
