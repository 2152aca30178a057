package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// project is a folder with compose files, and a way to call compose in it.
type project struct {
	t    *testing.T
	d    *testkit.Daemon
	dir  string
	call []string // the program and what comes before compose's arguments
}

// projects runs f with docker-compose and with `holdfast compose`.
func projects(t *testing.T, files map[string]string, f func(t *testing.T, p project)) {
	notOnTwin(t, "our own client")
	for name, call := range map[string][]string{"docker-compose": {"docker-compose"}, "holdfast compose": {"holdfast", "compose"}} {
		t.Run(name, func(t *testing.T) { f(t, newProject(t, files, call...)) })
	}
}

func newProject(t *testing.T, files map[string]string, call ...string) project {
	t.Helper()
	p := project{t: t, d: daemon(t), dir: filepath.Join(t.TempDir(), "shop"), call: call}
	for path, body := range files {
		p.write(path, body)
	}
	return p
}

func (p project) write(path, body string) {
	p.t.Helper()
	path = filepath.Join(p.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p project) result(args ...string) testkit.Result {
	p.t.Helper()
	// -f would change the project's folder: the program runs in it instead.
	sub := append([]string{"-C", p.dir}, testkit.RequireBin(p.t, p.call[0]))
	return p.d.Run("", "env", append(append(sub, p.call[1:]...), args...)...)
}

func (p project) must(args ...string) string {
	p.t.Helper()
	r := p.result(args...)
	if r.Code != 0 {
		p.t.Fatalf("%s", r)
	}
	return strings.TrimSpace(r.Out)
}

func (p project) fails(text string, args ...string) {
	p.t.Helper()
	if r := p.result(args...); r.Code == 0 || !strings.Contains(r.Err, text) {
		p.t.Errorf("want a failure that says %q: %s", text, r)
	}
}

// sorted is the words of a list that compose prints in no order, each once.
func sorted(list string) string {
	words := strings.Fields(list)
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}

const shop = `
name: shop
services:
  db:
    image: busybox
    init: true
    command: sh -c 'echo started >> /data/log; echo db is up; exec sleep 600'
    healthcheck:
      test: test -s /data/log
      interval: 200ms
      timeout: 5s
      retries: 50
    volumes: [data:/data]
    networks:
      back: {aliases: [store-db]}
  setup:
    image: busybox
    command: sh -c 'echo set up > /data/setup'
    volumes: [data:/data]
    depends_on:
      db: {condition: service_healthy}
  web:
    image: busybox
    init: true
    command: sh -c 'echo web sees $$(cat /data/log); exec sleep 600'
    env_file: web.env
    environment:
      - "ConnectionStrings:StoreContext=Host=db-master;Database=store;"
    volumes: ["data:/data:ro"]
    networks: [front, back]
    depends_on:
      db: {condition: service_healthy}
      setup: {condition: service_completed_successfully}
    configs:
      - source: page
        target: /etc/page.html
    secrets: [password]
    ports: ["127.0.0.1::80"]
  tools:
    image: busybox
    command: "true"
    profiles: [tools]
volumes:
  data:
networks:
  front:
  back:
configs:
  page: {file: page.html}
secrets:
  password: {file: password.txt}
`

var shopFiles = map[string]string{
	"compose.yaml": shop, "web.env": "MODE=test\n", "page.html": "<p>page</p>\n", "password.txt": "s3cret",
}

type composePs struct {
	Name, Service, State, Health string
	ExitCode                     int
}

func (p project) ps(args ...string) map[string]composePs {
	p.t.Helper()
	out := map[string]composePs{}
	for line := range strings.Lines(p.must(append([]string{"ps", "--format", "json"}, args...)...)) {
		var c composePs
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		out[c.Name] = c
	}
	return out
}

func TestCompose(t *testing.T) {
	notOnTwin(t, "our own client")
	p := newProject(t, shopFiles, "docker-compose")
	d := p.d
	p.must("up", "-d", "--wait-timeout", "60")
	ps := p.ps("-a")
	if ps["shop-db-1"].Health != "healthy" || ps["shop-web-1"].State != "running" || ps["shop-setup-1"].State != "exited" || len(ps) != 3 {
		t.Fatalf("ps: %+v", ps)
	}
	waitLog(d, "shop-web-1", "web sees started")
	contains(t, "logs", p.must("logs"), "db-1")
	contains(t, "logs of one", p.must("logs", "--no-log-prefix", "db"), "db is up")
	equal(t, "exec", p.must("exec", "-T", "web", "cat", "/data/setup"), "set up")
	equal(t, "env_file", p.must("exec", "-T", "web", "sh", "-c", "echo $MODE"), "test")
	contains(t, "a name that no shell could set", p.must("exec", "-T", "web", "env"), "ConnectionStrings:StoreContext=Host=db-master;Database=store;")
	equal(t, "config and secret", p.must("exec", "-T", "web", "cat", "/etc/page.html", "/run/secrets/password"), "<p>page</p>\ns3cret")
	for _, name := range []string{"db", "store-db", "shop-db-1"} {
		p.must("exec", "-T", "web", "nslookup", name)
	}
	if r := p.result("exec", "-T", "db", "sh", "-c", "exit 5"); r.Code != 5 {
		t.Errorf("exit code of exec: %s", r)
	}
	equal(t, "run", p.must("run", "--rm", "-T", "--no-deps", "web", "cat", "/data/setup"), "set up")
	if r := p.result("run", "--rm", "-T", "--no-deps", "-e", "X=6", "web", "sh", "-c", "exit $X"); r.Code != 6 {
		t.Errorf("exit code of run: %s", r)
	}
	equal(t, "profile", sorted(p.must("--profile", "tools", "config", "--services")), "db setup tools web")
	p.must("--profile", "tools", "run", "--rm", "-T", "tools")
	contains(t, "port", p.must("port", "web", "80"), "127.0.0.1:")

	p.write("put", "copied\n")
	p.must("cp", "put", "db:/data/put")
	p.must("cp", "web:/data/put", "got")
	b, err := os.ReadFile(filepath.Join(p.dir, "got"))
	if err != nil || string(b) != "copied\n" {
		t.Errorf("cp: %q %v", b, err)
	}

	p.must("pause", "db")
	equal(t, "paused", p.ps()["shop-db-1"].State, "paused")
	p.must("unpause", "db")
	equal(t, "unpaused", p.ps()["shop-db-1"].State, "running")

	p.must("up", "-d", "--scale", "web=3")
	if n := len(p.ps()); n != 4 {
		t.Errorf("scaled up: %d", n)
	}
	p.must("scale", "web=1")
	if n := len(p.ps()); n != 2 {
		t.Errorf("scaled down: %d", n)
	}
	contains(t, "top", p.must("top", "db"), "sleep")
	contains(t, "images", p.must("images"), "busybox")
	contains(t, "ls", p.must("ls"), "shop")

	db := format(d, "shop-db-1", "{{.Id}}")
	p.must("restart", "db")
	equal(t, "restart keeps the container", format(d, "shop-db-1", "{{.Id}} {{.State.Status}}"), db+" running")
	p.must("stop")
	equal(t, "stopped", format(d, "shop-db-1", "{{.State.Status}}"), "exited")
	p.must("start")
	equal(t, "started", format(d, "shop-db-1", "{{.Id}} {{.State.Status}}"), db+" running")

	// Nothing changed: nothing is made anew. Changed: only what changed, and the data stays.
	web := format(d, "shop-web-1", "{{.Id}}")
	p.must("up", "-d")
	equal(t, "up again", format(d, "shop-db-1", "{{.Id}}")+format(d, "shop-web-1", "{{.Id}}"), db+web)
	p.write("compose.yaml", strings.Replace(shop, "echo db is up", "echo db is up again", 1))
	p.must("up", "-d")
	if format(d, "shop-db-1", "{{.Id}}") == db {
		t.Error("a changed service is not made anew")
	}
	waitLog(d, "shop-db-1", "db is up again")
	// started: first, after restart, after start, anew
	equal(t, "data of the named volume", p.must("exec", "-T", "db", "sh", "-c", "grep -c started /data/log; cat /data/put"), "4\ncopied")

	p.must("down")
	equal(t, "down keeps volumes", d.Docker("volume", "ls", "-q"), "shop_data")
	equal(t, "nothing else", d.Docker("ps", "-aq")+d.Docker("network", "ls", "-q", "--filter", "type=custom"), "")
	p.must("up", "-d", "db")
	contains(t, "data after down and up", p.must("exec", "-T", "db", "cat", "/data/put"), "copied")
	p.must("down", "-v")
	equal(t, "down -v", d.Docker("volume", "ls", "-q"), "")
}

func TestComposeRunsAStackThatFails(t *testing.T) {
	files := map[string]string{"compose.yaml": `
services:
  bad:
    image: busybox
    command: "false"
  sick:
    image: busybox
    init: true
    command: sleep 600
    healthcheck: {test: "false", interval: 100ms, retries: 1}
  after:
    image: busybox
    command: "true"
    depends_on:
      bad: {condition: service_completed_successfully}
  late:
    image: busybox
    command: "true"
    depends_on:
      sick: {condition: service_healthy}
  absent:
    image: absent-image
    pull_policy: never
`}
	projects(t, files, func(t *testing.T, p project) {
		p.fails("exit 1", "up", "-d", "after")
		p.fails("unhealthy", "up", "-d", "late")
		p.fails("absent-image", "up", "-d", "absent")
		p.fails("no such service: nosuch", "up", "-d", "nosuch")
		if r := p.result("up", "--exit-code-from", "bad", "bad"); r.Code != 1 {
			t.Errorf("--exit-code-from: %s", r)
		}
		p.must("down", "--remove-orphans")
		equal(t, "all is gone", p.d.Docker("ps", "-aq"), "")
	})
}

// notes are the three files of the course notes, set up as they are written there.
var notes = map[string]string{
	"docker-compose.yml": `
version: '3.7'
services:
  db-master:
    image: psodstorage/store-db # This image has the logic to run the postgres either as a master or as a slave
    environment:
      POSTGRES_USER: 'postgres'
      POSTGRES_PASSWORD: 'postgres'
      PGDATA: '/var/lib/postgresql/data/pgdata'
    volumes:
      - postgres-master:/var/lib/postgresql/data
    networks:
      - store-net
  db-slave:
    image: psodstorage/store-db
    environment:
      POSTGRES_USER: 'postgres'
      POSTGRES_PASSWORD: 'postgres'
      PGDATA: '/var/lib/postgresql/data/pgdata'
      REPLICATED_FROM: 'db-master'
    volumes:
      - postgres-slave:/var/lib/postgresql/data
    networks:
      - store-net
  api:
    image: psodstorage/store-api
    environment:
      - "ConnectionStrings:StoreContext=Host=db-master;Database=store;"
    ports:
      -'8085:80'
    networks:
      - store-net
    deploy:
      replicas: 1
  web:
    image: psodstorage/store-web
    environment:
      - "ConnectionStrings:StoreContext=Host=db-master;Database=store;"
    ports:
      -'8081:80'
    networks:
      - store-net
networks:
  store-net:
volumes:
  postgres-master:
  postgres-slave:
`,
	"docker-compose-build.yml": `
version: '3.7'
services:
  db-master:
    build: ./database
  db-slave:
    build: ./database
  api:
    build:
      context: .
      dockerfile: ./docker/api/Dockerfile
  web:
    build:
      context: .
      dockerfile: ./docker/web/Dockerfile
`,
	"docker-compose-prod.yml": `
version: '3.7'
services:
  db-master:
    deploy:
      replicas: 1
      placement:
        constraints:
          - node.labels.postgres==master # This ensures master always runs on the same node where label is configures as master
  db-slave:
    deploy:
      node: global # Will run on all the nodes in the swarm (that matches the constraints)
      placement:
        constraints:
          - node.labels.postgres==slave
  api:
    deploy:
      replicas: 2
  web:
    deploy:
      replicas: 8
`,
}

func TestComposeConfigOfTheNotesFiles(t *testing.T) {
	projects(t, notes, func(t *testing.T, p project) {
		base := []string{"-f", "./docker-compose.yml", "-f", "./docker-compose-prod.yml", "config"}
		// As printed they are refused; each refusal says what was meant.
		p.fails("docker-compose.yml:30:7: -'8085:80' is no item of a list: a dash needs a blank after it (did you mean - '8085:80'?)", base...)
		p.write("docker-compose.yml", strings.NewReplacer("-'8085", "- '8085", "-'8081", "- '8081").Replace(notes["docker-compose.yml"]))
		p.fails("docker-compose-prod.yml:12:7: there is no key \"node\" in services.db-slave.deploy (did you mean mode?)", base...)
		p.write("docker-compose-prod.yml", strings.Replace(notes["docker-compose-prod.yml"], "node: global", "mode: global", 1))

		stack := p.must(base...)
		p.write("stack.yml", stack)
		var got struct {
			Services map[string]struct {
				Image  string
				Build  struct{ Context, Dockerfile string }
				Deploy struct {
					Mode      string
					Replicas  int
					Placement struct{ Constraints []string }
				}
				Ports []struct {
					Published string
					Target    int
				}
				Environment map[string]string
				Volumes     []struct{ Type, Source, Target string }
			}
			Volumes, Networks map[string]struct{ Name string }
		}
		// What config printed is a compose file of its own.
		read := func(args ...string) {
			t.Helper()
			if err := json.Unmarshal([]byte(p.must(append(args, "config", "--format", "json")...)), &got); err != nil {
				t.Fatal(err)
			}
		}
		read("-f", "stack.yml")
		s := got.Services
		equal(t, "services", sorted(p.must("-f", "stack.yml", "config", "--services")), "api db-master db-slave web")
		equal(t, "standby", s["db-slave"].Deploy.Mode+" "+strings.Join(s["db-slave"].Deploy.Placement.Constraints, ","), "global node.labels.postgres==slave")
		if s["web"].Deploy.Replicas != 8 || s["api"].Deploy.Replicas != 2 || s["db-master"].Deploy.Replicas != 1 {
			t.Errorf("replicas: %+v", s)
		}
		if len(s["api"].Ports) != 1 || s["api"].Ports[0].Published != "8085" || s["api"].Ports[0].Target != 80 {
			t.Errorf("ports: %+v", s["api"].Ports)
		}
		equal(t, "environment", s["api"].Environment["ConnectionStrings:StoreContext"], "Host=db-master;Database=store;")
		equal(t, "volume", s["db-master"].Volumes[0].Source+" "+got.Volumes["postgres-master"].Name, "postgres-master shop_postgres-master")
		contains(t, "an obsolete version is said", p.result("config", "-q").Err, "obsolete")

		read("-f", "docker-compose.yml", "-f", "docker-compose-build.yml")
		equal(t, "build", got.Services["api"].Build.Context+" "+got.Services["api"].Build.Dockerfile, p.dir+" ./docker/api/Dockerfile")
		equal(t, "build", got.Services["db-master"].Build.Context, filepath.Join(p.dir, "database"))
		equal(t, "images", sorted(p.must("-f", "docker-compose.yml", "config", "--images")), "psodstorage/store-api psodstorage/store-db psodstorage/store-web")
	})
}
