package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// swarm is a cluster of that many nodes in one swarm, with the busybox image.
func swarm(t *testing.T, nodes, managers int) *testkit.Cluster {
	t.Helper()
	c := testkit.NewCluster(t, testkit.ClusterOptions{Nodes: nodes})
	for i := 1; i <= nodes; i++ {
		c.Node(i).Image("busybox")
	}
	c.Swarm(managers)
	return c
}

// try is what a command prints, or how it failed: while managers elect a leader
// commands fail for a moment.
func try(d *testkit.Daemon, args ...string) string {
	r := d.DockerResult(args...)
	if r.Code != 0 {
		return r.String()
	}
	return strings.TrimSpace(r.Out)
}

// placed lists the nodes on which tasks of a service run, sorted.
func placed(d *testkit.Daemon, service string) []string {
	out := try(d, "service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}", service)
	var nodes []string
	for line := range strings.Lines(out) {
		if node, state, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(state, "Running") {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

func eventuallyOn(t *testing.T, d *testkit.Daemon, service string, want ...string) {
	t.Helper()
	d.Eventually(settle, fmt.Sprintf("%s on %v", service, want), func() (bool, string) {
		got := placed(d, service)
		return slices.Equal(got, want), fmt.Sprint(got) + "\n" + d.DockerResult("service", "ps", "--no-trunc", service).String()
	})
}

// The notes' example, as far as it needs no network across nodes: node labels, the
// constraints of its services, and a fourth node labelled later.
func TestTheNotesConstraints(t *testing.T) {
	t.Parallel()
	c := swarm(t, 4, 1)
	m := c.Node(1)
	m.Eventually(settle, "four nodes ready", func() (bool, string) {
		out := m.Docker("node", "ls", "--format", "{{.Hostname}}/{{.Status}}/{{.ManagerStatus}}")
		return out == "node1/Ready/Leader\nnode2/Ready/\nnode3/Ready/\nnode4/Ready/", out
	})
	service := func(name, constraint string, more ...string) {
		args := append([]string{
			"service", "create", "--detach", "--name", name, "--constraint", constraint, "--stop-grace-period", "1s",
			"--mount", "type=volume,source=postgres-" + name + ",target=/var/lib/postgresql/data",
		}, more...)
		m.Docker(append(args, "busybox", "sh", "-c", "hostname > /var/lib/postgresql/data/who; exec sleep 1d")...)
	}
	service("master", "node.labels.postgres==master", "--replicas", "1", "--hostname", "{{.Node.Hostname}}-{{.Task.Slot}}")
	service("slave", "node.labels.postgres==slave", "--mode", "global")
	m.Eventually(settle, "the master waiting for a node", func() (bool, string) {
		out := m.Docker("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "master")
		return strings.Contains(out, "Pending") && strings.Contains(out, "no suitable node"), out
	})
	m.Docker("node", "update", "--label-add", "postgres=master", "node1")
	m.Docker("node", "update", "--label-add", "postgres=slave", "node2")
	m.Docker("node", "update", "--label-add", "postgres=slave", "node3")
	eventuallyOn(t, m, "master", "node1")
	eventuallyOn(t, m, "slave", "node2", "node3")

	// Volumes are local to the node, and made there when the task starts.
	if got := c.Node(1).Docker("volume", "ls", "-q"); got != "postgres-master" {
		t.Errorf("volumes of node1: %q", got)
	}
	if got := c.Node(4).Docker("volume", "ls", "-q"); got != "" {
		t.Errorf("volumes of node4: %q", got)
	}
	if got := c.Node(1).Docker("run", "--rm", "-v", "postgres-master:/d", "busybox", "cat", "/d/who"); got != "node1-1" {
		t.Errorf("the master's hostname is %q", got)
	}
	m.Docker("node", "update", "--label-add", "postgres=slave", "node4")
	eventuallyOn(t, m, "slave", "node2", "node3", "node4")
	m.Docker("node", "update", "--label-rm", "postgres", "node2")
	eventuallyOn(t, m, "slave", "node3", "node4")

	if out := m.Docker("node", "ps", "node1", "--format", "{{.Name}}"); out != "master.1" {
		t.Errorf("node ps says %q", out)
	}
	c.Node(2).DockerFails("Worker nodes can't be used to view or modify cluster state", "node", "ls")
	// The image is on no registry: the client says so and goes on.
	m.Docker("service", "rm", "master", "slave")
}

func TestWorkerLost(t *testing.T) {
	t.Parallel()
	c := swarm(t, 4, 3)
	m := c.Node(1)
	m.Docker("swarm", "update", "--dispatcher-heartbeat", "2s")
	m.Docker("service", "create", "--detach", "--name", "web", "--replicas", "4", "--restart-delay", "100ms", "--stop-grace-period", "1s", "busybox", "sleep", "1d")
	replicas(t, m, "web", "4/4")
	eventuallyOn(t, m, "web", "node1", "node2", "node3", "node4")
	old := tasks(c.Node(4), "web")

	// A killed daemon's tasks are started elsewhere; when it is back, its own end.
	c.Node(4).Kill()
	m.Eventually(settle, "node4 down", func() (bool, string) {
		out := try(m, "node", "inspect", "-f", "{{.Status.State}}", "node4")
		return out == "down", out
	})
	m.Eventually(settle, "four tasks without node4", func() (bool, string) {
		got := placed(m, "web")
		return len(got) == 4 && !slices.Contains(got, "node4"), fmt.Sprint(got)
	})
	c.Node(4).Start()
	m.Eventually(settle, "the old tasks of node4 gone", func() (bool, string) {
		got := tasks(c.Node(4), "web")
		return !slices.ContainsFunc(got, func(id string) bool { return slices.Contains(old, id) }), fmt.Sprint(got)
	})

	// So does one that is cut off; until it is back its tasks run on.
	c.Partition(3)
	m.Eventually(settle, "four tasks without node3", func() (bool, string) {
		got := placed(m, "web")
		return len(got) == 4 && !slices.Contains(got, "node3"), fmt.Sprint(got)
	})
	c.Heal(3)
	m.Eventually(settle, "node3 ready", func() (bool, string) {
		out := try(m, "node", "inspect", "-f", "{{.Status.State}}", "node3")
		return out == "ready", out
	})

	// The leader is killed: another manager goes on.
	other := c.Node(2)
	m.Kill()
	other.Eventually(settle, "a new leader", func() (bool, string) {
		r := other.DockerResult("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		return r.Code == 0 && (strings.Contains(r.Out, "node2 Leader") || strings.Contains(r.Out, "node3 Leader")), r.String()
	})
	m.Start()
	replicas(t, other, "web", "4/4")
	// Drained, a node gives its tasks away.
	other.Docker("node", "update", "--availability", "drain", "node4")
	other.Eventually(settle, "nothing on node4", func() (bool, string) {
		got := placed(other, "web")
		return len(got) == 4 && !slices.Contains(got, "node4"), fmt.Sprint(got)
	})
}

func TestJoinIsRefusedPlainly(t *testing.T) {
	t.Parallel()
	c := testkit.NewCluster(t, testkit.ClusterOptions{Nodes: 3})
	a, b, other := c.Node(1), c.Node(2), c.Node(3)
	a.Docker("swarm", "init")
	other.Docker("swarm", "init")
	b.DockerFails("remote CA does not match fingerprint", "swarm", "join", "--token", other.Docker("swarm", "join-token", "-q", "worker"), c.Addr(1))
	token := a.Docker("swarm", "join-token", "-q", "worker")
	b.DockerFails("connection refused", "swarm", "join", "--token", token, c.Addr(1)+":2399")
	b.DockerFails("invalid join token", "swarm", "join", "--token", "SWMTKN-1-nonsense", c.Addr(1))
	bad := token[:len(token)-4] + "0000"
	b.DockerFails("A valid join token is necessary to join this cluster", "swarm", "join", "--token", bad, c.Addr(1))
	// Nothing of these stays in the way.
	b.Docker("swarm", "join", "--token", token, c.Addr(1))
	if got := b.Docker("info", "-f", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.NodeAddr}}"); got != "active false "+c.Addr(2) {
		t.Errorf("info says %q", got)
	}
	a.Docker("swarm", "join-token", "--rotate", "worker")
	if now := a.Docker("swarm", "join-token", "-q", "worker"); now == token {
		t.Error("the token did not change")
	}
	a.Docker("node", "promote", "node2")
	b.Eventually(settle, "node2 a manager", func() (bool, string) {
		r := b.DockerResult("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		return strings.Contains(r.Out, "node2 Reachable"), r.String()
	})
	a.Docker("node", "demote", "node2")
	b.Eventually(settle, "node2 a worker", func() (bool, string) {
		out := b.Docker("info", "-f", "{{.Swarm.ControlAvailable}}")
		return out == "false", out
	})
	b.Docker("swarm", "leave")
	a.Eventually(settle, "node2 removed", func() (bool, string) {
		r := a.DockerResult("node", "rm", "node2")
		return r.Code == 0, r.String()
	})
}

// New root certificate, same swarm: every node gets a certificate of the new one.
func TestRotateCA(t *testing.T) {
	t.Parallel()
	c := swarm(t, 3, 2)
	m := c.Node(1)
	m.Docker("service", "create", "--detach", "--name", "agent", "--mode", "global", "--stop-grace-period", "1s", "busybox", "sleep", "1d")
	eventuallyOn(t, m, "agent", "node1", "node2", "node3")
	before := [][]string{tasks(c.Node(1), "agent"), tasks(c.Node(2), "agent"), tasks(c.Node(3), "agent")}
	old, token := m.Docker("swarm", "ca"), m.Docker("swarm", "join-token", "-q", "worker")
	m.Docker("swarm", "ca", "--rotate", "--quiet")
	if now := m.Docker("swarm", "ca"); now == old || !strings.Contains(now, "BEGIN CERTIFICATE") {
		t.Errorf("the certificate is %s", now)
	}
	if m.Docker("swarm", "join-token", "-q", "worker") == token {
		t.Error("the token still has the old certificate's digest")
	}
	for i, want := range before {
		if got := tasks(c.Node(i+1), "agent"); !slices.Equal(got, want) {
			t.Errorf("node%d: task %v became %v", i+1, want, got)
		}
	}
	// Nodes that restart come back with the new one.
	c.Node(3).Restart()
	c.Node(2).KillAndStart()
	m.Eventually(settle, "all nodes ready", func() (bool, string) {
		out := try(m, "node", "ls", "--format", "{{.Hostname}}/{{.Status}}/{{.ManagerStatus}}/{{.TLSStatus}}")
		return out == "node1/Ready/Leader/Ready\nnode2/Ready/Reachable/Ready\nnode3/Ready//Ready", out
	})
}
