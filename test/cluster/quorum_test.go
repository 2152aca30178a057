package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// Without a quorum the tasks run on, and commands say soon what is wrong and
// what to do; what they say to do helps.
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	c := swarm(t, 3, 3)
	last := c.Node(1)
	last.Docker("swarm", "update", "--dispatcher-heartbeat", "2s")
	last.Docker("node", "update", "--label-add", "a=b", "node1")
	last.Docker("service", "create", "--detach", "--name", "web", "--replicas", "3", "--restart-delay", "100ms", "--stop-grace-period", "1s", "busybox", "sleep", "1d")
	eventuallyOn(t, last, "web", "node1", "node2", "node3")
	before := tasks(last, "web")
	c.Node(2).Kill()
	c.Node(3).Kill()
	last.Eventually(settle, "the loss told", func() (bool, string) {
		began := time.Now()
		r := last.DockerResult("node", "ls")
		if took := time.Since(began); took > 20*time.Second { // 5 s, on a machine that is busy
			t.Fatalf("it took %v to say %s", took, r)
		}
		return r.Code != 0 && strings.Contains(r.Err, "The swarm does not have a leader.") && strings.Contains(r.Err, "--force-new-cluster"), r.String()
	})
	if now := tasks(last, "web"); !slices.Equal(before, now) {
		t.Errorf("tasks were touched: %v became %v", before, now)
	}
	last.Docker("swarm", "init", "--force-new-cluster")
	if out := last.Docker("node", "inspect", "-f", "{{.Spec.Labels.a}}", "node1"); out != "b" {
		t.Errorf("labels are lost: %q", out)
	}
	last.Eventually(2*settle, "all tasks on the node that is left", func() (bool, string) {
		got := placed(last, "web")
		return slices.Equal(got, []string{"node1", "node1", "node1"}), strings.Join(got, " ")
	})
	if now := tasks(last, "web"); !slices.Contains(now, before[0]) {
		t.Errorf("the task that ran on was bounced: %v became %v", before, now)
	}
}

// After a reboot the node's old tasks are gone and new ones run.
func TestReboot(t *testing.T) {
	t.Parallel()
	c := swarm(t, 2, 1)
	m, w := c.Node(1), c.Node(2)
	m.Docker("service", "create", "--detach", "--name", "agent", "--mode", "global", "--restart-delay", "100ms", "--stop-grace-period", "1s",
		"--mount", "type=volume,source=state,target=/s", "busybox", "sh", "-c", "echo x >> /s/starts; exec sleep 1d")
	eventuallyOn(t, m, "agent", "node1", "node2")
	old := tasks(w, "agent")
	c.Reboot(2)
	m.Eventually(settle, "a new task on node2", func() (bool, string) {
		now := tasks(w, "agent")
		return len(now) == 1 && now[0] != old[0], strings.Join(now, " ")
	})
	if out := w.Docker("run", "--rm", "-v", "state:/s", "busybox", "sh", "-c", "wc -l < /s/starts"); strings.TrimSpace(out) != "2" {
		t.Errorf("the volume saw %s starts", out)
	}
}

// The stock client without --detach watches the tasks until they are settled.
func TestClientWaitsAndFollows(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	out := d.Docker("service", "create", "--name", "web", "--replicas", "2", "--stop-grace-period", "1s", "--health-cmd", "true", "--health-interval", "200ms",
		"busybox", "sh", "-c", "echo hello; exec sleep 1d")
	if !strings.Contains(out, "verify: Service") {
		t.Errorf("service create says %s", out)
	}
	if got := len(tasks(d, "web")); got != 2 {
		t.Errorf("%d tasks run when the client returns", got)
	}
	if out := d.Docker("service", "scale", "web=1"); !strings.Contains(out, "verify: Service") {
		t.Errorf("service scale says %s", out)
	}
	r := d.Run("", "timeout", "20", "sh", "-c", "docker service logs --follow --raw web | head -1")
	if r.Out != "hello\n" {
		t.Errorf("followed logs: %s", r)
	}
	task := strings.Fields(d.Docker("service", "ps", "-q", "--filter", "desired-state=running", "web"))[0]
	if out := d.Docker("service", "logs", "--timestamps", "--tail", "1", task); !strings.Contains(out, "hello") || !strings.Contains(out, "Z web.1.") {
		t.Errorf("logs of the task: %s", out)
	}
	d.Docker("service", "create", "--name", "job", "--mode", "replicated-job", "--replicas", "3", "--max-concurrent", "2", "busybox", "true")
	replicas(t, d, "job", "0/2 (3/3 completed)")
}
