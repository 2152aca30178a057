package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestPidfileOfARunningDaemonIsLeftAlone(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "says it in other words")
	first := own(t, testkit.Options{})
	path := filepath.Join(first.Dir(), "pid")
	if _, err := os.Stat("/run/holdfast.pid"); err == nil {
		b, err := os.ReadFile("/run/holdfast.pid")
		if err != nil || strings.TrimSpace(string(b)) == strconv.Itoa(first.Pid()) {
			t.Errorf("a daemon with a root of its own wrote /run/holdfast.pid: %s, %v", b, err)
		}
	}
	first.Stop()
	first = own(t, testkit.Options{Args: []string{"--pidfile", path}})
	second := testkit.New(t, testkit.Options{Engine: engine, Args: []string{"--pidfile", path}, Stopped: true})
	if err := second.TryStart(); err == nil || !strings.Contains(second.Logs(), "is still running") {
		t.Errorf("second daemon: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(first.Pid()) {
		t.Errorf("pidfile: %s, %v, want %d", b, err, first.Pid())
	}
	// One of a daemon that was killed is taken over.
	first.KillAndStart()
	if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(first.Pid()) {
		t.Errorf("pidfile after a kill: %s, %v, want %d", b, err, first.Pid())
	}
}

func TestPing(t *testing.T) {
	d := daemon(t)
	code, body := d.API(http.MethodGet, "/_ping", nil)
	if code != http.StatusOK || string(body) != "OK" {
		t.Errorf("got %d %q", code, body)
	}
	if code, body := d.API(http.MethodHead, "/_ping", nil); code != http.StatusOK || len(body) != 0 {
		t.Errorf("HEAD: got %d %q", code, body)
	}
	notOnTwin(t, "the client speaks newer versions only")
	p, err := d.Client().Ping(t.Context(), client.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "OS type", p.OSType, "linux")
	if p.APIVersion == "" {
		t.Error("ping tells no API version")
	}
}

func TestVersionIsNegotiatedDownTo124(t *testing.T) {
	d := daemon(t)
	var v struct{ ApiVersion, MinAPIVersion, Os, Version string } //nolint:staticcheck // the API's spelling
	d.GetJSON("/version", &v)
	equal(t, "os", v.Os, "linux")
	for _, tc := range []struct {
		version string
		code    int
	}{{"v1.24", 200}, {"v1.30", 200}, {"v" + v.ApiVersion, 200}, {"v1.23", 400}, {"v1.999", 400}, {"v9.1", 400}} {
		if engine == testkit.Dockerd && tc.version == "v1.23" {
			continue // 20.10 served still older ones
		}
		code, body := d.API(http.MethodGet, "/"+tc.version+"/containers/json", nil)
		if code != tc.code {
			t.Errorf("%s: got %d %s, want %d", tc.version, code, body, tc.code)
		}
		if code == 400 {
			text := string(body) // clients before 1.24 print the body as it is
			if tc.version != "v1.23" {
				var m struct{ Message string }
				decode(t, body, &m)
				text = m.Message
			}
			contains(t, tc.version, text, "client version "+strings.TrimPrefix(tc.version, "v")+" is too")
		}
	}
	for _, cli := range []string{"docker", "holdfast"} {
		if cli == "holdfast" {
			notOnTwin(t, "the client speaks newer versions only")
		}
		r := d.Run("", cli, "version", "--format", "{{.Server.APIVersion}}")
		if r.Code != 0 || strings.TrimSpace(r.Out) == "" {
			t.Errorf("%s", r)
		}
	}
}

func TestInfo(t *testing.T) {
	d := daemon(t)
	up(d, "--name", "one", "busybox", "sleep", "600")
	d.Docker("create", "--name", "two", "busybox")
	equal(t, "driver, root, counts", d.Docker("info", "--format", "{{.Driver}} {{.DockerRootDir}} {{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}"),
		fmt.Sprintf("%s %s 2 1 1 %d", format(d, "one", "{{.GraphDriver.Name}}"), d.Root(), len(strings.Fields(d.Docker("images", "-q")))))
	contains(t, "registries", d.Docker("info", "--format", `{{with index .RegistryConfig.IndexConfigs "docker.io"}}{{.Name}} {{.Secure}} {{.Official}}{{end}}`), "docker.io true true")
	contains(t, "plugins", d.Docker("info", "--format", "{{.Plugins.Volume}} {{.Plugins.Network}} {{.Plugins.Log}}"), "local")
	if out := d.Docker("info"); !strings.Contains(out, "Server Version") {
		t.Errorf("info is not rendered: %s", out)
	}
	// Each warning is a sentence of its own on standard error or nothing at all.
	equal(t, "cgroup driver", d.Docker("info", "--format", "{{.CgroupDriver}}"), "cgroupfs")
}

func TestAuthWithUnreachableRegistryIsAnError(t *testing.T) {
	d := daemon(t)
	code, body := d.API(http.MethodPost, "/auth", `{"username":"u","password":"p","serveraddress":"127.0.0.1:1"}`)
	if code < 400 || !strings.Contains(string(body), "message") {
		t.Errorf("got %d %s", code, body)
	}
}

type apiEvent struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
	TimeNano int64
}

func pastEvents(t *testing.T, d *testkit.Daemon, query string) []apiEvent {
	t.Helper()
	code, body := d.API(http.MethodGet, fmt.Sprintf("/events?since=0&until=%d&%s", time.Now().Unix()+1, query), nil)
	if code != http.StatusOK {
		t.Fatalf("events: %d %s", code, body)
	}
	var out []apiEvent
	for dec := json.NewDecoder(strings.NewReader(string(body))); dec.More(); {
		var e apiEvent
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestPastEventsTellAContainersLife(t *testing.T) {
	d := daemon(t)
	d.DockerResult("run", "--name", "told", "--label", "who=me", "busybox", "sh", "-c", "exit 3")
	d.Docker("rm", "told")
	var actions []string
	for _, e := range pastEvents(t, d, `filters={"container":["told"]}`) {
		actions = append(actions, e.Action)
		if e.Action == "die" {
			equal(t, "exit code", e.Actor.Attributes["exitCode"], "3")
			equal(t, "image", e.Actor.Attributes["image"], "busybox")
			equal(t, "label", e.Actor.Attributes["who"], "me")
		}
	}
	for _, want := range []string{"create", "start", "die", "destroy"} {
		if !slices.Contains(actions, want) {
			t.Errorf("no %q among %q", want, actions)
		}
	}
	if i, j := slices.Index(actions, "start"), slices.Index(actions, "die"); i > j {
		t.Errorf("order: %q", actions)
	}
	for _, e := range pastEvents(t, d, `filters={"type":["volume"],"event":["create"]}`) {
		if e.Type != "volume" || e.Action != "create" {
			t.Errorf("filter let through %+v", e)
		}
	}
}

func TestEventsCarryWhatDockerTells(t *testing.T) {
	d := daemon(t)
	d.Docker("volume", "create", "evvol")
	up(d, "--name", "teller", "-v", "evvol:/data:ro", "busybox", "sleep", "600")
	d.Docker("exec", "teller", "echo", "a", "b")
	d.Docker("exec", "teller", "true")
	d.Docker("commit", "teller", "evimage:v1")
	d.Docker("rmi", "evimage:v1")
	d.Docker("rm", "-f", "teller")
	code, body := d.API(http.MethodPost, `/images/prune?filters={"label":{"nobody-has-it":true}}`, nil)
	if code != http.StatusOK {
		t.Fatalf("prune: %d %s", code, body)
	}
	seen := map[string]map[string]string{}
	for _, e := range pastEvents(t, d, "") {
		seen[e.Type+" "+e.Action] = e.Actor.Attributes
	}
	for what, want := range map[string]map[string]string{
		"volume mount":                   {"destination": "/data", "read/write": "false", "propagation": "", "driver": "local"},
		"volume unmount":                 {"driver": "local"},
		"container exec_start: echo a b": {"name": "teller"},
		"container exec_create: true ":   {"name": "teller"},
		"container commit":               {"imageRef": "evimage:v1", "name": "teller"},
		"image prune":                    {"reclaimed": "0"},
	} {
		have, ok := seen[what]
		if !ok {
			t.Errorf("no event %q", what)
		}
		for k, v := range want {
			if got, ok := have[k]; !ok || got != v {
				t.Errorf("%s: %s is %q, want %q", what, k, got, v)
			}
		}
	}
}

func TestLiveEvents(t *testing.T) {
	notOnTwin(t, "the client speaks newer versions only")
	d := daemon(t)
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	res := d.Client().Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "volume", "network")})
	// The stream is open once the first event comes; make some until then.
	var got []events.Message
	for i := 0; len(got) == 0; i++ {
		d.Docker("volume", "create", fmt.Sprintf("v%d", i))
		select {
		case m := <-res.Messages:
			got = append(got, m)
		case err := <-res.Err:
			t.Fatal(err)
		default:
			if i > 20 {
				t.Fatal("no event")
			}
		}
	}
	d.Docker("network", "create", "evnet")
	for {
		select {
		case m := <-res.Messages:
			if m.Type == "network" && m.Action == "create" {
				equal(t, "network", m.Actor.Attributes["name"], "evnet")
				return
			}
		case err := <-res.Err:
			t.Fatal(err)
		}
	}
}

func TestSecondDaemonOnTheSameRootIsRefused(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "docker finds out by its pid file only")
	d := own(t, testkit.Options{})
	sock := filepath.Join(d.Dir(), "second.sock")
	r := d.Run("", filepath.Join(testkit.BinDir(), "holdfastd"), "--root", d.Root(), "--exec-root", filepath.Join(d.Dir(), "run2"), "-H", "unix://"+sock)
	if r.Code == 0 || !strings.Contains(r.Err, d.Root()) {
		t.Errorf("want a refusal that names the root: %s", r)
	}
	equal(t, "first daemon still works", d.Docker("run", "--rm", "busybox", "echo", "yes"), "yes")
}
