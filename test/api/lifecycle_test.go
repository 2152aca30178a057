package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

func TestLifecycleThroughTheMobyClient(t *testing.T) {
	notOnTwin(t, "the client speaks newer versions only")
	d := daemon(t)
	c := d.Client()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:   "life",
		Config: &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"}, Labels: map[string]string{"k": "v"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "name and state", in.Container.Name+" "+string(in.Container.State.Status), "/life created")
	wait := c.ContainerWait(ctx, "life", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(ctx, "life", client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(ctx, "life", client.ContainerStartOptions{}); err != nil {
		t.Errorf("start of a running container is no error for the client: %v", err)
	}
	waitLog(d, "life", "ready")
	if _, err := c.ContainerStop(ctx, "life", client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-wait.Result:
		if r.StatusCode != 5 {
			t.Errorf("wait: got %+v", r)
		}
	case err := <-wait.Error:
		t.Fatal(err)
	}
	list, err := c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "k=v")})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != "exited" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if _, err := c.ContainerRemove(ctx, "life", client.ContainerRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{}); err == nil {
		t.Error("still there after removal")
	}
}

func TestInspectShowsTextAsItIs(t *testing.T) {
	d := daemon(t)
	d.Docker("create", "--name", "amp", "-e", "Q=a&b<c>", "busybox")
	contains(t, "environment", d.Docker("inspect", "amp"), `"Q=a&b<c>"`)
}

func TestCreateStartStopRestartKill(t *testing.T) {
	d := daemon(t)
	id := d.Docker("create", "--name", "cc", "busybox", "sleep", "600")
	equal(t, "created", format(d, "cc", "{{.State.Status}} {{.State.Pid}}"), "created 0")
	d.Docker("start", "cc")
	first := format(d, "cc", "{{.State.Pid}} {{.State.StartedAt}}")
	for _, path := range []string{"/containers/cc/start", "/containers/" + id[:12] + "/start"} {
		if code, body := d.API(http.MethodPost, path, nil); code != http.StatusNotModified {
			t.Errorf("start twice: %d %s", code, body)
		}
	}
	d.Docker("restart", "-t", "0", "cc")
	if again := format(d, "cc", "{{.State.Pid}} {{.State.StartedAt}}"); again == first {
		t.Errorf("not restarted: %s", again)
	}
	d.Docker("kill", "cc")
	d.WaitState("cc", "exited")
	equal(t, "killed", format(d, "cc", "{{.State.ExitCode}} {{.State.OOMKilled}}"), "137 false")
	if code, body := d.API(http.MethodPost, "/containers/cc/stop", nil); code != http.StatusNotModified {
		t.Errorf("stop twice: %d %s", code, body)
	}
	d.DockerFails("is not running", "kill", "cc")
	up(d, "--name", "hup", "busybox", "sh", "-c", "trap 'echo hup' HUP; echo ready; while :; do sleep 0.1; done")
	waitLog(d, "hup", "ready")
	d.Docker("kill", "-s", "HUP", "hup")
	waitLog(d, "hup", "hup")
	d.DockerFails("nvalid signal: NOSUCH", "kill", "-s", "NOSUCH", "hup")
}

func TestRenameAndNamesInUse(t *testing.T) {
	d := daemon(t)
	id := d.Docker("create", "--name", "old-name", "busybox")
	d.Docker("rename", "old-name", "new-name")
	equal(t, "by its new name", format(d, "new-name", "{{.Id}}"), id)
	d.DockerFails("No such container: old-name", "rename", "old-name", "x-name")
	d.DockerFails(`Conflict. The container name "/new-name" is already in use by container "`+id+`". You have to remove (or rename) that container to be able to reuse that name.`,
		"create", "--name", "new-name", "busybox")
	d.Docker("create", "--name", "old-name", "busybox")
	d.DockerFails("already in use", "rename", "old-name", "new-name")
}

func TestPauseUnpause(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "pp", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done")
	d.Docker("pause", "pp")
	equal(t, "state", format(d, "pp", "{{.State.Status}} {{.State.Paused}} {{.State.Running}}"), "paused true true")
	contains(t, "ps", d.Docker("ps", "--format", "{{.Status}}"), "(Paused)")
	d.DockerFails("is already paused", "pause", "pp")
	d.DockerFails("is paused", "exec", "pp", "true")
	before := d.Docker("logs", "--tail", "1", "pp")
	d.Docker("unpause", "pp")
	d.Eventually(settle, "goes on", func() (bool, string) {
		now := d.Docker("logs", "--tail", "1", "pp")
		return now != before, now
	})
	d.DockerFails("is not paused", "unpause", "pp")
}

func TestUpdate(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "uu", "--memory", "64m", "busybox", "sleep", "600")
	d.Docker("update", "--memory", "128m", "--memory-swap", "-1", "--cpus", "0.5", "--pids-limit", "77", "--restart", "on-failure:3", "uu")
	equal(t, "record", format(d, "uu", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}"), "134217728 500000000 77 on-failure")
	equal(t, "kernel", d.Docker("exec", "uu", "sh", "-c",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"), "134217728\n77")
}

func TestTopAndStats(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "tt", "--memory", "64m", "busybox", "sleep", "600")
	// A container runs from when runc was told to; it becomes its program a moment later.
	d.Eventually(settle, "top shows the program", func() (bool, string) {
		out := d.Docker("top", "tt")
		return strings.Contains(out, "PID") && strings.Contains(out, "sleep 600"), out
	})
	contains(t, "top with options", d.Docker("top", "tt", "-o", "pid,comm"), "sleep")
	equal(t, "stats", d.Docker("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "tt"), "tt 1")
	code, body := d.API(http.MethodGet, "/containers/tt/stats?stream=0&one-shot=1", nil)
	var s struct {
		MemoryStats struct{ Usage, Limit uint64 } `json:"memory_stats"`
		CPUStats    struct {
			CPUUsage struct {
				Total uint64 `json:"total_usage"`
			} `json:"cpu_usage"`
		} `json:"cpu_stats"`
		Networks map[string]any
	}
	decode(t, body, &s)
	if code != 200 || s.MemoryStats.Usage == 0 || s.MemoryStats.Limit != 64<<20 || s.CPUStats.CPUUsage.Total == 0 || s.Networks["eth0"] == nil {
		t.Errorf("one shot: %d %s", code, body)
	}
	d.Docker("stop", "-t", "0", "tt")
	d.DockerFails("is not running", "top", "tt")
}

func TestWait(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "ww", "busybox", "sh", "-c", "sleep 0.3; exit 11")
	equal(t, "wait", d.Docker("wait", "ww"), "11")
	equal(t, "wait for one that ended", d.Docker("wait", "ww"), "11")
	notOnTwin(t, "20.10 took any condition")
	code, body := d.API(http.MethodPost, "/containers/ww/wait?condition=nonsense", nil)
	if code != 400 {
		t.Errorf("bad condition: %d %s", code, body)
	}
}

func TestListFilters(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "alpha", "--label", "tier=one", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
	d.DockerResult("run", "--name", "beta", "--label", "tier=two", "-v", "data:/d", "busybox", "sh", "-c", "exit 3")
	d.Docker("create", "--name", "gamma", "--network", "none", "busybox")
	for _, tc := range []struct{ filter, want string }{
		{"name=alpha", "alpha"},
		{"name=^/?b", "beta"},
		{"label=tier", "beta alpha"},
		{"label=tier=two", "beta"},
		{"status=created", "gamma"},
		{"status=exited", "beta"},
		{"exited=3", "beta"},
		{"volume=data", "beta"},
		{"volume=/d", "beta"},
		{"network=none", "gamma"},
		{"ancestor=busybox", "gamma beta alpha"},
		{"since=alpha", "gamma beta"},
		{"before=beta", "alpha"},
		{"expose=80", "alpha"},
	} {
		got := strings.Join(strings.Fields(d.Docker("ps", "-a", "--filter", tc.filter, "--format", "{{.Names}}")), " ")
		equal(t, tc.filter, got, tc.want)
	}
	equal(t, "only running", d.Docker("ps", "--format", "{{.Names}}"), "alpha")
	equal(t, "last one", d.Docker("ps", "-n", "1", "--format", "{{.Names}}"), "gamma")
	code, body := d.API(http.MethodGet, `/containers/json?filters={"nonsense":["x"]}`, nil)
	if code != 400 || !strings.Contains(string(body), "invalid filter 'nonsense'") && engine != "dockerd" {
		t.Errorf("unknown filter: %d %s", code, body)
	}
	contains(t, "sizes", d.Docker("ps", "-as", "--filter", "name=beta", "--format", "{{.Size}}"), "virtual")
}

func TestRemoveAndPrune(t *testing.T) {
	d := daemon(t)
	id := up(d, "--name", "rr", "busybox", "sleep", "600")
	code, body := d.API(http.MethodDelete, "/containers/rr", nil)
	if code != http.StatusConflict {
		t.Errorf("remove a running one: %d %s", code, body)
	}
	contains(t, "message", string(body), "top the container before ")
	d.Docker("run", "--name", "done1", "--label", "keep=yes", "busybox", "true")
	d.Docker("run", "--name", "done2", "-v", "/anon", "busybox", "true")
	code, body = d.API(http.MethodPost, "/containers/prune?filters="+`{"label!":{"keep=yes":true}}`, nil)
	var r struct{ ContainersDeleted []string }
	decode(t, body, &r)
	if code != 200 || len(r.ContainersDeleted) != 1 {
		t.Errorf("prune: %d %s", code, body)
	}
	equal(t, "left", strings.Join(strings.Fields(d.Docker("ps", "-a", "--format", "{{.Names}}")), " "), "done1 rr")
	d.Docker("rm", "-f", "rr")
	d.DockerFails("No such container: "+id, "inspect", "--type", "container", id)
}

func TestInspectHasWhatClientsRead(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "ii", "-e", "X=1", "-p", "127.0.0.1:0:80/tcp", "-v", "iv:/data:ro", "--memory", "32m", "busybox", "sleep", "600")
	var in map[string]any
	raw := d.Docker("inspect", "ii")
	var list []map[string]any
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		t.Fatal(err)
	}
	in = list[0]
	for _, key := range []string{"Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "Name", "RestartCount", "Driver", "Platform", "HostConfig", "GraphDriver", "Mounts", "Config", "NetworkSettings"} {
		if _, ok := in[key]; !ok {
			t.Errorf("no %s", key)
		}
	}
	equal(t, "command", fmt.Sprint(in["Path"], in["Args"]), "sleep[600]")
	equal(t, "mount", format(d, "ii", "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}} {{.Driver}}{{end}}"), "volume iv /data false local")
	if port := format(d, "ii", `{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`); port == "" || port == "0" {
		t.Errorf("port %q", port)
	}
	equal(t, "docker port", d.Docker("port", "ii", "80"), "127.0.0.1:"+format(d, "ii", `{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`))
	contains(t, "size", d.Docker("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "ii"), " ")
}
