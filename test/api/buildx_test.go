package api

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/testkit"
)

// buildx is the engine with our client's plugin.
func buildx(t *testing.T) *testkit.Daemon {
	t.Helper()
	notOnTwin(t, "Debian's docker has no such BuildKit")
	testkit.RequireBin(t, "cli-plugins/docker-buildx")
	return daemon(t)
}

func TestBuildxFeatures(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{
		"Dockerfile": `# syntax=docker/dockerfile:1
FROM busybox AS build
ARG RUN=first
RUN --mount=type=cache,target=/cache --mount=type=secret,id=s --mount=type=bind,source=a.txt,target=/bound --mount=type=tmpfs,target=/t <<EOT
	set -e
	cat /run/secrets/s /bound > /got
	mount | grep -q ' /t type tmpfs'
	echo $RUN >> /cache/runs
	wc -l < /cache/runs > /count
EOT
FROM busybox
COPY --link --chmod=640 --from=build /got /count /
COPY <<EOT /here
inline
EOT
COPY --exclude=*.md --from=named . /named/
`,
		"a.txt": "bound\n", "named/x.go": "go", "named/x.md": "md", "secret.txt": "hush\n",
	})
	args := []string{"build", "--progress", "plain", "-t", "feat", "--secret", "id=s,src=" + filepath.Join(dir, "secret.txt"), "--build-context", "named=" + filepath.Join(dir, "named"), dir}
	r := d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), args...)
	if r.Code != 0 {
		t.Fatal(r)
	}
	contains(t, "syntax line", r.Err, "the built-in one is used")
	equal(t, "files", d.Docker("run", "--rm", "feat", "sh", "-c", "cat /got /count; stat -c %a /got; ls /named; cat /here"), "hush\nbound\n1\n640\nx.go\ninline")
	d.Holdfast(append([]string{"build", "--build-arg", "RUN=second"}, args[1:]...)...)
	equal(t, "the cache mount is kept", d.Docker("run", "--rm", "feat", "cat", "/count"), "2")
	if s := d.Docker("history", "--no-trunc", "feat"); strings.Contains(s, "hush") {
		t.Errorf("the secret is in the image: %s", s)
	}
	contains(t, "du", d.Holdfast("buildx", "du"), "Reclaimable")
	contains(t, "history", d.Holdfast("buildx", "history", "ls"), "Completed")
}

func TestBuildxOutputs(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /made\n"})
	out := t.TempDir()
	d.Holdfast("build", "-o", filepath.Join(out, "local"), dir)
	if b, err := os.ReadFile(filepath.Join(out, "local", "made")); string(b) != "made\n" || err != nil {
		t.Errorf("local output: %q, %v", b, err)
	}
	for name, spec := range map[string]string{"made": "type=tar,dest=", "index.json": "type=oci,dest="} {
		file := filepath.Join(out, name+".tar")
		d.Holdfast("build", "-o", spec+file, dir)
		if !tarHas(t, file, name) {
			t.Errorf("%s: no %s in the file", spec, name)
		}
	}
	equal(t, "nothing in the engine's list", d.Docker("images", "-q", "-f", "reference=made"), "")
	d.Holdfast("build", "--sbom=false", "--provenance=mode=max", "-t", "attested", dir)
	d.Docker("save", "-o", filepath.Join(out, "attested.tar"), "attested")
	if !anyBlobContains(t, filepath.Join(out, "attested.tar"), "https://slsa.dev/provenance") {
		t.Error("no provenance in the saved image")
	}
	d.Holdfast("build", "--provenance=false", "-t", "bare", dir)
	d.Docker("save", "-o", filepath.Join(out, "bare.tar"), "bare")
	if anyBlobContains(t, filepath.Join(out, "bare.tar"), "https://slsa.dev/provenance") {
		t.Error("provenance in an image built without")
	}
}

// A list of software is made by an image: one that is here, or the build says what
// is missing.
func TestBuildxSBOM(t *testing.T) {
	d := buildx(t)
	file := func(name string) string {
		out := filepath.Join(t.TempDir(), "saved.tar")
		d.Docker("save", "-o", out, name)
		return out
	}
	const marker = "made-by-the-scanner-of-this-test"
	d.Docker("build", "-t", "scanner", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY --chmod=755 scan /scan\nCMD [\"/scan\"]\n", "scan": `#!/bin/sh
set -e
n=$(ls "$BUILDKIT_SCAN_SOURCE" | wc -l)
cat >"$BUILDKIT_SCAN_DESTINATION/a.spdx.json" <<EOT
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate": {"name": "` + marker + `", "files": $n}}
EOT
`}))
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY x /x\n", "x": "x"})
	d.Holdfast("build", "--attest", "type=sbom,generator=scanner", "-t", "listed", dir)
	if !anyBlobContains(t, file("listed"), marker) {
		t.Error("the image has no SBOM of the generator that was named")
	}
	d.Holdfast("build", "--sbom=false", "-t", "unlisted", dir)
	if anyBlobContains(t, file("unlisted"), "spdx.dev") {
		t.Error("an SBOM in an image built without")
	}
	r := holdfastBuild(t, d, "--attest", "type=sbom,generator=127.0.0.1:1/nosuch:v1", dir)
	if r.Code == 0 || !strings.Contains(r.Err, "the SBOM generator 127.0.0.1:1/nosuch:v1 is not to be had: load or build that image") {
		t.Errorf("without the generator's image: %s", r)
	}
}

// What a "# syntax=" line asks for is had, stood in for by what is built in, or
// missed.
func TestBuildSyntaxLine(t *testing.T) {
	d := buildx(t)
	for syntax, want := range map[string]string{
		"docker/dockerfile:1":           "the built-in one is used",
		"docker.io/docker/dockerfile:1": "the built-in one is used",
		"127.0.0.1:1/frontend:1":        "",
		"127.0.0.1:1/docker/dockerfile": "",
	} {
		dir := buildDir(t, map[string]string{"Dockerfile": "# syntax=" + syntax + "\nFROM busybox\nRUN true\n"})
		for way, r := range map[string]testkit.Result{"classic": d.DockerResult("build", dir), "buildx": holdfastBuild(t, d, dir)} {
			switch {
			case want != "" && (r.Code != 0 || strings.Count(r.Out+r.Err, want) != 1):
				t.Errorf("%s, %s: want it built, and said once: %s", syntax, way, r)
			case want == "" && (r.Code == 0 || !strings.Contains(r.Err, ">>> # syntax="+syntax)):
				t.Errorf("%s, %s: want it refused with its line: %s", syntax, way, r)
			}
		}
	}
}

// anyBlobContains looks through the blobs of a saved image.
func anyBlobContains(t *testing.T, file, text string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(h.Name, "blobs/") || h.Size > 1<<20 {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return true
		}
	}
}

func TestBuildxCacheInARegistry(t *testing.T) {
	d := buildx(t)
	host := newRegistry(t, d, registryOptions{}).addr
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"})
	cache := "type=registry,ref=" + host + "/cache"
	d.Holdfast("build", "-t", host+"/app:1", "--push", "--cache-to", cache+",mode=max", dir)
	first := d.Docker("run", "--rm", "--pull", "always", host+"/app:1", "cat", "/id")
	d.Docker("rmi", host+"/app:1")
	d.Holdfast("builder", "prune", "-af")
	d.Holdfast("build", "-t", "again", "--cache-from", cache, dir)
	equal(t, "the step was not run again", d.Docker("run", "--rm", "again", "cat", "/id"), first)
}

// TestBuildInASession builds as clients do that have BuildKit's session but not
// its control service, docker 18.09 to 22 among them.
func TestBuildInASession(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY a /a\n", "a": "in a session"})
	files, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, d, filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": files, "dockerfile": files}))
	steps, id, err := buildInSession(t, d, client.ImageBuildOptions{
		SessionID: s.ID(), RemoteContext: "client-session", Tags: []string{"insession"}, BuildID: "b1",
	})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "trace", steps, "COPY a /a")
	equal(t, "image ID", format(d, "insession", "{{.Id}}"), id)
	equal(t, "content", d.Docker("run", "--rm", "insession", "cat", "/a"), "in a session")
}

// TestBuildFromAnUploadedContext is `docker build - < context.tar` of docker 18.09
// to 22: the context comes by a second request with the same ID.
func TestBuildFromAnUploadedContext(t *testing.T) {
	d := buildx(t)
	c := d.Client()
	upload := func(id string, files map[string]string) error {
		resp, err := c.ImageBuild(t.Context(), contextTar(t, files), client.ImageBuildOptions{Version: build.BuilderBuildKit, BuildID: "upload-request:" + id})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	s := newSession(t, d)
	ask := func(id, dockerfile string) (steps, image string, err error) {
		return buildInSession(t, d, client.ImageBuildOptions{
			SessionID: s.ID(), RemoteContext: "upload-request", Tags: []string{id}, BuildID: id, Dockerfile: dockerfile,
		})
	}
	for _, tt := range []struct{ id, dockerfile, content string }{{"uploaded1", "", "one"}, {"uploaded2", "sub/File", "two"}} {
		given := make(chan error, 1)
		go func() {
			given <- upload(tt.id, map[string]string{cmp.Or(tt.dockerfile, "Dockerfile"): "FROM busybox\nCOPY a /a\n", "a": tt.content})
		}()
		steps, image, err := ask(tt.id, tt.dockerfile)
		if err := errors.Join(err, <-given); err != nil {
			t.Fatal(err)
		}
		contains(t, "trace", steps, "COPY a /a")
		equal(t, "image ID", format(d, tt.id, "{{.Id}}"), image)
		equal(t, "content", d.Docker("run", "--rm", tt.id, "cat", "/a"), tt.content)
	}

	_, _, err := ask("lonely", "")
	if err == nil || !strings.Contains(err.Error(), "no context was uploaded for the build lonely") {
		t.Errorf("without a context: %v", err)
	}
	if err := upload("nobody", nil); err == nil || !strings.Contains(err.Error(), "no build asks for the context of nobody") {
		t.Errorf("without a build: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(d.Root(), "buildkit", "context-*")); err != nil || len(left) != 0 {
		t.Errorf("contexts left behind: %v, %v", left, err)
	}
}

// TestOldClientsBuildFromStdin is the same by such a client.
func TestOldClientsBuildFromStdin(t *testing.T) {
	d := buildx(t)
	old := "/usr/bin/docker" // of Debian's docker.io, where there is another docker too
	out, err := exec.Command(old, "version", "--format", "{{.Client.Version}}").Output()
	if err != nil && len(out) == 0 || !strings.HasPrefix(string(out), "20.") {
		t.Skipf("no old client: %s is %q, %v", old, out, err)
	}
	cmd := d.Command(t.Context(), old, "build", "-t", "fromstdin", "-")
	cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=1")
	cmd.Stdin = contextTar(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY a /a\n", "a": "from stdin"})
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	equal(t, "content", d.Docker("run", "--rm", "fromstdin", "cat", "/a"), "from stdin")
}

// contextTar is a build context as a client sends it.
func contextTar(t *testing.T, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		_, werr := io.WriteString(w, text)
		if err := errors.Join(err, werr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// newSession is a client's session, which offers what is given.
func newSession(t *testing.T, d *testkit.Daemon, offers ...session.Attachable) *session.Session {
	t.Helper()
	s, err := session.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	c := d.Client()
	done := make(chan error, 1)
	go func() {
		done <- s.Run(t.Context(), func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return c.DialHijack(ctx, "/session", proto, meta)
		})
	}()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Logf("the session ended with: %v", err)
		}
	})
	return s
}

// buildInSession builds with version 2 of the builder, and gives the steps it was
// told of and the image.
func buildInSession(t *testing.T, d *testkit.Daemon, o client.ImageBuildOptions) (steps, image string, err error) {
	t.Helper()
	o.Version = build.BuilderBuildKit
	resp, err := d.Client().ImageBuild(t.Context(), nil, o)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var m jsonstream.Message
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return steps, image, nil
		} else if err != nil {
			return "", "", err
		}
		if m.Error != nil {
			return "", "", m.Error
		}
		switch m.ID {
		case "moby.buildkit.trace":
			var raw []byte
			decode(t, *m.Aux, &raw)
			var st controlapi.StatusResponse
			if err := st.UnmarshalVT(raw); err != nil {
				return "", "", err
			}
			for _, v := range st.GetVertexes() {
				steps += v.GetName() + "\n"
			}
		case "moby.image.id":
			var r build.Result
			decode(t, *m.Aux, &r)
			image = r.ID
		}
	}
}

func TestBuildOnAFullDisk(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "ours alone promises it")
	testkit.RequireBin(t, "cli-plugins/docker-buildx")
	d := own(t, testkit.Options{RootTmpfs: 96})
	d.Image("busybox")
	good := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo kept > /kept\n"})
	d.Holdfast("build", "-t", "good", good)
	for _, dockerfile := range []string{
		"FROM busybox\nRUN head -c 200000000 /dev/zero > /big\n",   // in a step
		"FROM busybox\nRUN head -c 60000000 /dev/urandom > /big\n", // in the export: layer and blob do not fit both
		// In a cache mount, which is kept: a container still needs a few pages to start.
		"FROM busybox\nRUN --mount=type=cache,target=/c head -c 300000 /dev/zero > /c/spare; cat /dev/zero > /c/big; rm /c/spare; exit 1\n",
	} {
		r := d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), "build", "--progress", "plain", "-t", "toobig", buildDir(t, map[string]string{"Dockerfile": dockerfile}))
		// In a step it is the step's own program that says so.
		told := strings.Contains(r.Err, "no space left on device") || strings.Contains(r.Err, "No space left on device") || strings.Contains(r.Err, "I/O error")
		if r.Code == 0 || !told {
			t.Errorf("%s: want a failure for want of space, got %s", dockerfile, r)
		}
		d.DockerFails("No such image", "image", "inspect", "toobig")
		d.Eventually(settle, "what the failed build wrote is gone", func() (bool, string) {
			r := d.DockerResult("run", "--rm", "good", "cat", "/kept")
			return r.Code == 0 && r.Out == "kept\n", r.String()
		})
	}
	// A cache mount is kept, and fills the disk until somebody prunes it.
	contains(t, "prune on a full disk", d.Holdfast("builder", "prune", "-f", "--filter", "type=exec.cachemount"), "Total:")
	// There is space again: the same daemon builds, from what is still in its cache
	// and anew.
	d.Holdfast("build", "-t", "good2", good)
	d.Holdfast("build", "-t", "small", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN head -c 1000000 /dev/urandom > /some\n"}))
	equal(t, "small", d.Docker("run", "--rm", "small", "wc", "-c", "/some"), "1000000 /some")
}

func TestBuildsSideBySide(t *testing.T) {
	d := buildx(t)
	const n = 4
	dirs := make([]string, n)
	for i := range dirs {
		dirs[i] = buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo shared > /shared\nARG N\nRUN echo $N > /n\n"})
	}
	var g errgroup.Group
	for i, dir := range dirs {
		g.Go(func() error {
			r := d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), "build", "--build-arg", fmt.Sprint("N=", i), "-t", fmt.Sprint("side", i), dir)
			if r.Code != 0 {
				return errors.New(r.String())
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	first := format(d, "side0", "{{index .RootFS.Layers 1}}")
	for i := range n {
		name := fmt.Sprint("side", i)
		equal(t, "content", d.Docker("run", "--rm", name, "cat", "/shared", "/n"), fmt.Sprintf("shared\n%d", i))
		equal(t, "the common step ran once", format(d, name, "{{index .RootFS.Layers 1}}"), first)
	}
}

func TestBake(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{
		"Dockerfile":      "FROM busybox\nARG WHO\nRUN echo $WHO > /who\n",
		"docker-bake.hcl": "group \"default\" { targets = [\"a\", \"b\"] }\ntarget \"a\" {\n tags = [\"bake-a\"]\n args = { WHO = \"a\" }\n}\ntarget \"b\" {\n inherits = [\"a\"]\n tags = [\"bake-b\"]\n args = { WHO = \"b\" }\n}\n",
	})
	cmd := d.Command(t.Context(), filepath.Join(testkit.BinDir(), "holdfast"), "bake")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, n := range []string{"a", "b"} {
		equal(t, n, d.Docker("run", "--rm", "bake-"+n, "cat", "/who"), n)
	}
}

func TestBuildContexts(t *testing.T) {
	d := buildx(t)
	r := d.Run("FROM busybox\nRUN echo piped > /p\n", filepath.Join(testkit.BinDir(), "holdfast"), "build", "-t", "piped", "-")
	if r.Code != 0 {
		t.Fatal(r)
	}
	equal(t, "Dockerfile on standard input", d.Docker("run", "--rm", "piped", "cat", "/p"), "piped")
	r = d.Run("FROM busybox\nRUN echo classic > /p\n", "docker", "build", "-t", "piped2", "-")
	if r.Code != 0 {
		t.Fatal(r)
	}
	equal(t, "the same by the classic endpoint", d.Docker("run", "--rm", "piped2", "cat", "/p"), "classic")

	layer := testkit.Layer{"Dockerfile": {Body: "FROM busybox\nCOPY x /x\n"}, "x": {Body: "from a tar"}}.Tar()
	serve := up(d, "--name", "files", "busybox", "sh", "-c", "mkdir /www; httpd -f -p 80 -h /www")
	file := filepath.Join(t.TempDir(), "ctx.tar")
	if err := os.WriteFile(file, layer, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Docker("cp", file, serve+":/www/ctx.tar")
	url := "http://" + format(d, serve, "{{.NetworkSettings.Networks.bridge.IPAddress}}") + "/ctx.tar"
	r = d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), "build", "-t", "remote", url)
	if r.Code != 0 {
		t.Fatal(r)
	}
	equal(t, "context at a URL", d.Docker("run", "--rm", "remote", "cat", "/x"), "from a tar")
	// Docker's client fetches it itself; others leave that to the engine.
	code, out := d.API(http.MethodPost, "/build?t=remote2&remote="+url, nil)
	if code != http.StatusOK || strings.Contains(string(out), `"error"`) {
		t.Fatalf("%d %s", code, out)
	}
	equal(t, "the same by the classic endpoint", d.Docker("run", "--rm", "remote2", "cat", "/x"), "from a tar")
}

func TestBuildCacheInAFolder(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"})
	cache := filepath.Join(t.TempDir(), "cache")
	d.Holdfast("build", "-t", "one", "--cache-to", "type=local,dest="+cache+",mode=max", dir)
	first := d.Docker("run", "--rm", "one", "cat", "/id")
	d.Docker("rmi", "one")
	d.Holdfast("builder", "prune", "-af")
	d.Holdfast("build", "-t", "two", "--cache-from", "type=local,src="+cache, dir)
	equal(t, "the step was not run again", d.Docker("run", "--rm", "two", "cat", "/id"), first)
	d.Docker("rmi", "two")
	d.Holdfast("builder", "prune", "-af")
	d.Holdfast("build", "-t", "three", dir)
	if again := d.Docker("run", "--rm", "three", "cat", "/id"); again == first {
		t.Error("without the cache the step was not run: the test shows nothing")
	}
}

func TestComposeBuilds(t *testing.T) {
	d := buildx(t)
	dir := buildDir(t, map[string]string{
		"docker-compose.yml":       "services:\n  one:\n    image: built/one\n  two:\n    image: built/two\n",
		"docker-compose-build.yml": "services:\n  one:\n    build: ./one\n  two:\n    build:\n      context: .\n      dockerfile: ./docker/two/Dockerfile\n      args:\n        WHO: you\n",
		"one/Dockerfile":           "FROM busybox\nRUN echo one > /who\nCMD [\"cat\", \"/who\"]\n",
		"docker/two/Dockerfile":    "FROM busybox\nARG WHO\nCOPY x /x\nRUN echo $WHO > /who\nCMD [\"cat\", \"/who\", \"/x\"]\n",
		"x":                        "in the context\n",
	})
	files := []string{"-f", filepath.Join(dir, "docker-compose.yml"), "-f", filepath.Join(dir, "docker-compose-build.yml")}
	for _, c := range []struct {
		what    string
		program string
		args    []string
	}{
		{"holdfast compose", "holdfast", []string{"compose"}},
		{"docker-compose", "docker-compose", nil},
	} {
		for _, image := range []string{"built/one", "built/two"} {
			d.Run("", "docker", "rmi", "-f", image)
		}
		if r := d.Run("", filepath.Join(testkit.BinDir(), c.program), append(append(c.args, files...), "build")...); r.Code != 0 {
			t.Fatalf("%s: %s", c.what, r)
		}
		equal(t, c.what, d.Docker("run", "--rm", "built/one"), "one")
		equal(t, c.what, d.Docker("run", "--rm", "built/two"), "you\nin the context")
	}
}
