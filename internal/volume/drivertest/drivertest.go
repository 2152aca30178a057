// Package drivertest is the conformance suite of volume drivers: a driver is
// done when Run passes, plus tests of its own quirks.
package drivertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/volume"
)

// Caps says what of a driver the suite may try.
type Caps struct {
	// KeepsData: the data lives in the driver, so that it survives Unmount and is
	// found missing when it is deleted behind the driver's back.
	KeepsData bool
	// Options make volumes of this driver; nil for none.
	Options map[string]string
	// Posix: owners, modes, links, special files and locks work.
	Posix bool
	// AnyOption: what an option means is known to somebody else, who is asked by
	// Create.
	AnyOption bool
}

// Run runs the suite. newDriver returns a driver over the same state at each
// call within one test, as daemons that follow each other would.
func Run(t *testing.T, newDriver func(t *testing.T, dir string) volume.Driver, caps Caps) {
	s := suite{newDriver, caps}
	for name, test := range map[string]func(*testing.T, volume.Driver, volume.Spec){
		"Lifecycle":        s.lifecycle,
		"Idempotent":       s.idempotent,
		"Separate":         s.separate,
		"UnknownOption":    s.unknownOption,
		"RemoveUnknown":    s.removeUnknown,
		"ManyAtOnce":       s.manyAtOnce,
		"ForeignData":      s.foreignData,
		"MissingData":      s.missingData,
		"Usage":            s.usage,
		"PosixBasics":      s.posix,
		"LinkOutOfVolume":  s.linkOut,
		"OddNames":         s.oddNames,
		"DeepTree":         s.deepTree,
		"UnmountUnmounted": s.unmountUnmounted,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, newDriver(t, t.TempDir()), s.spec("vol-1.a_b"))
		})
	}
	t.Run("NextDaemon", s.nextDaemon)
	if caps.KeepsData {
		s.snapshots(t)
		s.sends(t)
	}
}

type suite struct {
	newDriver func(t *testing.T, dir string) volume.Driver
	caps      Caps
}

func (s suite) spec(name string) volume.Spec {
	return volume.Spec{Name: name, Options: s.caps.Options}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	must(t, err)
	_, err = f.Write(data)
	must(t, errors.Join(err, f.Close()))
}

// use creates and mounts a volume and returns its directory.
func use(t *testing.T, d volume.Driver, v volume.Spec) string {
	t.Helper()
	must(t, d.CheckOptions(v.Options))
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	t.Cleanup(func() {
		if err := d.Remove(t.Context(), v); err != nil && t.Context().Err() == nil {
			t.Errorf("remove at the end: %v", err)
		}
	})
	return d.Path(v)
}

func (s suite) lifecycle(t *testing.T, d volume.Driver, v volume.Spec) {
	if d.Name() == "" || d.Capabilities().Scope == "" {
		t.Errorf("name %q, scope %q", d.Name(), d.Capabilities().Scope)
	}
	path := use(t, d, v)
	if !filepath.IsAbs(path) {
		t.Errorf("path %q", path)
	}
	es, err := os.ReadDir(path)
	if err != nil || len(es) != 0 {
		t.Errorf("new volume holds %v, %v", es, err)
	}
	f := filepath.Join(path, "f")
	write(t, f, []byte("data"))
	must(t, d.Mount(t.Context(), v)) // a second user
	if b, err := os.ReadFile(f); err != nil || string(b) != "data" {
		t.Errorf("second user reads %q, %v", b, err)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	if b, err := os.ReadFile(f); s.caps.KeepsData && (err != nil || string(b) != "data") {
		t.Errorf("after unmount and mount: %q, %v", b, err)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	if _, err := os.Stat(f); s.caps.KeepsData && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new volume has old data: %v", err)
	}
}

func (s suite) idempotent(t *testing.T, d volume.Driver, v volume.Spec) {
	must(t, d.Create(t.Context(), v))
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
}

func (s suite) separate(t *testing.T, d volume.Driver, v volume.Spec) {
	a, b := use(t, d, v), use(t, d, s.spec(v.Name+"2"))
	if a == b || strings.HasPrefix(b, a+"/") {
		t.Errorf("paths %s and %s", a, b)
	}
	if !s.caps.KeepsData {
		return // both may show the same
	}
	write(t, filepath.Join(a, "f"), nil)
	must(t, d.Remove(t.Context(), s.spec(v.Name+"2")))
	if _, err := os.Stat(filepath.Join(a, "f")); err != nil {
		t.Errorf("removing another volume: %v", err)
	}
}

func (s suite) unknownOption(t *testing.T, d volume.Driver, _ volume.Spec) {
	if s.caps.AnyOption {
		t.Skip("the driver does not know its options")
	}
	err := d.CheckOptions(map[string]string{"no-such-option": "x"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
}

func (s suite) removeUnknown(t *testing.T, d volume.Driver, v volume.Spec) {
	must(t, d.Remove(t.Context(), v))
}

func (s suite) unmountUnmounted(t *testing.T, d volume.Driver, v volume.Spec) {
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Create(t.Context(), v))
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
}

func (s suite) manyAtOnce(t *testing.T, d volume.Driver, v volume.Spec) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			v := s.spec(fmt.Sprintf("%s-%d", v.Name, i))
			for range 4 {
				for _, do := range []func() error{
					func() error { return d.Create(t.Context(), v) },
					func() error { return d.Mount(t.Context(), v) },
					func() error { return d.Unmount(t.Context(), v) },
					func() error { return d.Remove(t.Context(), v) },
				} {
					if err := do(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// Data that no record tells of must not turn up in a new volume.
func (s suite) foreignData(t *testing.T, d volume.Driver, v volume.Spec) {
	if !s.caps.KeepsData {
		t.Skip("the driver keeps no data")
	}
	write(t, filepath.Join(use(t, d, v), "f"), nil)
	if err := d.Create(t.Context(), v); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
}

// A volume whose data has gone must not turn up empty.
func (s suite) missingData(t *testing.T, d volume.Driver, v volume.Spec) {
	if !s.caps.KeepsData {
		t.Skip("the driver keeps no data")
	}
	path := use(t, d, v)
	must(t, d.Unmount(t.Context(), v))
	must(t, os.RemoveAll(path))
	if err := d.Mount(t.Context(), v); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), v.Name) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("made anew: %v", err)
	}
}

func (s suite) usage(t *testing.T, d volume.Driver, v volume.Spec) {
	path := use(t, d, v)
	before, err := d.Usage(t.Context(), v)
	must(t, err)
	const size = 3 << 20
	write(t, filepath.Join(path, "f"), make([]byte, size))
	must(t, os.Link(filepath.Join(path, "f"), filepath.Join(path, "g")))
	after, err := d.Usage(t.Context(), v)
	must(t, err)
	if grown := after - before; grown < size || grown > size+size/2 {
		t.Errorf("usage grew by %d for a file of %d with two names", grown, size)
	}
}

func (s suite) oddNames(t *testing.T, d volume.Driver, _ volume.Spec) {
	for _, name := range []string{"0a", strings.Repeat("x", 255), "UPPER.lower-1_", strings.Repeat("0123456789abcdef", 4)} {
		path := use(t, d, s.spec(name))
		write(t, filepath.Join(path, "f"), nil)
	}
}

func (s suite) deepTree(t *testing.T, d volume.Driver, v volume.Spec) {
	path := use(t, d, v)
	deep := filepath.Join(path, strings.Repeat("d/", 100))
	must(t, os.MkdirAll(deep, 0o700))
	for i := range 200 {
		write(t, filepath.Join(deep, fmt.Sprint(i)), nil)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
}

// Removing a volume must not follow links that its users left in it.
func (s suite) linkOut(t *testing.T, d volume.Driver, v volume.Spec) {
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	write(t, precious, nil)
	path := use(t, d, v)
	must(t, os.Symlink(outside, filepath.Join(path, "out")))
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// posix is what a database asks of its directory.
func (s suite) posix(t *testing.T, d volume.Driver, v volume.Spec) {
	if !s.caps.Posix {
		t.Skip("the driver promises no POSIX semantics")
	}
	path := use(t, d, v)
	f := filepath.Join(path, "f")
	write(t, f, []byte("x"))
	must(t, os.Chown(f, 999, 998))
	must(t, unix.Chmod(f, 0o2640))
	var st unix.Stat_t
	must(t, unix.Stat(f, &st))
	if st.Uid != 999 || st.Gid != 998 || st.Mode&0o7777 != 0o2640 {
		t.Errorf("owner %d:%d mode %o", st.Uid, st.Gid, st.Mode&0o7777)
	}
	must(t, os.Chown(path, 999, 998)) // initdb wants its directory its own
	must(t, os.Chmod(path, 0o700))
	must(t, os.Link(f, filepath.Join(path, "g")))
	must(t, unix.Mkfifo(filepath.Join(path, "fifo"), 0o600))

	write(t, filepath.Join(path, "new"), []byte("y"))
	open, err := os.Open(f)
	must(t, err)
	defer open.Close()
	must(t, os.Rename(filepath.Join(path, "new"), f)) // over an open file
	must(t, open.Sync())
	if b, err := os.ReadFile(f); err != nil || string(b) != "y" {
		t.Errorf("after rename: %q, %v", b, err)
	}
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close()
	must(t, dir.Sync())

	other, err := os.Open(f)
	must(t, err)
	defer other.Close()
	again, err := os.Open(f)
	must(t, err)
	defer again.Close()
	must(t, unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second lock: %v", err)
	}
}

// nextDaemon: a volume is what it was for the daemon that comes after.
func (s suite) nextDaemon(t *testing.T) {
	dir, v := t.TempDir(), s.spec("kept")
	d := s.newDriver(t, dir)
	must(t, d.Create(t.Context(), v))
	must(t, d.Mount(t.Context(), v))
	f := filepath.Join(d.Path(v), "f")
	write(t, f, []byte("data"))

	d = s.newDriver(t, dir) // while mounted
	if d.Path(v) != filepath.Dir(f) {
		t.Errorf("path changed to %s", d.Path(v))
	}
	must(t, d.Mount(t.Context(), v))
	if b, err := os.ReadFile(f); err != nil || string(b) != "data" {
		t.Errorf("got %q, %v", b, err)
	}
	must(t, d.Unmount(t.Context(), v))
	must(t, d.Remove(t.Context(), v))
	if _, err := os.Stat(filepath.Dir(f)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
}
