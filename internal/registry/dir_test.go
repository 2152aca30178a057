package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/internal/base/clock"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hand is a clock that a test moves.
type hand struct {
	clock.Clock
	mu  sync.Mutex // guards now
	now time.Time
}

func (h *hand) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hand) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// push puts a blob into a repository.
func push(t testing.TB, d *Dir, repo, body string) ocispec.Descriptor {
	t.Helper()
	ctx := context.Background()
	g := digest.FromString(body)
	id, err := d.Begin(ctx, repo)
	must(t, err)
	_, err = d.Append(ctx, repo, id, 0, strings.NewReader(body))
	must(t, err)
	must(t, d.Finish(ctx, repo, id, g))
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: g, Size: int64(len(body))}
}

// image pushes an image and gives it a tag, if there is one.
func image(t testing.TB, d *Dir, repo, tag string, layers ...string) digest.Digest {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: push(t, d, repo, "{}")}
	m.SchemaVersion = 2
	for _, l := range layers {
		m.Layers = append(m.Layers, push(t, d, repo, l))
	}
	return put(t, d, repo, tag, m.MediaType, m)
}

func put(t testing.TB, d *Dir, repo, tag, mediaType string, v any) digest.Digest {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	m, err := parseManifest(mediaType, b)
	must(t, err)
	g := digest.FromBytes(b)
	must(t, d.Put(context.Background(), repo, tag, ocispec.Descriptor{MediaType: mediaType, Digest: g, Size: int64(len(b))}, m, b))
	return g
}

// content lists what is in the blob folder.
func content(t testing.TB, d *Dir) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(filepath.Join(d.root, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, e.Name())
		}
		return err
	}))
	return out
}

func TestReopened(t *testing.T) {
	d := open(t, DirOptions{})
	ctx := t.Context()
	first := image(t, d, "team/app", "1", "layer")
	id, err := d.Begin(ctx, "team/app")
	must(t, err)
	_, err = d.Append(ctx, "team/app", id, 0, strings.NewReader("half "))
	must(t, err)
	if _, err := OpenDir(d.root, d.o); err == nil {
		t.Error("two registries serve one folder")
	}
	must(t, d.Close())
	// What a crash may leave: content nobody refers to, a tag without its manifest.
	stray := filepath.Join(d.root, "blobs", "sha256", "ab", strings.Repeat("ab", 32))
	must(t, os.MkdirAll(filepath.Dir(stray), 0o755))
	must(t, os.WriteFile(stray, nil, 0o600))
	lost := filepath.Join(d.root, "repos", "team", "app", "_tags", "lost")
	must(t, os.WriteFile(lost, []byte(digest.FromString("gone")), 0o600))

	e, err := OpenDir(d.root, d.o)
	must(t, err)
	defer e.Close()
	if got, err := e.Manifest(ctx, "team/app", "1"); err != nil || got.Digest != first || got.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("tag 1 is %v, %v", got, err)
	}
	if tags, err := e.Tags(ctx, "team/app"); err != nil || !slices.Equal(tags, []string{"1"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	for _, p := range []string{stray, lost} {
		if _, err := os.Stat(p); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", p, err)
		}
	}
	// The upload goes on.
	n, err := e.Append(ctx, "team/app", id, 5, strings.NewReader("done"))
	must(t, err)
	if n != 9 {
		t.Errorf("the upload has %d bytes", n)
	}
	must(t, e.Finish(ctx, "team/app", id, digest.FromString("half done")))
	b, err := e.Blob(ctx, "team/app", digest.FromString("half done"))
	must(t, err)
	defer b.Close()
	if got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size())); err != nil || string(got) != "half done" {
		t.Errorf("the blob is %q, %v", got, err)
	}
}

func TestRepositoriesKeepToThemselves(t *testing.T) {
	d := open(t, DirOptions{})
	ctx := t.Context()
	g := image(t, d, "a", "1", "layer")
	l := digest.FromString("layer")
	if _, err := d.Blob(ctx, "b", l); !errdefs.IsNotFound(err) {
		t.Errorf("b has a's blob: %v", err)
	}
	id, err := d.Begin(ctx, "a")
	must(t, err)
	if _, err := d.Append(ctx, "b", id, 0, strings.NewReader("x")); !errdefs.IsNotFound(err) {
		t.Errorf("b adds to a's upload: %v", err)
	}
	if err := d.Finish(ctx, "a", id, digest.FromString("other")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("wrong digest: %v", err)
	}
	if _, err := d.Uploaded(ctx, "a", id); !errdefs.IsNotFound(err) {
		t.Errorf("an upload that was wrong is still there: %v", err)
	}
	must(t, d.Mount(ctx, "b", "a", l))
	must(t, d.DeleteManifest(ctx, "a", g))
	must(t, d.DeleteBlob(ctx, "a", l))
	if _, err := d.Blob(ctx, "b", l); err != nil {
		t.Errorf("b lost what it mounted: %v", err)
	}
	must(t, d.DeleteBlob(ctx, "b", l))
	must(t, d.DeleteBlob(ctx, "a", digest.FromString("{}")))
	if left := content(t, d); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestGarbage(t *testing.T) {
	h := &hand{now: time.Now()}
	d := open(t, DirOptions{Clock: h, Grace: time.Hour, Untagged: 24 * time.Hour})
	ctx := t.Context()
	old := image(t, d, "app", "1", "base", "old")
	image(t, d, "app", "1", "base", "new")
	child := image(t, d, "app", "", "base", "child")
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: child, Size: 1}}}
	idx.SchemaVersion = 2
	index := put(t, d, "app", "multi", idx.MediaType, idx)
	about := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: push(t, d, "app", "{}"), Subject: &ocispec.Descriptor{MediaType: idx.MediaType, Digest: index, Size: 1}}
	about.SchemaVersion = 2
	signature := put(t, d, "app", "", about.MediaType, about)
	push(t, d, "app", "no image's")
	has := func(body string) bool {
		b, err := d.Blob(ctx, "app", digest.FromString(body))
		if err != nil {
			return false
		}
		must(t, b.Close())
		return true
	}
	manifest := func(g digest.Digest) bool { _, err := d.Manifest(ctx, "app", g.String()); return err == nil }

	got, err := d.Collect(ctx)
	must(t, err)
	if got != (Collected{}) {
		t.Errorf("what was just pushed is garbage: %+v", got)
	}
	h.add(2 * time.Hour)
	if got, err = d.Collect(ctx); err != nil || got.Blobs != 1 || got.Manifests != 0 || got.Bytes != int64(len("no image's")) {
		t.Errorf("after the grace: %+v, %v", got, err)
	}
	// Somebody reads a layer that goes.
	reading, err := d.Blob(ctx, "app", digest.FromString("old"))
	must(t, err)
	defer reading.Close()
	h.add(24 * time.Hour)
	if got, err = d.Collect(ctx); err != nil || got.Manifests != 1 || got.Blobs != 1 {
		t.Errorf("after a day: %+v, %v", got, err)
	}
	if manifest(old) || has("old") || !has("new") || !has("base") || !manifest(child) || !has("child") || !manifest(signature) {
		t.Error("something else went")
	}
	if b, err := io.ReadAll(io.NewSectionReader(reading, 0, reading.Size())); err != nil || string(b) != "old" {
		t.Errorf("read %q, %v", b, err)
	}
	// With its tag go the index, what it is made of and what speaks of it.
	must(t, d.DeleteTag(ctx, "app", "multi"))
	if got, err = d.Collect(ctx); err != nil || got.Manifests != 3 {
		t.Errorf("after the tag: %+v, %v", got, err)
	}
	// A deleted image takes its layers with it, if no other has them.
	must(t, d.DeleteManifest(ctx, "app", func() digest.Digest { m, err := d.Manifest(ctx, "app", "1"); must(t, err); return m.Digest }()))
	_, err = d.Collect(ctx)
	must(t, err)
	if left := content(t, d); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if names, err := d.Repositories(ctx); err != nil || len(names) != 0 {
		t.Errorf("repositories %v, %v", names, err)
	}
	// An upload that nobody goes on with.
	id, err := d.Begin(ctx, "app")
	must(t, err)
	h.add(2 * time.Hour)
	if got, err = d.Collect(ctx); err != nil || got.Uploads != 1 {
		t.Errorf("uploads: %+v, %v", got, err)
	}
	if _, err := d.Uploaded(ctx, "app", id); !errdefs.IsNotFound(err) {
		t.Errorf("the upload is still there: %v", err)
	}
}

// Images that are pushed, deleted and collected at once are whole or not there.
func TestCollectWhileInUse(t *testing.T) {
	d := open(t, DirOptions{Grace: time.Hour})
	ctx := t.Context()
	done := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := d.Collect(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var pushers sync.WaitGroup
	for p := range 4 {
		pushers.Go(func() {
			repo := fmt.Sprintf("r%d", p%2) // two to a repository
			for i := range 15 {
				tag := fmt.Sprintf("t%d-%d", p, i)
				g := image(t, d, repo, tag, "shared", fmt.Sprint("own", p, i))
				for _, l := range []string{"{}", "shared", fmt.Sprint("own", p, i)} {
					b, err := d.Blob(ctx, repo, digest.FromString(l))
					if err != nil {
						t.Errorf("%s of %s: %v", l, tag, err)
						continue
					}
					must(t, b.Close())
				}
				if i%3 == 0 {
					if err := d.DeleteManifest(ctx, repo, g); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	pushers.Wait()
	close(done)
	collector.Wait()
	for _, repo := range []string{"r0", "r1"} {
		if tags, err := d.Tags(ctx, repo); err != nil || len(tags) != 20 {
			t.Errorf("%s has tags %v, %v", repo, tags, err)
		}
	}
}

func TestReadOnlyUnlessAWriter(t *testing.T) {
	d := open(t, DirOptions{})
	g := image(t, d, "app", "1", "layer")
	h := NewHandler(struct{ Source }{d}, Options{Log: slog.New(slog.DiscardHandler)})
	ask := func(method, path, body string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code
	}
	if c := ask(http.MethodGet, "/v2/app/manifests/1", ""); c != http.StatusOK {
		t.Errorf("read: %d", c)
	}
	for path, method := range map[string]string{
		"/v2/app/manifests/1": http.MethodPut, "/v2/app/manifests/" + g.String(): http.MethodDelete,
		"/v2/app/blobs/uploads/": http.MethodPost, "/v2/app/tags/list": http.MethodGet, "/v2/_catalog": http.MethodGet,
	} {
		if c := ask(method, path, "{}"); c != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %d", method, path, c)
		}
	}
}

// No request makes the registry fail or leave its folder, whatever its path.
func FuzzRequest(f *testing.F) {
	for _, p := range []string{
		"/v2/", "/v2/_catalog?n=1&last=a", "/v2/a/b/tags/list?n=-1", "/v2/a/manifests/latest", "/v2/a/blobs/sha256:" + strings.Repeat("ab", 32),
		"/v2/a/blobs/uploads/?mount=sha256:x&from=../..", "/v2/../../etc/manifests/x", "/v2/a/blobs/uploads/..", "/v2/a/referrers/sha256:1", "/v2/a//b/tags/list",
	} {
		f.Add("GET", p, []byte("{}"))
		f.Add("PUT", p, []byte(`{"schemaVersion":2,"config":{"digest":"sha256:"}}`))
		f.Add("POST", p, []byte{})
	}
	d := open(f, DirOptions{})
	image(f, d, "a", "latest", "layer")
	outside := filepath.Dir(d.root)
	before, err := os.ReadDir(outside)
	must(f, err)
	h := NewHandler(d, Options{Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		r, err := http.NewRequest(method, "http://x"+path, bytes.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			t.Skip()
		}
		r.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if after, err := os.ReadDir(outside); err != nil || len(after) != len(before) {
			t.Errorf("%s %s left the folder: %v", method, path, err)
		}
	})
}
