package cluster

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// build makes an image on one node, out of that node's busybox.
func build(t *testing.T, d *testkit.Daemon, name, says string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "context")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "FROM busybox\nRUN echo " + says + " > /says\nCMD [\"sh\", \"-c\", \"cat /says; exec sleep 1d\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Docker("build", "-q", "-t", name, dir)
}

// says is what the service's tasks on each node have written.
func says(c *testkit.Cluster, service string) []string {
	var out []string
	for i := 1; i <= c.Size(); i++ {
		var on []string
		for _, id := range tasks(c.Node(i), service) {
			on = append(on, strings.TrimSpace(c.Node(i).Docker("logs", id)))
		}
		out = append(out, strings.Join(on, ","))
	}
	return out
}

func eventuallySays(t *testing.T, c *testkit.Cluster, service string, want ...string) {
	t.Helper()
	m := c.Node(1)
	m.Eventually(settle, fmt.Sprintf("%s says %v", service, want), func() (bool, string) {
		got := says(c, service)
		return fmt.Sprint(got) == fmt.Sprint(want), fmt.Sprint(got) + "\n" + m.DockerResult("service", "ps", "--no-trunc", service).String()
	})
}

// Images that no registry has. No registry can be reached from these nodes.
func TestImagesOfTheSwarm(t *testing.T) {
	t.Parallel()
	c := testkit.NewCluster(t, testkit.ClusterOptions{Nodes: 3})
	c.Node(1).Image("busybox")
	c.Node(3).Image("busybox")
	c.Swarm(1)
	m := c.Node(1)
	image := func(service string) string {
		return m.Docker("service", "inspect", "-f", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", service)
	}
	id := func(d *testkit.Daemon, name string) string {
		return d.Docker("image", "inspect", "-f", "{{.Id}}", name)
	}

	// Built on the manager, it runs everywhere; and the service names just this image.
	build(t, m, "app:1", "one")
	first := id(m, "app:1")
	r := m.DockerResult("service", "create", "--detach", "--name", "app", "--mode", "global", "--stop-grace-period", "1s", "app:1")
	if r.Code != 0 || strings.Contains(r.Err, "could not be accessed") {
		t.Errorf("%s", r)
	}
	if got, want := image("app"), "app:1@"+first; got != want {
		t.Errorf("the service's image is %s, want %s", got, want)
	}
	eventuallySays(t, c, "app", "one", "one", "one")
	if got := id(c.Node(2), "app@"+first); got != first {
		t.Errorf("node2 has %s, node1 %s", got, first)
	}

	// Built again, the name means another image. What runs stays as it is, also on
	// the node where the name has moved, until the service is told.
	build(t, m, "app:1", "two")
	second := id(m, "app:1")
	if second == first {
		t.Fatal("the second build made the first image")
	}
	old := tasks(m, "app")
	m.Docker("kill", old[0])
	m.Eventually(settle, "another task", func() (bool, string) {
		now := tasks(m, "app")
		return len(now) == 1 && now[0] != old[0], fmt.Sprint(now)
	})
	eventuallySays(t, c, "app", "one", "one", "one")
	m.Docker("service", "update", "--detach", "--image", "app:1", "app")
	if got, want := image("app"), "app:1@"+second; got != want {
		t.Errorf("the service's image is %s, want %s", got, want)
	}
	eventuallySays(t, c, "app", "two", "two", "two")

	// Built on a worker, it is found by the manager too. The node that has it may
	// be gone once others have it.
	build(t, c.Node(3), "other", "three")
	m.Docker("service", "create", "--detach", "--name", "other", "--mode", "global", "--stop-grace-period", "1s", "other")
	if got, want := image("other"), "other:latest@"+id(c.Node(3), "other"); got != want {
		t.Errorf("the service's image is %s, want %s", got, want)
	}
	eventuallySays(t, c, "other", "three", "three", "three")

	// An image that nobody has.
	m.Docker("service", "create", "--detach", "--name", "none", "--restart-condition", "none", "nobody/has:it")
	m.Eventually(settle, "a task that tells why", func() (bool, string) {
		out := try(m, "service", "ps", "--no-trunc", "--format", "{{.Error}}", "none")
		return strings.Contains(out, "no other node of the swarm has nobody/has:it"), out
	})

	// A stack is rolled by deploying it again.
	file := write(t, m, "app.yml", "version: \"3.7\"\nservices:\n  web:\n    image: app:1\n    stop_grace_period: 1s\n    networks: [inside]\n    deploy: {mode: global}\nnetworks:\n  inside: {external: true, name: bridge}\n")
	m.Docker("stack", "deploy", "--detach", "-c", file, "s")
	eventuallySays(t, c, "s_web", "two", "two", "two")
	build(t, m, "app:1", "four")
	m.Docker("stack", "deploy", "--detach", "-c", file, "s")
	eventuallySays(t, c, "s_web", "four", "four", "four")

	// Pushed to the swarm, an image is on all nodes and stays there.
	m.Docker("tag", "app:1", "cluster/app:1")
	out := m.Docker("push", "cluster/app:1")
	for _, node := range []string{"node2", "node3"} {
		if !strings.Contains(out, node+": Pushed") {
			t.Errorf("push says %s", out)
		}
	}
	for i := 1; i <= c.Size(); i++ {
		c.Node(i).Docker("image", "prune", "--all", "--force")
		if got := id(c.Node(i), "cluster/app:1"); got != id(m, "cluster/app:1") {
			t.Errorf("node%d has %s", i, got)
		}
	}
	c.Node(2).DockerFails("This node is not a swarm manager", "push", "cluster/app:1")
	m.DockerFails("does not exist locally with the tag: cluster/none:1", "push", "cluster/none:1")

	// A stranger who reaches the port is told nothing.
	raw, err := c.Node(2).Dial("tcp", c.Addr(1)+":2378")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if _, err = conn.Write([]byte("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a client without a certificate: %v", err)
	}
}
