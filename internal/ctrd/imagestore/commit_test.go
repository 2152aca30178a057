package imagestore_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/image"
)

// changed makes a container's layer over an image and changes it in place.
func (f *fixture) changed(id string, run image.Runnable, change func(dir string)) {
	f.t.Helper()
	gc := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	mounts, err := f.snaps.Prepare(f.ctx(), id, run.ChainID, gc)
	must(f.t, err)
	dir := f.t.TempDir()
	must(f.t, mount.All(mounts, dir))
	defer func() { must(f.t, mount.UnmountAll(dir, 0)) }()
	change(dir)
}

func TestCommit(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	_, err := f.Import(ctx, bytes.NewReader(tarOf(t,
		dir("etc"), file{name: "etc/a", body: "1"}, file{name: "etc/b", body: "2"}, dir("old"), file{name: "old/x", body: "x"},
	)), image.ImportOptions{Ref: named(t, "base"), Changes: []string{"CMD [\"sh\"]", "ENV A=1 B=2"}, Comment: "base"})
	must(t, err)
	base, err := f.Runnable(ctx, "base", nil)
	must(t, err)
	f.changed("c1", base, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "etc/a"), []byte("changed"), 0o640))
		must(t, os.Remove(filepath.Join(dir, "etc/b")))
		must(t, os.RemoveAll(filepath.Join(dir, "old")))
		must(t, os.Mkdir(filepath.Join(dir, "old"), 0o700)) // opaque now
		must(t, os.WriteFile(filepath.Join(dir, "old/y"), []byte("y"), 0o600))
		must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		must(t, os.Link(filepath.Join(dir, "etc/a"), filepath.Join(dir, "etc/c")))
	})
	id, err := f.Commit(ctx, image.CommitRequest{
		Container: "c1", Parent: &base.Manifest, Ref: "new:1", Author: "me", Comment: "step",
		Base:    &container.Config{Cmd: []string{"sh"}, Env: []string{"A=1", "B=2"}},
		Changes: []string{"ENV B=3", "EXPOSE 80/tcp", "LABEL x=y"},
	})
	must(t, err)
	run, err := f.Runnable(ctx, "new:1", nil)
	must(t, err)
	if run.ID != id || strings.Join(run.Config.Env, " ") != "A=1 B=3" || run.Config.Labels["x"] != "y" {
		t.Errorf("runnable = %+v", run)
	}
	f.changed("c2", run, func(dir string) {
		for name, want := range map[string]string{"etc/a": "changed", "etc/c": "changed", "old/y": "y"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
				t.Errorf("%s = %q, %v", name, b, err)
			}
		}
		for _, name := range []string{"etc/b", "old/x"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
				t.Errorf("%s is back: %v", name, err)
			}
		}
		if st, err := os.Stat(filepath.Join(dir, "fifo")); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
			t.Errorf("fifo: %v, %v", st, err)
		}
	})
	h, err := f.History(ctx, "new:1", nil)
	must(t, err)
	if len(h) != 2 || h[0].Comment != "step" || h[0].CreatedBy != "sh" || h[0].ID != id || h[0].Size == 0 || h[1].Comment != "base" {
		t.Errorf("history = %+v", h)
	}

	// A container that changed nothing gives an image with a step and no layer.
	f.changed("c3", base, func(string) {})
	same, err := f.Commit(ctx, image.CommitRequest{Container: "c3", Parent: &base.Manifest})
	must(t, err)
	got, err := f.Inspect(ctx, same, image.InspectOptions{})
	must(t, err)
	if len(got.RootFS.Layers) != 1 || len(got.RepoTags) != 0 {
		t.Errorf("inspect = %+v", got)
	}
	// The base can go: the new images keep its layer.
	_, err = f.Remove(ctx, "base", image.RemoveOptions{})
	must(t, err)
	var out bytes.Buffer
	must(t, f.Save(ctx, []string{"new:1", same}, nil, &out))
	g := newFixture(t)
	must(t, g.Load(ctx, &out, nil, new(bytes.Buffer), true))
	if r, err := g.Runnable(ctx, "new:1", nil); err != nil || r.ID != id {
		t.Errorf("saved and loaded: %+v, %v", r, err)
	}
}
