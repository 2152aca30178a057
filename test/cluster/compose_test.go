package cluster

import (
	"os"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// What compose says and docker's stacks did not: no version, a name, a port in
// quotes, variables, conditions, and keys that no swarm has.
const (
	composeBase = `name: shop
services:
  web:
    image: busybox
    container_name: shopfront
    command: ["sh", "-c", "mkdir /w; echo $$GREETING > /w/index.html; exec httpd -f -p 80 -h /w"]
    environment: {GREETING: "${GREETING:?not in .env}"}
    ports: [{target: 80, published: "8097", mode: host}]
    depends_on: {job: {condition: service_healthy}}
    stop_grace_period: 1s
  job:
    image: busybox
    command: ["sleep", "1d"]
    restart: on-failure:3
    mem_limit: 64m
    privileged: true
    volumes: ["cache:/cache"]
    healthcheck: {test: ["CMD", "true"], interval: 1s}
    stop_grace_period: 1s
volumes:
  cache:
`
	composeProd = `services:
  web: {deploy: {replicas: 1}}
  job: {deploy: {mode: global}}
`
)

func TestStackOfComposeConfig(t *testing.T) {
	t.Parallel()
	d := single(t, testkit.Options{})
	base, prod := write(t, d, "compose.yml", composeBase), write(t, d, "prod.yml", composeProd)
	write(t, d, ".env", "GREETING=hello\n")
	config := func(name string, args ...string) string {
		t.Helper()
		r := d.Run("", "docker-compose", append([]string{"-f", base, "-f", prod, "config"}, args...)...)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return write(t, d, name, r.Out)
	}

	// Our client takes what compose prints as it is.
	printed := config("printed.yml")
	scratch := t.TempDir()
	r := d.Run("", "env", "TMPDIR="+scratch, testkit.RequireBin(t, "holdfast"), "stack", "deploy", "--detach", "-c", printed, "store")
	if want := "Ignoring what a swarm cannot do: services.job.privileged, services.web.container_name, services.web.depends_on.job\n"; r.Code != 0 || !strings.Contains(r.Err, want) {
		t.Fatalf("want one list %q: %s", want, r)
	}
	replicas(t, d, "store_web", "1/1")
	replicas(t, d, "store_job", "1/1")
	page(t, d, "http://127.0.0.1:8097/", "hello\n")
	const spec = "{{.Spec.TaskTemplate.RestartPolicy.Condition}} {{.Spec.TaskTemplate.RestartPolicy.MaxAttempts}} {{.Spec.TaskTemplate.Resources.Limits.MemoryBytes}}"
	if got := d.Docker("service", "inspect", "-f", spec, "store_job"); got != "on-failure 3 67108864" {
		t.Errorf("restart and memory: %s", got)
	}

	// The stock client looks at files itself, and refuses the same one. It takes the
	// form made for it, which means the same: nothing is replaced.
	d.DockerFails("mem_limit", "stack", "deploy", "--detach", "-c", printed, "store")
	for refusal, src := range map[string]string{
		"ports.0.published must be a integer": "services: {web: {image: busybox, ports: ['8096:80']}}\n",
		"depends_on must be a list":           "services: {web: {image: busybox, depends_on: [job]}, job: {image: busybox}}\n",
	} {
		file := write(t, d, "plain.yml", src)
		for form, want := range map[string]bool{"--format=yaml": false, "--stack": true} {
			r := d.Run("", "docker-compose", "-f", file, "config", form)
			if r.Code != 0 {
				t.Fatal(r)
			}
			r = d.Run(r.Out, "docker", "stack", "config", "-c", "-")
			if took := r.Code == 0; took != want || !took && !strings.Contains(r.Err, refusal) {
				t.Errorf("%s: the stock client takes it: %v, want %v: %s", form, took, want, r)
			}
		}
	}
	before := tasks(d, "store_web")
	d.Docker("stack", "deploy", "--detach", "-c", config("form.yml", "--stack"), "store")
	replicas(t, d, "store_web", "1/1")
	if after := tasks(d, "store_web"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("the other form replaced %v by %v", before, after)
	}

	// docker-compose prints that form by itself for a file of version 3 that loses
	// nothing by it.
	old := write(t, d, "old.yml", "version: '3.7'\nservices: {web: {image: busybox, ports: ['8096:80']}}\n")
	r = d.Run("", "docker-compose", "-f", old, "config")
	if r.Code != 0 {
		t.Fatal(r)
	}
	if got := d.Docker("stack", "config", "-c", write(t, d, "old-form.yml", r.Out)); !strings.Contains(got, "published: 8096") {
		t.Errorf("the stock client reads\n%s", got)
	}

	// Several files, .env beside them and the misprints of the course's notes.
	if got := d.Holdfast("stack", "config", "-c", base, "-c", prod); !strings.Contains(got, "GREETING: hello") {
		t.Errorf("stack config prints\n%s", got)
	}
	bad := write(t, d, "bad.yml", "services:\n  web:\n    image: busybox\n    deploy:\n      node: global\n")
	r = d.Run("", "holdfast", "stack", "deploy", "-c", bad, "store")
	if want := bad + `:5:7: there is no key "node" in services.web.deploy (did you mean mode?)`; r.Code == 0 || !strings.Contains(r.Err, want) {
		t.Errorf("want %q: %s", want, r)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	d.Docker("stack", "rm", "store")
	d.Eventually(settle, "nothing of the stack", func() (bool, string) {
		out := d.Docker("ps", "-aq", "--filter", "label=com.docker.stack.namespace=store") + d.Docker("network", "ls", "-q", "--filter", "label=com.docker.stack.namespace=store")
		return out == "", out
	})
}
