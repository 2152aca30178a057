package api

import (
	"strings"
	"testing"
	"time"
)

// A kill for want of memory is told by the event, the state and the exit code,
// for the main process and for one beside it that the container survives.
func TestOutOfMemoryIsTold(t *testing.T) {
	d := daemon(t)
	eat := "dd if=/dev/zero of=/dev/null bs=100M count=1"
	since := "10m"
	if r := d.DockerResult("run", "--name", "eater", "--memory", "16m", "busybox", "sh", "-c", "exec "+eat); r.Code != 137 {
		t.Errorf("want exit 137, got %s", r)
	}
	equal(t, "state", format(d, "eater", "{{.State.ExitCode}} {{.State.OOMKilled}}"), "137 true")
	told := func(name string) { // --until cuts off the running second
		d.Eventually(30*time.Second, "the event of "+name, func() (bool, string) {
			out := d.Docker("events", "--since", since, "--until", "0s", "--filter", "container="+name, "--format", "{{.Action}}")
			return strings.Contains(out, "oom"), out
		})
	}
	told("eater")

	d.Docker("run", "-d", "--name", "survivor", "--memory", "16m", "busybox", "sh", "-c", eat+"; exec sleep 1000")
	told("survivor")
	equal(t, "the survivor", format(d, "survivor", "{{.State.Running}}"), "true")
}
