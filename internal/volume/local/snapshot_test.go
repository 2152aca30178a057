package local

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/drivertest"
)

// onLoop mounts a new file system of that kind on a file, and skips where the
// kernel or the program for it is missing.
func onLoop(t *testing.T, kind, size string, mkfs ...string) string {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("needs %s", mkfs[0])
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, argv := range [][]string{{"truncate", "-s", size, image}, append(mkfs, image), {"mount", "-t", kind, "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v\n%s", argv, err, out)
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// Where blocks can be shared, snapshots share them, and say so.
func TestReflink(t *testing.T) {
	dir := onLoop(t, "xfs", "400M", "mkfs.xfs", "-q", "-m", "reflink=1")
	d, v := newDriver(t, dir).(*Driver), volume.Spec{Name: "data"}
	must(t, d.Create(t.Context(), v))
	must(t, os.WriteFile(filepath.Join(d.Path(v), "big"), make([]byte, 100<<20), 0o600))
	drivertest.Sample(t, d.Path(v), "one")
	want := drivertest.Describe(t, d.Path(v))
	before := free(t, dir)
	for _, name := range []string{"first", "second", "third", "fourth"} {
		made, err := d.Snapshot(t.Context(), v, name)
		if err != nil || made.Method != volume.MethodReflink || made.Bytes != 0 {
			t.Fatalf("got %+v, %v", made, err)
		}
		drivertest.Same(t, name, drivertest.Describe(t, d.SnapshotPath(v, name)), want)
	}
	if took := before - free(t, dir); took > 50<<20 {
		t.Errorf("four snapshots of 100 MB took %d bytes", took)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	unix.Sync()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize //nolint:gosec // not that large
}

// On a full disk a snapshot fails whole, and what was there stays.
func TestSnapshotOnFullDisk(t *testing.T) {
	dir := onLoop(t, "ext4", "64M", "mkfs.ext4", "-q")
	d, v := newDriver(t, dir).(*Driver), volume.Spec{Name: "data"}
	must(t, d.Create(t.Context(), v))
	drivertest.Sample(t, d.Path(v), "one")
	must(t, os.WriteFile(filepath.Join(d.Path(v), "big"), []byte(randomText(30<<20)), 0o600))
	want := drivertest.Describe(t, d.Path(v))
	before := free(t, dir)
	if _, err := d.Snapshot(t.Context(), v, "first"); !isFull(err) {
		t.Fatalf("got %v", err)
	}
	if _, err := d.Rollback(t.Context(), v, "first", "kept"); err == nil {
		t.Error("rolled back to nothing")
	}
	if after := free(t, dir); before-after > 1<<20 {
		t.Errorf("%d bytes are not given back", before-after)
	}
	if es, err := os.ReadDir(d.snapshots(v)); err != nil || len(es) != 0 {
		t.Errorf("left: %v, %v", es, err)
	}
	drivertest.Same(t, "volume", drivertest.Describe(t, d.Path(v)), want)
	must(t, os.Remove(filepath.Join(d.Path(v), "big")))
	_, err := d.Snapshot(t.Context(), v, "first")
	must(t, err)
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) }

func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return string(b)
}
