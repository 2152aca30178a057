package api

import (
	"os"
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
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(b), "btrfs") {
		t.Skip("needs a kernel with btrfs")
	}
	d := own(t, o)
	d.Holdfast("pool", "create", "--size", "512m", "--sparse", "default")
	return d
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
