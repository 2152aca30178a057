package imagestore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
)

// fuzzFixture lives as long as the fuzzing process; use makes it one run's own.
type fuzzFixture struct{ *fixture }

func newFuzzFixture(f *testing.F) fuzzFixture {
	f.Helper()
	return fuzzFixture{newFixtureAt(f, f.TempDir(), imagestore.HostOptions{})}
}

// use runs do, and holds that it leaves nothing once its images are removed.
func (f fuzzFixture) use(t *testing.T, do func(ctx context.Context) error) {
	t.Helper()
	f.t = t
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := do(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("no end")
	}
	rs, lerr := f.store.List(f.ctx())
	must(t, lerr)
	var names []string
	for _, r := range rs {
		names = append(names, r.Name)
	}
	must(t, f.store.Delete(f.ctx(), true, names...))
	f.empty()
}

// refused holds that an archive is refused as the caller's mistake.
func refused(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
		t.Errorf("class of %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	base := tarOf(f, dir("a"), file{name: "a/b", body: "x"})
	top := tarOf(f, file{name: "a/.wh.b"}, file{name: "c", body: "y"})
	f.Add(dockerArchive(f, "x:1", map[string]any{"config": map[string]any{"Cmd": []string{"sh"}}}, base, top))
	f.Add(gz(f, dockerArchive(f, "", nil, base)))
	f.Add(ociArchive(f, base))
	f.Add(tarOf(f, file{name: "manifest.json", body: `[{"Config":"a","Layers":["../a"],"RepoTags":["A"]}]`}, file{name: "a", body: "{}"}))
	f.Add(tarOf(f, file{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, file{name: "index.json", body: `{"manifests":[{"digest":"sha256:x","size":-1}]}`}))
	f.Add([]byte{})
	x := newFuzzFixture(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		x.use(t, func(ctx context.Context) error {
			var out bytes.Buffer
			err := x.Load(ctx, bytes.NewReader(archive), nil, &out, true)
			refused(t, err)
			return err
		})
	})
}

// ociArchive is an OCI layout with one image of one layer.
func ociArchive(t testing.TB, layer []byte) []byte {
	t.Helper()
	var files []file
	blob := func(v any) map[string]any {
		b, ok := v.([]byte)
		if !ok {
			var err error
			b, err = json.Marshal(v)
			must(t, err)
		}
		files = append(files, file{name: "blobs/sha256/" + strings.TrimPrefix(digestOf(b), "sha256:"), body: string(b)})
		return map[string]any{"digest": digestOf(b), "size": len(b)}
	}
	typed := func(d map[string]any, kind string) map[string]any { d["mediaType"] = kind; return d }
	l := typed(blob(layer), "application/vnd.oci.image.layer.v1.tar")
	c := typed(blob(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []any{l["digest"]}}}), "application/vnd.oci.image.config.v1+json")
	m := typed(blob(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": c, "layers": []any{l}}), "application/vnd.oci.image.manifest.v1+json")
	m["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/x:1"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{m}})
	must(t, err)
	return tarOf(t, append(files, file{name: "index.json", body: string(index)}, file{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`})...)
}

func FuzzImport(f *testing.F) {
	whole := tarOf(f, dir("a"), file{name: "a/b", body: "x"}, file{name: "a/.wh.c"}, file{name: "../d", body: "e"})
	f.Add(whole, "CMD [\"sh\"]")
	f.Add(gz(f, whole), "ENV a=b c=\"d")
	f.Add(whole[:700], "LABEL \\")
	f.Add([]byte("BZh9"), "FROM x")
	x := newFuzzFixture(f)
	f.Fuzz(func(t *testing.T, layer []byte, change string) {
		x.use(t, func(ctx context.Context) error {
			_, err := x.Import(ctx, bytes.NewReader(layer), image.ImportOptions{Ref: named(t, "x"), Changes: []string{change}})
			refused(t, err)
			return err
		})
	})
}

// What a registry says: manifests, blobs, lists, challenges, tokens.
func FuzzRegistry(f *testing.F) {
	layer := tarOf(f, dir("a"), file{name: "a/b", body: "x"})
	config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + digestOf(layer) + `"]}}`
	manifest := func(of string) string {
		return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digestOf([]byte(of)) +
			`","size":` + jsonLen(of) + `},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digestOf(layer) + `","size":` + jsonLen(string(layer)) + `}]}`
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	f.Add(manifest(config), manifestType, config, "", uint8(0))
	f.Add(manifest(`{}`), manifestType, `{}`, "", uint8(0))
	f.Add(`{"schemaVersion":2,"manifests":[{"digest":"`+digestOf([]byte(config))+`","size":1,"platform":{"os":"linux","architecture":"amd64"}},{}]}`, "application/vnd.oci.image.index.v1+json", config, "", uint8(0))
	f.Add(`{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "", "", uint8(0))
	f.Add(`{"errors":[{"code":"DENIED","message":"no","detail":"x"}]}`, "application/json", `{"token":"t"}`, `Bearer realm="REGISTRY/token",service="x",scope="repository:y:pull"`, uint8(1))
	f.Add(`{"errors":[{}]}`, "application/json", `{"access_token":"","expires_in":-1,"issued_at":"x"}`, `Basic realm="x"`, uint8(1))
	f.Add(`{"errors":null}`, "application/json", "", `Bearer realm="`, uint8(2))
	f.Add(`{"tags":["a","b"]}`, "application/json", "", `<REGISTRY/v2/x/tags/list?n=1>; rel="next"`, uint8(3))
	statuses := []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusNoContent}
	x := newFuzzFixture(f)
	f.Fuzz(func(t *testing.T, body, kind, blob, header string, status uint8) {
		var s *httptest.Server
		s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := strings.ReplaceAll(strings.ToValidUTF8(strings.Map(printable, header), ""), "REGISTRY", s.URL)
			switch {
			case strings.Contains(r.URL.Path, "/blobs/"):
				answer := blob
				if strings.HasSuffix(r.URL.Path, digestOf(layer)) {
					answer = string(layer)
				}
				_, _ = io.WriteString(w, answer)
				return
			case strings.Contains(r.URL.Path, "token"):
				_, _ = io.WriteString(w, blob)
				return
			}
			w.Header()["Content-Type"] = []string{strings.Map(printable, kind)}
			w.Header()["Www-Authenticate"] = []string{h}
			w.Header()["Link"] = []string{h}
			w.Header().Set("Docker-Content-Digest", digestOf([]byte(body)))
			w.WriteHeader(statuses[int(status)%len(statuses)])
			if r.Method != http.MethodHead {
				_, _ = io.WriteString(w, body)
			}
		}))
		defer s.Close()
		ref := hostOf(s) + "/team/app:1"
		x.use(t, func(ctx context.Context) error {
			var out bytes.Buffer
			err := x.Pull(ctx, named(t, ref), image.PullOptions{}, &out)
			_, derr := x.Distribution(ctx, ref, image.Remote{})
			_, terr := x.store.Tags(ctx, hostOf(s)+"/team/app", image.Remote{})
			return errors.Join(err, derr, terr)
		})
	})
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}

func jsonLen(s string) string {
	b, err := json.Marshal(len(s))
	if err != nil {
		return "0"
	}
	return string(b)
}
