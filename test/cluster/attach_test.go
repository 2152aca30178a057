package cluster

import (
	"fmt"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// addrIn is a container's address in a network.
func addrIn(d *testkit.Daemon, network, name string) string {
	return try(d, "inspect", "-f", `{{with index .NetworkSettings.Networks "`+network+`"}}{{.IPAddress}}{{end}}`, name)
}

// found waits until the service client's container on d finds a name at the
// addresses; none: until the name leads nowhere.
func found(t *testing.T, d *testkit.Daemon, name string, want ...string) {
	t.Helper()
	d.Eventually(settle, fmt.Sprintf("%s at %v", name, want), func() (bool, string) {
		out := inTask(d, "client", "nettool lookup "+name)
		for _, a := range want {
			if !strings.Contains(" "+strings.Join(strings.Fields(out), " ")+" ", " "+a+" ") {
				return false, out
			}
		}
		return len(want) == lines(out) || len(want) == 0 && strings.Contains(out, "nettool: lookup "+name), out
	})
}

// containersJoin has containers that are no task's in the network shop of an
// overlaySwarm, and in a network that no service is on.
func containersJoin(t *testing.T, c *testkit.Cluster) {
	m, w2, w3 := c.Node(1), c.Node(2), c.Node(3)
	page := func(d *testkit.Daemon, name string, more ...string) {
		args := append([]string{"run", "-d", "--name", name, "--stop-timeout", "1"}, more...)
		d.Docker(append(args, "nettool", "nettool", "serve", ":80", name)...)
	}
	page(m, "first", "--network", "shop", "--network-alias", "both", "-p", "8099:80")
	page(w3, "third", "--network", "shop", "--network-alias", "both", "--restart", "always")
	first, third := addrIn(m, "shop", "first"), addrIn(w3, "shop", "third")
	for i := 1; i <= 3; i++ {
		d := c.Node(i)
		found(t, d, "first", first)
		found(t, d, "third", third)
		found(t, d, "both", first, third)
		for _, name := range []string{"first", "third"} {
			if out := inTask(d, "client", "nettool get http://"+name+"/"); out != name {
				t.Errorf("node %d: %s answers %q", i, name, out)
			}
		}
		// They find services as tasks do.
		if out := m.Docker("exec", "first", "sh", "-c", fmt.Sprintf(answers, "web")); lines(out) != 3 {
			t.Errorf("of web's tasks first finds %q", out)
		}
	}
	if got, err := pages(w2, "http://"+c.Addr(1)+":8099/", 1); err != nil || len(got) != 1 || got[0] != "first" {
		t.Errorf("published by a container in the network: %q %v", got, err)
	}

	// No address is given twice, and one of one's own is had if it is free.
	taken := make(chan testkit.Result, 1)
	go func() { taken <- w2.DockerResult("run", "--rm", "--network", "shop", "--ip", first, "nettool", "true") }() // only a manager knows: it takes its 20 s
	// What this node itself knows is said at once.
	m.DockerFails("address "+first+" on network shop is in use by container ", "run", "--rm", "--network", "shop", "--ip", first, "nettool", "true")
	m.DockerFails("no configured subnet contains IP address 192.0.2.77", "run", "--rm", "--network", "shop", "--ip", "192.0.2.77", "nettool", "true")
	own := first[:strings.LastIndex(first, ".")] + ".200"
	page(w2, "second")
	w2.Docker("network", "connect", "--ip", own, "--alias", "joined", "shop", "second")
	if got := addrIn(w2, "shop", "second"); got != own {
		t.Errorf("asked for %s, given %s", own, got)
	}
	found(t, m, "joined", own)
	w2.Docker("rename", "second", "renamed")
	found(t, m, "renamed", own)
	found(t, m, "second")
	w2.Docker("network", "disconnect", "shop", "renamed")
	found(t, m, "joined")

	// A daemon that is killed leaves the container where it is, and knows it again.
	w3.Kill()
	if out := m.Docker("exec", "first", "nettool", "get", "http://"+third+"/"); out != "third" {
		t.Errorf("with its daemon killed third answers %q", out)
	}
	w3.Start()
	found(t, m, "third", third)
	found(t, w3, "first", first)
	w3.Docker("run", "--rm", "--network", "shop", "nettool", "nettool", "get", "http://first/")
	if got := addrIn(w3, "shop", "third"); got != third {
		t.Errorf("third was at %s and is at %s", third, got)
	}
	w3.Docker("restart", "-t", "1", "third")
	found(t, m, "third", addrIn(w3, "shop", "third"))

	// The labels of a task make nobody one.
	m.Docker("network", "create", "-d", "overlay", "closed")
	for _, label := range []string{"a=b", "com.docker.swarm.task.id=x"} {
		m.DockerFails("Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable",
			"run", "--rm", "--label", label, "--network", "closed", "nettool", "true")
	}
	w2.DockerFails("Could not attach to network nowhere: rpc error: code = NotFound desc = network nowhere not found", "run", "--rm", "--network", "nowhere", "nettool", "true")
	m.DockerFails("a MAC address of one's own on network shop", "run", "--rm", "--network", "shop", "--mac-address", "02:00:00:00:00:01", "nettool", "true")
	m.Docker("network", "rm", "closed")

	// A network that no service is on comes to a node with its first container.
	m.Docker("network", "create", "-d", "overlay", "--attachable", "--internal", "--subnet", "10.200.0.0/24", "--subnet", "10.201.0.0/24", "bare")
	page(w2, "near", "--network", "bare", "--ip", "10.201.0.9")
	page(w3, "far", "--network", "bare")
	w3.Eventually(settle, "far reaches near in the other subnet", func() (bool, string) {
		out := try(w3, "exec", "far", "nettool", "get", "http://near/")
		return out == "near", out
	})
	m.DockerFails("is in use by task", "network", "rm", "bare")
	w2.Docker("rm", "-f", "near", "renamed")
	w3.Docker("rm", "-f", "far")
	m.Eventually(settle, "the network given back", func() (bool, string) {
		r := m.DockerResult("network", "rm", "bare")
		return r.Code == 0, r.String()
	})
	w2.Eventually(settle, "and gone from the node", func() (bool, string) {
		r := w2.DockerResult("network", "inspect", "bare")
		return r.Code != 0, r.String()
	})
	if r := <-taken; r.Code == 0 || !strings.Contains(r.Err, "attaching to network failed, make sure your network options are correct and check manager logs") {
		t.Errorf("with first's address: %s", r)
	}
	m.Docker("rm", "-f", "first")
	found(t, w2, "first")
	found(t, w2, "both", addrIn(w3, "shop", "third"))
}

// leavesWithContainers has a node leave while a container is in a network: it stays,
// out of the network, and its address is free again.
func leavesWithContainers(t *testing.T, c *testkit.Cluster) {
	m, w3 := c.Node(1), c.Node(3)
	third := addrIn(w3, "shop", "third")
	w3.Docker("swarm", "leave")
	if out := w3.Docker("inspect", "-f", "{{.State.Running}} {{len .NetworkSettings.Networks}}", "third"); out != "true 0" {
		t.Errorf("third after its node left: %s", out)
	}
	w3.Docker("rm", "-f", "third")
	m.Docker("run", "--rm", "--network", "shop", "--ip", third, "nettool", "true")
}
