package api

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"

	"holdfast.dev/holdfast/api"
	holdfast "holdfast.dev/holdfast/client"
	"holdfast.dev/holdfast/internal/testkit"
)

func TestHistoryOfImagesOfAllSorts(t *testing.T) {
	d := daemon(t)
	// Size 0 tells an empty layer; how much is counted differs between engines.
	steps := func(ref string) []string {
		var out []string
		for _, l := range strings.Split(d.Docker("history", "--no-trunc", "--human=false", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", ref), "\n") {
			f := strings.Split(l, "|")
			size := "full"
			if f[1] == "0" {
				size = "empty"
			}
			out = append(out, f[0]+"|"+size+"|"+f[2])
		}
		return out
	}
	rootfs := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(rootfs, testkit.BusyboxLayer(t), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Docker("import", "-m", "from a tar", "-c", "CMD sh", rootfs, "imp:v1")
	equal(t, "imported", strings.Join(steps("imp:v1"), "\n"), "|full|from a tar")
	d.Docker("import", rootfs, "imp:v2")
	equal(t, "imported without a word", strings.Join(steps("imp:v2"), "\n"), "|full|Imported from -")

	d.Docker("run", "--name", "hist-changed", "imp:v1", "sh", "-c", "echo x > /x")
	d.Docker("commit", "-m", "one file", "hist-changed", "com:v1")
	equal(t, "committed", strings.Join(steps("com:v1"), "\n"), "sh -c echo x > /x|full|one file\n|full|from a tar")
	d.Docker("create", "--name", "hist-same", "com:v1", "true")
	d.Docker("commit", "-c", "ENV A=b", "hist-same", "com:v2")
	equal(t, "committed unchanged", strings.Join(steps("com:v2"), "\n"), "true|empty|\nsh -c echo x > /x|full|one file\n|full|from a tar")

	d.Docker("build", "-t", "blt:v1", buildDir(t, map[string]string{"Dockerfile": "FROM com:v2\nENV B=c\nRUN echo y > /y\nCOPY f /f\nLABEL l=m\nCMD [\"cat\"]\n", "f": "z"}))
	got := steps("blt:v1")
	if len(got) != 8 {
		t.Fatalf("built: %q", got)
	}
	for i, want := range []struct{ text, size string }{
		{`CMD ["cat"]`, "|empty|"}, {"LABEL l=m", "|empty|"}, {"COPY ", "|full|"}, {"echo y > /y", "|full|"}, {"ENV B=c", "|empty|"},
	} {
		if !strings.Contains(got[i], want.text) || !strings.Contains(got[i], want.size) {
			t.Errorf("step %d of the built image: %q, want %s and %s", i, got[i], want.text, want.size)
		}
	}
	equal(t, "what it stands on", strings.Join(got[5:], "\n"), strings.Join(steps("com:v2"), "\n"))
}

func TestAnalyzeImage(t *testing.T) {
	notOnTwin(t, "analyses are ours")
	d := daemon(t)
	big, other := strings.Repeat("big", 1<<20), strings.Repeat("other", 1<<18)
	base := testkit.Layer{"base": {Body: "base"}}.Tar()
	d.Load(testkit.ImageSpec{Ref: "ana-base:v1", Layers: [][]byte{base}})
	d.Load(testkit.ImageSpec{Ref: "ana:v1", Layers: [][]byte{
		base,
		testkit.Layer{"var": {Dir: true}, "var/lib": {Dir: true}, "var/lib/big": {Body: big}, "copy": {Body: other}}.Tar(),
		testkit.Layer{"var/lib/.wh.big": {}, "second": {Body: other}, "base": {Body: "changed"}}.Tar(),
	}})
	var got api.ImageAnalysis
	if err := json.Unmarshal([]byte(d.Holdfast("image", "analyze", "--json", "ana:v1")), &got); err != nil {
		t.Fatal(err)
	}
	mb := int64(1 << 20)
	if len(got.Layers) != 3 {
		t.Fatalf("%+v", got)
	}
	added, top := got.Layers[1], got.Layers[2]
	if added.Added != (api.FileCount{Files: 2, Bytes: 3*mb + 5*mb/4}) || added.Wasted != 3*mb || added.CreatedBy != "layer 1" || added.Digest == "" || added.BlobSize == 0 {
		t.Errorf("layer 2: %+v", added)
	}
	if top.Added.Files != 1 || top.Removed != (api.FileCount{Files: 1, Bytes: 3 * mb}) || top.Changed != (api.FileCount{Files: 1, Bytes: 7}) || top.Duplicated != 5*mb/4 {
		t.Errorf("layer 3: %+v", top)
	}
	if got.Wasted != 3*mb+4 || got.Duplicated != 5*mb/4 || got.ID != format(d, "ana:v1", "{{.Id}}") {
		t.Errorf("%+v", got)
	}
	if len(got.Shared) != 1 || !slices.Equal(got.Shared[0].Names, []string{"ana-base:v1"}) || got.Shared[0].Layers != 1 {
		t.Errorf("shared: %+v", got.Shared)
	}
	text := d.Holdfast("image", "analyze", "--top", "1", "ana:v1")
	for _, want := range []string{"ana:v1: 3 layers", "Efficiency 22.7 %", "/var/lib/big", "/copy, /second", "ana-base:v1", "1 of 3", "ADVICE", "Bring files once"} {
		contains(t, "analysis", text, want)
	}
	if strings.Contains(text, "/base") {
		t.Errorf("more than the first: %s", text)
	}

	hf := func(args ...string) testkit.Result {
		return d.Run("", filepath.Join(testkit.BinDir(), "holdfast"), append([]string{"image", "analyze"}, args...)...)
	}
	if r := hf("--fail-under", "22.5", "ana:v1"); r.Code != 0 {
		t.Errorf("at least as good as asked for: %s", r)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--fail-under", "23", "ana:v1"}, "efficiency 22.7 % is under 23 %"},
		{[]string{"--fail-under", "101", "ana:v1"}, "invalid --fail-under 101"},
		{[]string{"--top", "0", "ana:v1"}, "invalid --top 0"},
		{[]string{"--top", "1001", "ana:v1"}, "invalid top 1001"},
		{[]string{"nosuch"}, "No such image: nosuch:latest"},
		{[]string{"--platform", "linux/s390x", "ana:v1"}, "does not provide the specified platform"},
	} {
		if r := hf(c.args...); r.Code == 0 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%q: %s", c.args, r)
		}
	}
	analyzeTold(t, d, "ana:v1", got)
	for _, body := range []any{map[string]any{}, map[string]any{"image": "ana:v1", "top": -1}, map[string]any{"image": "ana:v1", "platform": "/"}} {
		if code, out := d.API(http.MethodPost, api.PathAnalyze, body); code != http.StatusBadRequest {
			t.Errorf("%v: %d %s", body, code, out)
		}
	}
}

// analyzeTold asks for the messages of progress: every layer's begin and end, and
// the same analysis last.
func analyzeTold(t *testing.T, d *testkit.Daemon, ref string, want api.ImageAnalysis) {
	t.Helper()
	hf := holdfast.New(d.DialAPI)
	defer hf.Close()
	var lines []string
	got, err := hf.AnalyzeImageTold(t.Context(), api.AnalyzeRequest{Image: ref}, func(messages iter.Seq2[jsonstream.Message, error]) error {
		for m, err := range messages {
			if err != nil {
				return err
			}
			if m.Progress != nil && (m.Progress.Current == 0 || m.Progress.Current == m.Progress.Total) {
				lines = append(lines, m.ID+" "+m.Status)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var bars []string
	for i, l := range want.Layers {
		id := fmt.Sprintf("layer %d/%d ", i+1, len(want.Layers))
		bars = append(bars, id+"Reading", id+"Read")
		if l.BlobSize == 0 {
			t.Errorf("layer %d has no size", i+1)
		}
	}
	if !slices.Equal(lines, bars) {
		t.Errorf("told %q, want %q", lines, bars)
	}
	got.TookNanos = want.TookNanos
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := hf.AnalyzeImageTold(t.Context(), api.AnalyzeRequest{Image: "nosuch"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown image: %v", err)
	}
}

// What a Dockerfile does wrong is told with the steps that do it.
func TestAnalyzeBuiltImage(t *testing.T) {
	notOnTwin(t, "analyses are ours")
	d := daemon(t)
	d.Docker("build", "-t", "ana-built", buildDir(t, map[string]string{"Dockerfile": `FROM busybox
COPY . /src
RUN : npm ci && mkdir -p /var/lib/apt/lists && head -c 2097152 /dev/urandom > /var/lib/apt/lists/x && head -c 3145728 /dev/urandom > /junk
ENV A=b
RUN rm /junk && chown -R 1 /src
`, "sources": strings.Repeat("source", 1<<18)}))
	var got api.ImageAnalysis
	if err := json.Unmarshal([]byte(d.Holdfast("image", "analyze", "--json", "ana-built")), &got); err != nil {
		t.Fatal(err)
	}
	n := len(got.Layers)
	var rules []string
	for _, a := range got.Advice {
		rules = append(rules, a.Rule)
		if a.Rule == "merge-runs" && !slices.Equal(a.Layers, []int{n - 1, n}) {
			t.Errorf("%+v", a)
		}
	}
	slices.Sort(rules)
	if want := []string{"clean-apt-lists", "copy-lock-first", "merge-runs", "set-owner-when-copying"}; !slices.Equal(rules, want) {
		t.Errorf("advice %q, want %q: %+v", rules, want, got.Advice)
	}
	contains(t, "what made the layer", got.Layers[n-1].CreatedBy, "chown -R 1 /src")
}

// A layer whose blob was damaged on the disk is named; the daemon goes on.
func TestAnalyzeDamagedImage(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "it damages our store")
	d := own(t, testkit.Options{})
	d.Load(testkit.ImageSpec{Ref: "dam:v1", Layers: [][]byte{testkit.Layer{"a": {Body: "a"}}.Tar(), testkit.Layer{"b": {Body: strings.Repeat("b", 5000)}}.Tar()}})
	var got api.ImageAnalysis
	if err := json.Unmarshal([]byte(d.Holdfast("image", "analyze", "--json", "dam:v1")), &got); err != nil {
		t.Fatal(err)
	}
	var blob string
	if err := filepath.WalkDir(d.Root(), func(p string, _ fs.DirEntry, err error) error {
		if filepath.Base(p) == strings.TrimPrefix(got.Layers[1].Digest, "sha256:") {
			blob = p
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if blob == "" {
		t.Fatal("the blob of the layer is not found")
	}
	if err := os.Chmod(blob, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(blob, 700); err != nil {
		t.Fatal(err)
	}
	code, out := d.API(http.MethodPost, api.PathAnalyze, map[string]any{"image": "dam:v1"})
	if code != http.StatusBadRequest || !strings.Contains(string(out), "layer 2: it is not a tar archive: unexpected EOF") {
		t.Errorf("cut off: %d %s", code, out)
	}
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	code, out = d.API(http.MethodPost, api.PathAnalyze, map[string]any{"image": "dam:v1"})
	if code != http.StatusNotFound || !strings.Contains(string(out), "layer 2: ") {
		t.Errorf("gone: %d %s", code, out)
	}
}
