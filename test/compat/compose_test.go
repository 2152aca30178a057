package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

const stack = `
name: shop
include: [cache/compose.yaml]
services:
  base:
    image: busybox
    init: true
    command: sleep 600
    profiles: [never]
    environment: {FROM: base}
  db:
    extends: base
    profiles: !reset []
    command: sh -c 'echo started >> /data/log; echo db is up; exec sleep 600'
    healthcheck: {test: test -s /data/log, interval: 200ms, timeout: 5s, retries: 50}
    volumes: [data:/data]
    networks: {back: {aliases: [store-db]}}
  setup:
    image: busybox
    command: sh -c 'echo set up > /data/setup'
    volumes: [data:/data]
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    image: busybox
    init: true
    command: sh -c 'echo web sees $$(cat /data/log); exec sleep 600'
    env_file: [web.env, {path: absent.env, required: false}]
    volumes: ["data:/data:ro"]
    networks: [front, back]
    depends_on:
      db: {condition: service_healthy, restart: true}
      setup: {condition: service_completed_successfully}
      cache: {condition: service_started}
    configs: [{source: page, target: /etc/page.html}]
    secrets: [password]
    ports: ["127.0.0.1::80"]
    develop:
      watch: [{action: sync, path: ./site, target: /site}]
  tools:
    image: busybox
    command: echo tools ran
    profiles: [tools]
  job:
    image: busybox
    command: sh -c 'sleep 1; exit 4'
    profiles: [job]
volumes: {data: {}}
networks: {front: {}, back: {}}
configs: {page: {file: page.html}, inline: {content: "x"}}
secrets: {password: {file: password.txt}}
`

// compose is docker-compose in a project's folder.
type compose struct {
	d   *testkit.Daemon
	dir string
}

func (c compose) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.d.Command(ctx, "docker-compose", args...)
	cmd.Dir = c.dir
	return cmd
}

// result is output and exit code; an error only where it could not run.
func (c compose) result(args ...string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return strings.TrimSpace(string(b)) + "\n" + stderr.String(), exit.ExitCode(), nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("docker-compose %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(b)), 0, nil
}

func (c compose) out(args ...string) (string, error) {
	out, code, err := c.result(args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("docker-compose %s: exit %d: %s", strings.Join(args, " "), code, out)
	}
	return out, err
}

// says runs a command that must print want, among other things.
func (c compose) says(want string, args ...string) error {
	out, err := c.out(args...)
	return errors.Join(err, holds(strings.Join(args, " "), out, want))
}

// states are the containers of the project by name.
func (c compose) states() (map[string]string, error) {
	out, err := c.out("ps", "-a", "--format", "json")
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		var x struct{ Name, State, Health string }
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			return nil, fmt.Errorf("%w: %s", err, line)
		}
		got[x.Name] = strings.TrimSpace(x.State + " " + x.Health)
	}
	return got, nil
}

func (c compose) are(want map[string]string) error {
	got, err := c.states()
	if err != nil {
		return err
	}
	for name, s := range want {
		if got[name] != s {
			return fmt.Errorf("%s is %q, want %q; all: %v", name, got[name], s, got)
		}
	}
	return nil
}

func TestCompose(t *testing.T) {
	d := shared.For(t)
	d.Image("busybox")
	c := compose{d, filepath.Join(t.TempDir(), "shop")}
	for path, body := range map[string]string{
		"compose.yaml": stack, "cache/compose.yaml": "services: {cache: {image: busybox, init: true, command: sleep 600, env_file: cache.env}}\n",
		"cache/cache.env": "SIZE=3\n", "web.env": "MODE=test\n", "page.html": "page", "password.txt": "s3cret", "site/index.html": "first",
	} {
		path = filepath.Join(c.dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(name string, do func() error) { step(t, "docker-compose", name, do) }
	is("config, with extends and include", func() error {
		services, err := c.out("config", "--services")
		words := strings.Fields(services)
		slices.Sort(words)
		return errors.Join(err, expect("services", strings.Join(words, " "), "cache db setup web"), c.says("FROM: base", "config"), c.says("SIZE: \"3\"", "config", "cache"))
	})
	is("up, depends_on with conditions", func() error {
		_, err := c.out("up", "-d", "--wait-timeout", "60")
		return errors.Join(err, c.are(map[string]string{"shop-db-1": "running healthy", "shop-web-1": "running", "shop-setup-1": "exited", "shop-cache-1": "running"}))
	})
	is("up --wait", func() error { _, err := c.out("up", "-d", "--wait", "db"); return err })
	is("logs", func() error {
		return errors.Join(c.says("web sees started", "logs", "--no-log-prefix", "web"), c.says("db-1", "logs", "--tail", "5"))
	})
	is("exec", func() error {
		_, code, err := c.result("exec", "-T", "db", "sh", "-c", "exit 5")
		return errors.Join(err, expect("code", fmt.Sprint(code), "5"), c.says("set up", "exec", "-T", "web", "cat", "/data/setup"))
	})
	is("env_file", func() error { return c.says("MODE=test", "exec", "-T", "web", "env") })
	is("configs and secrets", func() error {
		return c.says("pages3cret", "exec", "-T", "web", "cat", "/etc/page.html", "/run/secrets/password")
	})
	is("names and aliases", func() error {
		for _, name := range []string{"db", "store-db", "shop-db-1"} {
			if _, err := c.out("exec", "-T", "web", "nslookup", name); err != nil {
				return err
			}
		}
		return nil
	})
	is("run", func() error {
		_, code, err := c.result("run", "--rm", "-T", "--no-deps", "-e", "X=6", "web", "sh", "-c", "exit $X")
		return errors.Join(err, expect("code", fmt.Sprint(code), "6"))
	})
	is("profiles", func() error { return c.says("tools ran", "--profile", "tools", "run", "--rm", "-T", "tools") })
	is("port", func() error { return c.says("127.0.0.1:", "port", "web", "80") })
	is("cp", func() error {
		if err := os.WriteFile(filepath.Join(c.dir, "put"), []byte("copied"), 0o600); err != nil {
			return err
		}
		_, err := c.out("cp", "put", "db:/data/put")
		_, err2 := c.out("cp", "web:/data/put", "got")
		b, err3 := os.ReadFile(filepath.Join(c.dir, "got"))
		return errors.Join(err, err2, err3, expect("came back", string(b), "copied"))
	})
	is("pause and unpause", func() error {
		_, err := c.out("pause", "db")
		paused := c.are(map[string]string{"shop-db-1": "paused healthy"})
		if paused != nil {
			paused = c.are(map[string]string{"shop-db-1": "paused"})
		}
		_, err2 := c.out("unpause", "db")
		return errors.Join(err, paused, err2)
	})
	is("scale", func() error {
		_, err := c.out("up", "-d", "--scale", "web=3", "--no-recreate")
		three := c.are(map[string]string{"shop-web-3": "running"})
		_, err2 := c.out("scale", "web=1")
		return errors.Join(err, three, err2, c.are(map[string]string{"shop-web-3": "", "shop-web-1": "running"}))
	})
	is("top and images", func() error { return errors.Join(c.says("sleep", "top", "db"), c.says("busybox", "images")) })
	is("wait", func() error {
		if _, err := c.out("--profile", "job", "up", "-d", "job"); err != nil {
			return err
		}
		_, code, err := c.result("--profile", "job", "wait", "job")
		return errors.Join(err, expect("code", fmt.Sprint(code), "4"))
	})
	is("watch with sync", func() error { return watch(c) })
	is("restart, stop, start", func() error {
		for _, verb := range []string{"restart", "stop", "start"} {
			if _, err := c.out(verb, "db"); err != nil {
				return err
			}
		}
		return c.says("3", "exec", "-T", "db", "grep", "-c", "started", "/data/log")
	})
	is("up changes only what changed", func() error {
		before, err := c.out("ps", "-q", "cache", "db")
		if err != nil {
			return err
		}
		changed := strings.Replace(stack, "web sees", "web now sees", 1)
		if err := os.WriteFile(filepath.Join(c.dir, "compose.yaml"), []byte(changed), 0o600); err != nil {
			return err
		}
		_, err = c.out("up", "-d")
		after, err2 := c.out("ps", "-q", "cache", "db")
		return errors.Join(err, err2, expect("the others", after, before), c.says("web now sees", "logs", "web"))
	})
	is("events, ls and down", func() error {
		if err := c.says("shop", "ls"); err != nil {
			return err
		}
		_, err := c.out("--profile", "*", "down", "-v", "--remove-orphans")
		left := d.Docker("ps", "-aq") + d.Docker("volume", "ls", "-q") + d.Docker("network", "ls", "-q", "--filter", "type=custom")
		return errors.Join(err, expect("left", left, ""))
	})
}

// watch holds that a file that changes comes into the container.
func watch(c compose) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.command(ctx, "watch", "--no-up", "web")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // ended by us
		if err != nil {
			err = fmt.Errorf("%w; watch said: %s", err, said.String())
		}
	}()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	var last string
	for n := 0; ; n++ {
		// Written again and again, since watch says nothing a program could wait for;
		// but with time between, since it waits until half a second is quiet.
		if n%10 == 0 {
			if err := os.WriteFile(filepath.Join(c.dir, "site/index.html"), []byte(fmt.Sprintf("second %d", n/10)), 0o600); err != nil {
				return err
			}
		}
		if last, _, err = c.result("exec", "-T", "web", "cat", "/site/index.html"); err == nil && strings.HasPrefix(last, "second") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the file in the container is %q, %w", last, err)
		case <-tick.C:
		}
	}
}
