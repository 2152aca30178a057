package config

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func file(t *testing.T, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t *testing.T, content string, args ...string) (Config, error) {
	t.Helper()
	cmd, err := Parse(append([]string{"--config-file", file(t, content)}, args...), &bytes.Buffer{})
	return cmd.Config, err
}

func TestDefaultsAreValid(t *testing.T) {
	cmd, err := Parse([]string{"--config-file", file(t, "")}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cmd.Config, Default()) {
		t.Errorf("got %+v", cmd.Config)
	}
}

func TestPidfileIsTheDefaultRoots(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "/run/holdfast.pid"},
		{[]string{"--root", "/var/lib/holdfast/"}, "/run/holdfast.pid"},
		{[]string{"--root", "/srv/other"}, ""},
		{[]string{"--root", "/srv/other", "-p", "/run/other.pid"}, "/run/other.pid"},
	} {
		if cfg, err := parse(t, "", c.args...); err != nil || cfg.Pidfile != c.want {
			t.Errorf("%v: %q, %v", c.args, cfg.Pidfile, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Parse([]string{"--config-file", "/nonexistent/daemon.json"}, &bytes.Buffer{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a named file that is missing: got %v", err)
	}
}

func TestFileAndFlagsMakeTheSameConfig(t *testing.T) {
	fromFile, err := parse(t, `{
		"hosts": ["unix:///tmp/a.sock", "fd://"], "data-root": "/r", "exec-root": "/x", "debug": true,
		"log-level": "warn", "log-format": "json", "group": "staff", "pidfile": "/p",
		"log-driver": "local", "log-opts": {"max-size": "10m"},
		"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": 20}},
		"default-shm-size": "128M", "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
		"bip": "10.9.0.1/24", "fixed-cidr": "10.9.0.128/25", "mtu": 1400, "icc": false, "ip-forward": false,
		"ipv6": true, "fixed-cidr-v6": "fd00::/80", "userland-proxy": false, "ip": "127.0.0.1",
		"dns": ["1.1.1.1"], "dns-search": ["example.org"], "dns-opts": ["ndots:1"],
		"insecure-registries": ["reg:5000", "10.0.0.0/8"], "registry-mirrors": ["https://mirror/"],
		"live-restore": false, "shutdown-timeout": 30, "init": true, "no-new-privileges": true,
		"seccomp-profile": "unconfined", "labels": ["a=b"], "features": {"buildkit": true},
		"max-concurrent-downloads": 7, "plugin-dirs": ["/a", "/b"], "cgroup-parent": "/p", "exec-opts": ["native.cgroupdriver=systemd"],
		"default-cgroupns-mode": "private", "bridge": "", "tlsverify": true
	}`)
	if err != nil {
		t.Fatal(err)
	}
	fromFlags, err := parse(t, "", "-H", "unix:///tmp/a.sock", "-H", "fd://", "--root=/r", "--exec-root=/x", "-D",
		"-l", "warn", "--log-format=json", "-G", "staff", "-p", "/p", "--log-driver=local", "--log-opt", "max-size=10m",
		"--default-ulimit", "nofile=10:20", "--default-shm-size=128m", "--default-address-pool", "base=10.10.0.0/16,size=24",
		"--bip=10.9.0.1/24", "--fixed-cidr=10.9.0.128/25", "--mtu=1400", "--icc=false", "--ip-forward=false", "--ipv6",
		"--fixed-cidr-v6=fd00::/80", "--userland-proxy=false", "--ip=127.0.0.1", "--dns=1.1.1.1", "--dns-search=example.org", "--dns-opt=ndots:1",
		"--insecure-registry=reg:5000", "--insecure-registry=10.0.0.0/8", "--registry-mirror=https://mirror/",
		"--live-restore=false", "--shutdown-timeout=30", "--init", "--no-new-privileges", "--seccomp-profile=unconfined",
		"--label=a=b", "--feature=buildkit=true", "--max-concurrent-downloads=7", "--plugin-dir=/a", "--plugin-dir=/b", "--cgroup-parent=/p",
		"--exec-opt=native.cgroupdriver=systemd", "--default-cgroupns-mode=private", "--tlsverify")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromFile, fromFlags) {
		t.Errorf("file:  %+v\nflags: %+v", fromFile, fromFlags)
	}
	if !fromFile.UseTLS() || fromFile.PlainTCP() || !fromFile.SystemdCgroup() || fromFile.ShmSize != 128<<20 ||
		fromFile.DefaultIP != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("got %+v", fromFile)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, file string
		args       []string
		want       string
	}{
		{"unknown", `{"bogus": 1, "nonsense": 2}`, nil, "the following directives don't match any configuration option: bogus, nonsense"},
		{"unserved", `{"metrics-addr": "x"}`, nil, "metrics-addr is not supported by Holdfast: not served yet"},
		{"iptables", `{"iptables": false}`, nil, "iptables is not supported by Holdfast: Holdfast programs nftables"},
		{"twice", `{"labels": ["a=b"]}`, []string{"--label=c=d"}, `the following directives are specified both as a flag and in the configuration file: labels: (from flag: [c=d], from file: ["a=b"])`},
		{"root twice", `{"data-root": "/a"}`, []string{"--root=/b"}, "data-root: (from flag: /b"},
		{"json", `{"debug": }`, nil, "invalid JSON"},
		{"type", `{"debug": "yes"}`, nil, "invalid JSON"},
		{"label", `{"labels": ["a"]}`, nil, "bad attribute format: a"},
		{"plain tcp", "", []string{"-H", "tcp://127.0.0.1:1"}, "tcp needs mutual TLS"},
		{"tls alone", "", []string{"-H", "tcp://127.0.0.1:1", "--tls"}, "give --tlsverify"},
		{"host", "", []string{"-H", "http://x"}, `invalid host "http://x"`},
		{"relative socket", "", []string{"-H", "unix://x"}, "must be absolute"},
		{"driver", `{"storage-driver": "overlay2"}`, nil, "only overlayfs is supported"},
		{"log driver", `{"log-driver": "gelf"}`, nil, `invalid log-driver "gelf": want one of json-file, local, none, syslog, journald`},
		{"pool", `{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}`, nil, "cannot be cut"},
		{"registry", `{"insecure-registries": ["http://x"]}`, nil, "should not contain '://'"},
		{"feature", `{"features": {"windows": true}}`, nil, "invalid features: windows=true is not supported"},
		{"feature off", `{"features": {"buildkit": false}}`, nil, "invalid features: buildkit=false is not supported"},
		{"v6 subnet without v6", `{"fixed-cidr-v6": "fd00::/80"}`, nil, "fixed-cidr-v6 needs ipv6"},
		{"dashboard", `{"dashboard-addr": "127.0.0.1"}`, nil, `invalid dashboard-addr "127.0.0.1": want address:port`},
		{"mirror", `{"registry-mirrors": ["x"]}`, nil, "invalid mirror"},
		{"exec opt", `{"exec-opts": ["a=b"]}`, nil, "only native.cgroupdriver is known"},
		{"same roots", "", []string{"--root=/a", "--exec-root=/a/"}, "must be different"},
		{"argument", "", []string{"run"}, "takes no arguments"},
		{"flag", "", []string{"--bogus"}, "unknown flag: --bogus"},
		{"dns search", `{"dns-search": ["a b"]}`, nil, "a b is not a valid domain"},
		{"ulimit", "", []string{"--default-ulimit", "nofile=20:10"}, "ulimit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, c.file, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTCPByInsistence(t *testing.T) {
	for _, args := range [][]string{{"--tls=false"}, {"--tls", "--tlsverify=false"}, {"--tlsverify"}} {
		if _, err := parse(t, "", append(args, "-H", "tcp://127.0.0.1:1")...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestReload(t *testing.T) {
	cur := Default()
	next := Default()
	next.Debug, next.Labels, next.Root = true, []string{"a=b"}, "/elsewhere"
	next.InsecureRegistries = []string{"r:5000"} // the registry client is made at start
	got, applied, restart := cur.Reload(next)
	if !got.Debug || !slices.Equal(got.Labels, []string{"a=b"}) || got.Root != cur.Root {
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(applied, []string{"debug", "labels"}) || !slices.Equal(restart, []string{"data-root", "insecure-registries"}) {
		t.Errorf("applied %v, restart %v", applied, restart)
	}
}

// A key that has no flag cannot be found by --help, and a flag whose key the
// file doesn't know cannot conflict.
func TestEveryKeyHasAFlag(t *testing.T) {
	c := Default()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	bind(fs, &c)
	var flagged []string
	fs.VisitAll(func(f *pflag.Flag) { flagged = append(flagged, keyOf(f)) })
	slices.Sort(flagged)
	if flagged = slices.Compact(flagged); !slices.Equal(flagged, keys()) {
		t.Errorf("flags for %v\nkeys %v", flagged, keys())
	}
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if _, err := Parse([]string{"--help"}, &out); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "--tlsverify") {
		t.Errorf("usage: %s", &out)
	}
}

func TestSocketActivation(t *testing.T) {
	tcp := "tcp://127.0.0.1:1"
	for _, c := range []struct {
		hosts     []string
		activated bool
		want      []string
	}{
		{Default().Hosts, false, Default().Hosts},
		{Default().Hosts, true, []string{"fd://"}},
		{[]string{tcp}, true, []string{tcp, "fd://"}},
		{[]string{"fd://holdfast.socket", tcp}, true, []string{"fd://holdfast.socket", tcp}},
	} {
		if got := withActivation(c.hosts, c.activated); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c.hosts, got)
		}
	}
}
