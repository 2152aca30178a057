package api

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func TestImportSaveLoad(t *testing.T) {
	d := daemon(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root.tar")
	if err := os.WriteFile(root, testkit.BusyboxLayer(t), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Docker("import", "-c", "ENV GREETING=hello", "-c", `ENTRYPOINT ["sh","-c"]`, "-c", `CMD ["echo $GREETING"]`, "-c", "EXPOSE 80", "-c", "VOLUME /data", "-c", "WORKDIR /tmp", "-c", "USER www", "-c", "LABEL a=b", "-m", "made here", root, "made:v1")
	equal(t, "import", d.Docker("run", "--rm", "made:v1"), "hello")
	equal(t, "changes", format(d, "made:v1", `{{.Config.WorkingDir}} {{.Config.User}} {{index .Config.Labels "a"}} {{.Config.Volumes}} {{.Config.ExposedPorts}} {{.Comment}}`), "/tmp www b map[/data:{}] map[80/tcp:{}] made here")
	d.Docker("tag", "made:v1", "made:v2")
	saved := filepath.Join(dir, "saved.tar")
	id := format(d, "made:v1", "{{.Id}}")
	d.Docker("save", "-o", saved, "made:v1", "made:v2", "busybox")
	d.Docker("rmi", "made:v1", "made:v2")
	d.DockerFails("No such image: made:v1", "image", "inspect", "made:v1")
	out := d.Docker("load", "-i", saved)
	for _, ref := range []string{"made:v1", "made:v2", "busybox:latest"} {
		contains(t, "load", out, "Loaded image: "+ref)
	}
	equal(t, "same ID", format(d, "made:v2", "{{.Id}}"), id)
	equal(t, "runs", d.Docker("run", "--rm", "made:v2"), "hello")
	if engine == testkit.Dockerd {
		return
	}
	for _, name := range []string{"manifest.json", "oci-layout", "index.json"} {
		if !tarHas(t, saved, name) {
			t.Errorf("no %s in the saved file", name)
		}
	}
}

func tarHas(t *testing.T, file, name string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return false
		}
		if h.Name == name {
			return true
		}
	}
}

func TestImageList(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "lab/one:v1", Layers: [][]byte{testkit.Layer{"f": {Body: "1"}}.Tar()}, Config: map[string]any{"Labels": map[string]string{"k": "v"}}})
	d.Load(testkit.ImageSpec{Ref: "lab/two:v1", Layers: [][]byte{testkit.Layer{"f": {Body: "2"}}.Tar()}})
	d.Load(testkit.ImageSpec{Ref: "lab/two:v1", Layers: [][]byte{testkit.Layer{"f": {Body: "3"}}.Tar()}}) // the first one is left without a name
	list := func(args ...string) string {
		out := strings.Fields(d.Docker(append([]string{"images", "--format", "{{.Repository}}:{{.Tag}}"}, args...)...))
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	equal(t, "by name", list("lab/one"), "lab/one:v1")
	equal(t, "by label", list("--filter", "label=k=v"), "lab/one:v1")
	equal(t, "by reference", list("--filter", "reference=lab/*"), "lab/one:v1 lab/two:v1")
	equal(t, "dangling", list("--filter", "dangling=true"), "<none>:<none>")
	code, body := d.API(http.MethodPost, `/images/prune?filters={"dangling":{"true":true}}`, nil)
	if code != 200 || !strings.Contains(string(body), "Deleted") {
		t.Errorf("prune: %d %s", code, body)
	}
	equal(t, "pruned", list("--filter", "dangling=true"), "")
	equal(t, "the named ones stay", list("--filter", "reference=lab/*"), "lab/one:v1 lab/two:v1")
}

func TestImageRemove(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "gone:v1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"x": {Body: "x"}}.Tar()}})
	d.Docker("tag", "gone:v1", "gone:v2")
	id := format(d, "gone:v1", "{{.Id}}")
	contains(t, "untag", d.Docker("rmi", "gone:v1"), "Untagged: gone:v1")
	d.Docker("tag", "gone:v2", "other:v1")
	d.DockerFails("must be forced", "rmi", id)
	d.Docker("rmi", "other:v1")
	up(d, "--name", "user", "gone:v2", "sleep", "600")
	d.DockerFails("cannot be forced", "rmi", "-f", id)
	d.DockerFails("container", "rmi", "gone:v2")
	d.Docker("rm", "-f", "user")
	contains(t, "delete", d.Docker("rmi", "gone:v2"), "Deleted: "+id)
	d.DockerFails("No such image: gone:v2", "rmi", "gone:v2")
	// -f takes away the name under a running container; the container goes on.
	d.Load(testkit.ImageSpec{Ref: "gone:v3", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"y": {Body: "y"}}.Tar()}})
	d.Docker("run", "--name", "ended", "gone:v3", "true")
	d.Docker("rmi", "-f", "gone:v3")
	d.Docker("start", "-a", "ended")
}

// The last tag of a repository takes the repository's references by digest along.
func TestRemovingTheLastTagRemovesDigests(t *testing.T) {
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{})
	repo, other := r.addr+"/team/digested", r.addr+"/team/other"
	d.Load(testkit.ImageSpec{Ref: repo + ":v1", Layers: [][]byte{testkit.Layer{"f": {Body: "digested"}}.Tar()}})
	d.Docker("push", repo+":v1")
	digest := format(d, repo+":v1", "{{index .RepoDigests 0}}")
	d.Docker("rmi", repo+":v1")
	d.Docker("pull", digest)
	id := format(d, digest, "{{.Id}}")
	for _, tag := range []string{repo + ":a", repo + ":b", other + ":c"} {
		d.Docker("tag", digest, tag)
	}
	d.Docker("rmi", repo+":a")
	equal(t, "another tag is left", format(d, digest, "{{.Id}}"), id)
	d.Docker("rmi", repo+":b")
	d.DockerFails("No such image", "image", "inspect", digest)
	equal(t, "another repository is left", format(d, other+":c", "{{.Id}}"), id)
	contains(t, "the last one", d.Docker("rmi", other+":c"), "Deleted: ")
}

func TestImportFromAnAddress(t *testing.T) {
	d := daemon(t)
	root := testkit.BusyboxLayer(t)
	l := d.Listen("tcp", "127.0.0.1:5080")
	srv := &http.Server{ReadHeaderTimeout: settle, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root.tar" {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		_, _ = w.Write(root) // the client's error if it fails
	})}
	go func() { _ = srv.Serve(l) }() // always ErrServerClosed
	t.Cleanup(func() { _ = srv.Close() })
	contains(t, "import", d.Docker("import", "-c", `CMD ["echo","fetched"]`, "http://127.0.0.1:5080/root.tar", "fetched:v1"), "sha256:")
	equal(t, "runs", d.Docker("run", "--rm", "fetched:v1"), "fetched")
	if code, body := d.API(http.MethodPost, "/images/create?repo=fetched&tag=v2&fromSrc=127.0.0.1:5080/root.tar", nil); code != 200 {
		t.Errorf("without a scheme: %d %s", code, body)
	}
	contains(t, "comment", format(d, "fetched:v2", "{{.Comment}}"), "127.0.0.1:5080/root.tar")
	for src, want := range map[string]int{
		"http://127.0.0.1:5080/absent.tar": 404,
		"%2Fdata%2Ffile.tar":               400,
		"ftp://127.0.0.1/root.tar":         400,
		"http://127.0.0.1:1/root.tar":      500,
	} {
		code, body := d.API(http.MethodPost, "/images/create?repo=fetched&tag=v3&fromSrc="+url.QueryEscape(src), nil)
		if code != want && (engine != testkit.Dockerd || code < 400) {
			t.Errorf("import of %s: %d %s", src, code, body)
		}
	}
	d.DockerFails("No such image", "image", "inspect", "fetched:v3")
}

// A lowest layer has the digest of its uncompressed blob; both count.
func TestSizesCountBlobsAndLayersApart(t *testing.T) {
	notOnTwin(t, "20.10 keeps no blobs")
	d := daemon(t)
	one := testkit.Layer{"one": {Body: strings.Repeat("1", 1<<20)}}.Tar()
	d.Load(testkit.ImageSpec{Ref: "weigh:v1", Layers: [][]byte{one}, Config: map[string]any{"Labels": map[string]string{"weighed": "1"}}})
	size := func(name string) (total, shared int64) {
		code, body := d.API(http.MethodGet, `/images/json?shared-size=1&filters={"reference":["weigh:*"]}`, nil)
		if code != http.StatusOK {
			t.Fatalf("list: %d %s", code, body)
		}
		var list []struct {
			RepoTags         []string
			Size, SharedSize int64
		}
		decode(t, body, &list)
		for _, i := range list {
			if slices.Contains(i.RepoTags, name) {
				return i.Size, i.SharedSize
			}
		}
		t.Fatalf("no %s in %s", name, body)
		return 0, 0
	}
	total, shared := size("weigh:v1")
	if total < 2<<20 || shared != 0 {
		t.Errorf("alone: size %d, shared %d", total, shared)
	}
	d.Load(testkit.ImageSpec{Ref: "weigh:v2", Layers: [][]byte{one, testkit.Layer{"two": {Body: strings.Repeat("2", 1<<20)}}.Tar()}})
	if _, shared := size("weigh:v1"); shared < 2<<20 {
		t.Errorf("with another on it: %d shared", shared)
	}
	d.Docker("rmi", "weigh:v2")
	code, body := d.API(http.MethodPost, `/images/prune?filters={"dangling":{"false":true},"label":{"weighed":true}}`, nil)
	var rep struct{ SpaceReclaimed int64 }
	decode(t, body, &rep)
	if code != http.StatusOK || rep.SpaceReclaimed < total {
		t.Errorf("prune of %d: %d %s", total, code, body)
	}
}

// A container of another platform can be made: it may be emulated, or never started.
func TestCreateForAnotherPlatform(t *testing.T) {
	notOnTwin(t, "20.10 has one platform per name")
	d := daemon(t)
	root := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(root, testkit.Layer{"x": {Body: "arm"}}.Tar(), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Docker("import", "--platform", "linux/arm64", root, "alien:v1")
	d.DockerFails("does not provide the specified platform (linux/amd64)", "create", "--pull", "never", "--platform", "linux/amd64", "alien:v1", "x")
	d.Docker("create", "--name", "a1", "--platform", "linux/arm64", "alien:v1", "x")
	code, body := d.API(http.MethodPost, "/containers/create?name=a2", `{"Image":"alien:v1","Cmd":["x"]}`)
	if code != http.StatusCreated || !strings.Contains(string(body), "The requested image's platform (linux/arm64) does not match the detected host platform (linux/amd64)") {
		t.Errorf("%d %s", code, body)
	}
}

// Progress told while the archive is still coming must not cost any of it.
func TestLoadWithProgressOfABigArchive(t *testing.T) {
	d := daemon(t)
	noise := make([]byte, 3<<20)
	for i, x := 0, uint64(1); i < len(noise); i++ {
		x = x*6364136223846793005 + 1442695040888963407
		noise[i] = byte(x >> 56)
	}
	var layers [][]byte
	for i := range 4 {
		layers = append(layers, testkit.Layer{fmt.Sprint("noise", i): {Body: string(noise[i:])}}.Tar())
	}
	archive := testkit.ImageSpec{Ref: "noisy:v1", Layers: layers}.Archive()
	testkit.RequireProgram(t, "script")
	file := filepath.Join(t.TempDir(), "noisy.tar")
	if err := os.WriteFile(file, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	r := d.Run("", "script", "-qec", "docker load -i "+file, "/dev/null") // on a terminal
	contains(t, "load", r.Out, "Loading layer")
	equal(t, "layers", format(d, "noisy:v1", "{{len .RootFS.Layers}}"), "4")
	// And what is wrong with an archive is heard, however much of it is left.
	code, body := d.API(http.MethodPost, "/images/load", struct{ io.Reader }{io.MultiReader(strings.NewReader("not a tar"), bytes.NewReader(archive))})
	if !bytes.Contains(body, []byte("message")) {
		t.Errorf("%d %s", code, body)
	}
}

// The layer of an image from scratch is an archive without an entry.
func TestLoadOfAnEmptyLayer(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "hollow:v1", Layers: [][]byte{testkit.Layer{}.Tar(), testkit.BusyboxLayer(t)}})
	equal(t, "layers", format(d, "hollow:v1", "{{len .RootFS.Layers}}"), "2")
	equal(t, "runs", d.Docker("run", "--rm", "hollow:v1", "echo", "yes"), "yes")
}

func TestImageHistoryAndInspect(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{
		Ref: "hist:v1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"x": {Body: strings.Repeat("x", 5000)}}.Tar()},
		Config: map[string]any{"Env": []string{"A=1"}},
	})
	h := d.Docker("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}", "hist:v1")
	// Newer engines tell what the layer takes on the disk, older ones what is in it.
	want := "layer 1|12.3kB"
	if engine == testkit.Dockerd {
		want = "layer 1|5kB"
	}
	equal(t, "history", strings.SplitN(h, "\n", 2)[0], want)
	equal(t, "inspect", format(d, "hist:v1", "{{.Os}} {{.Architecture}} {{len .RootFS.Layers}} {{.RootFS.Type}} {{.Config.Env}} {{json .RepoTags}}"), `linux amd64 2 layers [A=1] ["hist:v1"]`)
}

func TestCommit(t *testing.T) {
	d := daemon(t)
	d.Docker("run", "--name", "base", "-e", "KEEP=1", "busybox", "sh", "-c", "echo new > /made; rm /etc/group; echo changed > /etc/passwd")
	id := d.Docker("commit", "-a", "me", "-m", "why", "-c", `CMD ["cat","/made"]`, "-c", "ENV MORE=2", "base", "committed:v1")
	equal(t, "ID", format(d, "committed:v1", "{{.Id}}"), id)
	equal(t, "runs", d.Docker("run", "--rm", "committed:v1"), "new")
	equal(t, "whiteout and change", d.Docker("run", "--rm", "committed:v1", "sh", "-c", "ls /etc; cat /etc/passwd; echo $KEEP$MORE"),
		strings.Join(append(etcOf(d), "changed", "12"), "\n"))
	equal(t, "author, comment, layers", format(d, "committed:v1", "{{.Author}} {{.Comment}} {{len .RootFS.Layers}}"), "me why 2")
	contains(t, "history", d.Docker("history", "--format", "{{.Comment}}", "committed:v1"), "why")
	// of one that ends just then
	for range 5 {
		id := up(d, "busybox", "sh", "-c", "sleep 0.1; echo x > /x")
		d.Docker("commit", id)
	}
	// of a running container, which goes on
	up(d, "--name", "live", "busybox", "sh", "-c", "echo a > /a; while :; do sleep 0.1; done")
	d.Docker("commit", "live", "committed:v2")
	equal(t, "goes on", format(d, "live", "{{.State.Status}}"), "running")
}

// etcOf lists /etc of a container from committed:v1 without group.
func etcOf(d *testkit.Daemon) []string {
	var out []string
	for _, f := range strings.Fields(d.Docker("run", "--rm", "busybox", "ls", "/etc")) {
		if f != "group" {
			out = append(out, f)
		}
	}
	return out
}

// A container that is killed while it stands still for a commit was committed
// all the same.
func TestCommitOfAContainerThatIsKilled(t *testing.T) {
	notOnTwin(t, "a commit there may be over before the kill")
	d := daemon(t)
	up(d, "--name", "doomed", "busybox", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=48 2>/dev/null; echo done > /ready; sleep 1000")
	d.Eventually(settle, "the file is there", func() (bool, string) {
		r := d.DockerResult("exec", "doomed", "cat", "/ready")
		return r.Code == 0, r.String()
	})
	committed := make(chan testkit.Result, 1)
	go func() { committed <- d.DockerResult("commit", "doomed", "survivor:v1") }()
	d.Eventually(settle, "it is paused", func() (bool, string) {
		s := format(d, "doomed", "{{.State.Status}}")
		return s == "paused", s
	})
	d.Docker("kill", "doomed")
	if r := <-committed; r.Code != 0 {
		t.Errorf("commit: %s", r)
	}
	equal(t, "its content", d.Docker("run", "--rm", "survivor:v1", "sh", "-c", "cat /ready; wc -c < /big"), "done\n50331648")
}

func TestHostileArchives(t *testing.T) {
	d := daemon(t)
	outside := filepath.Join(t.TempDir(), "outside")
	up(d, "--name", "target", "busybox", "sleep", "600")
	put := func(l testkit.Layer) (int, []byte) {
		return d.API(http.MethodPut, "/containers/target/archive?path=/tmp", l.Tar())
	}
	rename := func(to string) func(*tar.Header) { return func(h *tar.Header) { h.Name = to } }
	for name, l := range map[string]testkit.Layer{
		"dotdot":   {"a": {Body: "x", Header: rename("../../../../../../../.." + outside)}},
		"absolute": {"a": {Body: "x", Header: rename(outside)}},
		"symlink":  {"a": {Link: filepath.Dir(outside)}, "a/outside": {Body: "x"}},
		"hardlink": {"a": {Header: func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeLink, "../../../../../../etc/shadow" }}},
	} {
		code, body := put(l)
		if code >= 500 && !bytes.Contains(body, []byte("message")) {
			t.Errorf("put %s: %d %s", name, code, body)
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("put %s wrote outside of the container", name)
		}
		code, body = d.API(http.MethodPost, "/images/load", testkit.ImageSpec{Ref: "evil:" + name, Layers: [][]byte{testkit.BusyboxLayer(t), l.Tar()}}.Archive())
		if code >= 500 && !bytes.Contains(body, []byte("message")) {
			t.Errorf("load %s: %d %s", name, code, body)
		}
		if r := d.DockerResult("image", "inspect", "evil:"+name); r.Code == 0 {
			d.DockerResult("run", "--rm", "evil:"+name, "true")
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("load %s wrote outside of the container", name)
		}
	}
	if out := d.Docker("exec", "target", "sh", "-c", "find /tmp -links +1 -type f"); out != "" {
		t.Errorf("linked to something outside: %s", out)
	}
	for name, body := range map[string][]byte{
		"no tar":        []byte("this is no tar file at all, but it is longer than nothing" + strings.Repeat(".", 2000)),
		"half a tar":    testkit.ImageSpec{Ref: "half:v1", Layers: [][]byte{testkit.BusyboxLayer(t)}}.Archive()[:100000],
		"no manifest":   testkit.Layer{"x": {Body: "y"}}.Tar(),
		"bad manifest":  testkit.Layer{"manifest.json": {Body: "{["}}.Tar(),
		"missing layer": testkit.Layer{"manifest.json": {Body: `[{"Config":"c.json","RepoTags":["m:v1"],"Layers":["l.tar"]}]`}, "c.json": {Body: `{"rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`}}.Tar(),
		"wrong digest":  wrongDigest(t),
		"path escape":   testkit.Layer{"manifest.json": {Body: `[{"Config":"../../../../etc/passwd","RepoTags":["m:v1"],"Layers":["/etc/shadow"]}]`}}.Tar(),
		"huge header":   hugeHeader(),
	} {
		code, out := d.API(http.MethodPost, "/images/load", body)
		if (code != 200 || !bytes.Contains(out, []byte(`"errorDetail"`))) && (engine != testkit.Dockerd || code < 400) {
			t.Errorf("load %s: %d %s", name, code, out)
		}
	}
	equal(t, "nothing half made", strings.Join(slices.DeleteFunc(strings.Fields(d.Docker("images", "--format", "{{.Repository}}")), func(s string) bool { return s == "evil" || s == "nettool" }), " "), "busybox")
	equal(t, "still alive", d.Docker("run", "--rm", "busybox", "echo", "yes"), "yes")
}

func wrongDigest(t *testing.T) []byte {
	t.Helper()
	good := testkit.ImageSpec{Ref: "m:v1", Layers: [][]byte{testkit.Layer{"f": {Body: "right-right"}}.Tar()}}.Archive()
	return bytes.Replace(good, []byte("right-right"), []byte("wrong-wrong"), 1)
}

func hugeHeader() []byte {
	l := testkit.Layer{"f": {Body: "x", Header: func(h *tar.Header) {
		h.PAXRecords = map[string]string{"HF.huge": strings.Repeat("x", 900<<10)}
		h.Format = tar.FormatPAX
	}}}
	b := l.Tar()
	// Claim a header record of 8 GiB: nothing may try to hold that.
	copy(b[124:136], []byte("77777777777\x00"))
	return b
}

func TestDeviceNodesInLayersAreMadeOnlyInTheLayer(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "dev:v1", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{
		"mydev": {Header: func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor, h.Mode = tar.TypeChar, 1, 5, 0o666 }},
		"fifo":  {Header: func(h *tar.Header) { h.Typeflag = tar.TypeFifo }},
	}.Tar()}})
	equal(t, "kinds", d.Docker("run", "--rm", "dev:v1", "sh", "-c", "test -c /mydev && test -p /fifo && echo both"), "both")
	// Device access is the cgroup's decision: a disk node gives nothing.
	d.Load(testkit.ImageSpec{Ref: "dev:v2", Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{
		"disk": {Header: func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor, h.Mode = tar.TypeBlock, 254, 0, 0o666 }},
	}.Tar()}})
	contains(t, "disk", d.Docker("run", "--rm", "dev:v2", "sh", "-c", "head -c 1 /disk 2>&1 || true"), "not permitted")
}

func TestLayersAreStoredOnce(t *testing.T) {
	d := daemon(t)
	base := testkit.Layer{"big": {Body: strings.Repeat("0123456789abcdef", 1<<16)}}.Tar()
	for i := range 5 {
		d.Load(testkit.ImageSpec{Ref: fmt.Sprintf("share:%d", i), Layers: [][]byte{base, testkit.Layer{"own": {Body: fmt.Sprint(i)}}.Tar()}})
	}
	first := format(d, "share:0", "{{index .RootFS.Layers 0}}")
	for i := range 5 {
		equal(t, "lowest layer", format(d, fmt.Sprintf("share:%d", i), "{{index .RootFS.Layers 0}}"), first)
	}
	// A layer is unpacked while it is read, before it is known to be there: the
	// second copy goes with the next collection.
	d.Eventually(settle, "the shared layer is there once", func() (bool, string) {
		var found []string
		err := filepath.WalkDir(d.Path(d.Root()), func(p string, e os.DirEntry, err error) error {
			if err == nil && e.Name() == "big" {
				found = append(found, p)
			}
			return nil
		})
		return err == nil && len(found) == 1, fmt.Sprint(found, err)
	})
}

// The notes: the upper layer hides the lower one, a change copies the file up, a
// removal leaves a whiteout; inspect shows the directories and they are that.
func TestGraphDriverDirectoriesAreWhatTheySay(t *testing.T) {
	d := daemon(t)
	d.Load(testkit.ImageSpec{Ref: "layered:v1", Layers: [][]byte{
		testkit.BusyboxLayer(t),
		testkit.Layer{"data": {Dir: true}, "data/index.html": {Body: "lower"}, "data/hidden": {Body: "lowest"}, "data/removed": {Body: "r"}}.Tar(),
		testkit.Layer{"data": {Dir: true}, "data/hidden": {Body: "upper wins"}}.Tar(),
	}})
	up(d, "--name", "layers", "layered:v1", "sh", "-c", "echo changed > /data/index.html; rm /data/removed; echo n > /data/new; echo done; sleep 600")
	waitLog(d, "layers", "done")
	dir := map[string]string{}
	for _, k := range []string{"LowerDir", "UpperDir", "MergedDir", "WorkDir"} {
		dir[k] = format(d, "layers", "{{.GraphDriver.Data."+k+"}}")
		if !strings.HasPrefix(dir[k], "/") {
			t.Fatalf("%s is %q", k, dir[k])
		}
	}
	read := func(p string) string {
		b, err := os.ReadFile(d.Path(p))
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
	equal(t, "copy in UpperDir", read(dir["UpperDir"]+"/data/index.html"), "changed")
	equal(t, "MergedDir shows the copy", read(dir["MergedDir"]+"/data/index.html"), "changed")
	lowers := strings.Split(dir["LowerDir"], ":")
	original := ""
	for _, l := range lowers {
		if b, err := os.ReadFile(d.Path(l + "/data/index.html")); err == nil {
			original = string(b)
		}
	}
	equal(t, "original in LowerDir", original, "lower")
	equal(t, "upper hides lower", d.Docker("exec", "layers", "cat", "/data/hidden"), "upper wins")
	fi, err := os.Lstat(d.Path(dir["UpperDir"] + "/data/removed"))
	if err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("no whiteout: %v, %v", fi, err)
	}
	if _, err := os.Stat(d.Path(dir["UpperDir"] + "/data/hidden")); err == nil {
		t.Error("an unchanged file was copied up")
	}
	if _, err := os.Stat(d.Path(dir["WorkDir"])); err != nil {
		t.Error(err)
	}
	diff := strings.Split(d.Docker("diff", "layers"), "\n")
	for _, want := range []string{"C /data", "C /data/index.html", "D /data/removed", "A /data/new"} {
		if !slices.Contains(diff, want) {
			t.Errorf("diff lacks %q: %q", want, diff)
		}
	}
	d.Docker("commit", "layers", "layered:v2")
	equal(t, "commit adds one layer", format(d, "layered:v2", "{{len .RootFS.Layers}}"), "4")
	equal(t, "commit agrees", d.Docker("run", "--rm", "layered:v2", "sh", "-c", "cat /data/index.html /data/new; ls /data"), "changed\nn\nhidden\nindex.html\nnew")
	equal(t, "a second container sees the image", d.Docker("run", "--rm", "layered:v1", "cat", "/data/index.html"), "lower")
}
