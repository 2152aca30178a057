package api

import (
	"encoding/json"
	"fmt"
	"testing"
)

// The daemon's own mounts must not be kept busy by copies in containers.
func TestRunMountsDaemonRoot(t *testing.T) {
	d := daemon(t)
	root := d.Root()
	for mode, want := range map[string]string{"": "rslave", ":rslave": "rslave", ":rshared": "rshared", ":rprivate": "", ":private": "", ":shared": "", ":slave": ""} {
		args := []string{"create", "--name", "rr", "-v", root + "/containers:/foo" + mode, "busybox", "true"}
		if want == "" {
			d.DockerFails(`must use either propagation mode "rslave" or "rshared" when mount source is within the daemon root`, args...)
			continue
		}
		d.Docker(args...)
		equal(t, mode, format(d, "rr", "{{(index .Mounts 0).Propagation}}"), want)
		d.Docker("rm", "rr")
	}
	equal(t, "the whole host", d.Docker("run", "--rm", "-v", "/:/host:ro", "busybox", "ls", "-d", "/host/etc"), "/host/etc")
}

func TestRunSharedNamespacesOfMissing(t *testing.T) {
	d := daemon(t)
	d.DockerFails("No such container: nosuch", "create", "--pid", "container:nosuch", "busybox", "true")
	d.DockerFails("No such container: nosuch", "create", "--ipc", "container:nosuch", "busybox", "true")
	id := d.Docker("create", "--name", "rests", "busybox", "true")
	d.Docker("create", "--name", "joins", "--pid", "container:rests", "busybox", "true")
	d.DockerFails(id+" is not running", "start", "joins")
	up(d, "--name", "stat", "busybox", "sleep", "600")
	total := d.Docker("info", "-f", "{{.MemTotal}}")
	code, body := d.API("GET", "/containers/stat/stats?stream=0&one-shot=1", nil)
	var st struct {
		MemoryStats struct{ Limit int64 } `json:"memory_stats"`
	}
	if err := json.Unmarshal(body, &st); err != nil || code != 200 {
		t.Fatalf("%d %v %s", code, err, body)
	}
	equal(t, "memory limit where there is none", fmt.Sprint(st.MemoryStats.Limit), total)
}

func TestRunFullHostname(t *testing.T) {
	d := daemon(t)
	contains(t, "hosts", d.Docker("run", "--rm", "--hostname", "db.example.org", "busybox", "cat", "/etc/hosts"), "\tdb.example.org db")
}
