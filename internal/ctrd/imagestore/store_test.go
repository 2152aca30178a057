package imagestore_test

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/image"
)

func digestOf(b []byte) string { return digest.FromBytes(b).String() }

func named(t testing.TB, s string) reference.NamedTagged {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	must(t, err)
	return reference.TagNameOnly(n).(reference.NamedTagged)
}

func TestImport(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	rootfs := tarOf(t, dir("bin"), file{name: "bin/sh", body: "#!"}, dir("etc"))
	id, err := f.Import(ctx, bytes.NewReader(rootfs), image.ImportOptions{
		Ref: named(t, "app"), Comment: "made here", Changes: []string{"CMD sh -c true", "ENV A=b"},
	})
	must(t, err)
	got, err := f.Inspect(ctx, "app", image.InspectOptions{})
	must(t, err)
	if got.ID != id || len(got.RepoTags) != 1 || got.RepoTags[0] != "app:latest" || got.Comment != "made here" {
		t.Errorf("inspect = %+v", got)
	}
	if got.RootFS.Layers[0] != digestOf(rootfs) {
		t.Errorf("diff ID %s, want that of the tar, %s", got.RootFS.Layers[0], digestOf(rootfs))
	}
	if b, err := os.ReadFile(filepath.Join(got.GraphDriver.Data["UpperDir"], "bin/sh")); err != nil || string(b) != "#!" {
		t.Errorf("layer on disk: %q, %v", b, err)
	}
	run, err := f.Runnable(ctx, id[7:19], nil)
	must(t, err)
	if run.ID != id || run.ChainID != digestOf(rootfs) || run.Name != "" || strings.Join(run.Config.Cmd, " ") != "/bin/sh -c sh -c true" {
		t.Errorf("runnable = %+v", run)
	}
	if n := len(f.layers()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	res, err := f.Remove(ctx, "app", image.RemoveOptions{})
	must(t, err)
	if len(res) != 2 || res[0].Untagged != "app:latest" || res[1].Deleted != id {
		t.Errorf("remove = %+v", res)
	}
	f.empty()
}

func TestLoadDockerArchive(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	base := tarOf(t, dir("etc"), file{name: "etc/a", body: "1"}, file{name: "etc/b", body: "2"})
	top := tarOf(t, dir("etc"), file{name: "etc/.wh.a"}, file{name: "etc/b", body: "3"})
	// The directory is not in the layer: its mode is that of the layer below.
	loose := tarOf(t, file{name: "tmp/x", body: "x"})
	sticky := tarOf(t, file{name: "tmp/", hdr: tar.Header{Typeflag: tar.TypeDir, Mode: 0o1777}})
	var out bytes.Buffer
	must(t, f.Load(ctx, bytes.NewReader(dockerArchive(t, "two:layers", nil, base, sticky, top, loose)), nil, &out, true))
	if !strings.Contains(out.String(), `"stream":"Loaded image: two:layers\n"`) {
		t.Errorf("output %q", out.String())
	}
	got, err := f.Inspect(ctx, "two:layers", image.InspectOptions{})
	must(t, err)
	d := got.GraphDriver.Data
	lowers := strings.Split(d["LowerDir"], ":")
	if len(lowers) != 3 {
		t.Fatalf("graph driver = %v", d)
	}
	if st, err := os.Lstat(filepath.Join(lowers[0], "etc/a")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("whiteout: %v, %v", st, err)
	}
	if st, err := os.Lstat(filepath.Join(d["UpperDir"], "tmp")); err != nil || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("tmp made without the mode it has below: %v, %v", st, err)
	}
	if n := len(f.layers()); n != 4 {
		t.Errorf("snapshots: %v", f.layers())
	}
	h, err := f.History(ctx, "two:layers", nil)
	must(t, err)
	if len(h) != 0 {
		t.Errorf("history of an image without one: %+v", h)
	}

	var saved bytes.Buffer
	must(t, f.Save(ctx, []string{"two:layers"}, nil, &saved))
	g := newFixture(t)
	must(t, g.Load(ctx, bytes.NewReader(saved.Bytes()), nil, &out, true))
	again, err := g.Inspect(ctx, "two:layers", image.InspectOptions{})
	must(t, err)
	if again.ID != got.ID {
		t.Errorf("saved and loaded: %s became %s", got.ID, again.ID)
	}
	if n := len(g.layers()); n != 4 {
		t.Errorf("snapshots: %v", g.layers())
	}
	_, err = f.Remove(ctx, got.ID, image.RemoveOptions{})
	must(t, err)
	f.empty()
}

func TestTagMovesAndKeeps(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	a, err := f.Import(ctx, bytes.NewReader(tarOf(t, dir("a"))), image.ImportOptions{Ref: named(t, "app:1")})
	must(t, err)
	b, err := f.Import(ctx, bytes.NewReader(tarOf(t, dir("b"))), image.ImportOptions{Ref: named(t, "app:1")})
	must(t, err)
	// The first one lost its name and is still there.
	old, err := f.Inspect(ctx, a, image.InspectOptions{})
	must(t, err)
	if len(old.RepoTags) != 0 {
		t.Errorf("tags of the old image: %v", old.RepoTags)
	}
	list, err := f.List(ctx, image.ListOptions{Filters: map[string][]string{"dangling": {"true"}}})
	must(t, err)
	if len(list) != 1 || list[0].ID != a {
		t.Errorf("dangling: %+v", list)
	}
	must(t, f.Tag(ctx, a, named(t, "old")))
	must(t, f.Tag(ctx, b, named(t, "example.com/team/app:2")))
	if list, err = f.List(ctx, image.ListOptions{Filters: map[string][]string{"reference": {"*/team/*"}}}); err != nil || len(list) != 1 {
		t.Errorf("reference filter: %+v, %v", list, err)
	}
	f.users = []image.User{{ID: strings.Repeat("c", 64), ImageID: b, Image: "app:1", Running: true}}
	_, err = f.Remove(ctx, b, image.RemoveOptions{Force: true})
	want := "conflict: unable to delete " + b[7:19] + " (cannot be forced) - image is being used by running container cccccccccccc"
	if !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("remove = %v, want %s", err, want)
	}
	res, err := f.Remove(ctx, "app:1", image.RemoveOptions{})
	must(t, err)
	if len(res) != 1 || res[0].Untagged != "app:1" {
		t.Errorf("untag = %+v", res)
	}
	if _, err = f.Remove(ctx, "example.com/team/app:2", image.RemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("last name of a used image: %v", err)
	}
	res, err = f.Remove(ctx, "example.com/team/app:2", image.RemoveOptions{Force: true})
	must(t, err)
	if len(res) != 1 || res[0].Untagged != "example.com/team/app:2" {
		t.Errorf("forced untag = %+v", res)
	}
	if _, err := f.Inspect(ctx, b, image.InspectOptions{}); err != nil {
		t.Errorf("used image after its last name: %v", err)
	}
	report, err := f.Prune(ctx, map[string][]string{"dangling": {"false"}})
	must(t, err)
	if len(report.ImagesDeleted) != 2 || report.ImagesDeleted[1].Deleted != a || report.SpaceReclaimed == 0 {
		t.Errorf("prune = %+v", report)
	}
	f.users = nil
	if report, err = f.Prune(ctx, nil); err != nil || len(report.ImagesDeleted) != 2 {
		t.Errorf("prune = %+v, %v", report, err)
	}
	f.empty()
}

func TestNoSuchImage(t *testing.T) {
	f := newFixture(t)
	_, err := f.Inspect(context.Background(), "busybox", image.InspectOptions{})
	if !errdefs.IsNotFound(err) || err.Error() != "No such image: busybox:latest" {
		t.Errorf("inspect = %v", err)
	}
	_, err = f.Inspect(context.Background(), "UPPER", image.InspectOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("inspect = %v", err)
	}
}
