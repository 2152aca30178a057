package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// A database's container is told, by itself, that its volume is no place for it; what
// is none is left alone, and so is what was found good.
func TestPreflightByItself(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	mem := func(name string) {
		d.Docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=400m", name)
	}
	mem("mem")
	const warning = "WARNING: volume mem (tmpfs) is no place for postgres: the data is in memory (tmpfs) and gone with the next reboot"
	for _, tt := range []struct {
		what string
		args []string
		warn bool
	}{
		{"a label", []string{"-l", "holdfast.preflight=postgres"}, true},
		{"a variable of the image", []string{"-e", "PGDATA=/d/pg"}, true},
		{"a label says no", []string{"-e", "PGDATA=/d/pg", "-l", "holdfast.preflight=off"}, false},
		{"no database", nil, false},
	} {
		r := d.DockerResult(append(append([]string{"run", "--rm", "-v", "mem:/d"}, tt.args...), "busybox", "ls", "-A", "/d")...)
		if r.Code != 0 || r.Out != "" || strings.Contains(r.Err, warning) != tt.warn {
			t.Errorf("%s: %s", tt.what, r)
		}
	}
	if n := strings.Count(d.Docker("events", "--since", "1h", "--until", "0s", "--filter", "event=preflight"), "warning=volume mem (tmpfs) is no place for postgres"); n != 2 {
		t.Errorf("%d events", n)
	}
	contains(t, "log", d.Logs(), "database in the wrong place")
	good := d.DockerResult("run", "--rm", "-v", "good:/d", "-l", "holdfast.preflight=postgres", "busybox", "ls", "-A", "/d")
	if good.Code != 0 || good.Out != "" || strings.Contains(good.Err, "no place") {
		t.Errorf("a good one: %s", good)
	}

	// Told to, the daemon refuses.
	file := filepath.Join(d.Dir(), "daemon.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), "{", `{"volume-preflight":"refuse",`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Restart()
	d.DockerFails("volume mem (tmpfs) is no place for postgres", "run", "--rm", "-v", "mem:/d", "-e", "PGDATA=/d/pg", "busybox", "true")
	d.DockerFails(`(volume-preflight is "refuse"; the label holdfast.preflight=off of the container lets it start)`, "run", "--rm", "-v", "mem:/d", "-l", "holdfast.preflight=postgres", "busybox", "true")
	d.Docker("run", "--rm", "-v", "good:/d", "-l", "holdfast.preflight=postgres", "busybox", "true")
	equal(t, "a port alone is no proof", d.Docker("run", "--rm", "-v", "mem:/d", "--expose", "5432", "busybox", "echo", "ran"), "ran")
}
