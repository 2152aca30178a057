package cluster

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// serveName is a task that answers with its name, and with 100 KB on port 81.
const serveName = `nettool serve :81 "$(head -c 100000 /dev/zero | tr '\0' x)" & exec nettool serve :80 $(hostname)`

// inTask runs a shell command in a container of a service on a node.
func inTask(d *testkit.Daemon, service, script string) string {
	ids := strings.Fields(try(d, "ps", "-q", "--filter", "label=com.docker.swarm.service.name="+service))
	if len(ids) == 0 {
		return "no container of " + service
	}
	r := d.DockerResult("exec", ids[0], "sh", "-c", script)
	if r.Code != 0 {
		return r.String()
	}
	return strings.TrimSpace(r.Out)
}

// lines is a text's number of lines.
func lines(s string) int { return len(strings.Fields(s)) }

// pages are the answers to a number of requests out of a node, each once.
func pages(d *testkit.Daemon, url string, n int) ([]string, error) {
	var got []string
	for range n {
		resp, err := d.HTTP().Get(url)
		if err != nil {
			return got, err
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return got, err
		}
		got = append(got, strings.TrimSpace(string(b)))
	}
	slices.Sort(got)
	return slices.Compact(got), nil
}

// overlaySwarm is a cluster with an attachable network, a service web in it with
// a task on each node, and one client container on each node.
func overlaySwarm(t *testing.T, nodes int) *testkit.Cluster {
	t.Helper()
	c := testkit.NewCluster(t, testkit.ClusterOptions{Nodes: nodes})
	for i := 1; i <= nodes; i++ {
		c.Node(i).Image("nettool")
	}
	c.Swarm(1)
	m := c.Node(1)
	m.Docker("network", "create", "-d", "overlay", "--attachable", "shop")
	m.Docker("service", "create", "--detach", "--name", "web", "--network", "shop", "--replicas", strconv.Itoa(nodes), "--publish", "8080:80", "--stop-grace-period", "1s",
		"--restart-delay", "200ms", "nettool", "sh", "-c", serveName)
	m.Docker("service", "create", "--detach", "--name", "rr", "--network", "shop", "--replicas", strconv.Itoa(nodes), "--endpoint-mode", "dnsrr", "--stop-grace-period", "1s",
		"nettool", "sh", "-c", serveName)
	m.Docker("service", "create", "--detach", "--name", "client", "--network", "shop", "--mode", "global", "--stop-grace-period", "1s", "nettool", "sleep", "1d")
	all := fmt.Sprintf("%d/%d", nodes, nodes)
	replicas(t, m, "web", all)
	replicas(t, m, "rr", all)
	replicas(t, m, "client", all)
	return c
}

// answers are the names of who answers a number of requests, each once.
const answers = `for i in $(seq 60); do nettool get http://%s/ && echo; done | sort -u`

func TestOverlay(t *testing.T) {
	t.Parallel()
	c := overlaySwarm(t, 3)
	m := c.Node(1)
	for i := 1; i <= 3; i++ {
		d := c.Node(i)
		here := fmt.Sprintf("from node %d: ", i)
		vip := inTask(d, "client", "nettool lookup web")
		d.Eventually(settle, here+"all tasks by name", func() (bool, string) {
			out := inTask(d, "client", "nettool lookup tasks.web; nettool lookup rr")
			return lines(out) == 6 && !strings.Contains(out, vip), out
		})
		for _, name := range []string{"web", "rr"} {
			d.Eventually(settle, here+"three tasks of "+name+" answer", func() (bool, string) {
				out := inTask(d, "client", fmt.Sprintf(answers, name))
				return lines(out) == 3, out
			})
		}
		if out := inTask(d, "client", "for a in $(nettool lookup tasks.web); do nettool get http://$a:81/ | tr -dc x | wc -c; done"); out != "100000\n100000\n100000" {
			t.Errorf("%s100 KB of each task: %s", here, out)
		}
		// The port of every node leads to all tasks, from this node and from others.
		for _, at := range []string{"127.0.0.1", c.Addr(i), c.Addr(i%3 + 1)} {
			d.Eventually(settle, here+"three tasks answer at "+at, func() (bool, string) {
				got, err := pages(d, "http://"+at+":8080/", 30)
				return err == nil && len(got) == 3, fmt.Sprint(got, err)
			})
		}
	}
	containersJoin(t, c)
	m.DockerFails("is in use by service", "network", "rm", "shop")
	leavesWithContainers(t, c)
	m.Docker("service", "rm", "web", "rr", "client")
	for i := 1; i <= 3; i++ {
		d, ingress := c.Node(i), 1
		if i == 3 {
			ingress = 0 // it has left
		}
		d.Eventually(settle, "nothing of the network left", func() (bool, string) {
			out := d.Exec("sh", "-c", "ip -o link show type vxlan; nft list ruleset | grep 8080 || true")
			return strings.Count(out, "\n") == ingress, out
		})
	}
	m.Docker("network", "rm", "shop")
}
