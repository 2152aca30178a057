package cluster

import (
	"io"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// A stack on the nodes' own networks.
const stackFile = `version: "3.7"
services:
  web:
    image: busybox
    command: ["sh", "-c", "mkdir /w; cat /run/secrets/greeting /etc/place > /w/index.html; exec httpd -f -p 8099 -h /w"]
    networks: [outside]
    secrets: [greeting]
    configs:
      - source: place
        target: /etc/place
    volumes: ["cache:/cache"]
    stop_grace_period: 1s
  job:
    image: busybox
    command: ["sleep", "1d"]
    networks: [inside]
    stop_grace_period: 1s
    deploy:
      mode: global
      placement:
        constraints: ["node.role==manager"]
networks:
  outside: {external: true, name: host}
  inside: {external: true, name: bridge}
volumes:
  cache:
secrets:
  greeting: {file: ./greeting}
configs:
  place: {file: ./place}
`

func TestStackOnLocalNetworks(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	write(t, d, "greeting", "hello ")
	write(t, d, "place", "world")
	file := write(t, d, "stack.yml", stackFile)
	d.Docker("stack", "deploy", "--detach", "-c", file, "store")
	replicas(t, d, "store_web", "1/1")
	replicas(t, d, "store_job", "1/1")
	page(t, d, "http://127.0.0.1:8099/", "hello world")
	if out := d.Docker("stack", "ls", "--format", "{{.Name}} {{.Services}}"); out != "store 2" {
		t.Errorf("stack ls says %q", out)
	}
	if out := d.Docker("stack", "services", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}", "store"); out != "store_job global 1/1\nstore_web replicated 1/1" {
		t.Errorf("stack services says %q", out)
	}
	if out := d.Docker("stack", "ps", "--format", "{{.DesiredState}}", "store"); out != "Running\nRunning" {
		t.Errorf("stack ps says %q", out)
	}
	if out := d.Docker("volume", "inspect", "-f", `{{index .Labels "com.docker.stack.namespace"}}`, "store_cache"); out != "store" {
		t.Errorf("the volume belongs to stack %q", out)
	}
	// Again, it changes nothing.
	before := tasks(d, "store_web")
	d.Docker("stack", "deploy", "--detach", "-c", file, "store")
	replicas(t, d, "store_web", "1/1")
	if after := tasks(d, "store_web"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("a second deploy replaced %v by %v", before, after)
	}
	d.Docker("stack", "rm", "store")
	d.Eventually(settle, "nothing of the stack", func() (bool, string) {
		out := d.Docker("ps", "-aq", "--filter", "label=com.docker.stack.namespace=store") + d.Docker("secret", "ls", "-q") + d.Docker("config", "ls", "-q")
		return out == "", out
	})
	// Without networks of its own it gets one across nodes.
	plain := write(t, d, "plain.yml", "version: \"3.7\"\nservices:\n  web:\n    image: busybox\n    command: [\"sleep\", \"1d\"]\n    stop_grace_period: 1s\n")
	d.Docker("stack", "deploy", "--detach", "-c", plain, "plain")
	replicas(t, d, "plain_web", "1/1")
	if out := d.Docker("network", "inspect", "-f", "{{.Driver}} {{.Scope}}", "plain_default"); out != "overlay swarm" {
		t.Errorf("the stack's network: %s", out)
	}
	d.Docker("stack", "rm", "plain")
	d.Eventually(settle, "no network of the stack", func() (bool, string) {
		out := d.Docker("network", "ls", "-q", "--filter", "label=com.docker.stack.namespace=plain")
		return out == "", out
	})
	d.Docker("service", "create", "--detach", "--name", "onhost", "--network", "host", "--stop-grace-period", "1s", "busybox", "sleep", "1d")
	replicas(t, d, "onhost", "1/1")
	if got := d.Docker("inspect", "-f", "{{.HostConfig.NetworkMode}}", tasks(d, "onhost")[0]); got != "host" {
		t.Errorf("network mode %q", got)
	}
	d.DockerFails("network nowhere not found", "service", "create", "--detach", "--network", "nowhere", "busybox", "true")
}

// page waits until the node shows a page.
func page(t *testing.T, d *testkit.Daemon, url, want string) {
	t.Helper()
	d.Eventually(settle, "the page", func() (bool, string) {
		resp, err := d.HTTP().Get(url)
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && string(b) == want, string(b)
	})
}
