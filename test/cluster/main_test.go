package cluster

import (
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// settle is how long anything may take; tests poll.
const settle = 60 * time.Second

// single is a swarm of one daemon.
func single(t *testing.T, o testkit.Options) *testkit.Daemon {
	t.Helper()
	d := testkit.New(t, o)
	d.Image("busybox")
	d.Docker("swarm", "init", "--advertise-addr", "127.0.0.1")
	t.Cleanup(func() {
		if r := d.DockerResult("swarm", "leave", "--force"); r.Code != 0 && !strings.Contains(r.Err, "not part of a swarm") {
			t.Errorf("%s", r)
		}
	})
	return d
}

// replicas waits until a service shows as many tasks running and wanted.
func replicas(t *testing.T, d *testkit.Daemon, service, want string) {
	t.Helper()
	d.Eventually(settle, service+" at "+want, func() (bool, string) {
		r := d.DockerResult("service", "ls", "--filter", "name="+service, "--format", "{{.Replicas}}")
		if got := strings.TrimSpace(r.Out); got == want {
			return true, got
		}
		return false, r.String() + "\n" + d.DockerResult("service", "ps", "--no-trunc", service).String()
	})
}

// tasks are the containers on d of a service's tasks that run.
func tasks(d *testkit.Daemon, service string) []string {
	return strings.Fields(d.Docker("ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name="+service))
}
