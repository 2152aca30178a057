package ctrd

import (
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// commitTree makes a committed snapshot as unpacking an image would.
func (m *machine) commitTree(name, parent string, files map[string]string) string {
	m.t.Helper()
	ctx := in(m.t.Context())
	root := snapshots.WithLabels(map[string]string{gcRoot: "test"})
	mounts, err := m.engine.snaps.Prepare(ctx, name+"-work", parent, root)
	if err != nil {
		m.t.Fatal(err)
	}
	err = mount.WithTempMount(ctx, mounts, func(dir string) error {
		for f, text := range files {
			p := filepath.Join(dir, f)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.engine.snaps.Commit(ctx, name, name+"-work", root); err != nil {
		m.t.Fatal(err)
	}
	return name
}
