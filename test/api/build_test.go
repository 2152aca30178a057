package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
