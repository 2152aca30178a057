package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// flagCase is one `docker run --rm FLAGS busybox CMD` and what it must print.
type flagCase struct {
	name  string
	flags []string
	cmd   []string
	want  string // the whole output
	has   string // or a part of it
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestRunFlags(t *testing.T) {
	d := daemon(t)
	dir := t.TempDir()
	envFile := filepath.Join(dir, "env")
	if err := os.WriteFile(envFile, []byte("# comment\nONE=1\nTWO=a b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bind := filepath.Join(dir, "bind")
	if err := os.MkdirAll(bind, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bind, "f"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	capEff := sh("grep CapEff /proc/self/status | cut -f2")
	for _, tc := range []flagCase{
		{"-e", []string{"-e", "A=x y"}, sh(`echo "$A"`), "x y", ""},
		{"--env-file", []string{"--env-file", envFile}, sh(`echo "$ONE $TWO"`), "1 a b", ""},
		{"--user name", []string{"--user", "www"}, sh("id -u; id -g"), "33\n33", ""},
		{"--user uid:gid", []string{"--user", "12:34"}, sh("id -u; id -g"), "12\n34", ""},
		{"--user extra groups", []string{"--user", "www"}, sh("id -G"), "33 44", ""},
		{"--group-add", []string{"--user", "12:34", "--group-add", "99"}, sh("id -G"), "34 99", ""},
		{"-w", []string{"-w", "/made/for/it"}, []string{"pwd"}, "/made/for/it", ""},
		{"--entrypoint", []string{"--entrypoint", "echo"}, []string{"over"}, "over", ""},
		{"--read-only", []string{"--read-only"}, sh("touch /x 2>&1 || echo refused"), "", "refused"},
		{"--read-only --tmpfs", []string{"--read-only", "--tmpfs", "/t:size=1m,mode=1777"}, sh("touch /t/x && df -k /t | tail -1 | awk '{print $2}'"), "1024", ""},
		{"--shm-size", []string{"--shm-size", "10m"}, sh("df -k /dev/shm | tail -1 | awk '{print $2}'"), "10240", ""},
		{"--hostname", []string{"--hostname", "named"}, sh("hostname; grep -c named /etc/hosts"), "named\n1", ""},
		{"--add-host", []string{"--add-host", "far:10.1.2.3"}, sh("grep far /etc/hosts"), "10.1.2.3\tfar", ""},
		{"--dns", []string{"--dns", "9.8.7.6"}, []string{"cat", "/etc/resolv.conf"}, "", "nameserver 9.8.7.6"},
		{"--dns-search", []string{"--dns-search", "corp.example"}, []string{"cat", "/etc/resolv.conf"}, "", "search corp.example"},
		{"--ulimit", []string{"--ulimit", "nofile=512:1024"}, sh("ulimit -Sn; ulimit -Hn"), "512\n1024", ""},
		{"--init", []string{"--init"}, sh("cat /proc/1/comm"), "", "init"},
		{"no --init", nil, []string{"cat", "/proc/1/comm"}, "cat", ""},
		{"--pid host", []string{"--pid", "host"}, sh("ls -d /proc/[0-9]* | wc -l | awk '{print ($1 > 5)}'"), "1", ""},
		{"--cap-drop", []string{"--cap-drop", "ALL"}, capEff, "0000000000000000", ""},
		{"--cap-add", []string{"--cap-drop", "ALL", "--cap-add", "CHOWN"}, capEff, "0000000000000001", ""},
		{"default capabilities", nil, capEff, "00000000a80425fb", ""},
		{"seccomp default", nil, sh("grep Seccomp: /proc/self/status | cut -f2"), "2", ""},
		{"--security-opt seccomp", []string{"--security-opt", "seccomp=unconfined"}, sh("grep Seccomp: /proc/self/status | cut -f2"), "0", ""},
		{"--security-opt no-new-privileges", []string{"--security-opt", "no-new-privileges"}, sh("grep NoNewPrivs /proc/self/status | cut -f2"), "1", ""},
		{"--privileged", []string{"--privileged"}, sh("mkdir /m && mount -t tmpfs t /m && echo mounted"), "mounted", ""},
		{"masked paths", nil, sh("cat /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l"), "0\n0", ""},
		{"--memory", []string{"--memory", "64m"}, sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"), "67108864", ""},
		{"--cpus", []string{"--cpus", "0.5"}, sh("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max"), "50000", ""},
		{"--pids-limit", []string{"--pids-limit", "50"}, sh("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"), "50", ""},
		{"-v bind", []string{"-v", bind + ":/b"}, []string{"cat", "/b/f"}, "from the host", ""},
		{"-v bind ro", []string{"-v", bind + ":/b:ro"}, sh("touch /b/x 2>&1 || echo refused"), "", "refused"},
		{"--mount bind", []string{"--mount", "type=bind,source=" + bind + ",target=/b"}, []string{"cat", "/b/f"}, "from the host", ""},
		{"--mount bind readonly", []string{"--mount", "type=bind,source=" + bind + ",target=/b,readonly"}, sh("touch /b/x 2>&1 || echo refused"), "", "refused"},
		{"--mount tmpfs", []string{"--mount", "type=tmpfs,target=/t,tmpfs-size=2097152,tmpfs-mode=0700"}, sh("df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t"), "2048\n700", ""},
		{"--mount volume", []string{"--mount", "type=volume,target=/v"}, sh("touch /v/x && echo ok"), "ok", ""},
		{"--mount volume ro", []string{"--mount", "type=volume,source=flagvol,target=/v,ro"}, sh("touch /v/x 2>&1 || echo refused"), "", "refused"},
		{"--volumes not there is made", []string{"-v", filepath.Join(dir, "new") + ":/n"}, sh("test -d /n && echo dir"), "dir", ""},
		{"--network none", []string{"--network", "none"}, sh("ls /sys/class/net"), "", "lo"},
		{"--device", []string{"--device", "/dev/zero:/dev/nought"}, sh("head -c 4 /dev/nought | wc -c"), "4", ""},
		{"--sysctl", []string{"--sysctl", "net.ipv4.ip_default_ttl=33"}, []string{"cat", "/proc/sys/net/ipv4/ip_default_ttl"}, "33", ""},
		{"--oom-score-adj", []string{"--oom-score-adj", "500"}, []string{"cat", "/proc/self/oom_score_adj"}, "500", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "--privileged" {
				notOnTwin(t, "it asks for more capabilities than this machine may give")
			}
			args := append([]string{"run", "--rm"}, tc.flags...)
			r := d.DockerResult(append(append(args, "busybox"), tc.cmd...)...)
			got := strings.TrimRight(r.Out, "\n")
			if r.Code != 0 || (tc.has == "" && got != tc.want) || !strings.Contains(got, tc.has) {
				t.Errorf("want %q%q: %s", tc.want, tc.has, r)
			}
		})
	}
}

func TestRunInteractive(t *testing.T) {
	d := daemon(t)
	r := d.Run("line one\nline two\n", "docker", "run", "--rm", "-i", "busybox", "cat")
	equal(t, "-i", r.Out, "line one\nline two\n")
	contains(t, "-t", d.Docker("run", "--rm", "-t", "busybox", "tty"), "/dev/pts/")
	testkit.RequireProgram(t, "script")
	for _, cli := range []string{"docker", "holdfast"} {
		if cli == "holdfast" {
			notOnTwin(t, "the client speaks newer versions only")
			cli = testkit.RequireBin(t, "holdfast")
		}
		// A real terminal on both sides: the size must reach the container.
		r = d.Run("", "script", "-qec", "stty rows 33 cols 77; "+cli+" run --rm -it busybox timeout 10 sh -c 'until stty size | grep 33.77; do sleep 0.1; done'", "/dev/null")
		contains(t, cli+" -it", r.Out, "33 77")
	}
}

func TestRunRmRemovesContainerAndAnonymousVolumes(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "/anon", "-v", "kept:/named", "busybox", "true")
	d.Eventually(settle, "container and anonymous volume are gone", func() (bool, string) {
		s := d.Docker("ps", "-aq") + "|" + d.Docker("volume", "ls", "-q")
		return s == "|kept", s
	})
}

func TestRunNameCidfileLabelStop(t *testing.T) {
	d := daemon(t)
	cid := filepath.Join(t.TempDir(), "cid")
	id := up(d, "--name", "named", "--cidfile", cid, "--label", "a=b", "--label", "only", "--stop-signal", "SIGUSR1", "--stop-timeout", "20",
		"busybox", "sh", "-c", `trap 'echo got USR1; exit 9' USR1; echo ready; while :; do sleep 0.1; done`)
	b, err := os.ReadFile(cid)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "cidfile", string(b), id)
	equal(t, "labels", format(d, "named", `{{index .Config.Labels "a"}} {{len .Config.Labels}} {{.Config.StopTimeout}}`), "b 2 20")
	waitLog(d, "named", "ready")
	d.Docker("stop", "named")
	equal(t, "exit code", format(d, "named", "{{.State.ExitCode}} {{.State.Status}}"), "9 exited")
	contains(t, "log", d.Docker("logs", "named"), "got USR1")
}

func TestRunPull(t *testing.T) {
	d := daemon(t)
	equal(t, "--pull never, there", d.Docker("run", "--rm", "--pull", "never", "busybox", "echo", "x"), "x")
	d.DockerFails("No such image: absent:latest", "run", "--rm", "--pull", "never", "absent")
}

func TestRunHealth(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "sick", "--health-cmd", "test -f /ok", "--health-interval", "200ms", "--health-timeout", "5s", "--health-retries", "2", "--health-start-period", "0s",
		"busybox", "sleep", "600")
	health := func(want string) {
		t.Helper()
		d.Eventually(settle, "health "+want, func() (bool, string) {
			s := format(d, "sick", "{{.State.Health.Status}}")
			return s == want, s
		})
	}
	health("unhealthy")
	d.Docker("exec", "sick", "touch", "/ok")
	health("healthy")
	contains(t, "ps", d.Docker("ps", "--filter", "health=healthy", "--format", "{{.Names}} {{.Status}}"), "sick Up")
	up(d, "--name", "nohealth", "--no-healthcheck", "busybox", "sleep", "600")
	equal(t, "no health", format(d, "nohealth", "{{if .State.Health}}{{.State.Health.Status}}{{end}}"), "")
}

func TestRunRestartPolicies(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "onfail", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 4")
	d.Eventually(settle, "two restarts, then exited", func() (bool, string) {
		s := format(d, "onfail", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}")
		return s == "2 exited 4", s
	})
	up(d, "--name", "onfail-ok", "--restart", "on-failure", "busybox", "true")
	d.WaitState("onfail-ok", "exited")
	equal(t, "success is not restarted", format(d, "onfail-ok", "{{.RestartCount}}"), "0")
	up(d, "--name", "always", "--restart", "always", "busybox", "sh", "-c", "echo again; sleep 0.2")
	d.Eventually(settle, "restarted", func() (bool, string) {
		s := format(d, "always", "{{.RestartCount}}")
		return s != "0" && s != "1", s
	})
	d.Docker("stop", "always")
	equal(t, "stopped stays stopped", format(d, "always", "{{.State.Status}}"), "exited")
	d.DockerFails("maximum retry count can", "create", "--restart", "always:3", "busybox")
}

func TestRunLogDrivers(t *testing.T) {
	d := daemon(t)
	for _, driver := range []string{"json-file", "local"} {
		d.Docker("run", "--name", driver, "--log-driver", driver, "busybox", "echo", "kept")
		equal(t, driver, d.Docker("logs", driver), "kept")
	}
	d.Docker("run", "--name", "nolog", "--log-driver", "none", "busybox", "echo", "lost")
	d.DockerFails("configured logging driver does not support reading", "logs", "nolog")
	// Rotation: never more than max-file files of max-size, the newest lines readable.
	up(d, "--name", "rot", "--log-opt", "max-size=4k", "--log-opt", "max-file=3", "busybox", "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line-$i; i=$((i+1)); done")
	d.WaitState("rot", "exited")
	d.Eventually(settle, "last line readable", func() (bool, string) {
		out := d.Docker("logs", "rot")
		lines := strings.Count(out, "\n") + 1
		return strings.HasSuffix(out, "line-1999") && lines < 600, fmt.Sprintf("%d lines, ends %q", lines, out[max(0, len(out)-20):])
	})
	if p := format(d, "rot", "{{.LogPath}}"); p != "" {
		files, err := filepath.Glob(p + "*")
		if err != nil || len(files) == 0 || len(files) > 3 {
			t.Errorf("log files: %q, %v", files, err)
		}
	}
}

func TestRunOptionsNotServedAreRefused(t *testing.T) {
	notOnTwin(t, "docker serves some of them")
	d := daemon(t)
	for _, tc := range [][]string{
		{"--gpus", "all"},
		{"--log-driver", "gelf"},
		{"--runtime", "other"},
		{"--volume-driver", "nosuch"},
		{"--isolation", "hyperv"},
		{"--network", "nosuchnet"},
	} {
		args := append(append([]string{"run", "--rm", "-v", "vv:/vv"}, tc...), "busybox", "true")
		if r := d.DockerResult(args...); r.Code == 0 || r.Err == "" {
			t.Errorf("%q is ignored: %s", tc, r)
		}
	}
	equal(t, "nothing half made", d.Docker("ps", "-aq"), "")
}
