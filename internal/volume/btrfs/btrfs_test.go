package btrfs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/drivertest"
)

// envBase is a directory on a btrfs for all tests of a run, children included.
const envBase = "HF_TEST_BTRFS"

func TestMain(m *testing.M) {
	os.Exit(withBase(m.Run))
}

func withBase(run func() int) int {
	if os.Getenv(envBase) != "" || os.Getuid() != 0 {
		return run()
	}
	dir, err := os.MkdirTemp("", "hf-btrfs-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := Open(context.Background(), Deps{Dir: dir, Records: fakeRecords{}, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	i, err := s.Create(context.Background(), CreateOptions{Name: "base", Kind: File, Size: 1 << 30, Sparse: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, "no btrfs:", err)
		return run()
	}
	defer func() {
		if err := unix.Unmount(i.Mount, 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := os.Setenv(envBase, i.Mount); err != nil {
		panic(err)
	}
	return run()
}

type fakeRecords map[string]Record

func (f fakeRecords) Put(id string, r *Record) error { f[id] = *r; return nil }
func (f fakeRecords) Delete(id string) error         { delete(f, id); return nil }
func (f fakeRecords) All() (out []*Record, _ error) {
	for _, k := range slices.Sorted(maps.Keys(f)) {
		r := f[k]
		out = append(out, &r)
	}
	return out, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func base(t *testing.T) string {
	t.Helper()
	if os.Getenv(envBase) == "" {
		t.Skip("needs root and a kernel with btrfs")
	}
	return os.Getenv(envBase)
}

func open(t *testing.T, dir string, r fakeRecords) *Pools {
	t.Helper()
	s, err := Open(t.Context(), Deps{Dir: dir, Records: r, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	return s
}

// newDriver has a folder of the base as its pool, a folder for each dir.
func newDriver(t *testing.T, dir string) volume.Driver {
	t.Helper()
	r := fakeRecords{}
	for _, name := range []string{DefaultPool, "other"} {
		source := filepath.Join(poolDir(t, dir), name)
		must(t, os.MkdirAll(source, 0o700))
		r[name] = Record{Name: name, Kind: Directory, Source: source, Ready: true}
	}
	return New(open(t, filepath.Join(dir, "pools"), r))
}

func poolDir(t *testing.T, dir string) string { return filepath.Join(base(t), short(dir)) }

func TestConformance(t *testing.T) {
	base(t)
	drivertest.Run(t, newDriver, drivertest.Caps{KeepsData: true, Posix: true})
}

func TestKillAtEveryStep(t *testing.T) {
	base(t)
	drivertest.KillAtEveryStep(t, drivertest.CrashCase{
		Test: "TestKillAtEveryStep", NewDriver: newDriver,
		Points: map[string][]string{
			"snapshot": {"btrfs.snapshot.made"},
			"rollback": {"btrfs.rollback.next", "btrfs.rollback.kept", "btrfs.rollback.placed"},
			"clone":    {"btrfs.clone.made"},
			"move":     {"btrfs.receive.made"},
		},
		Move: volume.MoveOptions{Options: map[string]string{optPool: "other"}},
		Clean: func(t *testing.T, dir string, known map[string][]string) {
			at := func(pool string) string { return filepath.Join(poolDir(t, dir), pool, "volumes") }
			drivertest.CleanTrees(t, []string{at(DefaultPool), at("other")}, known)
		},
	})
}

// filePool is a pool of its own.
func filePool(t *testing.T, size int64) (*Pools, fakeRecords, string) {
	t.Helper()
	base(t)
	dir, r := t.TempDir(), fakeRecords{}
	s := open(t, dir, r)
	_, err := s.Create(t.Context(), CreateOptions{Name: DefaultPool, Kind: File, Size: size, Sparse: true})
	must(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(s.mounts(), DefaultPool), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return s, r, dir
}

func create(t *testing.T, d *Driver, name string, options map[string]string) volume.Spec {
	t.Helper()
	v := volume.Spec{Name: name, Options: options}
	must(t, d.CheckOptions(options))
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	return v
}

func TestPoolLife(t *testing.T) {
	s, r, dir := filePool(t, minSize)
	_, err := s.Create(t.Context(), CreateOptions{Name: DefaultPool, Kind: File, Size: minSize})
	if !errdefs.IsConflict(err) {
		t.Errorf("again: %v", err)
	}
	for _, o := range []CreateOptions{
		{Name: "a/b", Kind: File, Size: minSize},
		{Name: "small", Kind: File, Size: 1 << 20},
		{Name: "odd", Kind: "odd"},
		{Name: "rel", Kind: Directory, Source: "x"},
		{Name: "ext4", Kind: Directory, Source: "/proc"},
		{Name: "sized", Kind: Directory, Source: "/", Size: minSize},
	} {
		if _, err := s.Create(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if len(r) != 1 {
		t.Errorf("records: %v", r)
	}
	d := New(s)
	v := create(t, d, "data", nil)
	must(t, os.WriteFile(filepath.Join(d.Path(v), "f"), []byte("kept"), 0o600))
	if err := s.Remove(t.Context(), DefaultPool); !errdefs.IsConflict(err) {
		t.Errorf("remove with volumes: %v", err)
	}
	if _, err := s.Grow(t.Context(), DefaultPool, minSize/2); !errdefs.IsInvalidArgument(err) {
		t.Errorf("shrink: %v", err)
	}
	i, err := s.Grow(t.Context(), DefaultPool, 2*minSize)
	if err != nil || i.Size != 2*minSize || !slices.Equal(i.Volumes, []string{"data"}) {
		t.Errorf("grown: %+v, %v", i, err)
	}
	// The next daemon finds it mounted, and after a reboot mounts it.
	for _, reboot := range []bool{false, true} {
		if reboot {
			must(t, unix.Unmount(i.Mount, 0))
		}
		s = open(t, dir, r)
		d = New(s)
		must(t, d.Mount(t.Context(), v))
		if b, err := os.ReadFile(filepath.Join(d.Path(v), "f")); err != nil || string(b) != "kept" {
			t.Errorf("after a restart: %q, %v", b, err)
		}
	}
	// One that is missing is told of, and the daemon goes on.
	must(t, unix.Unmount(i.Mount, 0))
	must(t, os.Rename(i.Source, i.Source+".away"))
	s = open(t, dir, r)
	if i, err := s.Inspect(DefaultPool); err != nil || i.Err == "" {
		t.Errorf("without its file: %+v, %v", i, err)
	}
	if err := New(s).Mount(t.Context(), v); !errdefs.IsUnavailable(err) {
		t.Errorf("mount without the pool: %v", err)
	}
	if err := s.Remove(t.Context(), DefaultPool); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove without a look: %v", err)
	}
	must(t, os.Rename(i.Source+".away", i.Source))
	s = open(t, dir, r)
	must(t, New(s).Remove(t.Context(), v))
	must(t, s.Remove(t.Context(), DefaultPool))
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) != 0 || len(r) != 0 {
		t.Errorf("left: %v, %v, %v", left, r, err)
	}
	if _, err := s.Inspect(DefaultPool); !errdefs.IsNotFound(err) {
		t.Errorf("after remove: %v", err)
	}
}

// A daemon that died while it made a pool left nothing of it.
func TestHalfMadePool(t *testing.T) {
	base(t)
	dir := t.TempDir()
	r := fakeRecords{}
	s := open(t, dir, r)
	file := filepath.Join(s.images(), "half.btrfs")
	must(t, reserve(file, minSize, true))
	r["half"] = Record{Name: "half", Kind: File, Source: file}
	open(t, dir, r)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) || len(r) != 0 {
		t.Errorf("left: %v, %v", err, r)
	}
}

func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// A volume's limit is its own, is kept by clones and rollbacks, and can be changed.
func TestLimit(t *testing.T) {
	s, _, _ := filePool(t, 2*minSize)
	d := New(s)
	if i, err := s.Inspect(DefaultPool); err != nil || !i.Quota {
		t.Skipf("the kernel has no simple quotas: %+v, %v", i, err)
	}
	if err := d.CheckOptions(map[string]string{"size": "many"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("size: %v", err)
	}
	v := create(t, d, "small", map[string]string{"size": "20m"})
	other := create(t, d, "other", nil)
	over := func(what string, v volume.Spec) {
		t.Helper()
		f := filepath.Join(d.Path(v), "f")
		if err := write(f, random(30<<20)); !errors.Is(err, unix.EDQUOT) {
			t.Errorf("%s: 30 MB in 20: %v", what, err)
		}
		must(t, os.Remove(f))
		must(t, s.byName[DefaultPool].sync())
		must(t, write(f, random(1<<20)))
		must(t, write(filepath.Join(d.Path(other), "f"), random(30<<20)))
	}
	over("new", v)
	must(t, s.byName[DefaultPool].sync())
	_, err := d.Snapshot(t.Context(), v, "first")
	must(t, err)
	_, err = d.Rollback(t.Context(), v, "first", "kept")
	must(t, err)
	over("rolled back", v)
	c := create(t, d, "clone", v.Options)
	_, err = d.Clone(t.Context(), v, "first", c)
	must(t, err)
	over("clone", c)
	must(t, d.Resize(t.Context(), v, 100<<20))
	must(t, write(filepath.Join(d.Path(v), "f"), random(30<<20)))
	must(t, d.Resize(t.Context(), v, 0))
	n, err := d.Usage(t.Context(), v)
	if err != nil || n < 30<<20 || n > 45<<20 {
		t.Errorf("usage %d, %v", n, err)
	}
}

// A pool that is full says so to who writes; reading, removing and the other
// volumes go on, and what is removed can be used again.
func TestPoolFull(t *testing.T) {
	s, _, _ := filePool(t, minSize)
	d := New(s)
	hog, other := create(t, d, "hog", nil), create(t, d, "other", nil)
	must(t, write(filepath.Join(d.Path(other), "f"), []byte("kept")))
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = write(filepath.Join(d.Path(hog), fmt.Sprint(i)), random(8<<20))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(d.Path(other), "f")); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := d.Snapshot(t.Context(), other, "full"); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("snapshot on a full pool: %v", err)
	}
	must(t, d.Remove(t.Context(), hog))
	must(t, s.byName[DefaultPool].sync())
	var last error
	for range 100 { // the cleaner works behind
		if last = write(filepath.Join(d.Path(other), "big"), random(100<<20)); last == nil {
			break
		}
		must(t, s.byName[DefaultPool].sync())
	}
	must(t, last)
}

// A flipped bit is found.
func TestCheckFindsBitRot(t *testing.T) {
	s, r, _ := filePool(t, minSize)
	d := New(s)
	v := create(t, d, "data", nil)
	marker := random(1 << 16)
	must(t, write(filepath.Join(d.Path(v), "f"), marker))
	must(t, s.byName[DefaultPool].sync())
	if found, err := s.Check(t.Context(), DefaultPool); err != nil || found.Errors != 0 || found.Bytes == 0 {
		t.Errorf("sound pool: %+v, %v", found, err)
	}
	image := r[DefaultPool].Source
	data, err := os.ReadFile(image)
	must(t, err)
	at := bytes.Index(data, marker[:4096])
	if at < 0 {
		t.Fatal("the data is not in the image")
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{^data[at+100]}, int64(at+100))
	must(t, errors.Join(err, f.Sync(), f.Close()))
	found, err := s.Check(t.Context(), DefaultPool)
	if err != nil || found.Uncorrectable == 0 {
		t.Errorf("rotten pool: %+v, %v", found, err)
	}
}

// Subvolumes that users make in a volume do not hold it.
func TestSubvolumesInVolumesAreRemoved(t *testing.T) {
	base(t)
	d := newDriver(t, t.TempDir()).(*Driver)
	v := create(t, d, "data", nil)
	must(t, in(d.Path(v), func(f *os.File) error { return createSubvolume(f, "mine") }))
	must(t, in(filepath.Join(d.Path(v), "mine"), func(f *os.File) error { return createSubvolume(f, "deeper") }))
	must(t, os.WriteFile(filepath.Join(d.Path(v), "mine", "deeper", "f"), nil, 0o600))
	must(t, d.Remove(t.Context(), v))
	if _, err := os.Stat(d.Path(v)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestDevicePool(t *testing.T) {
	base(t)
	image := filepath.Join(t.TempDir(), "disk")
	must(t, reserve(image, minSize, true))
	dev, err := attach(t.Context(), image)
	must(t, err)
	defer dev.Close()
	s := open(t, t.TempDir(), fakeRecords{})
	i, err := s.Create(t.Context(), CreateOptions{Name: "disk", Kind: Device, Source: dev.Name()})
	must(t, err)
	if _, err := exec.LookPath("blkid"); err == nil {
		if _, err := s.Create(t.Context(), CreateOptions{Name: "again", Kind: Device, Source: dev.Name()}); !errdefs.IsConflict(err) {
			t.Errorf("a device with data on it: %v", err)
		}
	}
	must(t, os.Truncate(image, 2*minSize))
	must(t, growLoop(image))
	if i, err = s.Grow(t.Context(), "disk", 0); err != nil || i.Size != 2*minSize {
		t.Errorf("grown: %+v, %v", i, err)
	}
	must(t, s.Remove(t.Context(), "disk"))
}
