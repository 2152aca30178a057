package ctrd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// A layer that is removed is gone at once, its many files only when the lock that
// keeps containers from starting is free again.
func TestFilesOfARemovedLayerGoLater(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSnapshotter(root, ms)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	mounts, err := s.Prepare(t.Context(), "big", "")
	if err != nil {
		t.Fatal(err)
	}
	dir := mounts[0].Source
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "big"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "big"); !errdefs.IsNotFound(err) {
		t.Errorf("the layer is still known: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Errorf("its files were removed under the lock: %v", err)
	}
	if err := s.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its files are left: %v", err)
	}
}
