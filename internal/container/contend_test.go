package container

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"
)

// others gives goroutines that wait for a lock the time to come to it: a
// bubble's clock stands still meanwhile.
func others() {
	for range 1000 {
		runtime.Gosched()
	}
}

// A forced removal that finds the container on its way up ends it all the same.
func TestForcedRemoveMeetsAStart(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("web", nil)
		entered, release := make(chan struct{}), make(chan struct{})
		m.onRun = func(string) { close(entered); <-release }
		started := make(chan error)
		go func() { started <- d.Start(t.Context(), "web") }()
		<-entered
		removed := make(chan error)
		go func() { removed <- d.Remove(t.Context(), "web", RemoveOptions{Force: true}) }()
		others()
		close(release)
		if err := <-started; err != nil {
			t.Errorf("start: %v", err)
		}
		if err := <-removed; err != nil {
			t.Errorf("remove: %v", err)
		}
	})
}

// A rename that waited for a removal must not bring the record back, nor keep
// the name.
func TestRenameMeetsARemoval(t *testing.T) {
	world(t, func(m *machine, d *daemon) {
		d.create("old", nil)
		c, err := d.lookup("old")
		d.must(err)
		c.op.Lock()
		renamed := make(chan error)
		go func() { renamed <- d.Rename(t.Context(), "old", "new") }()
		others()
		d.must(d.remove(t.Context(), c, false))
		c.op.Unlock()
		if err := <-renamed; !errdefs.IsNotFound(err) {
			t.Errorf("rename of a removed container: %v", err)
		}
		if len(m.records) != 0 {
			t.Errorf("records %v", m.records)
		}
		d.create("new", nil)
	})
}

// What fills the disk must be stoppable: that the intent cannot be written down
// is no reason to let it run on.
func TestStopWithAFullDisk(t *testing.T) {
	for _, paused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(t)
			d := m.start(t, nil)
			defer d.stop()
			d.create("log", nil)
			d.must(d.Start(t.Context(), "log"))
			if paused {
				d.must(d.Pause(t.Context(), "log"))
			}
			synctest.Wait()
			m.mu.Lock()
			d.fault = func(_ int, call string) verdict {
				if call == "records.put" {
					return failBefore
				}
				return goOn
			}
			m.mu.Unlock()
			if err := d.Stop(t.Context(), "log", "", nil); err != nil {
				t.Errorf("stop (paused: %v): %v", paused, err)
			}
			if st := d.state("log"); st.Running || st.Paused {
				t.Errorf("state (paused: %v) %+v", paused, st)
			}
		})
	}
}

// A signal that cannot be sent leaves a frozen container frozen.
func TestUnsentSignalLeavesThePhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		defer d.stop()
		id := d.create("frozen", nil)
		d.must(d.Start(t.Context(), id))
		d.must(d.Pause(t.Context(), id))
		synctest.Wait()
		m.mu.Lock()
		d.fault = func(_ int, call string) verdict {
			if strings.HasPrefix(call, "runtime.kill") {
				return failBefore
			}
			return goOn
		}
		m.mu.Unlock()
		if err := d.Stop(t.Context(), id, "", nil); !errors.Is(err, errInjected) {
			t.Errorf("stop: %v", err)
		}
		if st := d.state(id); !st.Paused {
			t.Errorf("state %+v, want paused", st)
		}
		m.mu.Lock()
		d.fault = nil
		m.mu.Unlock()
		d.must(d.Unpause(t.Context(), id))
		// It was not stopped, so its restart policy holds.
		c, err := d.lookup(id)
		d.must(err)
		if c.noRestart {
			t.Error("the restart policy is given up")
		}
	})
}

// A container whose layer is gone, by a fault outside of us, keeps its record:
// its settings, and its claim on volumes, are all that is left of it.
func TestLostLayerKeepsTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		id := d.create("db", plainDB)
		d.must(d.Start(t.Context(), id))
		d.must(d.Stop(t.Context(), id, "", nil))
		synctest.Wait()
		d.stop()
		m.mu.Lock()
		delete(m.layers, id)
		m.mu.Unlock()

		next := m.start(t, nil)
		defer next.stop()
		time.Sleep(time.Minute)
		if st := next.state(id); st.Status != container.StateExited {
			t.Errorf("state %+v", st)
		}
		if !m.vols["anon0"].refs[id] {
			t.Error("its volume is let go")
		}
		next.must(next.Remove(t.Context(), id, RemoveOptions{}))
		if len(m.records) != 0 {
			t.Errorf("records %v", m.records)
		}
	})
}

// A container that shares the volume may exchange the directory for a link
// while another starts; that one gets the directory that was checked.
func TestSubpathCannotBeExchanged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		d := m.start(t, nil)
		defer d.stop()
		volume := filepath.Join(m.root, "vol", "shared")
		d.must(os.MkdirAll(filepath.Join(volume, "sub"), 0o755))
		inside, err := os.Stat(filepath.Join(volume, "sub"))
		d.must(err)
		m.onCreate = func(c TaskConfig) error {
			if err := os.Rename(filepath.Join(volume, "sub"), filepath.Join(volume, "away")); err != nil {
				return err
			}
			if err := os.Symlink("/", filepath.Join(volume, "sub")); err != nil {
				return err
			}
			for _, mt := range c.Spec.Mounts {
				if mt.Destination != "/s" {
					continue
				}
				got, err := os.Stat(mt.Source)
				if err != nil {
					return err
				}
				if !os.SameFile(got, inside) {
					return errors.New("the mount's source is not the directory of the volume")
				}
				return nil
			}
			return errors.New("the mount is missing")
		}
		d.create("victim", func(_ *container.Config, h *container.HostConfig) {
			h.Mounts = []mount.Mount{{
				Type: mount.TypeVolume, Source: "shared", Target: "/s",
				VolumeOptions: &mount.VolumeOptions{Subpath: "sub", NoCopy: true},
			}}
		})
		d.must(d.Start(t.Context(), "victim"))
		if left, err := os.ReadDir(d.sourcesDir()); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// A daemon that died while it held a part of a volume leaves a mount; what is
// behind it must survive its removal.
func TestHeldSubpathIsSwept(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	m := newMachine(t)
	d := m.start(t, nil)
	volume := filepath.Join(m.root, "vol", "data")
	d.must(os.MkdirAll(filepath.Join(volume, "sub"), 0o755))
	d.must(os.WriteFile(filepath.Join(volume, "sub", "file"), []byte("precious"), 0o644))
	for n, sub := range []string{"sub", "sub/file"} {
		if _, _, err := d.holdSubpath(strings.Repeat("a", 64), n, volume, sub); err != nil {
			t.Fatal(err)
		}
	}
	d.stop()
	next := m.start(t, nil)
	defer next.stop()
	if left, err := os.ReadDir(next.sourcesDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(volume, "sub", "file")); err != nil || string(b) != "precious" {
		t.Errorf("the volume's file: %q, %v", b, err)
	}
}

// The file that names the users is the image's: it may be anything.
func TestAccountsThatAreNoFile(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "etc/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := lookupUser(root, "root", nil)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("error %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for somebody to write to the pipe")
	}
}

// A stop, a kill or an exec that finds the container on its way up, as a restart
// policy may have it at any moment, waits for that and does not take it for one
// at rest.
func TestVerbsMeetAStart(t *testing.T) {
	for name, verb := range map[string]func(*daemon) error{
		"stop": func(d *daemon) error { return d.Stop(t.Context(), "web", "", nil) },
		"kill": func(d *daemon) error { return d.Kill(t.Context(), "web", "") },
		"exec": func(d *daemon) error {
			_, err := d.ExecCreate(t.Context(), "web", container.ExecCreateRequest{Cmd: []string{"true"}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, func(m *machine, d *daemon) {
				d.create("web", nil)
				entered, release := make(chan struct{}), make(chan struct{})
				m.onRun = func(string) { close(entered); <-release }
				started, done := make(chan error), make(chan error)
				go func() { started <- d.Start(t.Context(), "web") }()
				<-entered
				go func() { done <- verb(d) }()
				others()
				close(release)
				if err := <-started; err != nil {
					t.Errorf("start: %v", err)
				}
				if err := <-done; err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if c, err := d.lookup("web"); err != nil || name != "exec" && c.record().Phase != Exited {
					t.Errorf("after %s: %v %v", name, c.record().Phase, err)
				}
			})
		})
	}
}
