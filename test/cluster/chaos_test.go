package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Every node in turn is killed, cut off or loses power while services run. At
// the end each slot has one task, each task one container, and nothing is left
// on any node of those that were replaced.
func TestChaosEveryNodeInTurn(t *testing.T) {
	c := swarm(t, 3, 3)
	c.Node(1).Docker("swarm", "update", "--dispatcher-heartbeat", "2s", "--task-history-limit", "2")
	for i := range 3 {
		c.Node(1).Docker("service", "create", "--detach", "--name", fmt.Sprintf("web%d", i), "--replicas", "3", "--restart-delay", "100ms", "--stop-grace-period", "1s",
			"--mount", fmt.Sprintf("type=volume,source=data%d,target=/d", i), "busybox", "sleep", "1d")
	}
	settled := func(node int) {
		t.Helper()
		d := c.Node(node)
		d.Eventually(2*settle, "three services of three tasks", func() (bool, string) {
			out := try(d, "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
			return out == "web0 3/3\nweb1 3/3\nweb2 3/3", out
		})
	}
	settled(1)
	for i := 1; i <= 3; i++ {
		other := i%3 + 1
		name := fmt.Sprintf("node%d", i)
		moved := func() {
			c.Node(other).Eventually(2*settle, "all tasks off "+name, func() (bool, string) {
				var on []string
				for s := range 3 {
					on = append(on, placed(c.Node(other), fmt.Sprintf("web%d", s))...)
				}
				return len(on) == 9 && !slices.Contains(on, name), strings.Join(on, " ")
			})
		}
		switch i {
		case 1:
			c.Node(i).Kill()
			moved()
			c.Node(i).Start()
		case 2:
			c.Partition(i)
			moved()
			c.Heal(i)
		case 3:
			c.Reboot(i)
		}
		c.Node(other).Eventually(2*settle, name+" ready", func() (bool, string) {
			out := try(c.Node(other), "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
			return strings.Contains(out, name+" Ready"), out
		})
		settled(other)
	}
	c.Node(1).Eventually(2*settle, "one container for each task", func() (bool, string) {
		var have, want []string
		for i := 1; i <= 3; i++ {
			have = append(have, strings.Fields(try(c.Node(i), "ps", "--format", `{{.Label "com.docker.swarm.task.id"}}`, "--filter", "label=com.docker.swarm.task.id"))...)
		}
		for s := range 3 {
			want = append(want, strings.Fields(try(c.Node(1), "service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", fmt.Sprintf("web%d", s)))...)
		}
		slices.Sort(have)
		slices.Sort(want)
		return len(want) == 9 && slices.Equal(have, want), fmt.Sprintf("containers of %v\ntasks %v", have, want)
	})
}
