package parity

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the registry's storage
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/websocket"

	"holdfast.dev/holdfast/internal/testkit"
)

// ok makes one API call, which must succeed, and returns the reply.
func (x *ctx) ok(method, path string, body any) string {
	x.t.Helper()
	code, reply := x.API(method, path, body)
	if code >= 400 || bytes.Contains(reply, []byte(`"errorDetail"`)) {
		x.t.Fatalf("%s %s: %d %s", method, path, code, reply)
	}
	return string(reply)
}

// says makes one API call, which must succeed with text in its reply.
func says(method, path string, body any, text string) check {
	return func(t *testing.T, x *ctx) {
		if got := x.ok(method, path, body); !strings.Contains(got, text) {
			t.Errorf("%s %s: want %q in %s", method, path, text, got)
		}
	}
}

// fails makes one API call, which must be refused by the row's note.
func fails(status int, method, path string, body any) check {
	return func(t *testing.T, x *ctx) {
		code, reply := x.API(method, path, body)
		if code != status || x.note == "" || !strings.Contains(string(reply), x.note) {
			t.Errorf("%s %s: want %d %q, got %d %s", method, path, status, x.note, code, reply)
		}
	}
}

// made is a managed plugin, disabled, of that name.
func made(t *testing.T, x *ctx, name string) {
	x.Docker("plugin", "create", name, testkit.PluginDir(t, "one", nil))
	t.Cleanup(func() {
		for _, id := range strings.Fields(x.Docker("plugin", "ls", "-q")) {
			x.Docker("plugin", "rm", "-f", id)
		}
	})
}

// withPlugin has a managed plugin called "case".
func withPlugin(c check) check {
	return func(t *testing.T, x *ctx) {
		made(t, x, "case")
		c(t, x)
	}
}

// storedPlugin has a managed plugin here and in a registry.
func storedPlugin(c func(t *testing.T, x *ctx, ref string)) check {
	return stored(func(t *testing.T, x *ctx, ref string) {
		ref += "-plugin:1"
		made(t, x, ref)
		x.Docker("plugin", "push", ref)
		c(t, x, ref)
	})
}

// with has a container that sleeps, called "case", for the check.
func with(c check) check {
	return func(t *testing.T, x *ctx) {
		x.running()
		c(t, x)
	}
}

// in moves a container from one state to another: set-up, call, state.
func in(state, method, path string, setup ...[]string) check {
	return with(func(_ *testing.T, x *ctx) {
		for _, s := range setup {
			x.Docker(s...)
		}
		x.ok(method, path, nil)
		x.equal("state", x.inspect("{{.State.Status}}"), state)
	})
}

// serve has a server answer on the daemon's host until the test ends.
func serve(t *testing.T, x *ctx, addr string, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: settle}
	l := x.Listen("tcp", addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with the test
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// stored has a registry with the image r/i:1 in it for the check.
func stored(c func(t *testing.T, x *ctx, ref string)) check {
	return func(t *testing.T, x *ctx) {
		const addr = "127.0.0.1:5000"
		config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": configuration.Parameters{}}}
		config.Log.Level = "error"
		config.Log.AccessLog.Disabled = true
		config.HTTP.Secret = "of this test"
		logrus.SetOutput(io.Discard)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel) // after the server's end
		serve(t, x, addr, handlers.NewApp(ctx, config))
		ref := addr + "/r/i"
		x.ok("POST", "/images/busybox/tag?repo="+ref+"&tag=1", nil)
		x.ok("POST", "/images/"+ref+"/push?tag=1", nil)
		c(t, x, ref)
	}
}

func filters(kv ...string) string {
	m := map[string][]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = append(m[kv[i]], kv[i+1])
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings always have JSON
	}
	return "filters=" + url.QueryEscape(string(b))
}

var endpoints = []row{
	{"GET /containers/json", served, "", with(says("GET", "/containers/json", nil, `"/case"`))},
	{"POST /containers/create", served, "", says("POST", "/containers/create?name=made", map[string]any{"Image": "busybox"}, `"Id"`)},
	{"GET /containers/{id}/json", served, "", with(says("GET", "/containers/case/json?size=1", nil, `"SizeRw"`))},
	{"GET /containers/{id}/top", served, "", with(func(_ *testing.T, x *ctx) {
		// Right after the start it may still be the runtime that is seen.
		x.Eventually(settle, "the process is listed", func() (bool, string) {
			got := x.ok("GET", "/containers/case/top", nil)
			return strings.Contains(got, "sleep 600"), got
		})
	})},
	{"GET /containers/{id}/logs", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "--name", "case", "busybox", "echo", "said")
		says("GET", "/containers/case/logs?stdout=1", nil, "said")(t, x)
	}},
	{"GET /containers/{id}/changes", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "--name", "case", "busybox", "touch", "/made")
		says("GET", "/containers/case/changes", nil, `{"Kind":1,"Path":"/made"}`)(t, x)
	}},
	{"GET /containers/{id}/export", served, "", with(says("GET", "/containers/case/export", nil, "bin/busybox"))},
	{"GET /containers/{id}/stats", served, "", with(says("GET", "/containers/case/stats?stream=0&one-shot=1", nil, `"cpu_stats"`))},
	{"POST /containers/{id}/resize", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "-dt", "--name", "case", "busybox", "sleep", "600")
		x.ok("POST", "/containers/case/resize?h=33&w=77", nil)
		x.Eventually(settle, "size is the terminal's", func() (bool, string) {
			r := x.hf("exec", "case", "sh", "-c", "stty size </proc/1/fd/0")
			return strings.TrimSpace(r.Out) == "33 77", r.String()
		})
	}},
	{"POST /containers/{id}/start", served, "", in("running", "POST", "/containers/case/start", []string{"kill", "case"}, []string{"wait", "case"})},
	{"POST /containers/{id}/stop", served, "", in("exited", "POST", "/containers/case/stop?t=0", nil...)},
	{"POST /containers/{id}/restart", served, "", in("running", "POST", "/containers/case/restart?t=0", nil...)},
	{"POST /containers/{id}/kill", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("POST", "/containers/case/kill?signal=KILL", nil)
		x.WaitState("case", "exited")
		x.equal("exit code", x.inspect("{{.State.ExitCode}}"), "137")
	})},
	{"POST /containers/{id}/update", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("POST", "/containers/case/update", map[string]any{"PidsLimit": 70})
		x.equal("limit", x.inspect("{{.HostConfig.PidsLimit}}"), "70")
	})},
	{"POST /containers/{id}/rename", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("POST", "/containers/case/rename?name=other", nil)
		x.equal("name", x.Docker("inspect", "-f", "{{.Name}}", "other"), "/other")
	})},
	{"POST /containers/{id}/pause", served, "", in("paused", "POST", "/containers/case/pause", nil...)},
	{"POST /containers/{id}/unpause", served, "", in("running", "POST", "/containers/case/unpause", []string{"pause", "case"})},
	{"POST /containers/{id}/attach", served, "", func(_ *testing.T, x *ctx) {
		x.Docker("create", "-i", "--name", "case", "busybox", "cat")
		r := x.Run("typed\n", "holdfast", "start", "-ai", "case")
		x.equal("output", r.Out, "typed\n")
	}},
	{"GET /containers/{id}/attach/ws", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "-di", "--name", "case", "busybox", "cat")
		conn, err := x.DialAPI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		config, err := websocket.NewConfig("ws://daemon/containers/case/attach/ws?stream=1&stdin=1&stdout=1", "http://daemon")
		if err != nil {
			t.Fatal(err)
		}
		ws, err := websocket.NewClient(config, conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ws.Write([]byte("typed\n")); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(ws).ReadString('\n')
		if err != nil || line != "typed\n" {
			t.Errorf("got %q, %v", line, err)
		}
	}},
	{"POST /containers/{id}/wait", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "-d", "--name", "case", "busybox", "sh", "-c", "exit 3")
		says("POST", "/containers/case/wait", nil, `"StatusCode":3`)(t, x)
	}},
	{"DELETE /containers/{id}", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("DELETE", "/containers/case?force=1", nil)
		x.equal("containers", x.Docker("ps", "-aq"), "")
	})},
	{"HEAD /containers/{id}/archive", served, "", with(func(t *testing.T, x *ctx) {
		st, err := x.Client().ContainerStatPath(t.Context(), "case", client.ContainerStatPathOptions{Path: "/etc/passwd"})
		if err != nil || st.Stat.Name != "passwd" {
			t.Errorf("%+v, %v", st, err)
		}
	})},
	{"GET /containers/{id}/archive", served, "", with(says("GET", "/containers/case/archive?path=/etc/passwd", nil, "root:x:0:0"))},
	{"PUT /containers/{id}/archive", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("PUT", "/containers/case/archive?path=/", testkit.Layer{"put": {Body: "there"}}.Tar())
		x.equal("file", x.Docker("exec", "case", "cat", "/put"), "there")
	})},
	{"POST /containers/prune", served, "", func(t *testing.T, x *ctx) {
		x.Docker("create", "--name", "case", "busybox")
		says("POST", "/containers/prune", nil, `"ContainersDeleted":["`)(t, x)
	}},

	{"GET /images/json", served, "", says("GET", "/images/json", nil, "busybox:latest")},
	{"POST /images/create", served, "pull and import", both(
		stored(func(_ *testing.T, x *ctx, ref string) {
			x.ok("DELETE", "/images/"+ref+":1", nil)
			x.ok("POST", "/images/create?fromImage="+ref+"&tag=1", nil)
			x.Docker("image", "inspect", ref+":1")
		}),
		func(_ *testing.T, x *ctx) {
			x.ok("POST", "/images/create?fromSrc=-&repo=imported&tag=1", testkit.Layer{"f": {Body: "x"}}.Tar())
			x.Docker("image", "inspect", "imported:1")
		},
	)},
	{"GET /images/{name}/json", served, "", both(says("GET", "/images/busybox/json", nil, `"RootFS"`), inspectsPlatforms)},
	{"GET /images/{name}/attestations", served, "", func(t *testing.T, x *ctx) {
		x.equal("of an image without any", x.ok("GET", "/images/busybox/attestations", nil), "[]\n")
		dir := filepath.Dir(write(t, "Dockerfile", "FROM busybox\nRUN true\n"))
		x.Holdfast("build", "--provenance=mode=max", "-t", "attested:1", dir)
		all := x.ok("GET", "/images/attested:1/attestations", nil)
		if !strings.Contains(all, `"PredicateType":"https://slsa.dev/provenance`) || strings.Contains(all, `"Statement"`) {
			t.Errorf("%s", all)
		}
		if with := x.ok("GET", "/images/attested:1/attestations?statement=1", nil); !strings.Contains(with, `"Statement":{`) || !strings.Contains(with, "buildType") {
			t.Errorf("no statement in %s", with)
		}
		x.equal("of another type", x.ok("GET", "/images/attested:1/attestations?type=https://spdx.dev/Document", nil), "[]\n")
		if code, body := x.API("GET", "/images/attested:1/attestations?platform="+url.QueryEscape(`{"os":"linux","architecture":"s390x"}`), nil); code != 404 {
			t.Errorf("another platform: %d %s", code, body)
		}
	}},
	{"GET /images/{name}/history", served, "", says("GET", "/images/busybox/history", nil, `"CreatedBy"`)},
	{"POST /images/{name}/push", served, "", stored(func(t *testing.T, x *ctx, ref string) {
		says("GET", "/distribution/"+ref+":1/json", nil, `"digest":"sha256:`)(t, x)
	})},
	{"POST /images/{name}/tag", served, "", func(_ *testing.T, x *ctx) {
		x.ok("POST", "/images/busybox/tag?repo=again&tag=1", nil)
		x.Docker("image", "inspect", "again:1")
	}},
	{"DELETE /images/{name}", served, "and single platforms of it", func(t *testing.T, x *ctx) {
		x.Docker("tag", "busybox", "again:1")
		says("DELETE", "/images/again:1", nil, `"Untagged":"again:1"`)(t, x)
		removesPlatform(t, x)
	}},
	{"GET /images/search", served, "of any registry that has the search of v1", searches},
	{"POST /images/prune", served, "", func(t *testing.T, x *ctx) {
		twoImages(x)
		says("POST", "/images/prune?"+filters("dangling", "false"), nil, `"Untagged":"yes:1"`)(t, x)
	}},
	{"GET /images/{name}/get", served, "", says("GET", "/images/busybox/get", nil, "manifest.json")},
	{"GET /images/get", served, "", func(t *testing.T, x *ctx) {
		x.Docker("tag", "busybox", "again:1")
		got := x.ok("GET", "/images/get?names=busybox&names=again:1", nil)
		if !strings.Contains(got, "busybox:latest") || !strings.Contains(got, "again:1") || !strings.Contains(got, "oci-layout") {
			t.Error("not both, or no OCI layout")
		}
	}},
	{"POST /images/load", served, "Docker's form and OCI layouts, several images in one", func(t *testing.T, x *ctx) {
		x.Docker("tag", "busybox", "again:1")
		x.Docker("tag", "busybox", "again:2")
		_, saved := x.API("GET", "/images/get?names=again:1&names=again:2", nil)
		x.Docker("rmi", "again:1", "again:2")
		x.ok("POST", "/images/load", saved)
		x.Docker("image", "inspect", "again:1", "again:2")
		x.Docker("rmi", "again:1", "again:2")
		x.ok("POST", "/images/load", layoutOnly(t, saved))
		x.Docker("image", "inspect", "again:1", "again:2")
	}},
	{"POST /commit", served, "", func(t *testing.T, x *ctx) {
		x.Docker("run", "--name", "case", "busybox", "touch", "/made")
		says("POST", "/commit?container=case&repo=committed&tag=1", nil, `"Id":"sha256:`)(t, x)
	}},

	{"POST /containers/{id}/exec", served, "", with(says("POST", "/containers/case/exec", map[string]any{"Cmd": []string{"true"}}, `"Id"`))},
	{"POST /exec/{id}/start", served, "", with(func(_ *testing.T, x *ctx) {
		x.equal("output", x.Docker("exec", "case", "echo", "there"), "there")
	})},
	{"POST /exec/{id}/resize", served, "", with(func(_ *testing.T, x *ctx) {
		id := x.exec(map[string]any{"Cmd": []string{"sleep", "600"}, "Tty": true})
		x.ok("POST", "/exec/"+id+"/start", map[string]any{"Detach": true, "Tty": true})
		x.ok("POST", "/exec/"+id+"/resize?h=33&w=77", nil)
	})},
	{"GET /exec/{id}/json", served, "", with(func(t *testing.T, x *ctx) {
		id := x.exec(map[string]any{"Cmd": []string{"sh", "-c", "exit 4"}})
		x.ok("POST", "/exec/"+id+"/start", map[string]any{"Detach": true})
		x.Eventually(settle, "exit code", func() (bool, string) {
			s := x.ok("GET", "/exec/"+id+"/json", nil)
			return strings.Contains(s, `"ExitCode":4`), s
		})
	})},

	{"GET /volumes", served, "", func(t *testing.T, x *ctx) {
		x.Docker("volume", "create", "vol")
		says("GET", "/volumes", nil, `"Name":"vol"`)(t, x)
	}},
	{"POST /volumes/create", served, "", says("POST", "/volumes/create", map[string]any{"Name": "vol"}, `"Mountpoint"`)},
	{"GET /volumes/{name}", served, "", func(t *testing.T, x *ctx) {
		x.Docker("volume", "create", "vol")
		says("GET", "/volumes/vol", nil, `"Name":"vol"`)(t, x)
	}},
	{"PUT /volumes/{name}", refused, "swarm", fails(503, "PUT", "/volumes/vol?version=1", map[string]any{})},
	{"DELETE /volumes/{name}", served, "", func(_ *testing.T, x *ctx) {
		x.Docker("volume", "create", "vol")
		x.ok("DELETE", "/volumes/vol", nil)
		x.equal("volumes", x.Docker("volume", "ls", "-q"), "")
	}},
	{"POST /volumes/prune", served, "", func(t *testing.T, x *ctx) {
		x.ok("POST", "/volumes/create", map[string]any{})
		says("POST", "/volumes/prune", nil, `"VolumesDeleted":["`)(t, x)
	}},

	{"GET /networks", served, "", says("GET", "/networks", nil, `"Name":"bridge"`)},
	{"GET /networks/{id}", served, "", says("GET", "/networks/bridge", nil, `"Driver":"bridge"`)},
	{"DELETE /networks/{id}", served, "", func(_ *testing.T, x *ctx) {
		x.Docker("network", "create", "net1")
		x.ok("DELETE", "/networks/net1", nil)
		x.equal("networks", x.Docker("network", "ls", "-q", "--filter", "name=net1"), "")
	}},
	{"POST /networks/create", served, "", says("POST", "/networks/create", map[string]any{"Name": "net1"}, `"Id"`)},
	{"POST /networks/{id}/connect", served, "", with(func(_ *testing.T, x *ctx) {
		x.Docker("network", "create", "net1")
		x.ok("POST", "/networks/net1/connect", map[string]any{"Container": "case"})
		x.equal("interfaces", x.Docker("exec", "case", "sh", "-c", "ls /sys/class/net | grep -c eth"), "2")
	})},
	{"POST /networks/{id}/disconnect", served, "", with(func(_ *testing.T, x *ctx) {
		x.ok("POST", "/networks/bridge/disconnect", map[string]any{"Container": "case"})
		x.equal("interfaces", x.Docker("exec", "case", "sh", "-c", "ls /sys/class/net | grep -c eth || true"), "0")
	})},
	{"POST /networks/prune", served, "", func(t *testing.T, x *ctx) {
		x.Docker("network", "create", "net1")
		says("POST", "/networks/prune", nil, `"NetworksDeleted":["net1"]`)(t, x)
	}},

	{"POST /auth", served, "asks the registry", loggedIn},
	{"GET /info", served, "", says("GET", "/info", nil, `"DockerRootDir"`)},
	{"GET /version", served, "", says("GET", "/version", nil, `"ApiVersion"`)},
	{"GET /_ping", served, "", says("GET", "/_ping", nil, "OK")},
	{"HEAD /_ping", served, "", func(t *testing.T, x *ctx) {
		if p, err := x.Client().Ping(t.Context(), client.PingOptions{}); err != nil || p.OSType != "linux" {
			t.Errorf("%+v, %v", p, err)
		}
	}},
	{"GET /events", served, "", with(func(t *testing.T, x *ctx) {
		says("GET", "/events?"+sofar(), nil, `"Action":"start"`)(t, x)
	})},
	{"GET /system/df", served, "", says("GET", "/system/df", nil, "busybox:latest")},
	{"GET /distribution/{name}/json", served, "", stored(func(t *testing.T, x *ctx, ref string) {
		says("GET", "/distribution/"+ref+":1/json", nil, `"architecture":"amd64"`)(t, x)
	})},
	{"POST /session", served, "for builds", upgrades("/session")},

	{"GET /plugins", served, "", withPlugin(says("GET", "/plugins", nil, `"Name":"case:latest"`))},
	{"GET /plugins/privileges", served, "", storedPlugin(func(t *testing.T, x *ctx, ref string) {
		says("GET", "/plugins/privileges?remote="+ref, nil, `"Name":"capabilities"`)(t, x)
	})},
	{"POST /plugins/pull", served, "", storedPlugin(func(t *testing.T, x *ctx, ref string) {
		x.ok("DELETE", "/plugins/"+ref, nil)
		x.Docker("plugin", "install", "--grant-all-permissions", "--disable", "--alias", "case", ref)
		says("GET", "/plugins/case/json", nil, `"PluginReference":"`+ref+`"`)(t, x)
	})},
	{"GET /plugins/{name}/json", served, "", withPlugin(says("GET", "/plugins/case/json", nil, `"Env":["GREETING=hello one"`))},
	{"DELETE /plugins/{name}", served, "", withPlugin(func(t *testing.T, x *ctx) {
		x.ok("DELETE", "/plugins/case", nil)
		says("GET", "/plugins", nil, "[]")(t, x)
	})},
	{"POST /plugins/{name}/enable", served, "volume drivers; other interfaces are refused by name", withPlugin(func(t *testing.T, x *ctx) {
		x.ok("POST", "/plugins/case/enable?timeout=30", nil)
		says("GET", "/plugins/case/json", nil, `"Enabled":true`)(t, x)
	})},
	{"POST /plugins/{name}/disable", served, "", withPlugin(func(t *testing.T, x *ctx) {
		x.ok("POST", "/plugins/case/enable", nil)
		x.ok("POST", "/plugins/case/disable", nil)
		says("GET", "/plugins/case/json", nil, `"Enabled":false`)(t, x)
	})},
	{"POST /plugins/{name}/upgrade", served, "", storedPlugin(func(t *testing.T, x *ctx, ref string) {
		x.Docker("plugin", "set", ref, "GREETING=other")
		x.Docker("plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", ref, ref)
		says("GET", "/plugins/"+ref+"/json", nil, "GREETING=hello one")(t, x)
	})},
	{"POST /plugins/create", served, "", withPlugin(says("GET", "/plugins/case:latest/json", nil, "volumes of version one"))},
	{"POST /plugins/{name}/push", served, "", storedPlugin(func(t *testing.T, x *ctx, ref string) {
		says("POST", "/plugins/"+ref+"/push", nil, "digest: sha256:")(t, x)
	})},
	{"POST /plugins/{name}/set", served, "", withPlugin(func(t *testing.T, x *ctx) {
		x.ok("POST", "/plugins/case/set", []string{"GREETING=bye"})
		says("GET", "/plugins/case/json", nil, "GREETING=bye")(t, x)
	})},

	{"POST /build", served, "", func(t *testing.T, x *ctx) {
		says("POST", "/build?t=built:1", testkit.Layer{"Dockerfile": {Body: "FROM busybox\nLABEL a=b\n"}}.Tar(), "Successfully tagged built:1")(t, x)
	}},
	{"POST /build/prune", served, "", says("POST", "/build/prune", nil, `"SpaceReclaimed"`)},
}

func loggedIn(t *testing.T, x *ctx) {
	stored(func(t *testing.T, x *ctx, _ string) {
		says("POST", "/auth", map[string]any{"username": "u", "password": "p", "serveraddress": "127.0.0.1:5000"}, `"Login Succeeded"`)(t, x)
	})(t, x)
}

// upgrades: the endpoint takes the connection over.
func upgrades(path string) check {
	return func(t *testing.T, x *ctx) {
		conn, err := x.DialAPI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: daemon\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: u\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 101") {
			t.Errorf("got %q, %v", line, err)
		}
	}
}

func (x *ctx) exec(body map[string]any) string {
	x.t.Helper()
	var reply struct{ Id string } //nolint:staticcheck // the API's spelling
	if err := json.Unmarshal([]byte(x.ok("POST", "/containers/case/exec", body)), &reply); err != nil {
		x.t.Fatal(err)
	}
	return reply.Id
}

// layoutOnly takes Docker's own file from a saved archive: what is left is an OCI layout.
func layoutOnly(t *testing.T, saved []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{{"-C", dir, "-x"}, nil} {
		if args == nil {
			if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
				t.Fatal(err)
			}
			break
		}
		cmd := exec.Command("tar", args...)
		cmd.Stdin = bytes.NewReader(saved)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, err := exec.Command("tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEndpoints(t *testing.T) { drive(t, "run", endpoints) }
func TestFilters(t *testing.T)   { drive(t, "run", filterRows) }

// operation is one endpoint of the API's own description.
type operation struct {
	name    string
	filters []string
}

var (
	pathLine   = regexp.MustCompile(`^  (/\S+):$`)
	methodLine = regexp.MustCompile(`^    (get|head|post|put|delete):$`)
	tagLine    = regexp.MustCompile(`^      (?:tags: \["(\w+)"\]|  - "?(\w+)"?)$`)
	filterLine = regexp.MustCompile("^ {10,14}- `([a-z-]+)")
)

// described reads the API's description, which comes with its types: the
// operations on what this release is about.
func described(t *testing.T) []operation {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []operation
	var path string
	var op *operation
	inPaths, inFilters, inTags := false, false, false
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case line == "paths:":
			inPaths = true
		case !inPaths:
		case pathLine.MatchString(line):
			path, op = pathLine.FindStringSubmatch(line)[1], nil
		case methodLine.MatchString(line):
			op = &operation{name: strings.ToUpper(methodLine.FindStringSubmatch(line)[1]) + " " + path}
			inFilters = false
		case op == nil:
		case strings.HasPrefix(line, "        - name: "):
			inFilters = strings.Contains(line, "filters")
		case line == "      tags:":
			inTags = true
		case tagLine.MatchString(line) && (inTags || strings.Contains(line, "tags")):
			m := tagLine.FindStringSubmatch(line)
			if slices.Contains([]string{"Container", "Image", "Exec", "Volume", "Network", "System", "Plugin", "Distribution", "Session"}, m[1]+m[2]) {
				out = append(out, *op)
			}
			inFilters, inTags = false, false
		case inFilters && filterLine.MatchString(line):
			op.filters = append(op.filters, filterLine.FindStringSubmatch(line)[1])
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	if len(out) < 70 {
		t.Fatalf("only %d operations found: the description has another form", len(out))
	}
	return out
}

func TestEveryEndpointAndFilterHasARow(t *testing.T) {
	names := func(rows []row) map[string]bool {
		out := map[string]bool{}
		for _, r := range rows {
			if out[r.name] {
				t.Errorf("%s has two rows", r.name)
			}
			out[r.name] = true
		}
		return out
	}
	have, haveFilter := names(endpoints), names(filterRows)
	for _, op := range described(t) {
		if !have[op.name] {
			t.Errorf("%s has no row", op.name)
		}
		delete(have, op.name)
		for _, f := range op.filters {
			if !haveFilter[op.name+" "+f] {
				t.Errorf("%s: filter %s has no row", op.name, f)
			}
		}
	}
	for name := range have {
		t.Errorf("the API has no %s (any more)", name)
	}
}
