package cluster

import (
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestOneNode(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.DockerFails("This node is already part of a swarm", "swarm", "init")
	if got := d.Docker("info", "-f", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.NodeAddr}}"); got != "active true 1 1 127.0.0.1" {
		t.Errorf("info says %q", got)
	}
	if got := d.Docker("node", "ls", "--format", "{{.Status}} {{.Availability}} {{.ManagerStatus}} {{.Self}}"); got != "Ready Active Leader true" {
		t.Errorf("node ls says %q", got)
	}

	d.Docker("service", "create", "--detach", "--name", "web", "--replicas", "2", "--stop-grace-period", "1s", "--update-monitor", "1s", "--env", "SLOT={{.Task.Slot}}", "busybox", "sh", "-c", "echo slot $SLOT; exec sleep 1d")
	replicas(t, d, "web", "2/2")
	before := tasks(d, "web")
	if len(before) != 2 {
		t.Fatalf("containers %v", before)
	}
	d.Eventually(settle, "logs of both tasks", func() (bool, string) {
		out := d.Docker("service", "logs", "web")
		return strings.Contains(out, "slot 1") && strings.Contains(out, "slot 2"), out
	})

	// Neither a clean restart nor a crash bounces a task.
	d.Restart()
	replicas(t, d, "web", "2/2")
	d.KillAndStart()
	replicas(t, d, "web", "2/2")
	after := tasks(d, "web")
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Errorf("tasks were bounced: %v became %v", before, after)
	}

	d.Docker("service", "scale", "--detach", "web=3")
	replicas(t, d, "web", "3/3")
	d.Docker("service", "update", "--detach", "--env-add", "A=b", "web")
	d.Eventually(settle, "the update", func() (bool, string) {
		out := d.Docker("service", "inspect", "-f", "{{.UpdateStatus.State}}", "web")
		return out == "completed", out
	})
	d.Docker("service", "rollback", "--detach", "web")
	d.Eventually(settle, "the rollback", func() (bool, string) {
		out := d.Docker("service", "inspect", "-f", "{{.UpdateStatus.State}}", "web")
		return out == "rollback_completed", out
	})
	d.Docker("service", "rm", "web")
	d.Eventually(settle, "no container of the service", func() (bool, string) {
		out := d.Docker("ps", "-aq", "--filter", "label=com.docker.swarm.service.name=web")
		return out == "", out
	})

	// What happened was told.
	if out := d.Docker("events", "--since", "10m", "--until", "0s", "--filter", "scope=swarm", "--filter", "type=service", "--format", "{{.Action}} {{.Actor.Attributes.name}}"); !strings.Contains(out, "update web") || !strings.HasSuffix(out, "remove web") {
		t.Errorf("events: %s", out)
	}

	d.DockerFails("Removing the last manager erases all current state of the swarm", "swarm", "leave")
	d.Docker("swarm", "leave", "--force")
	d.DockerFails("This node is not part of a swarm", "swarm", "leave")
	d.DockerFails("This node is not a swarm manager", "node", "ls")
	d.Restart()
	if got := d.Docker("info", "-f", "{{.Swarm.LocalNodeState}}"); got != "inactive" {
		t.Errorf("after leaving and a restart the state is %q", got)
	}
}
