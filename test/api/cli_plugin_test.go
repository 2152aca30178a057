package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestDockerHoldfast(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	plugin := testkit.RequireBin(t, "cli-plugins/docker-holdfast")
	config := t.TempDir()
	if err := os.Mkdir(filepath.Join(config, "cli-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, filepath.Join(config, "cli-plugins", "docker-holdfast")); err != nil {
		t.Fatal(err)
	}
	docker := func(args ...string) testkit.Result { // the stock CLI
		return d.Run("", "docker", append([]string{"--config", config}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		r := docker(args...)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return strings.TrimSpace(r.Out)
	}
	contains(t, "docker's help", must("--help"), "Volumes that can be copied, kept, moved and trusted")
	contains(t, "its own", must("holdfast", "volume", "snapshot", "--help"), "docker holdfast volume snapshot COMMAND")
	contains(t, "docker info", must("info"), "Holdfast")

	d.Docker("run", "--rm", "-v", "plugged:/d", "busybox", "sh", "-c", "echo one > /d/f")
	equal(t, "create", must("holdfast", "volume", "snapshot", "create", "plugged@before"), "plugged@before")
	equal(t, "ls", must("-H", d.Host(), "holdfast", "volume", "snapshot", "ls", "-q", "plugged"), "plugged@before")
	d.Docker("run", "--rm", "-v", "plugged:/d", "busybox", "sh", "-c", "echo two > /d/f")
	equal(t, "rollback", must("holdfast", "volume", "snapshot", "rollback", "plugged@before"), "plugged")
	equal(t, "docker's own commands in it", must("holdfast", "run", "--rm", "-v", "plugged:/d", "busybox", "cat", "/d/f"), "one")
	if r := docker("holdfast", "volume", "snapshot", "inspect", "plugged@nope"); r.Code != 1 || !strings.Contains(r.Err, "no such snapshot") {
		t.Errorf("a failure is not docker's exit code and our words: %s", r)
	}
	if r := docker("holdfast", "run", "--rm", "busybox", "sh", "-c", "exit 7"); r.Code != 7 {
		t.Errorf("a container's exit code: %s", r)
	}
}
