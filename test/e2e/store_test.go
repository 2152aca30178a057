package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

const (
	primary = "store-db-master-1"
	standby = "store-db-slave-1"
	page    = "http://127.0.0.1:8081"
	api     = "http://127.0.0.1:8085"
)

// store is the store on one daemon.
type store struct {
	*testkit.Daemon
	t *testing.T
}

func (s store) sql(container, query string) string {
	s.t.Helper()
	return s.Docker("exec", container, "psql", "-U", "postgres", "-d", "store", "-AtXqc", query)
}

// eventuallySQL polls, through restarts of the server.
func (s store) eventuallySQL(container, query, want string) {
	s.t.Helper()
	testkit.Poll(s.t, settle, container+": "+query+" answers "+want, func() (bool, string) {
		r := s.DockerResult("exec", container, "psql", "-U", "postgres", "-d", "store", "-AtXqc", query)
		return r.Code == 0 && strings.TrimSpace(r.Out) == want, r.String()
	})
}

func (s store) address(container string) string {
	s.t.Helper()
	return s.Docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
}

// get asks a published port from the daemon's namespace.
func (s store) get(address string) (int, string) {
	resp, err := s.HTTP().Get(address)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// pageShows polls the page until it lists name, read from the standby.
func (s store) pageShows(name string) {
	s.t.Helper()
	testkit.Poll(s.t, settle, "the page shows "+name+", read from the standby", func() (bool, string) {
		code, body := s.get(page + "/")
		_, body, _ = strings.Cut(body, "<body>")
		return code == http.StatusOK && strings.Contains(body, `<span class="name">`+name+`</span>`) &&
			strings.Contains(body, `<span class="tag standby">`), fmt.Sprint(code, body)
	})
}

// add sends the page's form without a browser and follows where it leads.
func (s store) add(name string) {
	s.t.Helper()
	resp, err := s.HTTP().PostForm(page+"/products", url.Values{"name": {name}, "price": {"1"}})
	if err != nil {
		s.t.Fatalf("add %s: %v", name, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(b), `id="added"`) {
		s.t.Fatalf("add %s: %s %v\n%s", name, resp.Status, err, b)
	}
}

func (s store) streams() {
	s.t.Helper()
	s.eventuallySQL(primary, "SELECT state FROM pg_stat_replication", "streaming")
}

// containers maps the store's containers to their IDs and start times.
func (s store) containers() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, name := range strings.Fields(s.Docker("ps", "--filter", "label=com.docker.compose.project=store", "--format", "{{.Names}}")) {
		out[name] = s.Docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.State.Pid}}", name)
	}
	return out
}

// The main job of the engine: the store of the notes comes up from its compose
// file, and its data outlives whatever happens to the processes.
func TestTheStoreKeepsItsData(t *testing.T) {
	d := testkit.New(t)
	s := store{d, t}
	images(t, d, "store/build.sh")
	mustCompose(t, d, "up", "-d", "--wait", "--wait-timeout", "100")
	t.Run("is up", s.with(isUp))
	t.Run("in a browser", s.with(inABrowser))
	t.Run("for programs", s.with(forPrograms))
	t.Run("primary killed", s.with(primaryKilled))
	t.Run("standby away", s.with(standbyAway))
	t.Run("second standby", s.with(secondStandby))
	t.Run("engine killed", s.with(engineKilled))
	t.Run("tour of the README", s.with(tour))
	t.Run("down and up", s.with(downAndUp))
}

func (s store) with(f func(*testing.T, store)) func(*testing.T) {
	return func(t *testing.T) {
		f(t, store{s.Daemon, t})
		if t.Failed() {
			t.Log(compose(s.Daemon, "logs", "--tail=30").Out)
		}
	}
}

func isUp(t *testing.T, s store) {
	want := []string{"store-api-1", primary, standby, "store-web-1"}
	if got := slices.Sorted(maps.Keys(s.containers())); !slices.Equal(got, want) {
		t.Errorf("docker lists %q, want %q", got, want)
	}
	// holdfast compose and docker-compose are one program under two names.
	ps := s.Holdfast("compose", "-f", filepath.Join(example, "docker-compose.yml"), "ps", "--format", "json")
	for _, name := range want {
		if !strings.Contains(ps, `"Name":"`+name+`"`) {
			t.Errorf("holdfast compose ps does not list %s: %s", name, ps)
		}
		if health := s.Docker("inspect", "-f", "{{.State.Health.Status}}", name); health != "healthy" {
			t.Errorf("%s is %s", name, health)
		}
	}
	s.streams()
	if got := s.sql(standby, "SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("the standby says %q", got)
	}
	if r := s.DockerResult("exec", standby, "psql", "-U", "postgres", "-d", "store", "-c", "DELETE FROM products"); r.Code == 0 || !strings.Contains(r.Err, "read-only") {
		t.Errorf("the standby takes writes: %s", r)
	}
	if got := s.Docker("exec", primary, "stat", "-c", "%u:%g %a", "/var/lib/postgresql/data/pgdata"); got != "999:999 700" {
		t.Errorf("the data belong to %s", got)
	}
}

func inABrowser(t *testing.T, s store) {
	at := "http://" + s.Forward("127.0.0.1:8081")
	ctx := browser(t)
	note, row := addByForm(t, ctx, at, "Browser chair", "12.50")
	for _, want := range []string{"Browser chair", "primary at " + s.address(primary), "standby at " + s.address(standby)} {
		if !strings.Contains(note, want) {
			t.Errorf("the page says %q, want it to contain %q", note, want)
		}
	}
	for _, want := range []string{"Browser chair", "12.50", "written on " + s.address(primary), "read from standby " + s.address(standby)} {
		if !strings.Contains(row, want) {
			t.Errorf("the first row is %q, want it to contain %q", row, want)
		}
	}
	screenshot(t, ctx, "desktop", 1280, 800, false)
	screenshot(t, ctx, "phone", 390, 844, true)
	if got := s.sql(standby, "SELECT cents FROM products WHERE name = 'Browser chair'"); got != "1250" {
		t.Errorf("on the standby its price is %q", got)
	}
}

func forPrograms(t *testing.T, s store) {
	resp, err := s.HTTP().Post(api+"/products", "application/json", strings.NewReader(`{"name": "API lamp", "cents": 3950}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var added struct {
		Server struct{ Standby bool }
		Mark   string
	}
	if err := json.NewDecoder(resp.Body).Decode(&added); err != nil || resp.StatusCode != http.StatusCreated || added.Server.Standby {
		t.Fatalf("%s: %+v %v", resp.Status, added, err)
	}
	code, body := s.get(api + "/products?after=" + url.QueryEscape(added.Mark))
	var l struct {
		Products []struct {
			Name     string
			ReadFrom struct {
				Address string
				Standby bool
			} `json:"read_from"`
		}
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil || code != http.StatusOK || len(l.Products) == 0 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	p := l.Products[0]
	if p.Name != "API lamp" || !p.ReadFrom.Standby || p.ReadFrom.Address != s.address(standby) {
		t.Errorf("read back %+v", p)
	}
}

func primaryKilled(t *testing.T, s store) {
	s.add("Written before the kill")
	pid, err := strconv.Atoi(s.Docker("inspect", "-f", "{{.State.Pid}}", primary))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Poll(t, settle, "the primary's container has exited", func() (bool, string) {
		got := s.Docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", primary)
		return got == "exited 137", got
	})
	// The standby goes on answering; the primary's row is there.
	s.pageShows("Written before the kill")
	resp, err := s.HTTP().PostForm(page+"/products", url.Values{"name": {"Lost"}, "price": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a primary a write is answered with %s", resp.Status)
	}
	s.Docker("start", primary)
	s.eventuallySQL(primary, "SELECT count(*) FROM products WHERE name = 'Written before the kill'", "1")
	s.streams()
	s.add("Written after the kill")
	s.pageShows("Written after the kill")
	s.eventuallySQL(primary, "SELECT count(*) FROM products WHERE name = 'Lost'", "0")
}

func standbyAway(t *testing.T, s store) {
	s.Docker("stop", standby)
	code, body := s.get(page + "/")
	if code != http.StatusOK || !strings.Contains(body, "so the primary") || !strings.Contains(body, `<span class="tag primary">`) {
		t.Errorf("without a standby the page does not say that the primary answered: %d %s", code, body)
	}
	s.add("Written without a standby")
	s.Docker("start", standby)
	s.streams()
	s.pageShows("Written without a standby")
}

// Scaling out as in the notes: a standby more, under the same name, and the page
// talks to it too.
func secondStandby(t *testing.T, s store) {
	run := func(name, volume string) []string {
		return []string{
			"run", "--name", name, "--network", "store_store-net", "--network-alias", "db-slave",
			"-e", "POSTGRES_PASSWORD=postgres", "-e", "REPLICATED_FROM=db-master",
			"-v", volume + ":/var/lib/postgresql/data", "psodstorage/store-db",
		}
	}
	s.DockerFails("another container uses this volume", run("greedy", "store_postgres-slave")...)
	s.DockerFails("this volume holds a primary's data", "run", "--rm", "--volumes-from", s.stoppedPrimary(),
		"-e", "POSTGRES_PASSWORD=postgres", "-e", "REPLICATED_FROM=db-master", "psodstorage/store-db")
	s.Docker("start", primary)
	s.Docker(slices.Insert(run("second", "second-standby"), 1, "-d")...)
	s.eventuallySQL(primary, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "2")
	want := []string{s.address(standby), s.address("second")}
	seen := map[string]bool{}
	testkit.Poll(t, settle, fmt.Sprintf("the page is read from %q in turn", want), func() (bool, string) {
		_, body := s.get(page + "/")
		for _, a := range want {
			seen[a] = seen[a] || strings.Contains(body, "read from <span class=\"server\">standby "+a)
		}
		return seen[want[0]] && seen[want[1]], fmt.Sprint(seen)
	})
	s.Docker("rm", "-f", "greedy", "second")
	s.Docker("volume", "rm", "second-standby")
	s.pageShows("Written without a standby")
}

// stoppedPrimary stops the primary, so that its volume is free, and is its name.
func (s store) stoppedPrimary() string {
	s.t.Helper()
	s.Docker("stop", primary)
	return primary
}

func engineKilled(t *testing.T, s store) {
	before := s.containers()
	outside := "http://" + s.Docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge") + ":8081/"
	s.Kill()
	// By an address of the machine: the kernel does it. What loopback carries goes
	// through the engine, as with Docker.
	if code, body := s.get(outside); code != http.StatusOK || !strings.Contains(body, "Browser chair") {
		t.Errorf("%s with the engine dead: %d %s", outside, code, body)
	}
	s.Start()
	if after := s.containers(); !maps.Equal(before, after) {
		t.Errorf("containers before %v, after %v", before, after)
	}
	s.pageShows("Browser chair")
	s.add("Written after the engine came back")
	s.pageShows("Written after the engine came back")
	s.streams()
	// Health checks go on, and the names still resolve.
	testkit.Poll(t, settle, "all are healthy", func() (bool, string) {
		got := s.Docker("ps", "--filter", "label=com.docker.compose.project=store", "--format", "{{.Names}} {{.Status}}")
		return strings.Count(got, "(healthy)") == 4, got
	})
	s.Docker("restart", primary)
	s.streams()
	s.add("Written after a restart by the new engine")
	if r := s.DockerResult("logs", primary); !strings.Contains(r.Err, "making a new database") {
		t.Errorf("the log from before is gone: %s", r)
	}
}

// tour runs what the README tells people to try, with our client and with docker's.
func tour(t *testing.T, s store) {
	images(t, s.Daemon, "base/build.sh", "busybox")
	text, err := os.ReadFile(filepath.Join(testkit.RepoRoot(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "## A tour")
	rest, _, _ = strings.Cut(rest, "\n## ")
	blocks := strings.Split(rest, "```sh\n")[1:]
	if len(blocks) < 8 || !strings.HasPrefix(blocks[0], "export PATH") {
		t.Fatalf("the README's tour is not where this test looks for it: %d blocks", len(blocks))
	}
	client := regexp.MustCompile(`\bholdfast `)
	for _, program := range []string{"holdfast", "docker"} {
		for _, block := range blocks[1:] {
			block, _, _ := strings.Cut(block, "```")
			if program != "holdfast" && !client.MatchString(block) {
				continue
			}
			block = client.ReplaceAllString(block, program+" ")
			ctx, cancel := context.WithTimeout(t.Context(), buildLimit)
			cmd := s.Command(ctx, "/bin/bash", "-exuo", "pipefail", "-c", block)
			cmd.Dir = testkit.RepoRoot()
			cmd.Env = append(append(cmd.Env, scriptEnv(t)...), "PATH="+testkit.BinDir()+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			cancel()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	}
	s.streams()
	s.pageShows("Browser chair")
	builtByAll(t, s)
}

// builtByAll builds one image of the store with every client: what it is made of is
// the same.
func builtByAll(t *testing.T, s store) {
	const image = "psodstorage/store-web"
	layers := func() string { return s.Docker("image", "inspect", "-f", "{{.RootFS.Layers}}", image) }
	byCompose := layers()
	for _, program := range []string{"docker", testkit.RequireBin(t, "holdfast")} {
		s.Docker("rmi", "-f", image)
		r := s.Run("", program, "build", "-f", filepath.Join(example, "docker", "web", "Dockerfile"), "-t", image, example)
		if r.Code != 0 {
			t.Fatal(r)
		}
		if got := layers(); got != byCompose {
			t.Errorf("%s build: layers %s, compose's are %s", program, got, byCompose)
		}
	}
	if got := s.Docker("history", "--no-trunc", image); !strings.Contains(got, "COPY /out/web /web # buildkit") {
		t.Errorf("the page's image was not built: %s", got)
	}
}

func downAndUp(t *testing.T, s store) {
	want := s.sql(primary, "SELECT string_agg(name, ',' ORDER BY id) FROM products")
	mustCompose(t, s.Daemon, "down")
	if left := s.Docker("ps", "-aq") + s.Docker("network", "ls", "-q", "--filter", "type=custom"); left != "" {
		t.Errorf("left after down: %s", left)
	}
	if got := len(strings.Fields(s.Docker("volume", "ls", "-q"))); got != 2 {
		t.Errorf("%d volumes after down, want 2", got)
	}
	mustCompose(t, s.Daemon, "up", "-d", "--wait", "--wait-timeout", "100")
	s.streams()
	for _, c := range []string{primary, standby} {
		s.eventuallySQL(c, "SELECT string_agg(name, ',' ORDER BY id) FROM products", want)
	}
	s.add("Written after down and up")
	s.pageShows("Written after down and up")
	mustCompose(t, s.Daemon, "down", "-v")
	if got := s.Docker("volume", "ls", "-q"); got != "" {
		t.Errorf("left after down -v: %s", got)
	}
}

// The notes join the files for production with `config` before they deploy.
func TestTheNotesComposeFilesJoin(t *testing.T) {
	d := testkit.New(t)
	stack := mustCompose(t, d, "-f", filepath.Join(example, "docker-compose-prod.yml"), "config")
	for _, want := range []string{"node.labels.postgres==master", "node.labels.postgres==slave", "mode: global", "replicas: 8", "published: 8081"} {
		if !strings.Contains(stack, want) {
			t.Errorf("the joined file does not say %q:\n%s", want, stack)
		}
	}
	build := mustCompose(t, d, "-f", filepath.Join(example, "docker-compose-build.yml"), "config")
	if !strings.Contains(build, "dockerfile: ./docker/web/Dockerfile") {
		t.Errorf("the joined file does not build:\n%s", build)
	}
}
