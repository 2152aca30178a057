package drivertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/volume"
)

// snapshots are the cases of drivers that can. Drivers that say that they can
// and have no such methods fail.
func (s suite) snapshots(t *testing.T) {
	for name, test := range map[string]func(*testing.T, volume.Driver, volume.Spec){
		"Snapshot":                 s.snapshot,
		"SnapshotNames":            s.snapshotNames,
		"SnapshotRemove":           s.snapshotRemove,
		"SnapshotUsage":            s.snapshotUsage,
		"SnapshotGoesWithVolume":   s.snapshotGoes,
		"SnapshotCutOff":           s.snapshotCutOff,
		"SnapshotsSurviveRestarts": s.snapshotStays,
		"Rollback":                 s.rollback,
		"RollbackTwice":            s.rollbackTwice,
		"RollbackRefused":          s.rollbackRefused,
		"Clone":                    s.clone,
		"Rename":                   s.rename,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, s.newDriver(t, t.TempDir()), s.spec("vol-1.a_b"))
		})
	}
}

func snapshotter(t *testing.T, d volume.Driver) volume.Snapshotter {
	t.Helper()
	sn, ok := d.(volume.Snapshotter)
	if !d.Capabilities().Snapshot {
		t.Skip("no snapshots")
	}
	if !ok {
		t.Fatal("the driver says it has snapshots")
	}
	return sn
}

func keep(t *testing.T, sn volume.Snapshotter, v volume.Spec, name string) {
	t.Helper()
	made, err := sn.Snapshot(t.Context(), v, name)
	must(t, err)
	switch made.Method {
	case volume.MethodCopy, volume.MethodReflink, volume.MethodSubvolume:
	default:
		t.Errorf("method %q", made.Method)
	}
}

func (s suite) snapshot(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	want := Describe(t, path)
	keep(t, sn, v, "first")
	Same(t, "snapshot", Describe(t, sn.SnapshotPath(v, "first")), want)
	Same(t, "the volume after it", Describe(t, path), want)
	if _, err := sn.Snapshot(t.Context(), v, "first"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second of that name: %v", err)
	}
	write(t, filepath.Join(path, "sub", "file"), []byte("changed"))
	must(t, os.RemoveAll(filepath.Join(path, "empty")))
	Same(t, "snapshot after changes", Describe(t, sn.SnapshotPath(v, "first")), want)
	keep(t, sn, v, "second")
	Same(t, "second snapshot", Describe(t, sn.SnapshotPath(v, "second")), Describe(t, path))
}

func (s suite) snapshotNames(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	use(t, d, v)
	for _, name := range []string{"0a", strings.Repeat("x", 255), "UPPER.lower-1_"} {
		keep(t, sn, v, name)
		if _, err := os.Stat(sn.SnapshotPath(v, name)); err != nil {
			t.Error(err)
		}
	}
}

func (s suite) snapshotRemove(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	want := Describe(t, path)
	keep(t, sn, v, "first")
	keep(t, sn, v, "second")
	must(t, sn.RemoveSnapshot(t.Context(), v, "first"))
	must(t, sn.RemoveSnapshot(t.Context(), v, "first"))
	must(t, sn.RemoveSnapshot(t.Context(), v, "never-was"))
	if _, err := os.Stat(sn.SnapshotPath(v, "first")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	Same(t, "the other snapshot", Describe(t, sn.SnapshotPath(v, "second")), want)
	Same(t, "the volume", Describe(t, path), want)
	keep(t, sn, v, "first")
}

func (s suite) snapshotUsage(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	write(t, filepath.Join(path, "f"), make([]byte, 3<<20))
	keep(t, sn, v, "first")
	must(t, os.Remove(filepath.Join(path, "f")))
	n, err := sn.SnapshotUsage(t.Context(), v, "first")
	if err != nil || n < 0 || n > 4<<20 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := sn.SnapshotUsage(t.Context(), v, "never-was"); err == nil {
		t.Error("a snapshot that is not there has a size")
	}
}

func (s suite) snapshotGoes(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	use(t, d, v)
	keep(t, sn, v, "first")
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	if _, err := os.Stat(sn.SnapshotPath(v, "first")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new volume has an old snapshot: %v", err)
	}
}

func (s suite) snapshotCutOff(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sn.Snapshot(ctx, v, "first"); err == nil {
		return // it was done before anybody looked
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(sn.SnapshotPath(v, "first")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	keep(t, sn, v, "first")
}

func (s suite) snapshotStays(t *testing.T, _ volume.Driver, v volume.Spec) {
	dir := t.TempDir()
	d := s.newDriver(t, dir)
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	want := Describe(t, path)
	keep(t, sn, v, "first")
	must(t, d.Unmount(t.Context(), v))
	d = s.newDriver(t, dir)
	must(t, d.Mount(t.Context(), v))
	Same(t, "snapshot", Describe(t, d.(volume.Snapshotter).SnapshotPath(v, "first")), want)
	must(t, d.Unmount(t.Context(), v))
}

func (s suite) rollback(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	one := Describe(t, path)
	keep(t, sn, v, "first")
	must(t, os.RemoveAll(filepath.Join(path, "sub")))
	write(t, filepath.Join(path, "new"), []byte("two"))
	two := Describe(t, path)
	must(t, d.Unmount(t.Context(), v))
	_, err := sn.Rollback(t.Context(), v, "first", "kept")
	must(t, err)
	must(t, d.Mount(t.Context(), v))
	Same(t, "volume", Describe(t, path), one)
	Same(t, "what it replaced", Describe(t, sn.SnapshotPath(v, "kept")), two)
	Same(t, "the snapshot", Describe(t, sn.SnapshotPath(v, "first")), one)
	write(t, filepath.Join(path, "writable"), []byte("x"))
	must(t, os.Remove(filepath.Join(path, "hard")))
	Same(t, "the snapshot after changes", Describe(t, sn.SnapshotPath(v, "first")), one)
	if done, err := sn.SettleRollback(t.Context(), v, "kept"); !done || err != nil {
		t.Errorf("settle after the end: %v, %v", done, err)
	}
	if _, err := os.Stat(filepath.Join(path, "writable")); err != nil {
		t.Error(err)
	}
	must(t, d.Unmount(t.Context(), v))
}

func (s suite) rollbackTwice(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	for i := range 3 {
		write(t, filepath.Join(path, "f"), fmt.Append(nil, i))
		keep(t, sn, v, fmt.Sprint("snap", i))
	}
	for i := range 3 {
		must(t, d.Unmount(t.Context(), v))
		_, err := sn.Rollback(t.Context(), v, fmt.Sprint("snap", i), fmt.Sprint("kept", i))
		must(t, err)
		must(t, d.Mount(t.Context(), v))
		if b, err := os.ReadFile(filepath.Join(path, "f")); err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("%d: %q, %v", i, b, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(sn.SnapshotPath(v, "kept0"), "f")); err != nil || string(b) != "2" {
		t.Errorf("first kept: %q, %v", b, err)
	}
	must(t, d.Unmount(t.Context(), v))
}

func (s suite) rollbackRefused(t *testing.T, d volume.Driver, v volume.Spec) {
	sn := snapshotter(t, d)
	path := use(t, d, v)
	Sample(t, path, "one")
	keep(t, sn, v, "first")
	want := Describe(t, path)
	must(t, d.Unmount(t.Context(), v))
	if _, err := sn.Rollback(t.Context(), v, "never-was", "kept"); err == nil {
		t.Error("rolled back to nothing")
	}
	if _, err := sn.Rollback(t.Context(), v, "first", "first"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("over a snapshot: %v", err)
	}
	if done, err := sn.SettleRollback(t.Context(), v, "kept"); done || err != nil {
		t.Errorf("settle what did not begin: %v, %v", done, err)
	}
	must(t, d.Mount(t.Context(), v))
	Same(t, "volume", Describe(t, path), want)
	if _, err := os.Stat(sn.SnapshotPath(v, "kept")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kept: %v", err)
	}
	must(t, d.Unmount(t.Context(), v))
}

func (s suite) clone(t *testing.T, d volume.Driver, v volume.Spec) {
	cl, ok := d.(volume.Cloner)
	if !d.Capabilities().Clone {
		t.Skip("no clones")
	}
	if !ok {
		t.Fatal("the driver says it has clones")
	}
	path := use(t, d, v)
	Sample(t, path, "one")
	one := Describe(t, path)
	if sn, ok := d.(volume.Snapshotter); ok && d.Capabilities().Snapshot {
		keep(t, sn, v, "first")
		defer func() {
			to := use(t, d, s.spec("of-snapshot"))
			_, err := cl.Clone(t.Context(), v, "first", s.spec("of-snapshot"))
			must(t, err)
			Same(t, "clone of the snapshot", Describe(t, to), Describe(t, sn.SnapshotPath(v, "first")))
			write(t, filepath.Join(to, "writable"), nil)
			must(t, d.Unmount(t.Context(), s.spec("of-snapshot")))
		}()
	}
	to := use(t, d, s.spec("clone"))
	_, err := cl.Clone(t.Context(), v, "", s.spec("clone"))
	must(t, err)
	Same(t, "clone", Describe(t, to), one)
	write(t, filepath.Join(path, "sub", "file"), []byte("changed"))
	Same(t, "clone after a change of the first", Describe(t, to), one)
	write(t, filepath.Join(to, "sub", "many7"), []byte("changed too"))
	if b, err := os.ReadFile(filepath.Join(path, "sub", "many7")); err != nil || string(b) != strings.Repeat("one", 7) {
		t.Errorf("the first after a change of the clone: %q, %v", b, err)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	if _, err := os.Stat(filepath.Join(to, "hard")); err != nil {
		t.Errorf("the clone without the first: %v", err)
	}
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	Sample(t, path, "one")
	if sn, ok := d.(volume.Snapshotter); ok && d.Capabilities().Snapshot {
		keep(t, sn, v, "first")
	}
}

func (s suite) rename(t *testing.T, d volume.Driver, v volume.Spec) {
	rn, ok := d.(volume.Renamer)
	if !d.Capabilities().Rename {
		t.Skip("no renaming")
	}
	if !ok {
		t.Fatal("the driver says it has renaming")
	}
	path := use(t, d, v)
	Sample(t, path, "one")
	one := Describe(t, path)
	sn, snaps := d.(volume.Snapshotter)
	if snaps = snaps && d.Capabilities().Snapshot; snaps {
		keep(t, sn, v, "first")
	}
	to, other := s.spec("renamed"), s.spec("other")
	use(t, d, other)
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Unmount(t.Context(), other))
	if err := rn.Rename(t.Context(), v, other); !errdefs.IsAlreadyExists(err) {
		t.Errorf("onto another: %v", err)
	}
	must(t, rn.Rename(t.Context(), v, to))
	must(t, rn.Rename(t.Context(), v, to)) // what a start does after a crash
	must(t, d.Mount(t.Context(), to))
	Same(t, "volume", Describe(t, d.Path(to)), one)
	if snaps {
		Same(t, "snapshot", Describe(t, sn.SnapshotPath(to, "first")), one)
	}
	must(t, d.Unmount(t.Context(), to))
	must(t, d.Create(t.Context(), v)) // the old name is free
	must(t, d.Mount(t.Context(), v))
	if es, err := os.ReadDir(path); err != nil || len(es) != 0 {
		t.Errorf("a new volume of the old name holds %v, %v", es, err)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), to))
	if err := rn.Rename(t.Context(), to, s.spec("never-was")); err == nil {
		t.Error("renamed what is not there")
	}
}
