package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// repository makes one in a directory and tells where it is.
func repository(t *testing.T, d *testkit.Daemon, name string) (dir string) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("Tr0ub4dor-and-3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "repo")
	equal(t, "add", d.Holdfast("volume", "backup-repo", "add", "--password-file", secret, name, dir), name)
	return dir
}

func backupsOf(t *testing.T, d *testkit.Daemon, volume string) (out api.BackupList) {
	t.Helper()
	decode(t, []byte(d.Holdfast("volume", "backups", "--json", volume)), &out)
	return out
}

func TestBackupRestoreVerify(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	d.Docker("volume", "create", "data")
	holdfastFails(t, d, "there is no repository for backups", "volume", "backup", "data")
	dir := repository(t, d, "nas")
	contains(t, "ls", d.Holdfast("volume", "backup-repo", "ls"), dir)

	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "mkdir /d/sub; echo one > /d/sub/f; ln /d/sub/f /d/same; ln -s sub /d/link; chown 70:71 /d/sub; dd if=/dev/urandom of=/d/big bs=1M count=3 2>/dev/null; chmod 600 /d/big")
	first := d.Holdfast("volume", "backup", "--tag", "before", "data")
	b := backupsOf(t, d, "data").Backups
	if len(b) != 1 || b[0].ID != first || b[0].Consistency != "clean" || b[0].Verified != nil || b[0].Tag != "before" || b[0].Files != 2 {
		t.Fatalf("backups: %+v", b)
	}
	contains(t, "a listing says that nobody looked", d.Holdfast("volume", "backups"), "NOT VERIFIED")
	contains(t, "verify", d.Holdfast("volume", "verify", first[:8]), "data: good, 2 files")
	contains(t, "a listing says that it is good", d.Holdfast("volume", "backups"), "good, ")
	equal(t, "nothing is left of the scratch volume", d.Docker("volume", "ls", "-q"), "data")

	// A container writes meanwhile: that is said.
	up(d, "--name", "user", "-v", "data:/d", "busybox", "sleep", "1000")
	d.Docker("exec", "user", "sh", "-c", "echo two > /d/sub/f")
	second := d.Holdfast("volume", "backup", "data")
	b = backupsOf(t, d, "data").Backups
	if len(b) != 2 || b[1].Consistency != "live" || b[1].ReadFiles == 0 || b[1].StoredBytes > 1<<20 {
		t.Errorf("the second backup: %+v", b)
	}

	// Held still for a moment, it is one: a snapshot is read.
	third := d.Holdfast("volume", "backup", "--quiesce=freeze", "data")
	if b = backupsOf(t, d, "data").Backups; len(b) != 3 || b[2].Consistency != "crash" || b[2].From != "snapshot" || b[2].Hook != "freeze" || b[2].PausedNanos <= 0 {
		t.Errorf("the third backup: %+v", b)
	}
	equal(t, "its snapshot is gone", d.Holdfast("volume", "snapshot", "ls", "-q", "data"), "")
	holdfastFails(t, d, `invalid --quiesce "maybe"`, "volume", "backup", "--quiesce=maybe", "data")
	d.Holdfast("volume", "backups", "rm", third)

	// A restore overwrites nothing unless told, and keeps what it replaces.
	holdfastFails(t, d, "volume data is there: restore to another (--to), or say that it shall be replaced", "volume", "restore", first)
	holdfastFails(t, d, "in use by running containers", "volume", "restore", "--replace", first)
	equal(t, "restore to another", d.Holdfast("volume", "restore", "--to", "copy", first), "copy")
	show := []string{"sh", "-c", "cat /d/sub/f /d/same /d/link/f; stat -c '%u:%g' /d/sub; stat -c '%a' /d/big"}
	equal(t, "the copy", d.Docker(append([]string{"run", "--rm", "-v", "copy:/d", "busybox"}, show...)...), "one\none\none\n70:71\n600")
	d.Docker("stop", "-t", "0", "user")
	equal(t, "replace", d.Holdfast("volume", "restore", "--replace", first), "data")
	d.Docker("start", "user")
	equal(t, "the container finds the backup", d.Docker("exec", "user", "cat", "/d/sub/f"), "one")
	d.Docker("rm", "-f", "user")
	d.Holdfast("volume", "undelete", "data", "replaced")
	equal(t, "what was replaced", d.Docker("run", "--rm", "-v", "replaced:/d", "busybox", "cat", "/d/sub/f"), "two")

	equal(t, "remove", d.Holdfast("volume", "backups", "rm", second), second)
	holdfastFails(t, d, "no such backup", "volume", "verify", second)
	holdfastFails(t, d, "no such volume", "volume", "backup", "nope")

	// No secret in what is shown, in records or in the log.
	for what, text := range map[string]string{
		"the log": d.Logs(), "the list": d.Holdfast("volume", "backups", "--json"), "the repositories": d.Holdfast("volume", "backup-repo", "ls"),
	} {
		if strings.Contains(text, "Tr0ub4dor") {
			t.Errorf("the password is in %s", what)
		}
	}

	// A repository that is away hides nothing else, and says so.
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	r := d.Run("", "holdfast", "volume", "backups")
	if r.Code == 0 || !strings.Contains(r.Err, "repository nas") {
		t.Errorf("with the repository away: %s", r)
	}
	holdfastFails(t, d, "repository nas", "volume", "backup", "data")
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if list := backupsOf(t, d, ""); len(list.Backups) != 1 || len(list.Failed) != 0 {
		t.Errorf("with the repository back: %+v", list)
	}
	equal(t, "forget", d.Holdfast("volume", "backup-repo", "rm", "nas"), "nas")
	holdfastFails(t, d, "there is no repository for backups", "volume", "backup", "data")
}

// A daemon that is killed in the middle leaves the volumes as they were, and the next
// one can do it again.
func TestAKilledDaemonLeavesNoHalfRestore(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	repository(t, d, "nas")
	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "for i in $(seq 400); do dd if=/dev/urandom of=/d/f$i bs=64k count=4 2>/dev/null; done; echo one > /d/mark")
	done := make(chan testkit.Result, 1)
	go func() { done <- d.Run("", "holdfast", "volume", "backup", "data") }()
	working := func(what string, glob ...string) {
		t.Helper()
		d.Eventually(settle, what, func() (bool, string) {
			for _, g := range glob {
				if found, _ := filepath.Glob(g); len(found) > 0 {
					return true, ""
				}
			}
			return len(done) > 0, "not yet"
		})
	}
	working("a backup at work", filepath.Join(d.Root(), "backups", "nas", "*"))
	d.KillAndStart()
	<-done
	id := d.Holdfast("volume", "backup", "data")
	contains(t, "after the kill", d.Holdfast("volume", "verify", id), "good, 401 files")

	d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo two > /d/mark")
	go func() { done <- d.Run("", "holdfast", "volume", "restore", "--replace", id) }()
	working("a restore at work", filepath.Join(d.Root(), "volumes", "data.restoring-*", "_data", "f1*"))
	d.KillAndStart()
	r := <-done
	mark := d.Docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "cat /d/mark; ls /d | wc -l")
	if want := "two\n401"; r.Code != 0 && mark != want && mark != "one\n401" {
		t.Errorf("after a kill in the middle of a restore: %q", mark)
	}
	equal(t, "no half volume", d.Docker("volume", "ls", "-q"), "data")
	if left, _ := filepath.Glob(filepath.Join(d.Root(), "volumes", "*restoring*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	d.Holdfast("volume", "restore", "--replace", id)
	equal(t, "again", d.Docker("run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/mark"), "one")
}

func TestBackupsBySchedule(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{Config: map[string]any{"backup": map[string]any{"keep": "last=2"}}})
	repository(t, d, "nas")
	d.Docker("volume", "create", "--label", "holdfast.backup.schedule=@daily", "kept")
	d.Docker("volume", "create", "--label", "holdfast.backup.schedule=now and then", "bad")
	got := map[string]string{}
	for _, s := range backupsOf(t, d, "").Schedules {
		got[s.Volume] = s.Schedule
	}
	if len(got) != 2 || got["kept"] != "@daily" || got["bad"] != "now and then" {
		t.Errorf("schedules: %v", got)
	}
	contains(t, "listing", d.Holdfast("volume", "backups", "kept"), "@daily")
}
