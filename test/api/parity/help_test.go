package parity

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

const sigterm = syscall.SIGTERM

// begin starts what create made; what run made runs.
func (x *ctx) begin() {
	x.t.Helper()
	if x.verb == "create" {
		x.Holdfast("start", x.name)
	}
}

// running makes a container to update or to run more in.
func (x *ctx) running(flags ...string) {
	x.t.Helper()
	x.Holdfast(append(append([]string{"run", "-d", "--name", x.name}, flags...), "busybox", "sleep", "600")...)
}

// trap: stop sends the signal that the flag names.
func (x *ctx) trap(flag, value, signal string) {
	x.t.Helper()
	args := []string{x.verb, "--name", x.name, flag, value}
	if x.verb == "run" {
		args = append(args, "-d")
	}
	x.Holdfast(append(args, "busybox", "sh", "-c", "trap 'exit 9' "+signal+"; echo ready; while :; do sleep 0.1; done")...)
	x.begin()
	x.Eventually(settle, "trap is set", func() (bool, string) {
		s := x.Docker("logs", x.name)
		return s == "ready", s
	})
	x.Holdfast("stop", x.name)
	x.equal("exit code", x.inspect("{{.State.ExitCode}}"), "9")
}

// weight: the weight is inspect's and the cgroup's, or was discarded with a warning.
func weight(flag, value string) check {
	return func(t *testing.T, x *ctx) {
		// 500 of 1000 is 4950 of v2's 10000.
		r := x.start("cat /sys/fs/cgroup/blkio/blkio.*weight* /sys/fs/cgroup/io.*weight 2>/dev/null; true", flag, value)
		if r.Code != 0 || !strings.Contains(r.Out, "500") && !strings.Contains(r.Out, "4950") && !strings.Contains(r.Err, "discarded") {
			t.Errorf("%s", r)
		}
	}
}

func health(want string, flags ...string) check {
	return func(_ *testing.T, x *ctx) {
		x.make(flags...)
		x.begin()
		x.Eventually(settle, want, func() (bool, string) {
			s := x.inspect("{{.State.Health.Status}}")
			return s == want, s
		})
	}
}

func logsKept(driver string) check {
	return func(_ *testing.T, x *ctx) {
		x.start("echo kept", "--log-driver", driver)
		x.equal(driver, x.Docker("logs", x.name), "kept")
	}
}

// detaches: the client leaves at its keys and what it was joined to goes on.
func detaches(args ...string) check {
	return func(t *testing.T, x *ctx) {
		testkit.RequireProgram(t, "script")
		quoted := testkit.RequireBin(t, "holdfast") + " " + strings.Join(args, " ")
		r := x.Run("\x05q", "script", "-qec", quoted, "/dev/null")
		if !strings.Contains(r.Out, "read escape sequence") && r.Code != 0 {
			t.Errorf("%s", r)
		}
		x.equal("state", x.inspect("{{.State.Status}}"), "running")
	}
}

func changes(v1, v2, want string, flags ...string) check {
	return func(t *testing.T, x *ctx) {
		x.running()
		x.Holdfast(append(append([]string{"update"}, flags...), x.name)...)
		got := x.Holdfast("exec", x.name, "sh", "-c", cgroup(v1, v2))
		if got != want && !strings.HasPrefix(got, want+" ") && !strings.HasSuffix(got, " "+want) {
			t.Errorf("cgroup: got %q, want %q", got, want)
		}
	}
}

func refusesUpdate(flags ...string) check {
	return func(t *testing.T, x *ctx) {
		x.running()
		if r := x.hf(append(append([]string{"update"}, flags...), x.name)...); r.Code == 0 || !strings.Contains(r.Err, x.note) {
			t.Errorf("want a refusal that says %q: %s", x.note, r)
		}
	}
}

func inExec(want, script string, flags ...string) check {
	return func(_ *testing.T, x *ctx) {
		x.running()
		x.equal(script, x.Holdfast(append(append([]string{"exec"}, flags...), x.name, "sh", "-c", script)...), want)
	}
}

// windowsOnly: our client refuses the flag, and the daemon the field of a client that does not.
func windowsOnly(flag, value, field string) check {
	return func(t *testing.T, x *ctx) {
		refuses("--"+flag, value)(t, x)
		code, body := x.API(http.MethodPost, "/containers/create", map[string]any{
			"Image": "busybox", "HostConfig": map[string]any{field: 1},
		})
		if code != http.StatusBadRequest || !strings.Contains(string(body), "not served by holdfast: --"+flag) {
			t.Errorf("%s: %d %s", field, code, body)
		}
	}
}

// describe writes the file that describes devices 0 and 1 of a kind, for the daemon
// to find.
func describe(t *testing.T, _ *ctx, kind string) {
	t.Helper()
	path := filepath.Join(cdiDir, strings.ReplaceAll(kind, "/", "-")+".json")
	body := `{"cdiVersion":"0.6.0","kind":"` + kind + `","devices":[`
	for i, n := range []string{"0", "1"} {
		if i > 0 {
			body += ","
		}
		body += `{"name":"` + n + `","containerEdits":{"env":["THING_` + n + `=` + n + `"],"deviceNodes":[{"path":"/dev/thing` + n + `","hostPath":"/dev/zero"}]}}`
	}
	if err := os.WriteFile(path, []byte(body+"]}"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
}
