package imagestore_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
)

const namespace = "test"

// fixture is an image service over real stores in one directory.
type fixture struct {
	*image.Service
	t     testing.TB
	root  string
	store *imagestore.Store
	meta  *metadata.DB
	snaps snapshots.Snapshotter
	cs    content.Store

	mu     sync.Mutex
	events []events.Message
	users  []image.User
}

func (f *fixture) Publish(m events.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, m)
}

func (f *fixture) Users(context.Context) []image.User { return f.users }

func (f *fixture) actions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, m := range f.events {
		out = append(out, string(m.Action))
	}
	return out
}

type syncImages struct {
	images.Store
	f *fixture
}

func (s syncImages) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	if err := s.Store.Delete(ctx, name); err != nil {
		return err
	}
	if len(opts) > 0 {
		_, err := s.f.meta.GarbageCollect(ctx)
		return err
	}
	return nil
}

type syncLeases struct {
	leases.Manager
	f *fixture
}

func (s syncLeases) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	if err := s.Manager.Delete(ctx, l); err != nil {
		return err
	}
	if len(opts) > 0 {
		_, err := s.f.meta.GarbageCollect(ctx)
		return err
	}
	return nil
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: overlay snapshots")
	}
}

// platform is fixed, so that archives made here fit on every machine.
var platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureAt(t, t.TempDir(), imagestore.HostOptions{})
}

func newFixtureAt(t testing.TB, root string, hosts imagestore.HostOptions) *fixture {
	t.Helper()
	needsRoot(t)
	f := &fixture{t: t, root: root}
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	must(t, err)
	snaps, err := overlay.NewSnapshotter(filepath.Join(root, "snapshots"))
	must(t, err)
	t.Cleanup(func() { must(t, snaps.Close()) })
	db, err := bolt.Open(filepath.Join(root, "metadata.db"), 0o600, nil)
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	f.meta = metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{"overlayfs": snaps})
	must(t, f.meta.Init(context.Background()))
	f.snaps, f.cs = f.meta.Snapshotter("overlayfs"), f.meta.ContentStore()
	tmp := filepath.Join(root, "tmp")
	must(t, os.MkdirAll(tmp, 0o700))
	log := slog.New(slog.NewTextHandler(testWriter{f}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.store = imagestore.New(imagestore.Deps{
		Namespace:   namespace,
		Snapshotter: "overlayfs",
		Content:     f.cs,
		Images:      syncImages{metadata.NewImageStore(f.meta), f},
		Leases:      syncLeases{metadata.NewLeaseManager(f.meta), f},
		Snapshots:   f.snaps,
		Applier:     apply.NewFileSystemApplier(f.cs),
		Log:         log,
		TempDir:     tmp,
		Platform:    platform,
		Hosts:       hosts,
	})
	f.Service = image.New(image.Deps{
		Clock: clock.System{}, Log: log, Events: f, Users: f, Platform: platform,
		Records: f.store, Content: f.store, Layers: f.store, Archives: f.store, Registry: f.store, Moves: moves{}, TempDir: tmp,
	})
	return f
}

type testWriter struct{ f *fixture }

func (w testWriter) Write(p []byte) (int, error) {
	w.f.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func (f *fixture) ctx() context.Context {
	return namespaces.WithNamespace(context.Background(), namespace)
}

// blobs counts what the content store holds.
func (f *fixture) blobs() int {
	n := 0
	must(f.t, f.cs.Walk(f.ctx(), func(content.Info) error { n++; return nil }))
	return n
}

// layers lists snapshots, committed or not.
func (f *fixture) layers() []string {
	var out []string
	must(f.t, f.snaps.Walk(f.ctx(), func(_ context.Context, i snapshots.Info) error {
		out = append(out, i.Name)
		return nil
	}))
	slices.Sort(out)
	return out
}

// ingests lists writes that were begun and neither finished nor given up.
func (f *fixture) ingests() []string {
	sts, err := f.cs.ListStatuses(f.ctx())
	must(f.t, err)
	var out []string
	for _, st := range sts {
		out = append(out, st.Ref)
	}
	return out
}

// empty fails unless nothing at all is stored.
func (f *fixture) empty() {
	f.t.Helper()
	_, err := f.meta.GarbageCollect(f.ctx())
	must(f.t, err)
	rs, err := f.store.List(f.ctx())
	must(f.t, err)
	if len(rs) > 0 || f.blobs() > 0 || len(f.layers()) > 0 || len(f.ingests()) > 0 {
		f.t.Errorf("left behind: records %v, %d blobs, layers %v, ingests %v", rs, f.blobs(), f.layers(), f.ingests())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file is an entry of a test archive.
type file struct {
	name string
	body string
	hdr  tar.Header // what differs from a plain file
}

func dir(name string) file {
	return file{name: name + "/", hdr: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.hdr
		h.Name = f.name
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(f.body))
		}
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, f.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// dockerArchive makes what `docker save` of one image makes.
func dockerArchive(t testing.TB, name string, config map[string]any, layers ...[]byte) []byte {
	t.Helper()
	var diffs, names []string
	var files []file
	for _, l := range layers {
		d := digestOf(l)
		diffs = append(diffs, d)
		n := strings.TrimPrefix(d, "sha256:") + "/layer.tar"
		names = append(names, n)
		files = append(files, file{name: n, body: string(l)})
	}
	full := map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}
	for k, v := range config {
		full[k] = v
	}
	c, err := json.Marshal(full)
	must(t, err)
	cname := strings.TrimPrefix(digestOf(c), "sha256:") + ".json"
	var tags []string
	if name != "" {
		tags = []string{name}
	}
	m, err := json.Marshal([]map[string]any{{"Config": cname, "RepoTags": tags, "Layers": names}})
	must(t, err)
	files = append(files, file{name: cname, body: string(c)}, file{name: "manifest.json", body: string(m)})
	return tarOf(t, files...)
}

// moves keeps the moves of names in memory.
type moves map[string]*image.Move

func (m moves) Put(key string, v *image.Move) error { m[key] = v; return nil }
func (m moves) Delete(key string) error             { delete(m, key); return nil }
func (m moves) All() ([]*image.Move, error)         { return slices.Collect(maps.Values(m)), nil }
