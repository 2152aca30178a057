package cluster

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func write(t *testing.T, d *testkit.Daemon, name, text string) string {
	t.Helper()
	p := filepath.Join(d.Dir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSecretsAndConfigs(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.Docker("secret", "create", "--label", "a=b", "password", write(t, d, "secret", "hush"))
	d.Docker("config", "create", "--template-driver", "golang", "app.conf", write(t, d, "config", "service={{.Service.Name}} slot={{.Task.Slot}}"))
	if out := d.Docker("secret", "inspect", "--pretty", "password"); !strings.Contains(out, "password") || strings.Contains(out, "hush") {
		t.Errorf("secret inspect says %s", out)
	}
	if out := d.Docker("config", "inspect", "-f", "{{printf \"%s\" .Spec.Data}}", "app.conf"); !strings.Contains(out, "{{.Service.Name}}") {
		t.Errorf("config inspect says %s", out)
	}
	d.DockerFails("already exists", "secret", "create", "password", write(t, d, "secret", "other"))
	d.Docker("service", "create", "--detach", "--name", "app", "--stop-grace-period", "1s",
		"--secret", "source=password,target=db_password,uid=7,gid=8,mode=0440",
		"--config", "source=app.conf,target=/etc/app.conf,mode=0444",
		"busybox", "sleep", "1d")
	replicas(t, d, "app", "1/1")
	id := tasks(d, "app")[0]
	if got := d.Docker("exec", id, "sh", "-c", "cat /run/secrets/db_password; echo; cat /etc/app.conf; echo; stat -c '%a %u %g' /run/secrets/db_password /etc/app.conf; df /run/secrets/db_password | tail -1"); !strings.HasPrefix(got, "hush\nservice=app slot=1\n440 7 8\n444 0 0\n") || !strings.Contains(got, "tmpfs") {
		t.Errorf("in the container: %s", got)
	}
	if r := d.DockerResult("exec", id, "sh", "-c", "echo x > /run/secrets/db_password"); r.Code == 0 {
		t.Error("a secret can be written to")
	}
	d.DockerFails("secret 'password' is in use by the following service: app", "secret", "rm", "password")
	// They come back with the daemon, whatever the reason that it was away.
	d.KillAndStart()
	replicas(t, d, "app", "1/1")
	d.Docker("service", "update", "--detach", "--force", "app")
	d.Eventually(settle, "a new task with the secret", func() (bool, string) {
		ids := tasks(d, "app")
		if len(ids) != 1 || ids[0] == id {
			return false, strings.Join(ids, " ")
		}
		r := d.DockerResult("exec", ids[0], "cat", "/run/secrets/db_password")
		return r.Out == "hush", r.String()
	})
	d.Docker("service", "rm", "app")
	d.Eventually(settle, "no secret of a task in memory", func() (bool, string) {
		dir, err := os.ReadDir(d.Path(filepath.Join(d.ExecRoot(), "swarm", "tasks")))
		return err == nil && len(dir) == 0, strings.Join(names(dir), " ")
	})
	d.Docker("secret", "rm", "password")
	d.Docker("config", "rm", "app.conf")
}

func names(es []os.DirEntry) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestHealthGatesATask(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.Docker("volume", "create", "state")
	d.Docker("service", "create", "--detach", "--name", "web", "--stop-grace-period", "1s", "--restart-delay", "100ms",
		"--mount", "type=volume,source=state,target=/s", "--health-cmd", "test -e /s/ok", "--health-interval", "200ms", "--health-retries", "3", "--health-start-period", "1m",
		"busybox", "sleep", "1d")
	d.Eventually(settle, "the task starting", func() (bool, string) {
		out := d.Docker("service", "ps", "--format", "{{.CurrentState}}", "web")
		return strings.HasPrefix(out, "Starting"), out
	})
	d.Docker("run", "--rm", "-v", "state:/s", "busybox", "touch", "/s/ok")
	replicas(t, d, "web", "1/1")
	// Unhealthy, it fails and is replaced.
	d.Docker("run", "--rm", "-v", "state:/s", "busybox", "rm", "/s/ok")
	d.Eventually(settle, "a failed task", func() (bool, string) {
		out := d.Docker("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "web")
		return strings.Contains(out, "Failed") && strings.Contains(out, "unhealthy container"), out
	})
	d.Docker("run", "--rm", "-v", "state:/s", "busybox", "touch", "/s/ok")
	replicas(t, d, "web", "1/1")
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.Docker("service", "create", "--detach", "--name", "web", "--stop-grace-period", "1s", "--publish", "mode=host,published=8085,target=80",
		"busybox", "sh", "-c", "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w")
	replicas(t, d, "web", "1/1")
	d.Eventually(settle, "the page", func() (bool, string) {
		resp, err := d.HTTP().Get("http://127.0.0.1:8085/")
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && string(b) == "hello\n", string(b)
	})
	if out := d.Docker("service", "ps", "--format", "{{.Ports}}", "web"); out != "*:8085->80/tcp,*:8085->80/tcp" && out != "*:8085->80/tcp" {
		t.Errorf("service ps shows ports %q", out)
	}
	for text, args := range map[string][]string{
		"port 80 published in ingress mode by a service on network bridge": {"--network", "bridge", "--publish", "8086:80"},
		"log driver \"syslog\"": {"--log-driver", "syslog"},
	} {
		d.DockerFails(text, append(append([]string{"service", "create", "--detach", "--name", "no"}, args...), "busybox", "true")...)
	}
	d.DockerFails("option encrypted of the driver overlay", "network", "create", "-d", "overlay", "--opt", "encrypted", "store-net")
}

func TestFailingTask(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.Docker("service", "create", "--detach", "--name", "bad", "--restart-max-attempts", "2", "--restart-delay", "100ms", "busybox", "sh", "-c", "echo no >&2; exit 3")
	d.Eventually(settle, "three failed tasks and no more", func() (bool, string) {
		out := d.Docker("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "bad")
		return strings.Count(out, "Failed") == 3 && strings.Count(out, `"task: non-zero exit (3)"`) == 3, out
	})
	d.Docker("service", "create", "--detach", "--name", "missing", "--restart-condition", "none", "no.such/image:1", "true")
	d.Eventually(settle, "the missing image told", func() (bool, string) {
		out := d.Docker("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "missing")
		return strings.Contains(out, "Rejected") && strings.Contains(out, "no.such/image:1"), out
	})
	d.DockerFails("service bad not found", "service", "rm", "bad", "bad")
	d.DockerFails("name conflicts with an existing object", "service", "create", "--detach", "--name", "missing", "busybox", "true")
	d.DockerFails("value '' is invalid", "service", "create", "--detach", "--constraint", "node.x==", "busybox", "true")
	if id := d.Docker("service", "create", "--detach", "busybox", "sleep", "1"); !strings.Contains(d.Docker("service", "inspect", "-f", "{{.Spec.Name}}", id), "_") {
		t.Error("a service without a name gets none")
	}
}

func TestAutolockAndNewCluster(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	d.Docker("service", "create", "--detach", "--name", "web", "--stop-grace-period", "1s", "busybox", "sleep", "1d")
	replicas(t, d, "web", "1/1")
	before := tasks(d, "web")
	d.Docker("swarm", "update", "--autolock")
	key := d.Docker("swarm", "unlock-key", "-q")
	if !strings.HasPrefix(key, "SWMKEY-1-") {
		t.Fatalf("key %q", key)
	}
	d.Restart()
	d.Eventually(settle, "the node locked", func() (bool, string) {
		out := d.Docker("info", "-f", "{{.Swarm.LocalNodeState}}")
		return out == "locked", out
	})
	d.DockerFails("Swarm is encrypted and needs to be unlocked before it can be used.", "node", "ls")
	if r := d.Run("SWMKEY-1-"+strings.Repeat("A", 43)+"\n", "docker", "swarm", "unlock"); r.Code == 0 || !strings.Contains(r.Err, "invalid key") {
		t.Errorf("a wrong key: %s", r)
	}
	if r := d.Run(key+"\n", "docker", "swarm", "unlock"); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	replicas(t, d, "web", "1/1")
	if after := tasks(d, "web"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("tasks were bounced: %v became %v", before, after)
	}
	d.Docker("swarm", "update", "--autolock=false")
	d.Docker("swarm", "init", "--force-new-cluster", "--advertise-addr", "127.0.0.1")
	replicas(t, d, "web", "1/1")
	if out := d.Docker("swarm", "ca"); !strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Errorf("swarm ca says %s", out)
	}
}
