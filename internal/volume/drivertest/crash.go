package drivertest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/failpoint"
	"holdfast.dev/holdfast/internal/store"
	"holdfast.dev/holdfast/internal/volume"
	"holdfast.dev/holdfast/internal/volume/populate"
)

// Environment of a child that does one verb, to its end or to a failpoint.
const (
	envVerb = "HF_CRASH_VERB"
	envDir  = "HF_CRASH_DIR"
)

// CrashCase is a driver for KillAtEveryStep.
type CrashCase struct {
	Test      string // the name of the calling test: it is run as a child
	NewDriver func(t *testing.T, dir string) volume.Driver
	// Other, if not nil, is a second driver, and Move a way to it, or to another
	// place of the first.
	Other func(t *testing.T, dir string) volume.Driver
	Move  volume.MoveOptions
	// Points of the driver, by verb: snapshot, snapshot-rm, rollback, clone, rename.
	Points map[string][]string
	// Clean tells what must not be on disk when nothing is being done; it knows
	// the volumes and their snapshots.
	Clean func(t *testing.T, dir string, known map[string][]string)
}

// domainPoints are passed whatever the driver is.
var domainPoints = map[string][]string{
	"snapshot":    {"volume.snapshot.afterIntent", "volume.snapshot.afterDriver"},
	"snapshot-rm": {"volume.snapshotRemove.afterIntent", "volume.snapshotRemove.afterDriver"},
	"rollback":    {"volume.rollback.afterIntent", "volume.rollback.afterDriver"},
	"clone":       {"volume.create.afterIntent", "volume.create.afterDriver", "volume.fill.afterIntent", "volume.fill.afterContent"},
	"remove":      {"volume.rename.afterIntent", "volume.rename.afterDriver", "volume.rename.afterNewRecord"},
	"move": {
		"volume.move.afterIntent", "volume.move.afterCreate", "volume.move.afterFilling", "volume.move.afterSnapshots",
		"volume.move.afterContent", "volume.move.afterRecord", "volume.move.afterRemove",
	},
	"rename": {"volume.rename.afterIntent", "volume.rename.afterDriver", "volume.rename.afterNewRecord"},
}

type noEvents struct{}

func (noEvents) Publish(events.Message) {}

// open is a volume service over a real database, as the daemon has it.
func (c CrashCase) open(t *testing.T, dir string) (*volume.Service, func()) {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "meta.db"), store.Options{})
	must(t, err)
	drivers := []volume.Driver{c.NewDriver(t, dir)}
	if c.Other != nil {
		drivers = append(drivers, c.Other(t, dir))
	}
	s, err := volume.New(t.Context(), volume.Deps{ //nolint:forbidigo // test support: as the daemon does
		Clock: clock.System{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Events: noEvents{},
		Records: store.NewCollection[volume.Record](db, "volumes"), Populator: populate.Copier{}, Drivers: drivers,
		Trash: volume.TrashPolicy{Keep: time.Hour},
	})
	must(t, err)
	return s, func() { must(t, db.Close()) }
}

// KillAtEveryStep kills the daemon at every failpoint of every verb, and lets
// each fail at every one. After that the volume is the old or the new one,
// whole, with the snapshots that are on record and no others, and the verb works.
func KillAtEveryStep(t *testing.T, c CrashCase) {
	if verb := os.Getenv(envVerb); verb != "" {
		c.child(t, verb)
		return
	}
	program := filepath.Join(t.TempDir(), "child.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the child: %v\n%s", err, out)
	}
	for _, verb := range []string{"snapshot", "snapshot-rm", "rollback", "clone", "rename", "remove", "move"} {
		if verb == "move" && c.Move.Driver == "" && c.Move.Options == nil {
			continue
		}
		for _, point := range slices.Concat(domainPoints[verb], c.Points[verb]) {
			t.Run(verb+"/"+point, func(t *testing.T) { c.kill(t, program, verb, point) })
		}
	}
}

// child does the verb once more where the first failed, as users do.
func (c CrashCase) child(t *testing.T, verb string) {
	if !failpoint.Enabled {
		t.Fatal("built without failpoints")
	}
	s, closeDB := c.open(t, os.Getenv(envDir))
	err := c.do(t, s, verb)
	later := verb == "snapshot-rm" || verb == "rename" || verb == "remove"
	if err != nil && later {
		closeDB() // these are finished by the next start
		s, closeDB = c.open(t, os.Getenv(envDir))
	}
	// Where the driver or the next look could go on, it is done already.
	finished := err == nil || later
	err = c.do(t, s, verb)
	if verb == "rollback" && errdefs.IsConflict(err) || verb == "move" && errdefs.IsInvalidArgument(err) {
		finished = true
	}
	if err != nil && !finished {
		t.Errorf("after a failure: %v", err)
	}
	closeDB()
}

func (c CrashCase) do(t *testing.T, s *volume.Service, verb string) error {
	switch verb {
	case "snapshot":
		_, _, err := s.Snapshot(t.Context(), volume.SnapshotOptions{Volume: "data", Name: "new"})
		return err
	case "snapshot-rm":
		return s.RemoveSnapshot(t.Context(), "data", "first")
	case "rollback":
		_, _, err := s.Rollback(t.Context(), "data", "first", "kept")
		return err
	case "clone":
		_, _, err := s.Clone(t.Context(), volume.CloneOptions{Volume: "data", Snapshot: "first", To: "copy"})
		return err
	case "remove":
		return s.Remove(t.Context(), "data", false)
	case "move":
		c.Move.Volume = "data"
		_, err := s.Move(t.Context(), c.Move)
		return err
	case "rename":
		return s.Rename(t.Context(), "data", "moved")
	}
	t.Fatalf("verb %q", verb)
	return nil
}

func (c CrashCase) kill(t *testing.T, program, verb, point string) {
	for _, how := range []string{"kill", "1*error(broken)"} {
		dir := t.TempDir()
		s, closeDB := c.open(t, dir)
		_, err := s.Create(t.Context(), volume.CreateOptions{Name: "data", Labels: map[string]string{"a": "b"}})
		must(t, err)
		path, err := s.Mount(t.Context(), "data", "setup")
		must(t, err)
		Sample(t, path, "one")
		one := Describe(t, path)
		must(t, s.Unmount(t.Context(), "data", "setup"))
		_, _, err = s.Snapshot(t.Context(), volume.SnapshotOptions{Volume: "data", Name: "first"})
		must(t, err)
		path, err = s.Mount(t.Context(), "data", "setup")
		must(t, err)
		must(t, os.RemoveAll(filepath.Join(path, "sub")))
		write(t, filepath.Join(path, "two"), []byte("two"))
		two := Describe(t, path)
		must(t, s.Unmount(t.Context(), "data", "setup"))
		closeDB()

		cmd := exec.Command(program, "-test.run=^"+c.Test+"$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), envVerb+"="+verb, envDir+"="+dir, failpoint.EnvVar+"="+point+"="+how)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if how == "kill" != killed || how != "kill" && err != nil {
			t.Fatalf("%s at %s: %v\n%s", how, point, err, out)
		}
		c.check(t, dir, verb, one, two)
	}
}

// check opens the service as the next start does.
func (c CrashCase) check(t *testing.T, dir, verb, one, two string) {
	t.Helper()
	s, closeDB := c.open(t, dir)
	defer closeDB()
	if trash := s.InTrash(); verb == "remove" && len(trash) > 0 {
		if len(trash) > 1 || trash[0].Name != "data" {
			t.Errorf("in the trash: %+v", trash)
		}
		_, err := s.Undelete(t.Context(), "data", "")
		must(t, err)
	}
	vs, err := s.List(t.Context(), nil)
	must(t, err)
	known := map[string][]string{}
	for _, v := range vs {
		known[v.Name] = []string{}
		path, err := s.Mount(t.Context(), v.Name, "check")
		must(t, err)
		describe := Describe
		if verb == "move" {
			describe, one, two = sent, socketLine.ReplaceAllString(one, ""), socketLine.ReplaceAllString(two, "")
		}
		got := describe(t, path)
		snaps, err := s.Snapshots(t.Context(), v.Name)
		must(t, err)
		rolledBack := false
		for _, o := range snaps {
			known[v.Name] = append(known[v.Name], o.Name)
			want := map[string]string{"first": one, "new": two, "kept": two}[o.Name]
			Same(t, "snapshot "+o.Name, describe(t, o.Path), want)
			rolledBack = rolledBack || o.Name == "kept"
		}
		want := two
		if v.Name == "copy" || rolledBack {
			want = one
		}
		Same(t, "volume "+v.Name, got, want)
		must(t, s.Unmount(t.Context(), v.Name, "check"))
	}
	main := "data"
	if _, there := known[main]; !there && verb == "rename" {
		main = "moved"
	}
	if _, there := known[main]; !there || len(known) > 2 || len(known) == 2 && !slices.Contains([]string{"clone"}, verb) {
		t.Errorf("volumes: %v", known)
	}
	if !slices.Contains(known[main], "first") && verb != "snapshot-rm" {
		t.Errorf("snapshots: %v", known)
	}
	c.Clean(t, dir, known)
	if err := c.do(t, s, verb); err != nil && !settled(verb, known) && (verb != "move" || !errdefs.IsInvalidArgument(err)) {
		t.Errorf("%s afterwards: %v", verb, err)
	}
}

// settled says that the verb is done already, so that doing it again is refused.
func settled(verb string, known map[string][]string) bool {
	_, copied := known["copy"]
	_, moved := known["moved"]
	return copied || moved || verb == "snapshot-rm" && len(known["data"]) == 0 ||
		slices.ContainsFunc(known["data"], func(n string) bool { return n == "new" || n == "kept" })
}

// CleanTrees is Clean for volumes that can be in one of several places.
func CleanTrees(t *testing.T, roots []string, known map[string][]string) {
	t.Helper()
	found := map[string]int{}
	for _, root := range roots {
		in := map[string][]string{}
		for name, snaps := range known {
			if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
				found[name]++
				in[name] = snaps
			}
		}
		if _, err := os.Lstat(root); err == nil {
			CleanTree(t, root, in)
		}
	}
	for name := range known {
		if found[name] != 1 {
			t.Errorf("volume %s is at %d places", name, found[name])
		}
	}
}

// CleanTree is Clean for drivers that keep folders as docs/design/volumes.md says.
func CleanTree(t *testing.T, root string, known map[string][]string) {
	t.Helper()
	es, err := os.ReadDir(root)
	must(t, err)
	for _, e := range es {
		snaps, ok := known[e.Name()]
		if !ok {
			t.Errorf("%s belongs to no volume", e.Name())
			continue
		}
		in, err := os.ReadDir(filepath.Join(root, e.Name()))
		must(t, err)
		for _, f := range in {
			if strings.HasPrefix(f.Name(), ".") {
				t.Errorf("left in %s: %s", e.Name(), f.Name())
			}
		}
		have, err := os.ReadDir(filepath.Join(root, e.Name(), "_snapshots"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var names []string
		for _, f := range have {
			names = append(names, f.Name())
		}
		slices.Sort(snaps)
		if fmt.Sprint(names) != fmt.Sprint(snaps) {
			t.Errorf("%s: snapshots on disk %v, on record %v", e.Name(), names, snaps)
		}
	}
}
