package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
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

// Links of the default network, as old compose files and scripts have them.
func TestLinksOnTheDefaultNetwork(t *testing.T) {
	d := daemon(t)
	db := up(d, "--name", "db1", "--hostname", "dbhost", "-e", "SECRET=s 1", "--expose", "5432", "--expose", "53/udp", "busybox", "sleep", "600")
	out := d.Docker("run", "--name", "app", "--link", "db1:the-db", "busybox", "sh", "-c",
		"for n in the-db dbhost db1; do ping -c 1 -W 2 $n >/dev/null && echo $n; done; env | grep ^THE_DB | sort")
	ip := format(d, "db1", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	equal(t, "names and variables", out, "the-db\ndbhost\ndb1\nTHE_DB_ENV_SECRET=s 1\nTHE_DB_NAME=/app/the-db\nTHE_DB_PORT=udp://"+ip+":53\n"+
		"THE_DB_PORT_53_UDP=udp://"+ip+":53\nTHE_DB_PORT_53_UDP_ADDR="+ip+"\nTHE_DB_PORT_53_UDP_PORT=53\nTHE_DB_PORT_53_UDP_PROTO=udp\n"+
		"THE_DB_PORT_5432_TCP=tcp://"+ip+":5432\nTHE_DB_PORT_5432_TCP_ADDR="+ip+"\nTHE_DB_PORT_5432_TCP_PORT=5432\nTHE_DB_PORT_5432_TCP_PROTO=tcp")
	equal(t, "inspect", format(d, "app", "{{json .HostConfig.Links}}"), `["/db1:/app/the-db"]`)
	equal(t, "by the link's name", d.Docker("inspect", "-f", "{{.Id}}", "app/the-db"), db)
	contains(t, "ps", d.Docker("ps", "--no-trunc", "--format", "{{.Names}}"), "app/the-db")
	up(d, "--name", "app2", "--link", "db1", "busybox", "sleep", "600")
	d.Docker("rename", "app2", "app3")
	d.Docker("rename", "db1", "db2")
	equal(t, "after renames", format(d, "app3", "{{json .HostConfig.Links}}"), `["/db2:/app3/db1"]`)
	equal(t, "by the link's new name", d.Docker("inspect", "-f", "{{.Id}}", "app3/db1"), db)
	d.Docker("stop", "-t", "0", "db2")
	d.DockerFails("Cannot link to a non running container: /db2 AS /app/the-db", "start", "app")
	// Somebody else takes its address meanwhile: the running container learns the new one.
	up(d, "--name", "taker", "busybox", "sleep", "600")
	d.Docker("start", "db2")
	next := format(d, "db2", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	contains(t, "hosts", d.Docker("exec", "app3", "cat", "/etc/hosts"), next+"\tdb1 dbhost")
	d.Docker("rm", "--link", "app3/db1")
	equal(t, "without its link", format(d, "app3", "{{json .HostConfig.Links}}"), "null")
	d.DockerFails("No such", "inspect", "app3/db1")
	d.Docker("rm", "-f", "db2")
	equal(t, "without its target", format(d, "app", "{{json .HostConfig.Links}}"), "null")
	d.DockerFails("could not get container for nosuch: No such container: nosuch", "create", "--link", "nosuch:x", "busybox")
	up(d, "--name", "onhost", "--network", "host", "busybox", "sleep", "600")
	d.DockerFails("conflicting options: host type networking can't be used with links", "create", "--link", "onhost:x", "busybox")
	d.DockerFails("conflicting options: host type networking can't be used with links", "create", "--network", "host", "--link", "taker", "busybox")
	d.DockerFails("Conflict, cannot remove the default link name of the container", "rm", "--link", "taker")
}

// An exec that nobody started ends with the run it was made for.
func TestExecEndsWithTheRun(t *testing.T) {
	notOnTwin(t, "the client speaks newer versions only")
	d := daemon(t)
	up(d, "--name", "ex", "busybox", "sleep", "600")
	made, err := d.Client().ExecCreate(t.Context(), "ex", client.ExecCreateOptions{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range [][]string{{"stop", "-t", "0", "ex"}, {"start", "ex"}} {
		d.Docker(verb...)
		if _, err := d.Client().ExecStart(t.Context(), made.ID, client.ExecStartOptions{Detach: true}); !errdefs.IsNotFound(err) {
			t.Errorf("after %s: %v", verb[0], err)
		}
	}
}

func TestInspectManifestPlatform(t *testing.T) {
	notOnTwin(t, "newer than 20.10")
	d := daemon(t)
	d.Docker("create", "--name", "plat", "busybox", "true")
	_, body := d.API("GET", "/containers/plat/json", nil)
	var got struct {
		ImageManifestDescriptor struct {
			Platform struct{ OS, Architecture string }
		}
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "platform", fmt.Sprint(got.ImageManifestDescriptor.Platform), "{linux amd64}")
}

// A container may use the network of one that uses another's.
func TestNetworkOfAContainerInARow(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "owner", "--hostname", "the-owner", "--add-host", "there:192.0.2.7", "busybox", "sleep", "600")
	up(d, "--name", "second", "--network", "container:owner", "busybox", "sleep", "600")
	up(d, "--name", "third", "--network", "container:second", "busybox", "sleep", "600")
	for _, file := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		equal(t, file, d.Docker("exec", "third", "cat", file), d.Docker("exec", "owner", "cat", file))
	}
	contains(t, "hosts", d.Docker("exec", "third", "cat", "/etc/hosts"), "192.0.2.7\tthere")
	equal(t, "namespace", d.Docker("exec", "third", "readlink", "/proc/self/ns/net"), d.Docker("exec", "owner", "readlink", "/proc/self/ns/net"))
	up(d, "--name", "onhost", "--network", "host", "busybox", "sleep", "600")
	equal(t, "of the host's", d.Docker("run", "--rm", "--network", "container:onhost", "busybox", "cat", "/etc/hosts"), d.Docker("exec", "onhost", "cat", "/etc/hosts"))
}
