package api

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// btrfsDaemon is a daemon with a pool, and skips where there can be none.
func btrfsDaemon(t *testing.T, o testkit.Options) *testkit.Daemon {
	t.Helper()
	notOnTwin(t, "Holdfast's own")
	testkit.RequireProgram(t, "mkfs.btrfs")
	if !canMakePools() {
		t.Skip("needs a kernel with btrfs")
	}
	d := own(t, o)
	d.Holdfast("pool", "create", "--size", "512m", "--sparse", "default")
	return d
}

// canMakePools says whether this machine has what pools in files want.
func canMakePools() bool {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(b), "btrfs") {
		return false
	}
	_, err = exec.LookPath("mkfs.btrfs")
	return err == nil
}

func TestPoolsAndBtrfsVolumes(t *testing.T) {
	d := btrfsDaemon(t, testkit.Options{})
	contains(t, "ls", d.Holdfast("pool", "ls"), "default   file   536.9MB")
	contains(t, "inspect", d.Holdfast("pool", "inspect", "default"), `"kind": "file"`)
	holdfastFails(t, d, "pool default already exists", "pool", "create", "--size", "512m", "default")
	holdfastFails(t, d, "is on no btrfs", "pool", "create", "--directory", "/proc", "other")
	d.DockerFails("no such pool: nope", "volume", "create", "-d", "btrfs", "-o", "pool=nope", "data")

	d.Docker("volume", "create", "-d", "btrfs", "-o", "size=30m", "data")
	equal(t, "docker inspect", format(d, "data", "{{.Driver}} {{.Scope}} {{.Options.size}}"), "btrfs local 30m")
	up(d, "--name", "writer", "-v", "data:/d", "busybox", "sh", "-c", "echo one > /d/f; sleep 1000")
	d.Eventually(30*time.Second, "the file is there", func() (bool, string) {
		r := d.DockerResult("exec", "writer", "cat", "/d/f")
		return r.Out == "one\n", r.String()
	})
	// It runs, and the snapshot is one moment of it.
	d.Holdfast("volume", "snapshot", "create", "data@s1")
	equal(t, "consistency", d.Holdfast("volume", "snapshot", "ls", "--format", "{{.Name}} {{.Consistency}} {{.Method}}"), "data@s1 crash subvolume")
	d.Docker("exec", "writer", "sh", "-c", "echo two > /d/f")
	d.Holdfast("volume", "clone", "data", "copy")
	equal(t, "clone while it runs", d.Docker("run", "--rm", "-v", "copy:/d", "-v", "data@s1:/s:ro", "busybox", "cat", "/d/f", "/s/f"), "two\none")
	r := d.DockerResult("exec", "writer", "sh", "-c", "dd if=/dev/urandom of=/d/big bs=1M count=60 conv=fsync")
	if r.Code == 0 || !strings.Contains(r.Err, "uota") {
		t.Errorf("60 MB in a volume of 30: %s", r)
	}
	d.Docker("exec", "writer", "sh", "-c", "rm /d/big; sync")
	d.Holdfast("volume", "resize", "data", "100m")
	d.Docker("exec", "writer", "sh", "-c", "dd if=/dev/urandom of=/d/big bs=1M count=60 conv=fsync 2>/dev/null")
	equal(t, "it says so", format(d, "data", "{{.Options.size}}"), "104857600")
	tar := d.Run("", "holdfast", "volume", "export", "data") // while it runs: from a snapshot of its own
	if tar.Code != 0 || len(tar.Out) < 60<<20 {
		t.Errorf("export: exit %d, %d bytes, %s", tar.Code, len(tar.Out), tar.Err)
	}

	d.KillAndStart()
	equal(t, "runs on after kill -9", d.Docker("exec", "writer", "cat", "/d/f"), "two")
	d.Docker("stop", "-t", "0", "writer")
	d.Holdfast("volume", "snapshot", "rollback", "--keep", "k1", "data@s1")
	d.Docker("start", "writer")
	equal(t, "rolled back", d.Docker("exec", "writer", "sh", "-c", "ls /d"), "f")
	d.Docker("rm", "-f", "writer")
	contains(t, "df", d.Docker("system", "df", "-v"), "copy")

	holdfastFails(t, d, "holds volumes [copy, data]", "pool", "rm", "default")
	contains(t, "grow", d.Holdfast("pool", "grow", "default", "700m"), "734MB")
	contains(t, "check", d.Holdfast("pool", "check", "default"), "0 errors")
	d.Holdfast("volume", "snapshot", "prune", "-f", "--all")
	d.Docker("volume", "rm", "data")
	equal(t, "the clone does not need it", d.Docker("run", "--rm", "-v", "copy:/d", "busybox", "cat", "/d/f"), "two")
	d.Docker("volume", "rm", "copy")
	holdfastFails(t, d, "holds 2 removed volumes in the trash", "pool", "rm", "default")
	d.Holdfast("volume", "undelete", "copy")
	equal(t, "undeleted", d.Docker("run", "--rm", "-v", "copy:/d", "busybox", "cat", "/d/f"), "two")
	d.Docker("volume", "rm", "copy")
	d.Holdfast("volume", "trash", "empty", "-f")
	d.Holdfast("pool", "rm", "default")
	equal(t, "gone", d.Holdfast("pool", "ls", "-q"), "")
	d.DockerFails("there is no pool default yet", "volume", "create", "-d", "btrfs", "data")
}

func TestDefaultVolumeDriver(t *testing.T) {
	d := btrfsDaemon(t, testkit.Options{Config: map[string]any{"default-volume-driver": "btrfs"}})
	d.Docker("run", "--rm", "-v", "named:/d", "busybox", "sh", "-c", "echo x > /d/f")
	equal(t, "driver", format(d, "named", "{{.Driver}}"), "btrfs")
	d.Docker("volume", "create", "-d", "local", "plain")
	equal(t, "driver", format(d, "plain", "{{.Driver}}"), "local")
	d.Docker("volume", "rm", "named", "plain")
	d.Holdfast("volume", "trash", "empty", "-f")
	d.Holdfast("pool", "rm", "default")
}

// A volume goes to a pool, to another and back to a directory, with its snapshots,
// and the container that refers to it goes with it.
func TestVolumeMove(t *testing.T) {
	d := btrfsDaemon(t, testkit.Options{})
	d.Holdfast("pool", "create", "--size", "300m", "--sparse", "other")
	d.Docker("run", "--name", "user", "-v", "data:/d", "busybox", "sh", "-c", "echo one > /d/f; chown 70:71 /d/f; mkdir /d/sub; ln /d/f /d/sub/hard; chmod 4711 /d/f")
	look := []string{"sh", "-c", "cat /d/f; stat -c '%a %u:%g %h' /d/f"}
	want := d.Docker(append([]string{"run", "--rm", "-v", "data:/d", "busybox"}, look...)...)
	d.Holdfast("volume", "snapshot", "create", "data@s1")
	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "touch /d/new")
	d.Holdfast("volume", "snapshot", "create", "data@s2")

	holdfastFails(t, d, "no such pool: nope", "volume", "mv", "--pool", "nope", "data")
	holdfastFails(t, d, "there already", "volume", "mv", "--driver", "local", "data")
	up(d, "--name", "runs", "-v", "data:/d", "busybox", "sleep", "1000")
	holdfastFails(t, d, "stop them first", "volume", "mv", "--pool", "default", "data")
	d.Docker("rm", "-f", "runs")
	for _, to := range []struct{ flag, place, driver string }{
		{"--pool=default", "default", "btrfs"},
		{"--pool=other", "other", "btrfs"},
		{"--driver=local", "volumes", "local"},
	} {
		equal(t, to.flag, d.Holdfast("volume", "mv", to.flag, "data"), "data")
		equal(t, "driver", format(d, "data", "{{.Driver}}"), to.driver)
		where := d.Docker("inspect", "--format", "{{(index .Mounts 0).Driver}} {{(index .Mounts 0).Source}}", "user")
		equal(t, "inspect of its container", where, to.driver+" "+format(d, "data", "{{.Mountpoint}}"))
		contains(t, "place", where, to.place+"/")
		equal(t, "snapshots", d.Holdfast("volume", "snapshot", "ls", "--format", "{{.Name}}", "data"), "data@s1\ndata@s2")
		d.KillAndStart()
		equal(t, "content", d.Docker(append([]string{"run", "--rm", "-v", "data:/d", "busybox"}, look...)...), want)
		equal(t, "of its snapshots", d.Docker("run", "--rm", "-v", "data@s1:/s1:ro", "-v", "data@s2:/s2:ro", "busybox", "sh", "-c", "ls /s1; ls /s2"), "f\nsub\nf\nnew\nsub")
		d.Docker("start", "-a", "user") // it makes sub a second time and goes on
	}
	d.Docker("rm", "user")
	d.Docker("volume", "rm", "data")
	d.Holdfast("volume", "trash", "empty", "-f")
	d.Holdfast("pool", "rm", "default")
	d.Holdfast("pool", "rm", "other")
}
