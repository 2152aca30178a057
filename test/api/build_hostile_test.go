package api

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/testkit"
)

// holdfastBuild builds by our client's buildx.
func holdfastBuild(t *testing.T, d *testkit.Daemon, args ...string) testkit.Result {
	t.Helper()
	return d.Run("", testkit.RequireBin(t, "holdfast"), append([]string{"build", "--progress", "plain"}, args...)...)
}

// What is wrong with a Dockerfile is shown with its lines, by every way in.
func TestBuildShowsWhatIsWrong(t *testing.T) {
	d := buildx(t)
	for _, c := range []struct {
		what, dockerfile string
		args, want       []string
	}{
		{"syntax", "FROM busybox\n\nNOSUCH x\nRUN true\n", nil, []string{"unknown instruction: NOSUCH", "Dockerfile:3", "3 | >>> NOSUCH x", "4 |     RUN true", "\nNOSUCH x\n^"}},
		{"flag", "FROM busybox\nCOPY --nosuch=1 a b\n", nil, []string{"unknown flag: --nosuch", "2 | >>> COPY --nosuch=1 a b", "\nCOPY --nosuch=1 a b\n     ^"}},
		{"mount", "FROM busybox\nRUN --mount=type=nosuch true\n", nil, []string{`unsupported mount type "nosuch"`}},
		{"missing file", "FROM busybox\nCOPY nosuch /\n", nil, []string{`"/nosuch": not found`, "2 | >>> COPY nosuch /"}},
		{"missing stage", "FROM busybox AS here\n", []string{"--target", "nosuch"}, []string{`target stage "nosuch" could not be found`}},
		{"COPY from a later stage", "FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nCOPY --from=a /x /x\n", nil, []string{"circular dependency detected on stage: "}},
		{"COPY from no such number", "FROM busybox\nCOPY --from=7 /x /x\n", nil, []string{"7"}},
		{"COPY from no image", "FROM busybox\nCOPY --from=127.0.0.1:1/nosuch /x /x\n", nil, []string{"127.0.0.1:1/nosuch: failed to resolve source metadata", "2 | >>> COPY --from=127.0.0.1:1/nosuch"}},
		{"COPY of what a stage has not", "FROM busybox AS a\nFROM busybox\nCOPY --from=a /nosuch /x\n", nil, []string{"lstat /nosuch: no such file or directory", "3 | >>> COPY --from=a"}},
		{"base image", "FROM 127.0.0.1:1/nosuch\n", nil, []string{"127.0.0.1:1/nosuch: failed to resolve source metadata", "1 | >>> FROM 127.0.0.1:1/nosuch"}},
		{"no FROM", "RUN true\n", nil, []string{"no build stage in current context", "1 | >>> RUN true", "\nRUN true\n^"}},
		{"empty", "\n", nil, []string{"file with no instructions"}},
	} {
		dir := buildDir(t, map[string]string{"Dockerfile": c.dockerfile})
		args := append(c.args, dir)
		for way, r := range map[string]testkit.Result{
			"classic": d.DockerResult(append([]string{"build"}, args...)...),
			"buildx":  holdfastBuild(t, d, args...),
		} {
			if r.Code == 0 {
				t.Errorf("%s, %s: it was built", c.what, way)
			}
			for _, want := range c.want {
				if !strings.Contains(r.Err, want) {
					t.Errorf("%s, %s: does not say %q: %s", c.what, way, want, r)
				}
			}
		}
	}
	// The lines of a failed command are buildx's to show; its output is there.
	r := holdfastBuild(t, d, buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo told; exit 7\n"}))
	for _, want := range []string{"told", "2 | >>> RUN echo told; exit 7", "exit code: 7"} {
		contains(t, "failed command", r.Err, want)
	}
}

// Nothing of the machine gets into a build by symbolic links of the context, and
// nothing of the context out.
func TestBuildContextStaysInside(t *testing.T) {
	d := buildx(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("of the machine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, dockerfile := range map[string]string{
		"through a link":          "FROM busybox\nCOPY link/file /got\n",
		"ADD through a link":      "FROM busybox\nADD link/file /got\n",
		"a bind mount":            "FROM busybox\nRUN --mount=type=bind,source=link/file,target=/m cat /m > /got\n",
		"dots":                    "FROM busybox\nCOPY ../../../../../../../../" + outside + "/file /got\n",
		"a stage's link":          "FROM busybox AS a\nRUN ln -s " + outside + " /link\nFROM busybox\nCOPY --from=a /link/file /got\n",
		"a bind from a stage":     "FROM busybox AS a\nRUN ln -s " + outside + "/file /link\nFROM busybox\nRUN --mount=type=bind,from=a,source=/link,target=/m cat /m > /got\n",
		"a link to a file itself": "FROM busybox\nCOPY filelink /got\nRUN cat /got\n",
	} {
		dir := buildDir(t, map[string]string{"Dockerfile": dockerfile})
		for name, to := range map[string]string{"link": outside, "filelink": filepath.Join(outside, "file")} {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		for way, r := range map[string]testkit.Result{
			"classic": d.DockerResult("build", "-t", "escaped", dir),
			"buildx":  holdfastBuild(t, d, "-t", "escaped", dir),
		} {
			if r.Code == 0 {
				t.Errorf("%s, %s: it was built, with: %s", what, way, d.DockerResult("run", "--rm", "escaped", "cat", "/got"))
			}
		}
	}

	const dockerfile = "FROM busybox\nCOPY . /ctx/\n"
	for what, entries := range map[string][]tar.Header{
		"through a link of the archive": {{Name: "a-link", Linkname: outside, Typeflag: tar.TypeSymlink}, {Name: "a-link/planted", Typeflag: tar.TypeReg}},
		"by dots":                       {{Name: "../../../../../../../../../.." + outside + "/planted", Typeflag: tar.TypeReg}},
		"by an absolute name":           {{Name: outside + "/planted", Typeflag: tar.TypeReg}},
		"by a hard link":                {{Name: "hard", Linkname: filepath.Join(outside, "file"), Typeflag: tar.TypeLink}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range append([]tar.Header{{Name: "Dockerfile", Typeflag: tar.TypeReg, Size: int64(len(dockerfile))}}, entries...) {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := io.WriteString(w, dockerfile); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_, out := d.API(http.MethodPost, "/build?t=planted", b.Bytes()) // inside, some are harmless
		if _, err := os.Lstat(filepath.Join(outside, "planted")); err == nil {
			t.Errorf("%s: a file was planted outside: %s", what, out)
		}
		if r := d.DockerResult("run", "--rm", "planted", "cat", "/ctx/hard"); r.Code == 0 && strings.Contains(r.Out, "of the machine") {
			t.Errorf("%s: a file of the machine is in the image", what)
		}
	}
}

// bomb is a small file that unpacks to a file of that many MiB.
func bomb(t *testing.T, mib int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	const dockerfile = "FROM busybox\n"
	for name, size := range map[string]int64{"Dockerfile": int64(len(dockerfile)), "zeros": int64(mib) << 20} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		var err error
		if name == "zeros" {
			for range mib {
				if _, err = w.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
		} else {
			_, err = io.WriteString(w, dockerfile)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An archive that would fill the disk is refused before it does, wherever it
// comes from.
func TestBuildRefusesArchivesThatDoNotFit(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "ours alone promises it")
	testkit.RequireBin(t, "cli-plugins/docker-buildx")
	d := own(t, testkit.Options{RootTmpfs: 96})
	d.Image("busybox")
	free := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(d.Path(d.Root()), &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	d.Holdfast("build", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})) // opens the cache
	before := free()
	const want = "unpacks to more than the disk has room for"
	dir := buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nADD *.tar.gz /here/\n", "bomb.tar.gz": string(bomb(t, 300))})
	for way, r := range map[string]testkit.Result{
		"classic": d.DockerResult("build", dir),
		"buildx":  holdfastBuild(t, d, dir),
	} {
		if r.Code == 0 || !strings.Contains(r.Err, "bomb.tar.gz "+want) || !strings.Contains(r.Err, "2 | >>> ADD *.tar.gz /here/") {
			t.Errorf("ADD, %s: %s", way, r)
		}
	}
	code, out := d.API(http.MethodPost, "/build", bomb(t, 300))
	if code == http.StatusOK || !strings.Contains(string(out), "the build context "+want) {
		t.Errorf("context: %d %s", code, out)
	}
	d.Eventually(settle, "nothing of it is left on the disk", func() (bool, string) {
		now := free()
		return before-now < 4<<20, fmt.Sprint(before-now, " bytes more")
	})
	// COPY keeps it as it is, and one that fits is unpacked.
	d.Docker("build", "-t", "kept", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY bomb.tar.gz /\n", "bomb.tar.gz": string(bomb(t, 300))}))
	d.Docker("build", "-t", "fits", buildDir(t, map[string]string{"Dockerfile": "FROM busybox\nADD small.tar.gz /\n", "small.tar.gz": string(bomb(t, 3))}))
	equal(t, "unpacked", d.Docker("run", "--rm", "fits", "wc", "-c", "/zeros"), "3145728 /zeros")
}

// A build's secret is nowhere on the disk of the engine afterwards, nor in what it
// tells.
func TestBuildSecretsLeaveNoTrace(t *testing.T) {
	notOnTwin(t, "Debian's docker has no such BuildKit")
	testkit.RequireBin(t, "cli-plugins/docker-buildx")
	d := own(t, testkit.Options{})
	d.Image("busybox")
	const secret, marker = "s3cr3t-0f-th1s-t3st", "m4rk3r-0f-th1s-t3st"
	dir := buildDir(t, map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN test -n \"$TOKEN\" && grep -q s3cr3t /run/secrets/file && cat /run/secrets/file | wc -c && echo " + marker + " | tee /marker\n",
	})
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET_OF_THE_TEST", secret)
	cacheDir := t.TempDir()
	r := holdfastBuild(t, d, "--provenance", "mode=max", "--secret", "id=file,src="+file, "--secret", "id=env,env=SECRET_OF_THE_TEST",
		"--cache-to", "type=local,mode=max,dest="+cacheDir, "-t", "app", dir)
	if r.Code != 0 {
		t.Fatal(r)
	}
	saved := filepath.Join(t.TempDir(), "app.tar")
	d.Docker("save", "-o", saved, "app")
	ref := strings.Fields(d.Holdfast("buildx", "history", "ls", "--format", "{{.Ref}}"))
	if len(ref) != 1 {
		t.Fatalf("history: %q", ref)
	}
	id := filepath.Base(ref[0])
	said := r.Err + r.Out + d.Docker("history", "--no-trunc", "app") + d.Docker("inspect", "app") + d.Logs() +
		d.Run("", testkit.RequireBin(t, "holdfast"), "buildx", "history", "logs", id).Err + d.Holdfast("buildx", "history", "inspect", id)
	if strings.Contains(said, secret) || !strings.Contains(said, marker) {
		t.Errorf("the secret is in what was said, or the marker is not: %s", said)
	}
	places := map[string]bool{}
	for _, root := range []string{d.Root(), cacheDir, saved} {
		for path, text := range contents(t, root) {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("the secret is in %s", path)
			}
			if bytes.Contains(text, []byte(marker)) {
				rel, err := filepath.Rel(root, path)
				if err != nil {
					t.Fatal(err)
				}
				first, _, _ := strings.Cut(rel, "/")
				places[first] = true
			}
		}
	}
	// The search finds what is there: in layers, in the cache's records, in the exports.
	for _, want := range []string{"containerd", "buildkit", "blobs", "."} {
		if !places[want] {
			t.Errorf("the marker was not found below %s, only in %v: the search shows nothing", want, places)
		}
	}
}

// contents reads all files below a folder, unpacked where they are compressed.
func contents(t *testing.T, root string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil // gone in the meantime
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		out[path] = b
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if plain, err := io.ReadAll(z); err == nil {
				out[path] = append(out[path], plain...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
