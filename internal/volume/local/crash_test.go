package local

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/drivertest"
	"holdfast.dev/holdfast/internal/volume/populate"
)

type noEvents struct{}

func (noEvents) Publish(events.Message) {}

// openService is a volume service over a real database, as the daemon has it.
func openService(t *testing.T, dir string) (*volume.Service, *store.DB, error) {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "meta.db"), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	d, err := New(filepath.Join(dir, "volumes"), noResolver)
	if err != nil {
		_ = db.Close() // the first error tells
		return nil, nil, err
	}
	s, err := volume.New(t.Context(), volume.Deps{
		Clock: clock.System{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Events: noEvents{},
		Records: store.NewCollection[volume.Record](db, "volumes"), Populator: populate.Copier{}, Drivers: []volume.Driver{d},
	})
	return s, db, err
}

// A daemon killed at any moment of create, populate and remove leaves neither a
// record without data nor data without a record.
func TestKilledDaemonLeavesNoOrphanAndNoLie(t *testing.T) {
	if dir := os.Getenv("HF_CRASH_DIR"); dir != "" {
		work(t, dir)
		return
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	for i := range 20 {
		must(t, os.MkdirAll(filepath.Join(src, fmt.Sprint(i)), 0o755))
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i), "f"), []byte("x"), 0o600))
	}
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledDaemonLeavesNoOrphanAndNoLie$")
		cmd.Env = append(os.Environ(), "HF_CRASH_DIR="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := out.Read(make([]byte, 1)); err != nil { // it is at work
			t.Fatalf("child ended: %v", err)
		}
		<-time.After(time.Duration(round*round) * 300 * time.Microsecond)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		checkAgree(t, dir, round)
	}
}

func work(t *testing.T, dir string) {
	s, _, err := openService(t, dir)
	must(t, err)
	fmt.Println("ready")
	for i := 0; ; i++ {
		name := fmt.Sprintf("vol%d", i%7)
		_, err := s.Create(t.Context(), volume.CreateOptions{Name: name})
		must(t, err)
		must(t, s.Populate(t.Context(), name, "c", filepath.Join(dir, "src"), ""))
		if i%3 != 0 {
			must(t, s.Remove(t.Context(), name, false))
		}
	}
}

func checkAgree(t *testing.T, dir string, round int) {
	t.Helper()
	s, db, err := openService(t, dir)
	must(t, err)
	defer func() { must(t, db.Close()) }()
	vs, err := s.List(t.Context(), nil)
	must(t, err)
	known := map[string]bool{}
	for _, v := range vs {
		known[v.Name] = true
		// What was cut off is finished by the next use.
		if err := s.Populate(t.Context(), v.Name, "c", filepath.Join(dir, "src"), ""); err != nil {
			t.Errorf("round %d: %s: %v", round, v.Name, err)
		}
		es, err := os.ReadDir(v.Mountpoint)
		if err != nil || len(es) != 20 {
			t.Errorf("round %d: %s holds %d entries, %v", round, v.Name, len(es), err)
		}
	}
	es, err := os.ReadDir(filepath.Join(dir, "volumes"))
	must(t, err)
	for _, e := range es {
		if !known[e.Name()] {
			t.Errorf("round %d: %s belongs to no record", round, e.Name())
		}
	}
}

// A full disk under database and volumes: clear errors, nothing half-made, and
// removing a volume makes room again.
func TestFullDiskUnderEverything(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	s, db, err := openService(t, dir)
	must(t, err)
	_, err = s.Create(t.Context(), volume.CreateOptions{Name: "hog"})
	must(t, err)
	f, err := os.Create(filepath.Join(dir, "volumes", "hog", dataDir, "f"))
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	must(t, f.Close())

	var full error
	made := 1
	for i := 0; i < 1000 && full == nil; i++ {
		if _, full = s.Create(t.Context(), volume.CreateOptions{Name: fmt.Sprint("vol", i), Labels: map[string]string{"x": strings.Repeat("y", 5000)}}); full == nil {
			made++
		}
	}
	if full == nil || !strings.Contains(full.Error(), "no space left on device") {
		t.Fatalf("got %v", full)
	}
	t.Logf("after %d volumes: %v", made, full)
	agree := func(want int) {
		t.Helper()
		vs, err := s.List(t.Context(), nil)
		must(t, err)
		es, err := os.ReadDir(filepath.Join(dir, "volumes"))
		must(t, err)
		if len(vs) != want || len(es) != want {
			t.Errorf("%d volumes, %d folders, want %d", len(vs), len(es), want)
		}
	}
	agree(made)
	if err := s.Remove(t.Context(), "hog", false); err != nil {
		t.Fatalf("remove on a full disk: %v", err)
	}
	agree(made - 1)
	_, err = s.Create(t.Context(), volume.CreateOptions{Name: "again"})
	must(t, err)
	must(t, db.Close())
	s, db, err = openService(t, dir)
	must(t, err)
	agree(made)
	must(t, db.Close())
}

type otherDriver struct{ *Driver }

func (otherDriver) Name() string { return "other" }

func TestKillAtEveryStep(t *testing.T) {
	needRoot(t)
	drivertest.KillAtEveryStep(t, drivertest.CrashCase{
		Test: "TestKillAtEveryStep", NewDriver: newDriver,
		Points: map[string][]string{
			"snapshot":    {"local.copy.afterContent", "local.snapshot.copied", "local.snapshot.named"},
			"snapshot-rm": {"local.snapshotRemove.renamed"},
			"rollback":    {"local.copy.afterContent", "local.rollback.copied", "local.rollback.next", "local.rollback.kept", "local.rollback.placed"},
			"clone":       {"local.copy.afterContent", "local.clone.copied"},
			"move":        {"local.receive.made"},
		},
		Other: func(t *testing.T, dir string) volume.Driver {
			d, err := New(filepath.Join(dir, "others"), noResolver)
			must(t, err)
			return otherDriver{d}
		},
		Move: volume.MoveOptions{Driver: "other"},
		Clean: func(t *testing.T, dir string, known map[string][]string) {
			drivertest.CleanTrees(t, []string{filepath.Join(dir, "volumes"), filepath.Join(dir, "others")}, known)
		},
	})
}
