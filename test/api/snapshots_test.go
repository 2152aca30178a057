package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

func holdfastFails(t *testing.T, d *testkit.Daemon, text string, args ...string) {
	t.Helper()
	r := d.Run("", "holdfast", args...)
	if r.Code == 0 || !strings.Contains(r.Err, text) {
		t.Errorf("want a failure that says %q, got %s", text, r)
	}
}

func TestSnapshotRollbackClone(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "snap1:/d", "busybox", "sh", "-c", "echo one > /d/f; chown 70:70 /d")
	equal(t, "create", d.Holdfast("volume", "snapshot", "create", "--label", "a=b", "snap1@before"), "snap1@before")
	d.Docker("run", "--rm", "-v", "snap1:/d", "busybox", "sh", "-c", "echo two > /d/f; mkdir /d/new")

	show := []string{"sh", "-c", "cat /d/f; touch /d/x 2>/dev/null || echo read-only; stat -c %u /d"}
	equal(t, "-v", d.Docker(append([]string{"run", "--rm", "-v", "snap1@before:/d:ro", "busybox"}, show...)...), "one\nread-only\n70")
	equal(t, "--mount", d.Docker(append([]string{"run", "--rm", "--mount", "type=volume,source=snap1@before,target=/d,ro", "busybox"}, show...)...), "one\nread-only\n70")
	d.DockerFails("snap1@before is a snapshot and read-only: mount it with ro, or clone it", "run", "--rm", "-v", "snap1@before:/d", "busybox", "true")
	d.DockerFails("get snap1@nope: no such snapshot", "run", "--rm", "-v", "snap1@nope:/d:ro", "busybox", "true")
	equal(t, "nothing is left of those", d.Docker("ps", "-aq", "--filter", "volume=snap1@before"), "")

	equal(t, "clone", d.Holdfast("volume", "clone", "snap1@before", "snap1-copy"), "snap1-copy")
	equal(t, "its content", d.Docker("run", "--rm", "-v", "snap1-copy:/d", "busybox", "cat", "/d/f"), "one")
	d.Holdfast("volume", "clone", "snap1", "snap1-now")
	equal(t, "of the present state", d.Docker("run", "--rm", "-v", "snap1-now:/d", "busybox", "cat", "/d/f"), "two")

	up(d, "--name", "user", "-v", "snap1:/d", "busybox", "sleep", "1000")
	holdfastFails(t, d, "stop them first", "volume", "snapshot", "rollback", "snap1@before")
	holdfastFails(t, d, "cannot be copied as of one moment", "volume", "snapshot", "create", "snap1")
	holdfastFails(t, d, "cannot be copied as of one moment", "volume", "clone", "snap1", "nope")
	d.Holdfast("volume", "snapshot", "create", "--live", "snap1@live")
	d.Docker("stop", "-t", "0", "user")
	equal(t, "rollback", d.Holdfast("volume", "snapshot", "rollback", "--keep", "kept", "snap1@before"), "snap1")
	d.Docker("start", "user")
	equal(t, "the container finds the old state", d.Docker("exec", "user", "sh", "-c", "cat /d/f; ls /d"), "one\nf")
	d.Docker("rm", "-f", "user")
	equal(t, "what it replaced", d.Docker("run", "--rm", "-v", "snap1@kept:/d:ro", "busybox", "sh", "-c", "cat /d/f; ls /d"), "two\nf\nnew")
	equal(t, "ls", d.Holdfast("volume", "snapshot", "ls", "--format", "{{.Name}} {{.Consistency}}", "snap1"), "snap1@before clean\nsnap1@live live\nsnap1@kept clean")
	contains(t, "inspect", d.Holdfast("volume", "snapshot", "inspect", "snap1@before"), `"a": "b"`)
	equal(t, "docker's list knows none of it", d.Docker("volume", "ls", "-q", "--filter", "name=snap1"), "snap1\nsnap1-copy\nsnap1-now")

	d.Docker("create", "--name", "reader", "-v", "snap1@before:/d:ro", "busybox")
	holdfastFails(t, d, "snapshot before of volume snap1 is in use", "volume", "snapshot", "rm", "snap1@before")
	d.Docker("rm", "reader")
	d.Holdfast("volume", "protect", "snap1@before")
	equal(t, "prune", d.Holdfast("volume", "snapshot", "prune", "-f", "--all", "snap1"), "snap1@live\nsnap1@kept")
	d.Holdfast("volume", "unprotect", "snap1@before")
	d.Holdfast("volume", "snapshot", "rm", "snap1@before")
	d.Docker("volume", "rm", "snap1", "snap1-copy", "snap1-now")
}

func TestProtectAndRename(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "prot:/d", "busybox", "sh", "-c", "echo kept > /d/f")
	d.Holdfast("volume", "protect", "prot")
	d.DockerFails("volume is protected", "volume", "rm", "prot")
	d.DockerFails("volume is protected", "volume", "rm", "-f", "prot")
	d.Docker("create", "--name", "refers", "-v", "prot:/d", "busybox")
	holdfastFails(t, d, "volume is in use", "volume", "rename", "prot", "prot2")
	d.Docker("rm", "refers")
	d.Holdfast("volume", "snapshot", "create", "prot@s1")
	d.Holdfast("volume", "rename", "prot", "prot2")
	equal(t, "renamed", d.Docker("run", "--rm", "-v", "prot2:/d", "-v", "prot2@s1:/s:ro", "busybox", "cat", "/d/f", "/s/f"), "kept\nkept")
	d.DockerFails("no such volume", "volume", "inspect", "prot")
	holdfastFails(t, d, "invalid characters", "volume", "rename", "prot2", "a/b")
	d.Holdfast("volume", "snapshot", "rm", "prot2@s1")
	d.Holdfast("volume", "unprotect", "prot2")
	d.Docker("volume", "rm", "prot2")
}

func TestExportImport(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	d.Docker("run", "--rm", "-v", "exp:/d", "busybox", "sh", "-c", "mkdir -p /d/a/b; echo deep > /d/a/b/f; ln /d/a/b/f /d/hard; ln -s a/b /d/sym; chown -R 70:71 /d; mkfifo /d/fifo; chmod 2750 /d/a")
	look := []string{"sh", "-c", "cat /d/sym/f; stat -c '%n %a %u:%g %h' /d /d/a /d/hard /d/fifo"}
	want := d.Docker(append([]string{"run", "--rm", "-v", "exp:/d", "busybox"}, look...)...)
	for _, file := range []string{"plain.tar", "small.tar.zst"} {
		path := filepath.Join(t.TempDir(), file)
		d.Holdfast("volume", "export", "-o", path, "exp")
		d.Holdfast("volume", "import", "--label", "from="+file, "imp", path)
		equal(t, file, d.Docker(append([]string{"run", "--rm", "-v", "imp:/d", "busybox"}, look...)...), want)
		equal(t, "label", format(d, "imp", `{{index .Labels "from"}}`), file)
		d.Docker("volume", "rm", "imp")
		if es, err := os.ReadDir(filepath.Dir(path)); err != nil || len(es) != 1 {
			t.Errorf("beside it: %v, %v", es, err)
		}
	}
	tar := d.Run("", "holdfast", "volume", "export", "exp").Out
	if r := d.Run(tar, "holdfast", "volume", "import", "piped"); r.Code != 0 {
		t.Fatal(r)
	}
	equal(t, "by pipes", d.Docker(append([]string{"run", "--rm", "-v", "piped:/d", "busybox"}, look...)...), want)
	for name, stdin := range map[string]string{"cut off": tar[:len(tar)/2], "no tar": "hello"} {
		r := d.Run(stdin, "holdfast", "volume", "import", "bad")
		if r.Code == 0 || !strings.Contains(r.Err, "this is no tar that can be imported") {
			t.Errorf("%s: %s", name, r)
		}
		d.DockerFails("no such volume", "volume", "inspect", "bad")
	}
	holdfastFails(t, d, "volume piped already exists", "volume", "import", "piped", "/dev/null")
	up(d, "--name", "writer", "-v", "exp:/d", "busybox", "sleep", "1000")
	holdfastFails(t, d, "in use by running containers", "volume", "export", "-o", filepath.Join(t.TempDir(), "no.tar"), "exp")
	d.Docker("rm", "-f", "writer")
	d.Docker("volume", "rm", "exp", "piped")
}

// Snapshots, protection and what containers hold are there after kill -9.
func TestSnapshotsSurviveKill(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo one > /d/f")
	d.Holdfast("volume", "snapshot", "create", "data@s1")
	d.Holdfast("volume", "protect", "data")
	up(d, "--name", "reader", "-v", "data@s1:/d:ro", "busybox", "sleep", "1000")
	d.KillAndStart()
	equal(t, "it runs on", d.Docker("exec", "reader", "cat", "/d/f"), "one")
	holdfastFails(t, d, "is in use", "volume", "snapshot", "rm", "data@s1")
	d.DockerFails("data: volume is in use", "volume", "rm", "data")
	d.Docker("rm", "-f", "reader")
	d.DockerFails("volume is protected", "volume", "rm", "data")
	d.Holdfast("volume", "unprotect", "data")
	d.Holdfast("volume", "snapshot", "rm", "data@s1")
	d.Docker("volume", "rm", "data")
}

func TestTrash(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	d.Docker("run", "--rm", "-v", "data:/d", "-v", "/anon", "busybox", "sh", "-c", "echo one > /d/f")
	d.Holdfast("volume", "snapshot", "create", "data@s1")
	d.Docker("volume", "rm", "data")
	equal(t, "gone for docker", d.Docker("volume", "ls", "-q"), "")
	d.DockerFails("no such volume", "volume", "rm", "data")
	// The name is free at once, and nothing of the old volume is in the new one.
	equal(t, "a new one", d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "ls /d; echo two > /d/f"), "")
	contains(t, "trash", d.Holdfast("volume", "trash", "ls"), "data")
	holdfastFails(t, d, "volume data already exists", "volume", "undelete", "data")
	d.KillAndStart()
	equal(t, "undelete", d.Holdfast("volume", "undelete", "data", "old"), "old")
	equal(t, "with its snapshot", d.Docker("run", "--rm", "-v", "old:/d", "-v", "old@s1:/s:ro", "-v", "data:/n", "busybox", "cat", "/d/f", "/s/f", "/n/f"), "one\none\ntwo")
	equal(t, "prune -a", d.Docker("volume", "prune", "-af")[:16], "Deleted Volumes:")
	if n := len(strings.Fields(d.Holdfast("volume", "trash", "ls", "-q"))); n != 2 {
		t.Errorf("%d volumes in the trash", n)
	}
	d.Holdfast("volume", "trash", "rm", "old")
	equal(t, "empty", d.Holdfast("volume", "trash", "empty", "-f"), "data")
	es, err := os.ReadDir(d.Path(filepath.Join(d.Root(), "volumes")))
	if err != nil || len(es) != 0 {
		t.Errorf("left on disk: %v, %v", es, err)
	}
}
