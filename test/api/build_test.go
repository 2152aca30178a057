package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	buildtypes "github.com/moby/moby/api/types/build"

	"holdfast.dev/holdfast/internal/testkit"
)

// buildDir writes files to a folder that can be built.
func buildDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBuildMultiStage(t *testing.T) {
	notOnTwin(t, "the output is BuildKit's")
	d := daemon(t)
	dir := buildDir(t, map[string]string{
		"Dockerfile": `FROM busybox AS build
ARG WHO=world
WORKDIR /src
COPY . .
RUN cat greeting > /out && echo "$WHO" >> /out && ls > /files
FROM busybox
COPY --from=build /out /files /
ENV A=b
LABEL from=file
USER nobody
ENTRYPOINT ["cat"]
CMD ["/out"]
`,
		"greeting": "hello\n", "secret": "x", "keep": "y", ".dockerignore": "secret\n",
	})
	out := d.Docker("build", "-t", "app", "-t", "other:v1", "--build-arg", "WHO=you", "--label", "by=hand", dir)
	for _, want := range []string{"Step 2/4 : WORKDIR /src (stage build)", "Successfully built", "Successfully tagged app:latest", "Successfully tagged other:v1"} {
		contains(t, "build", out, want)
	}
	equal(t, "run", d.Docker("run", "--rm", "app"), "hello\nyou")
	if files := d.Docker("run", "--rm", "app", "/files"); strings.Contains(files, "secret") || !strings.Contains(files, "keep") {
		t.Errorf("ignored file in the context, or another missing: %s", files)
	}
	equal(t, "config", format(d, "app", `{{.Config.User}} {{index .Config.Labels "from"}} {{index .Config.Labels "by"}} {{.Config.Env}}`),
		"nobody file hand [PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin A=b]")
	contains(t, "history", d.Docker("history", "--no-trunc", "app"), "COPY /out /files / # buildkit")
	// Nothing changed: nothing runs again, and it is the same image.
	id := format(d, "app", "{{.Id}}")
	contains(t, "again", d.Docker("build", "-t", "app", "--build-arg", "WHO=you", "--label", "by=hand", dir), "Using cache")
	equal(t, "same image", format(d, "app", "{{.Id}}"), id)
	equal(t, "a stage alone", d.Docker("run", "--rm", strings.TrimSpace(d.Docker("build", "-q", "--target", "build", dir)), "cat", "/out"), "hello\nworld")
}

func TestBuildKeepsTheImageThatLosesItsName(t *testing.T) {
	d := daemon(t)
	build := func(text string) string {
		d.Docker("build", "-t", "named", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo " + text + " > /text\n"}))
		return format(d, "named", "{{.Id}}")
	}
	first := build("one")
	second := build("two")
	if first == second {
		t.Fatal("both builds gave the same image")
	}
	equal(t, "first still runs", d.Docker("run", "--rm", first, "cat", "/text"), "one")
	contains(t, "dangling", d.Docker("images", "-q", "--no-trunc", "-f", "dangling=true"), first)
	d.Docker("image", "prune", "-f")
	d.DockerFails("No such image", "image", "inspect", first)
	equal(t, "second runs", d.Docker("run", "--rm", second, "cat", "/text"), "two")
}

func TestBuildFailures(t *testing.T) {
	notOnTwin(t, "the texts are BuildKit's")
	d := daemon(t)
	r := d.DockerResult("build", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo told; exit 7\n"}))
	if r.Code != 7 {
		t.Errorf("exit code of a failed step: %s", r)
	}
	contains(t, "output", r.Out, "told")
	contains(t, "error", r.Err, "The command '/bin/sh -c echo told; exit 7' returned a non-zero code: 7")
	for text, args := range map[string][]string{
		"Cannot locate specified Dockerfile: Dockerfile": {},
		"unknown instruction: NOSUCH":                    {"Dockerfile", "FROM busybox\nNOSUCH x\n"},
		"not found":                                      {"Dockerfile", "FROM busybox\nCOPY nosuch /\n"},
		"target stage \"nosuch\" could not be found":     {"Dockerfile", "FROM busybox\n", "--target", "nosuch"},
		"invalid reference format":                       {"Dockerfile", "FROM busybox\n", "-t", "UPPER:x"},
		"--memory is not supported for builds":           {"Dockerfile", "FROM busybox\n", "--memory", "64m"},
		"network mode \"nosuch\" not supported":          {"Dockerfile", "FROM busybox\n", "--network", "nosuch"},
	} {
		files := map[string]string{"x": "y"}
		if len(args) > 0 {
			files[args[0]] = args[1]
			args = args[2:]
		}
		dir := buildDir(t, files)
		if len(files) == 1 { // the client looks for the Dockerfile itself: ask the engine
			code, out := d.API(http.MethodPost, "/build", testkit.Layer{"x": {Body: "y"}}.Tar())
			if code != http.StatusBadRequest || !strings.Contains(string(out), text) {
				t.Errorf("no Dockerfile: %d %s", code, out)
			}
			continue
		}
		d.DockerFails(text, append(append([]string{"build"}, args...), dir)...)
	}
	code, out := d.API(http.MethodPost, "/build", []byte("this is no tar file, but it is long enough to be looked at as one"))
	if code != http.StatusBadRequest && !bytes.Contains(out, []byte("error")) {
		t.Errorf("no tar: %d %s", code, out)
	}
	code, out = d.API(http.MethodPost, "/build?dockerfile=../../etc/passwd", testkit.Layer{"x": {Body: "y"}}.Tar())
	if code != http.StatusBadRequest || !bytes.Contains(out, []byte("must be within the build context")) {
		t.Errorf("Dockerfile outside: %d %s", code, out)
	}
	equal(t, "no image is left", d.Docker("images", "-q", "-f", "dangling=true"), "")
}

func TestBuildStepsNetwork(t *testing.T) {
	d := daemon(t)
	serve := up(d, "--name", "web", "busybox", "sh", "-c", "echo found > /tmp/index.html; exec httpd -f -p 80 -h /tmp")
	addr := format(d, serve, "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	d.Eventually(settle, "the server answers", func() (bool, string) {
		r := d.DockerResult("exec", serve, "wget", "-qO-", "127.0.0.1")
		return r.Code == 0, r.String()
	})
	dir := buildDir(t, map[string]string{"Dockerfile": fmt.Sprintf("FROM busybox\nRUN wget -qO /page http://%s && grep 192.0.2.7 /etc/hosts\n", addr)})
	d.Docker("build", "-t", "net", "--add-host", "name:192.0.2.7", dir)
	equal(t, "page", d.Docker("run", "--rm", "net", "cat", "/page"), "found")
	if r := d.DockerResult("build", "--no-cache", "--network", "none", dir); r.Code == 0 {
		t.Errorf("a step without network reached a server: %s", r)
	}
	d.Docker("build", "--network", "host", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN test -e /proc/net/dev\n"}))
}

func TestBuildCacheIsSeenAndPruned(t *testing.T) {
	notOnTwin(t, "the classic builder has no cache of its own")
	d := daemon(t)
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c head -c 3000000 /dev/zero > /c/big && cp /c/big /big\n"})
	d.Docker("build", "-t", "cached", dir)
	var df struct {
		BuildCache []struct{ Type, Description string }
	}
	d.GetJSON("/v1.50/system/df", &df)
	types := map[string]bool{}
	for _, r := range df.BuildCache {
		types[r.Type] = true
	}
	if !types["regular"] || !types["exec.cachemount"] {
		t.Errorf("cache records: %+v", df.BuildCache)
	}
	contains(t, "df", d.Docker("system", "df", "--format", "{{.Type}} {{.TotalCount}}"), "Build Cache")
	contains(t, "prune", d.Docker("builder", "prune", "-af"), "Total reclaimed space")
	d.GetJSON("/v1.50/system/df", &df)
	for _, r := range df.BuildCache {
		if r.Type == "exec.cachemount" {
			t.Errorf("left after prune: %+v", r)
		}
	}
	equal(t, "the image stays", d.Docker("run", "--rm", "cached", "wc", "-c", "/big"), "3000000 /big")
}

// A base image's layers are on the disk once, whoever unpacked them, and stay for
// whoever needs them.
func TestBuildSharesItsBaseWithImages(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the classic builder has no cache of its own")
	d := own(t, testkit.Options{})
	d.Load(testkit.ImageSpec{Ref: "fat:1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"fat": {Body: strings.Repeat("fat ", 1<<20)}}.Tar()}})
	fats := func() (n int) {
		list, err := filepath.Glob(filepath.Join(d.Root(), "containerd", "snapshots", "snapshots", "*", "fs", "fat"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM fat:1 AS a\nRUN head -c 3000000 /dev/zero > /step && echo x > /x\nFROM scratch\nCOPY --from=a /x /x\n"})
	d.Docker("build", "-t", "thin", dir)
	if n := fats(); n != 1 {
		t.Errorf("the base's layer is on the disk %d times", n)
	}
	usage := func() (u struct {
		BuildCache []struct {
			ID, Type, Description string
			Size                  int64
			Shared, InUse         bool
			UsageCount            int
			LastUsedAt            *time.Time
		}
		BuildCacheUsage struct{ TotalCount, TotalSize, Reclaimable int64 } `json:"BuildCacheUsage"`
	},
	) {
		d.GetJSON("/v1.50/system/df", &u)
		return u
	}
	// What a step made on top of an image is the cache's own, though it was never
	// exported; the image's layer is not.
	var own, sharedSize int64
	for _, r := range usage().BuildCache {
		if r.Shared {
			sharedSize += r.Size
		} else {
			own += r.Size
		}
		if r.Type == "regular" && (r.LastUsedAt == nil || r.UsageCount == 0) {
			t.Errorf("not known when it was used: %+v", r)
		}
	}
	if own < 3000000 || own > 4000000 || sharedSize < 4<<20 {
		t.Errorf("the cache's own: %d bytes, shared: %d, of: %+v", own, sharedSize, usage().BuildCache)
	}
	contains(t, "df", d.Docker("system", "df", "--format", "{{.Type}} {{.Size}}"), "Build Cache 3.0")
	contains(t, "df -v", d.Docker("system", "df", "-v"), "true")

	// The image goes, the cache keeps its layer: the next step needs it.
	d.Docker("rmi", "fat:1")
	d.Docker("image", "prune", "-f")
	if n := fats(); n != 1 {
		t.Errorf("without its image the layer is there %d times", n)
	}
	d.Docker("builder", "prune", "-af")
	d.Eventually(settle, "without the cache it is gone, too", func() (bool, string) { n := fats(); return n == 0, fmt.Sprint(n) })
	equal(t, "the image that was built", d.Docker("image", "inspect", "-f", "{{len .RootFS.Layers}}", "thin"), "1")
}

func TestBuilderPruneFilters(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the classic builder has no cache of its own")
	testkit.RequireBin(t, "cli-plugins/docker-buildx")
	d := own(t, testkit.Options{})
	d.Image("busybox")
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox AS a\nRUN --mount=type=cache,target=/c head -c 3000000 /dev/zero > /c/x && head -c 5000000 /dev/zero > /dropped\nFROM busybox\nCOPY --from=a /etc/passwd /p\nRUN head -c 2000000 /dev/zero > /kept\n"})
	type record struct {
		ID, Type, Description string
		Size                  int64
		Shared                bool
	}
	records := func() (out struct{ BuildCache []record }) {
		d.GetJSON("/v1.50/system/df", &out)
		return out
	}
	count := func(match func(record) bool) (n int) {
		for _, r := range records().BuildCache {
			if match(r) {
				n++
			}
		}
		return n
	}
	mount := func(r record) bool { return r.Type == "exec.cachemount" }
	says := func(text string) func(record) bool {
		return func(r record) bool { return r.Type == "regular" && strings.Contains(r.Description, text) }
	}
	build := func() {
		d.Docker("builder", "prune", "-af")
		d.Docker("build", "-t", "pruned", dir)
		d.Eventually(settle, "nothing of the build is in use", func() (bool, string) {
			var df struct{ BuildCache []struct{ InUse bool } }
			d.GetJSON("/v1.50/system/df", &df)
			return len(df.BuildCache) > 6 && !slices.ContainsFunc(df.BuildCache, func(r struct{ InUse bool }) bool { return r.InUse }), fmt.Sprint(df)
		})
	}
	build()
	// BuildKit lets go of a build's records a moment after the build.
	d.Eventually(settle, "the cache is what this test is about", func() (bool, string) {
		return count(mount) == 1 && count(says("/dropped")) == 1 && count(says("/kept")) == 1, fmt.Sprint(records())
	})
	// Too young, or not of that kind: nothing goes.
	total := len(records().BuildCache)
	for _, args := range [][]string{
		{"--filter", "until=1h"},
		{"--filter", "unused-for=1h"},
		{"--filter", "type=frontend"},
		{"--filter", "inuse=true"},
		{"--filter", "private=false", "--filter", "inuse=true"},
		{"--filter", "id=nosuchrecord"},
		{"--filter", "description=nosuch"},
		{"--filter", "parent=nosuch"},
		{"--keep-storage", "1gb"},
	} {
		contains(t, fmt.Sprint(args), d.Docker(append([]string{"builder", "prune", "-af"}, args...)...), "Total reclaimed space: 0B")
		if n := len(records().BuildCache); n != total {
			t.Errorf("%q: %d records of %d are left", args, n, total)
		}
	}
	d.DockerFails("invalid filter 'nosuch'", "builder", "prune", "-f", "--filter", "nosuch=x")
	d.DockerFails("until", "builder", "prune", "-f", "--filter", "until=yesterday")
	// By kind.
	contains(t, "by type", d.Docker("builder", "prune", "-af", "--filter", "type=exec.cachemount"), "3.0")
	if count(mount) != 0 || count(says("/dropped")) != 1 {
		t.Errorf("after pruning cache mounts: %+v", records())
	}
	// Without --all what the image is made of stays, and what only led there goes.
	contains(t, "dangling", d.Docker("builder", "prune", "-f"), "5.0")
	if count(says("/dropped")) != 0 || count(says("/kept")) != 1 {
		t.Errorf("after pruning without --all: %+v", records())
	}
	equal(t, "the image is as before", d.Docker("run", "--rm", "pruned", "wc", "-c", "/kept"), "2000000 /kept")
	// By its ID.
	build()
	for _, r := range records().BuildCache {
		if says("/dropped")(r) {
			d.Docker("builder", "prune", "-af", "--filter", "id="+r.ID)
		}
	}
	if count(says("/dropped")) != 0 || count(says("/kept")) != 1 || count(mount) != 1 {
		t.Errorf("after pruning one record: %+v", records())
	}
	// To a size: the least used go first, until the rest is small enough.
	build()
	own := func() (n int64) {
		for _, r := range records().BuildCache {
			if !r.Shared {
				n += r.Size
			}
		}
		return n
	}
	before := own()
	d.Docker("builder", "prune", "-af", "--keep-storage", "6000000")
	if now := own(); before < 10000000 || now > 6000000 || now == 0 {
		t.Errorf("pruned to 6 MB: %d bytes before, %d after", before, now)
	}
	build()
	d.Holdfast("buildx", "prune", "-af", "--max-used-space", "4000000")
	if now := own(); now > 4000000 || now == 0 {
		t.Errorf("pruned to 4 MB by buildx: %d bytes", now)
	}
	build()
	var gone buildtypes.CachePruneReport
	code, body := d.API(http.MethodPost, "/v1.50/build/prune?all=1&reserved-space=4000000&max-used-space=1", nil)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	decode(t, body, &gone)
	if now := own(); gone.SpaceReclaimed == 0 || now == 0 || now > 4000000 {
		t.Errorf("a reserve of 4 MB: %d bytes are left, %+v", now, gone)
	}
	// The disk has that much free: nothing goes. And it never has that much.
	build()
	before = own()
	d.API(http.MethodPost, "/v1.50/build/prune?all=1&min-free-space=1", nil)
	if now := own(); now != before {
		t.Errorf("one byte free is wanted: %d bytes before, %d after", before, now)
	}
	d.API(http.MethodPost, "/v1.50/build/prune?all=1&min-free-space="+fmt.Sprint(int64(1)<<60), nil)
	if now := own(); now != 0 {
		t.Errorf("more free than the disk is large: %d bytes are left", now)
	}
	contains(t, "buildx du", d.Holdfast("buildx", "du"), "Total:")
}

func TestBuildIsCancelled(t *testing.T) {
	notOnTwin(t, "only BuildKit's steps are looked for")
	d := daemon(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := d.Command(ctx, "docker", "build", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 4321\n"}))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() string {
		out, err := cmdline("sleep\x004321")
		if err != nil {
			return err.Error()
		}
		return out
	}
	d.Eventually(settle, "the step runs", func() (bool, string) { s := running(); return s != "", s })
	cancel()
	_ = cmd.Wait() // it was killed
	d.Eventually(settle, "the step ends with its client", func() (bool, string) { s := running(); return s == "", s })
}

// cmdline returns the pid of a process whose arguments contain text.
func cmdline(text string) (string, error) {
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return "", err
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(b), text) {
			return filepath.Dir(p), nil
		}
	}
	return "", nil
}

func TestBuildStepsEndWithAKilledDaemon(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "ours alone promises it")
	d := own(t, testkit.Options{})
	cmd := d.Command(t.Context(), "docker", "build", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 4322\n"}))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := func() (string, error) { return cmdline("sleep\x004322") }
	d.Eventually(settle, "the step runs", func() (bool, string) { s, err := found(); return s != "", fmt.Sprint(s, err) })
	d.Kill()
	_ = cmd.Wait() // its daemon is gone
	d.Start()
	if s, err := found(); s != "" || err != nil {
		t.Errorf("the step still runs: %s %v", s, err)
	}
	d.Docker("build", "-t", "after", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo fine > /f\n"}))
	equal(t, "builds again", d.Docker("run", "--rm", "after", "cat", "/f"), "fine")
}

// BuildKit mounts what it copies from and to in the folder for temporary things.
func TestBuildMountsEndWithAKilledDaemon(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "ours alone promises it")
	d := own(t, testkit.Options{})
	cmd := d.Command(t.Context(), "docker", "build", buildDir(t, map[string]string{
		"Dockerfile": "FROM busybox AS a\nRUN mkdir /many && cd /many && for i in $(seq 20000); do : > $i; done\nFROM busybox\nCOPY --from=a /many /many\n",
	}))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mounted := func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), "/buildkit-mount")
	}
	d.Eventually(settle, "the copy runs", func() (bool, string) { return mounted(), "" })
	d.Kill()
	_ = cmd.Wait() // its daemon is gone
	d.Start()
	if mounted() {
		t.Error("what a killed daemon copied is mounted still")
	}
}

func TestImagesOnAnOldBase(t *testing.T) {
	notOnTwin(t, "Docker has no such command")
	d := daemon(t)
	dir := func(text string) string { return buildDir(t, map[string]string{"Dockerfile": text}) }
	base := func(n string) string { return dir("FROM busybox\nRUN echo " + n + " > /version\n") }
	d.Docker("build", "-t", "base", base("one"))
	was := format(d, "base", "{{.Id}}")
	d.Docker("build", "-t", "app:1", dir("FROM base\nRUN echo app > /app\n"))
	d.Docker("build", "-t", "same:1", dir("FROM base\nENV A=b\n"))
	up(d, "--name", "user", "app:1", "sleep", "600")
	equal(t, "nothing is outdated", d.Holdfast("image", "outdated", "-q"), "")
	d.Docker("build", "-t", "base", base("two"))
	equal(t, "both are", d.Holdfast("image", "outdated", "-q"), "app:1\nsame:1")
	equal(t, "what and by whom", d.Holdfast("image", "outdated", "--no-trunc", "--format", "{{.Image}} {{.Base}} {{.BaseID}} {{.CurrentID}} {{.Containers}}"),
		fmt.Sprintf("app:1 base:latest %[1]s %[2]s 1\nsame:1 base:latest %[1]s %[2]s 0", was, format(d, "base", "{{.Id}}")))
	d.Docker("build", "-t", "same:1", dir("FROM base\nENV A=b\n"))
	equal(t, "one was built again", d.Holdfast("image", "outdated", "-q"), "app:1")
	d.Docker("build", "-t", "app:1", dir("FROM base\nRUN echo app > /app\n"))
	contains(t, "its container still stands on the old one", d.Holdfast("image", "outdated", "--format", "{{.Image}} {{.Containers}}"), " 1")
	d.Docker("rm", "-f", "user")
	equal(t, "nothing is left", d.Holdfast("image", "outdated", "-q"), "")
	d.Docker("image", "prune", "-f")
	d.DockerFails("No such image", "image", "inspect", was)
}

// The times in a client's tar are whole seconds, so a file that was written twice
// in one has the same size and time, and is another file all the same.
func TestBuildSeesEveryChange(t *testing.T) {
	d := daemon(t)
	for _, content := range []string{"one", "two", "six", "one"} {
		context := testkit.Layer{"Dockerfile": {Body: "FROM busybox\nCOPY said /said\n"}, "said": {Body: content}}.Tar()
		if code, out := d.API("POST", "/build?t=changes", context); code != 200 || bytes.Contains(out, []byte(`"error"`)) {
			t.Fatalf("%d %s", code, out)
		}
		equal(t, "in the image", d.Docker("run", "--rm", "changes", "cat", "/said"), content)
	}
}
