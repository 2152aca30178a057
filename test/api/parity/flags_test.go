package parity

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast.dev/holdfast/internal/testkit"
)

// cgroup reads a limit inside the container where cgroup v1 or v2 has it.
func cgroup(v1, v2 string) string {
	return fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", v1, v2)
}

// disk is a block device of the host, for limits of its rate.
func disk(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"vda", "sda", "nvme0n1", "xvda", "loop0"} {
		if _, err := os.Stat("/sys/block/" + name); err == nil {
			if _, err := os.Stat("/dev/" + name); err == nil {
				return "/dev/" + name
			}
		}
	}
	testkit.Missing(t, "a block device")
	return ""
}

// rate limits a disk's rate and reads the limit of the container's cgroup.
func rate(flag, v1, v2 string) check {
	return func(t *testing.T, x *ctx) {
		dev := disk(t)
		if r := x.start(cgroup("blkio/blkio.throttle."+v1, "io.max"), "--"+flag, dev+":1048576"); r.Code != 0 ||
			!strings.Contains(r.Out, " 1048576") && !strings.Contains(r.Out, v2+"=1048576") {
			t.Errorf("limit is not in the cgroup: %s", r)
		}
	}
}

func write(t *testing.T, name, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

const netFirst = `{{range $n, $e := .NetworkSettings.Networks}}`

// createFlags are the flags that run and create have in common.
var createFlags = []row{
	{"add-host", served, "", prints("10.1.2.3\tfar", "grep far /etc/hosts", "--add-host", "far:10.1.2.3")},
	{"annotation", served, "", shows("v", `{{index .HostConfig.Annotations "k.example"}}`, "--annotation", "k.example=v")},
	{"attach", served, "", func(t *testing.T, x *ctx) {
		if x.verb == "create" {
			x.make("-a", "stderr")
			x.equal("attached", x.inspect("{{.Config.AttachStdout}} {{.Config.AttachStderr}}"), "false true")
			return
		}
		if r := x.start("echo out; echo err >&2", "-a", "stderr"); r.Out != "" || r.Err != "err\n" {
			t.Errorf("want standard error alone: %s", r)
		}
	}},
	{"blkio-weight", served, "discarded with a warning where the kernel weighs no I/O, as in Docker", weight("--blkio-weight", "500")},
	{"blkio-weight-device", served, "discarded with a warning where the kernel weighs no I/O, as in Docker", func(t *testing.T, x *ctx) {
		weight("--blkio-weight-device", disk(t)+":500")(t, x)
	}},
	{"cap-add", served, "", prints("0000000000000001", "grep CapEff /proc/self/status | cut -f2", "--cap-drop", "ALL", "--cap-add", "CHOWN")},
	{"cap-drop", served, "", prints("0000000000000000", "grep CapEff /proc/self/status | cut -f2", "--cap-drop", "ALL")},
	{"cgroup-parent", served, "", func(t *testing.T, x *ctx) {
		// Below the daemon's own parent, so that the kit takes it away again.
		parent := "/" + filepath.Base(x.Dir()) + "/own"
		if r := x.start("cat /proc/self/cgroup", "--cgroupns", "host", "--cgroup-parent", parent); r.Code != 0 || !strings.Contains(r.Out, parent+"/") {
			t.Errorf("not below %s: %s", parent, r)
		}
		// The container's parent is its user's, who takes it away.
		x.Docker("rm", x.name)
		for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
			found, err := filepath.Glob(pattern + parent)
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range found {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		}
	}},
	{"cgroupns", served, "", both(
		func(t *testing.T, x *ctx) {
			if r := x.start("head -1 /proc/self/cgroup | cut -d: -f3", "--cgroupns", "host"); r.Code != 0 || strings.TrimSpace(r.Out) == "/" {
				t.Errorf("host: %s", r)
			}
		},
		prints("/", "head -1 /proc/self/cgroup | cut -d: -f3", "--cgroupns", "private"),
	)},
	{"cidfile", served, "", func(t *testing.T, x *ctx) {
		p := filepath.Join(t.TempDir(), "cid")
		x.make("--cidfile", p)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		x.equal("cidfile", string(b), x.inspect("{{.Id}}"))
	}},
	{"cpu-count", refused, `"--cpu-count" is only supported on a daemon running on windows`, windowsOnly("cpu-count", "1", "CpuCount")},
	{"cpu-percent", refused, `"--cpu-percent" is only supported on a daemon running on windows`, windowsOnly("cpu-percent", "10", "CpuPercent")},
	{"cpu-period", served, "", func(t *testing.T, x *ctx) {
		if r := x.start(cgroup("cpu/cpu.cfs_period_us", "cpu.max"), "--cpu-period", "50000"); !strings.HasSuffix(strings.TrimSpace(r.Out), "50000") {
			t.Errorf("%s", r)
		}
	}},
	{"cpu-quota", served, "", func(t *testing.T, x *ctx) {
		if r := x.start(cgroup("cpu/cpu.cfs_quota_us", "cpu.max"), "--cpu-quota", "60000"); !strings.HasPrefix(r.Out, "60000") {
			t.Errorf("%s", r)
		}
	}},
	{"cpu-rt-period", refused, "not served by holdfast: --cpu-rt-period", refuses("--cpu-rt-period", "100000")},
	{"cpu-rt-runtime", refused, "not served by holdfast: --cpu-rt-runtime", refuses("--cpu-rt-runtime", "1000")},
	{"cpu-shares", served, "", func(t *testing.T, x *ctx) {
		if r := x.start(cgroup("cpu/cpu.shares", "cpu.weight"), "--cpu-shares", "512"); strings.TrimSpace(r.Out) != "512" && strings.TrimSpace(r.Out) != "59" && strings.TrimSpace(r.Out) != "20" {
			t.Errorf("%s", r)
		}
	}},
	{"cpus", served, "", func(t *testing.T, x *ctx) {
		if r := x.start(cgroup("cpu/cpu.cfs_quota_us", "cpu.max"), "--cpus", "0.5"); !strings.HasPrefix(r.Out, "50000") {
			t.Errorf("%s", r)
		}
	}},
	{"cpuset-cpus", served, "", prints("0", cgroup("cpuset/cpuset.cpus", "cpuset.cpus"), "--cpuset-cpus", "0")},
	{"cpuset-mems", served, "", prints("0", cgroup("cpuset/cpuset.mems", "cpuset.mems"), "--cpuset-mems", "0")},
	{"device", served, "paths, and CDI names", both(
		prints("4", "head -c 4 /dev/nought | wc -c", "--device", "/dev/zero:/dev/nought"),
		func(t *testing.T, x *ctx) {
			describe(t, x, "holdfast.test/thing")
			prints("1", "echo $THING_1; head -c 1 /dev/thing1 >/dev/null", "--device", "holdfast.test/thing=1")(t, x)
			if r := x.hf(x.verb, "--name", "none", "--device", "holdfast.test/thing=7", "busybox", "true"); x.verb == "run" && (r.Code == 0 || !strings.Contains(r.Err, "unresolvable CDI devices holdfast.test/thing=7")) {
				t.Errorf("one that is not there: %s", r)
			}
		},
		func(t *testing.T, x *ctx) {
			prints("refused", "dd if=/dev/d count=0 2>/dev/null || echo refused", "--device", disk(t)+":/dev/d:w")(t, x)
		},
	)},
	{"device-cgroup-rule", served, "", both(
		prints("refused", "mknod /tmp/l b 7 0 2>/dev/null; dd if=/tmp/l count=0 2>/dev/null || echo refused"),
		prints("opened", "mknod /tmp/l b 7 0; dd if=/tmp/l count=0 2>/dev/null && echo opened", "--device-cgroup-rule", "b 7:* rmw"),
	)},
	{"device-read-bps", served, "", rate("device-read-bps", "read_bps_device", "rbps")},
	{"device-read-iops", served, "", rate("device-read-iops", "read_iops_device", "riops")},
	{"device-write-bps", served, "", rate("device-write-bps", "write_bps_device", "wbps")},
	{"device-write-iops", served, "", rate("device-write-iops", "write_iops_device", "wiops")},
	{"dns", served, "", prints("nameserver 9.8.7.6", "grep nameserver /etc/resolv.conf", "--dns", "9.8.7.6")},
	{"disable-content-trust", served, "hidden, of no effect: docker's client no longer has content trust", func(t *testing.T, x *ctx) {
		if r := x.start("echo x", "--disable-content-trust"); r.Code != 0 || !strings.HasSuffix("\n"+r.Out, "\nx\n") {
			t.Errorf("%s", r)
		}
	}},
	{"dns-opt", served, "old name of --dns-option", prints("1", "grep -c 'options.*ndots:7' /etc/resolv.conf", "--dns-opt", "ndots:7")},
	{"dns-option", served, "", prints("1", "grep -c 'options.*ndots:7' /etc/resolv.conf", "--dns-option", "ndots:7")},
	{"dns-search", served, "", prints("search corp.example", "grep search /etc/resolv.conf", "--dns-search", "corp.example")},
	{"domainname", served, "", prints("corp.example", "cat /proc/sys/kernel/domainname", "--domainname", "corp.example")},
	{"entrypoint", served, "", func(t *testing.T, x *ctx) {
		if r := x.start("x", "--entrypoint", "echo"); strings.TrimSpace(r.Out) != "sh -c x" {
			t.Errorf("%s", r)
		}
	}},
	{"env", served, "", prints("x y", `echo "$A"`, "-e", "A=x y")},
	{"env-file", served, "", func(t *testing.T, x *ctx) {
		prints("1 a b", `echo "$ONE $TWO"`, "--env-file", write(t, "env", "# no\nONE=1\nTWO=a b\n"))(t, x)
	}},
	{"expose", served, "", shows("true", `{{range $p, $_ := .Config.ExposedPorts}}{{eq (print $p) "81/tcp"}}{{end}}`, "--expose", "81")},
	{"gpus", served, "of vendors whose files describe them (CDI: nvidia.com, amd.com, gpu.intel.com)", func(t *testing.T, x *ctx) {
		if r := x.hf(x.verb, "--gpus", "all", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, `could not select device driver "" with capabilities: [[gpu]]`) {
			t.Errorf("without any: %s", r)
		}
		describe(t, x, "nvidia.com/gpu")
		prints("0 1", "echo $THING_0 $THING_1", "--gpus", "all")(t, x)
		y := *x
		y.name = "one"
		prints("0", "echo $THING_0 $THING_1; test -c /dev/thing0", "--gpus", "1")(t, &y)
	}},
	{"group-add", served, "", prints("34 99", "id -G", "--user", "12:34", "--group-add", "99")},
	{"health-cmd", served, "", health("healthy", "--health-cmd", "true", "--health-interval", "200ms")},
	{"health-interval", served, "", health("healthy", "--health-cmd", "true", "--health-interval", "150ms")},
	{"health-retries", served, "", func(t *testing.T, x *ctx) {
		health("unhealthy", "--health-cmd", "false", "--health-interval", "50ms", "--health-retries", "4")(t, x)
		if n, err := strconv.Atoi(x.inspect("{{.State.Health.FailingStreak}}")); err != nil || n < 4 {
			t.Errorf("unhealthy after %d failures, %v", n, err)
		}
	}},
	{"health-start-interval", served, "", health("healthy", "--health-cmd", "true", "--health-interval", "1h", "--health-start-period", "1h", "--health-start-interval", "100ms")},
	{"health-start-period", served, "", func(t *testing.T, x *ctx) {
		// Failures do not count while it starts: it stays "starting" after more than its retries.
		x.make("--health-cmd", "echo try; false", "--health-interval", "50ms", "--health-start-interval", "50ms", "--health-retries", "1", "--health-start-period", "1h")
		x.begin()
		x.Eventually(settle, "several probes", func() (bool, string) {
			s := x.inspect("{{len .State.Health.Log}} {{.State.Health.Status}}")
			return strings.HasPrefix(s, "3") || strings.HasPrefix(s, "4") || strings.HasPrefix(s, "5"), s
		})
		x.equal("status", x.inspect("{{.State.Health.Status}}"), "starting")
	}},
	{"health-timeout", served, "", health("unhealthy", "--health-cmd", "sleep 60", "--health-interval", "50ms", "--health-timeout", "100ms", "--health-retries", "1")},
	{"hostname", served, "", prints("named", "hostname", "--hostname", "named")},
	{"init", served, "", prints("/sbin/docker-init", "tr '\\0' '\\n' </proc/1/cmdline | head -1", "--init")},
	{"interactive", served, "", func(t *testing.T, x *ctx) {
		args := []string{x.verb, "-i", "--name", x.name, "busybox", "cat"}
		r := testkit.Result{}
		if x.verb == "create" {
			x.Holdfast(args...)
			args = []string{"start", "-ai", x.name}
		}
		if r = x.Run("typed\n", "holdfast", args...); r.Out != "typed\n" {
			t.Errorf("%s", r)
		}
	}},
	{"io-maxbandwidth", refused, `"--io-maxbandwidth" is only supported on a daemon running on windows`, windowsOnly("io-maxbandwidth", "1m", "IOMaximumBandwidth")},
	{"io-maxiops", refused, `"--io-maxiops" is only supported on a daemon running on windows`, windowsOnly("io-maxiops", "10", "IOMaximumIOps")},
	{"ip", served, "", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "--subnet", "10.213.7.0/24", "pin")
		prints("1", "ip -4 addr | grep -c 10.213.7.77/24", "--network", "pin", "--ip", "10.213.7.77")(t, x)
	}},
	{"ip6", served, "", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "--ipv6", "--subnet", "fd00:213:7::/64", "pin")
		if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
			testkit.Missing(t, "IPv6")
		}
		prints("1", "ip -6 addr | grep -c fd00:213:7::77/64", "--network", "pin", "--ip6", "fd00:213:7::77")(t, x)
	}},
	{"ipc", served, "", func(t *testing.T, x *ctx) {
		x.Holdfast("run", "-d", "--name", "sharer", "--ipc", "shareable", "busybox", "sh", "-c", "echo shared >/dev/shm/f; exec sleep 600")
		x.Eventually(settle, "file is there", func() (bool, string) {
			r := x.hf("exec", "sharer", "cat", "/dev/shm/f")
			return r.Out == "shared\n", r.String()
		})
		prints("shared", "cat /dev/shm/f", "--ipc", "container:sharer")(t, x)
	}},
	{"isolation", refused, "invalid isolation (hyperv): linux only supports 'default'", refuses("--isolation", "hyperv")},
	{"kernel-memory", served, "hidden, of no effect: docker's client no longer sends it", func(t *testing.T, x *ctx) {
		if r := x.start("echo x", "--kernel-memory", "64m"); r.Code != 0 || !strings.HasSuffix("\n"+r.Out, "\nx\n") {
			t.Errorf("%s", r)
		}
	}},
	{"label", served, "", shows("v", `{{index .Config.Labels "k"}}`, "--label", "k=v")},
	{"label-file", served, "", func(t *testing.T, x *ctx) {
		shows("v", `{{index .Config.Labels "k"}}`, "--label-file", write(t, "labels", "k=v\n"))(t, x)
	}},
	{"link", served, "", func(t *testing.T, x *ctx) {
		x.Holdfast("run", "-d", "--name", "other", "-e", "SECRET=s", "busybox", "sleep", "600")
		prints("s\n1", "echo $THEM_ENV_SECRET; grep -c them /etc/hosts", "--link", "other:them")(t, x)
	}},
	{"link-local-ip", served, "", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "pin")
		prints("1", "ip -4 addr show eth0 | grep -c 169.254.7.7/16", "--network", "pin", "--link-local-ip", "169.254.7.7")(t, x)
	}},
	{"log-driver", partly, "json-file, local, none, syslog and journald; others are refused by name", both(
		logsKept("json-file"), logsKept("local"),
		func(t *testing.T, x *ctx) {
			x.start("echo lost", "--log-driver", "none")
			if r := x.hf("logs", x.name); r.Code == 0 || !strings.Contains(r.Err, "configured logging driver does not support reading") {
				t.Errorf("none: %s", r)
			}
		},
		func(t *testing.T, x *ctx) {
			path := filepath.Join(x.Dir(), "syslog-"+x.verb)
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			x.start("echo said", "--log-driver", "syslog", "--log-opt", "syslog-address=unixgram://"+path, "--log-opt", "tag={{.Name}}")
			if err := conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1024)
			n, err := conn.Read(b)
			if err != nil || !strings.Contains(string(b[:n]), x.name+"[") || !strings.HasSuffix(string(b[:n]), "said") {
				t.Errorf("syslog got %q, %v", b[:n], err)
			}
			x.equal("kept to be read", x.Docker("logs", x.name), "said")
		},
		func(t *testing.T, x *ctx) {
			r := x.start("echo said", "--log-driver", "journald")
			if _, err := os.Stat("/run/systemd/journal/socket"); err != nil {
				if r.Code == 0 || !strings.Contains(r.Err, "journald is not enabled on this host") {
					t.Errorf("without a journal: %s", r)
				}
				return
			}
			x.equal("kept to be read", x.Docker("logs", x.name), "said")
		},
		func(t *testing.T, x *ctx) {
			for _, driver := range []string{"gelf", "fluentd", "awslogs", "splunk", "etwlogs", "gcplogs"} {
				if r := x.hf(x.verb, "--log-driver", driver, "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, driver) {
					t.Errorf("want a refusal that names %s: %s", driver, r)
				}
			}
		},
	)},
	{"log-opt", served, "", func(t *testing.T, x *ctx) {
		x.start("echo kept", "--label", "k=v", "--log-opt", "labels=k", "--log-opt", "tag=t/{{.Name}}")
		x.equal("details", x.Docker("logs", "--details", x.name), "k=v,tag=t%2F"+x.name+" kept")
	}},
	{"mac-address", served, "", prints("02:42:ac:11:77:77", "cat /sys/class/net/eth0/address", "--mac-address", "02:42:ac:11:77:77")},
	{"memory", served, "", prints("67108864", cgroup("memory/memory.limit_in_bytes", "memory.max"), "--memory", "64m")},
	{"memory-reservation", served, "", prints("33554432", cgroup("memory/memory.soft_limit_in_bytes", "memory.low"), "--memory", "64m", "--memory-reservation", "32m")},
	{"memory-swap", served, "", func(t *testing.T, x *ctx) {
		// v1 counts memory and swap together, v2 swap alone.
		if r := x.start(cgroup("memory/memory.memsw.limit_in_bytes", "memory.swap.max"), "--memory", "64m", "--memory-swap", "96m"); strings.TrimSpace(r.Out) != "100663296" && strings.TrimSpace(r.Out) != "33554432" {
			t.Errorf("%s", r)
		}
	}},
	{"memory-swappiness", served, "discarded with a warning on cgroup v2, as in Docker", func(t *testing.T, x *ctx) {
		r := x.start("cat /sys/fs/cgroup/memory/memory.swappiness 2>/dev/null", "--memory-swappiness", "33")
		if strings.TrimSpace(r.Out) != "33" && !strings.Contains(r.Err, "Memory swappiness discarded") {
			t.Errorf("%s", r)
		}
	}},
	{"mount", partly, "bind, volume, tmpfs and image; cluster and npipe are refused by name", both(
		func(t *testing.T, x *ctx) {
			prints("there", "cat /b/f", "--mount", "type=bind,source="+filepath.Dir(write(t, "f", "there"))+",target=/b,readonly")(t, x)
		},
		prints("ok", "touch /v/x && echo ok", "--mount", "type=volume,source=vol,target=/v"),
		prints("2048", "df -k /t | tail -1 | awk '{print $2}'", "--mount", "type=tmpfs,target=/t,tmpfs-size=2097152"),
		prints("root\nrefused", "head -1 /i/etc/passwd | cut -d: -f1; touch /i/x 2>/dev/null || echo refused", "--mount", "type=image,source=busybox,target=/i"),
		func(t *testing.T, x *ctx) {
			for _, kind := range []string{"cluster", "npipe"} {
				if r := x.hf(x.verb, "--mount", "type="+kind+",source=s,target=/i", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, "type="+kind) {
					t.Errorf("want a refusal that names %s: %s", kind, r)
				}
			}
		},
	)},
	{"name", served, "", shows("/case", "{{.Name}}")},
	{"net", served, "old name of --network", prints("1", "ls /sys/class/net | grep -c .", "--net", "none")},
	{"net-alias", served, "old name of --network-alias", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "named")
		shows("true", netFirst+`{{range .Aliases}}{{if eq . "nick"}}true{{end}}{{end}}{{end}}`, "--net", "named", "--net-alias", "nick")(t, x)
	}},
	{"network", served, "", both(
		prints("1", "ls /sys/class/net | grep -c .", "--network", "none"),
		func(t *testing.T, x *ctx) {
			x.Docker("network", "create", "one")
			x.Docker("network", "create", "two")
			prints("eth0\neth1", "ls /sys/class/net | grep eth", "--network", "one", "--network", "two")(t, x)
		},
	)},
	{"network-alias", served, "", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "named")
		shows("true", netFirst+`{{range .Aliases}}{{if eq . "nick"}}true{{end}}{{end}}{{end}}`, "--network", "named", "--network-alias", "nick")(t, x)
	}},
	{"no-healthcheck", served, "", func(_ *testing.T, x *ctx) {
		x.make("--no-healthcheck")
		x.begin()
		x.equal("health", x.inspect("{{.Config.Healthcheck.Test}} {{if .State.Health}}watched{{end}}"), "[NONE] ")
	}},
	{"oom-kill-disable", served, "discarded with a warning on cgroup v2, as in Docker", func(t *testing.T, x *ctx) {
		r := x.start("grep oom_kill_disable /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null", "--memory", "64m", "--oom-kill-disable")
		if strings.TrimSpace(r.Out) != "oom_kill_disable 1" && !strings.Contains(r.Err, "OomKillDisable discarded") {
			t.Errorf("%s", r)
		}
	}},
	{"oom-score-adj", served, "", prints("500", "cat /proc/self/oom_score_adj", "--oom-score-adj", "500")},
	{"pid", served, "", func(t *testing.T, x *ctx) {
		x.Holdfast("run", "-d", "--name", "other", "busybox", "sleep", "601")
		prints("1", "ps | grep -c '[s]leep 601'", "--pid", "container:other")(t, x)
	}},
	{"pids-limit", served, "", prints("50", cgroup("pids/pids.max", "pids.max"), "--pids-limit", "50")},
	{"platform", served, "", func(t *testing.T, x *ctx) {
		prints("ok", "echo ok", "--platform", "linux/amd64")(t, x)
		if r := x.hf(x.verb, "--pull", "never", "--platform", "linux/s390x", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, "s390x") {
			t.Errorf("another platform: %s", r)
		}
	}},
	{"privileged", served, "", prints("mounted", "mkdir /m && mount -t tmpfs t /m && echo mounted", "--privileged")},
	{"publish", served, "", func(_ *testing.T, x *ctx) {
		x.make("-p", "127.0.0.1:18471:80")
		x.begin()
		x.equal("port", x.Docker("port", x.name, "80"), "127.0.0.1:18471")
	}},
	{"publish-all", served, "", func(t *testing.T, x *ctx) {
		x.make("-P", "--expose", "80")
		x.begin()
		if got := x.Docker("port", x.name, "80"); !strings.Contains(got, "0.0.0.0:") {
			t.Errorf("port: %q", got)
		}
	}},
	{"pull", served, "", func(t *testing.T, x *ctx) {
		prints("x", "echo x", "--pull", "never")(t, x)
		if r := x.hf(x.verb, "--pull", "never", "absent"); r.Code == 0 || !strings.Contains(r.Err, "No such image: absent:latest") {
			t.Errorf("%s", r)
		}
	}},
	{"quiet", served, "", prints("x", "echo x", "--quiet")},
	{"read-only", served, "", prints("refused", "touch /x 2>/dev/null || echo refused", "--read-only")},
	{"restart", served, "", func(_ *testing.T, x *ctx) {
		x.make("--restart", "on-failure:2", "--entrypoint", "false")
		x.begin()
		x.Eventually(settle, "two restarts, then the end", func() (bool, string) {
			s := x.inspect("{{.RestartCount}} {{.State.Status}}")
			return s == "2 exited", s
		})
	}},
	{"rm", served, "", func(_ *testing.T, x *ctx) {
		x.start("true", "--rm")
		x.Eventually(settle, "container is gone", func() (bool, string) {
			s := x.Docker("ps", "-aq")
			return s == "", s
		})
	}},
	{"runtime", partly, "runc alone; others are refused", both(
		prints("x", "echo x", "--runtime", "runc"),
		func(t *testing.T, x *ctx) {
			if r := x.hf(x.verb, "--runtime", "other", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, "unknown or invalid runtime name: other") {
				t.Errorf("%s", r)
			}
		},
	)},
	{"security-opt", served, "", both(
		prints("0", "grep Seccomp: /proc/self/status | cut -f2", "--security-opt", "seccomp=unconfined"),
		prints("1", "grep NoNewPrivs /proc/self/status | cut -f2", "--security-opt", "no-new-privileges"),
	)},
	{"shm-size", served, "", prints("10240", "df -k /dev/shm | tail -1 | awk '{print $2}'", "--shm-size", "10m")},
	{"stop-signal", served, "", func(_ *testing.T, x *ctx) {
		x.trap("--stop-signal", "SIGUSR1", "USR1")
	}},
	{"stop-timeout", served, "", shows("7", "{{.Config.StopTimeout}}", "--stop-timeout", "7")},
	{"storage-opt", refused, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option: not served by holdfast", refuses("--storage-opt", "size=20m")},
	{"sysctl", served, "", prints("33", "cat /proc/sys/net/ipv4/ip_default_ttl", "--sysctl", "net.ipv4.ip_default_ttl=33")},
	{"tmpfs", served, "", prints("1024", "df -k /t | tail -1 | awk '{print $2}'", "--tmpfs", "/t:size=1m")},
	{"tty", served, "", func(t *testing.T, x *ctx) {
		if r := x.start("tty", "-t"); !strings.Contains(r.Out, "/dev/pts/") {
			t.Errorf("%s", r)
		}
	}},
	{"ulimit", served, "", prints("512\n1024", "ulimit -Sn; ulimit -Hn", "--ulimit", "nofile=512:1024")},
	{"umask", served, "", prints("0027", "umask", "--umask", "0027")},
	{"use-api-socket", served, "the client's own: it binds /var/run/docker.sock", func(t *testing.T, x *ctx) {
		r := x.hf(x.verb, "--name", x.name, "--use-api-socket", "busybox", "true")
		if _, err := os.Stat("/var/run/docker.sock"); err != nil {
			if r.Code == 0 || !strings.Contains(r.Err, "bind source path does not exist: /var/run/docker.sock") {
				t.Errorf("without the socket: %s", r)
			}
			return
		}
		x.equal("mount", x.inspect("{{(index .Mounts 0).Destination}}"), "/var/run/docker.sock")
	}},
	{"user", served, "", prints("33\n33", "id -u; id -g", "--user", "www")},
	{"userns", partly, "host; remapping is not there yet", both(
		prints("0 0", "awk '{print $1, $2}' /proc/self/uid_map", "--userns", "host"),
	)},
	{"uts", served, "", func(t *testing.T, x *ctx) {
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		prints(host, "hostname", "--uts", "host")(t, x)
	}},
	{"volume", served, "", func(t *testing.T, x *ctx) {
		prints("there\nrefused", "cat /b/f; echo; touch /b/x 2>/dev/null || echo refused", "-v", filepath.Dir(write(t, "f", "there"))+":/b:ro")(t, x)
	}},
	{"volume-driver", served, "", func(t *testing.T, x *ctx) {
		x.make("--volume-driver", "local", "-v", "vol:/v")
		x.equal("driver", x.inspect("{{(index .Mounts 0).Driver}}"), "local")
		if r := x.hf(x.verb, "--volume-driver", "nosuch", "-v", "other:/v", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Err, "nosuch") {
			t.Errorf("unknown driver: %s", r)
		}
	}},
	{"volumes-from", served, "", func(t *testing.T, x *ctx) {
		x.Holdfast("run", "--name", "has", "-v", "/v", "busybox", "sh", "-c", "echo theirs >/v/f")
		prints("theirs\nrefused", "cat /v/f; touch /v/x 2>/dev/null || echo refused", "--volumes-from", "has:ro")(t, x)
	}},
	{"workdir", served, "", prints("/made/for/it", "pwd", "-w", "/made/for/it")},
}

// runFlags are run's own.
var runFlags = []row{
	{"detach", served, "", func(_ *testing.T, x *ctx) {
		x.make()
		x.equal("state", x.inspect("{{.State.Status}}"), "running")
	}},
	{"detach-keys", served, "", detaches("run", "-it", "--detach-keys", "ctrl-e,q", "--name", "case", "busybox", "sh")},
	{"sig-proxy", served, "", func(_ *testing.T, x *ctx) {
		// With it, the default, the client's SIGTERM is the process's.
		cmd := x.Command(x.t.Context(), "holdfast", "run", "--sig-proxy=true", "--name", x.name, "busybox", "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			x.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			x.t.Fatal(err)
		}
		if !bufio.NewScanner(out).Scan() {
			x.t.Error("no output")
		}
		if err := cmd.Process.Signal(os.Signal(sigterm)); err != nil {
			x.t.Error(err)
		}
		_ = cmd.Wait() // its code is the container's, read below
		x.WaitState(x.name, "exited")
		x.equal("exit code", x.inspect("{{.State.ExitCode}}"), "7")
	}},
}

// updateFlags: a container that runs gets the flag and its cgroup, or the record, shows it.
var updateFlags = []row{
	{"blkio-weight", served, "discarded with a warning where the kernel weighs no I/O, as in Docker", func(t *testing.T, x *ctx) {
		x.running()
		r := x.hf("update", "--blkio-weight", "300", x.name)
		if r.Code != 0 || !strings.Contains(r.Out+r.Err, "discarded") && x.inspect("{{.HostConfig.BlkioWeight}}") != "300" {
			t.Errorf("%s", r)
		}
	}},
	{"cpu-period", served, "", changes("cpu/cpu.cfs_period_us", "cpu.max", "50000", "--cpu-period", "50000", "--cpu-quota", "25000")},
	{"cpu-quota", served, "", changes("cpu/cpu.cfs_quota_us", "cpu.max", "25000", "--cpu-quota", "25000")},
	{"cpu-rt-period", refused, "not served by holdfast: --cpu-rt-period", refusesUpdate("--cpu-rt-period", "100000")},
	{"cpu-rt-runtime", refused, "not served by holdfast: --cpu-rt-runtime", refusesUpdate("--cpu-rt-runtime", "1000")},
	{"cpu-shares", served, "", func(_ *testing.T, x *ctx) {
		x.running()
		x.Holdfast("update", "--cpu-shares", "512", x.name)
		x.equal("shares", x.inspect("{{.HostConfig.CpuShares}}"), "512")
		if got := x.Holdfast("exec", x.name, "sh", "-c", cgroup("cpu/cpu.shares", "cpu.weight")); got != "512" && got != "20" && got != "59" {
			x.t.Errorf("cgroup: %s", got)
		}
	}},
	{"cpus", served, "", changes("cpu/cpu.cfs_quota_us", "cpu.max", "50000", "--cpus", "0.5")},
	{"cpuset-cpus", served, "", changes("cpuset/cpuset.cpus", "cpuset.cpus", "0", "--cpuset-cpus", "0")},
	{"cpuset-mems", served, "", changes("cpuset/cpuset.mems", "cpuset.mems", "0", "--cpuset-mems", "0")},
	{"kernel-memory", served, "hidden, of no effect: docker's client no longer sends it", func(_ *testing.T, x *ctx) {
		x.running()
		x.Holdfast("update", "--kernel-memory", "64m", x.name)
	}},
	{"memory", served, "", changes("memory/memory.limit_in_bytes", "memory.max", "67108864", "--memory", "64m", "--memory-swap", "128m")},
	{"memory-reservation", served, "", changes("memory/memory.soft_limit_in_bytes", "memory.low", "33554432", "--memory-reservation", "32m")},
	{"memory-swap", served, "", func(_ *testing.T, x *ctx) {
		x.running("--memory", "64m")
		x.Holdfast("update", "--memory-swap", "96m", x.name)
		if got := x.Holdfast("exec", x.name, "sh", "-c", cgroup("memory/memory.memsw.limit_in_bytes", "memory.swap.max")); got != "100663296" && got != "33554432" {
			x.t.Errorf("cgroup: %s", got)
		}
	}},
	{"pids-limit", served, "", changes("pids/pids.max", "pids.max", "60", "--pids-limit", "60")},
	{"restart", served, "", func(_ *testing.T, x *ctx) {
		x.running()
		x.Holdfast("update", "--restart", "on-failure:3", x.name)
		x.equal("policy", x.inspect("{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}"), "on-failure:3")
	}},
}

var execFlags = []row{
	{"detach", served, "", func(_ *testing.T, x *ctx) {
		x.running()
		x.Holdfast("exec", "-d", x.name, "touch", "/done")
		x.Eventually(settle, "the file is there", func() (bool, string) {
			r := x.hf("exec", x.name, "ls", "/done")
			return r.Code == 0, r.String()
		})
	}},
	{"detach-keys", served, "", func(t *testing.T, x *ctx) {
		x.running()
		detaches("exec", "-it", "--detach-keys", "ctrl-e,q", "case", "sh")(t, x)
	}},
	{"env", served, "", inExec("x y", `echo "$A"`, "-e", "A=x y")},
	{"env-file", served, "", func(t *testing.T, x *ctx) {
		inExec("1", `echo "$ONE"`, "--env-file", write(t, "env", "ONE=1\n"))(t, x)
	}},
	{"interactive", served, "", func(_ *testing.T, x *ctx) {
		x.running()
		x.equal("output", x.Run("typed\n", "holdfast", "exec", "-i", x.name, "cat").Out, "typed\n")
	}},
	{"privileged", served, "", inExec("yes", "test $(grep CapEff /proc/self/status | cut -f2) != 00000000a80425fb && echo yes", "--privileged")},
	{"tty", served, "", func(t *testing.T, x *ctx) {
		x.running()
		if got := x.Holdfast("exec", "-t", x.name, "tty"); !strings.Contains(got, "/dev/pts/") {
			t.Errorf("tty: %q", got)
		}
	}},
	{"user", served, "", inExec("33", "id -u", "--user", "www")},
	{"workdir", served, "", inExec("/var/www", "pwd", "-w", "/var/www")},
}

// tables are the four commands' rows.
var tables = []struct {
	command string
	rows    []row
}{
	{"run", append(append([]row{}, createFlags...), runFlags...)},
	{"create", createFlags},
	{"update", updateFlags},
	{"exec", execFlags},
}

func TestRunFlags(t *testing.T)    { drive(t, "run", tables[0].rows) }
func TestCreateFlags(t *testing.T) { drive(t, "create", tables[1].rows) }
func TestUpdateFlags(t *testing.T) { drive(t, "update", tables[2].rows) }
func TestExecFlags(t *testing.T)   { drive(t, "exec", tables[3].rows) }

// TestEveryFlagHasARow compares the tables with docker's own command tree.
func TestEveryFlagHasARow(t *testing.T) {
	cli, err := command.NewDockerCli()
	if err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{Use: "docker"}
	commands.AddCommands(root, cli)
	for _, table := range tables {
		cmd, _, err := root.Find([]string{table.command})
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, r := range table.rows {
			if have[r.name] {
				t.Errorf("%s --%s has two rows", table.command, r.name)
			}
			have[r.name] = true
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !have[f.Name] {
				t.Errorf("%s --%s has no row", table.command, f.Name)
			}
			delete(have, f.Name)
		})
		for name := range have {
			t.Errorf("%s has no flag --%s (any more)", table.command, name)
		}
	}
}
