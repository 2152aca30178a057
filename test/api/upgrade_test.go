package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"holdfast.dev/holdfast/internal/testkit"
)

// setSchema makes the database of a daemon that does not run one of another
// schema, and returns what it was. The records stay as they are: every schema so
// far reads those of the one before.
func setSchema(t *testing.T, path string, to int) (was int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("_meta"))
		if was, err = strconv.Atoi(string(b.Get([]byte("schema")))); err != nil {
			return err
		}
		return b.Put([]byte("schema"), []byte(strconv.Itoa(to)))
	})
	if cerr := db.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return was
}

// aLife makes one of everything that a record is kept of. The names are those in
// internal/daemon/testdata/schema-N.txt.
func aLife(d *testkit.Daemon) {
	d.Docker("network", "create", "--subnet", "10.97.0.0/24", "--gateway", "10.97.0.9", "--label", "team=db", "back")
	d.Docker("network", "create", "--internal", "--ipv6", "quiet")
	d.Docker("volume", "create", "--label", "team=db", "data")
	up(d, "--name", "db", "--network", "back", "--ip", "10.97.0.7", "--network-alias", "primary", "-v", "data:/data", "-v", "/anonymous", "-p", "127.0.0.1:15432:5432", "-e", "A=b",
		"--restart", "unless-stopped", "--memory", "64m", "--health-cmd", "test -f /data/ready", "--health-interval", "1s", "busybox",
		"sh", "-c", "touch /data/ready; i=0; while :; do echo $i; i=$((i+1)); usleep 50000; done")
	up(d, "--name", "job", "--log-driver", "local", "--label", "x=y", "busybox", "sh", "-c", "echo done; exit 3")
	d.Docker("create", "--name", "spare", "--network", "quiet", "--mount", "type=tmpfs,target=/t,tmpfs-size=1m", "--cap-drop", "NET_RAW", "--read-only", "busybox", "true")
	d.WaitState("job", "exited")
}

// countedUp is how far a container that counts has come; no number may lack.
func countedUp(t *testing.T, d *testkit.Daemon, name string) int {
	t.Helper()
	lines := strings.Fields(d.Docker("logs", name))
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d of %s is %q", i, name, line)
		}
	}
	return len(lines)
}

// An older daemon is killed under its containers; this one takes its records,
// backs the database up, and goes on with what runs. A newer one's records are
// left alone.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the database is ours")
	d := own(t, testkit.Options{})
	aLife(d)
	d.Eventually(settle, "healthy", func() (bool, string) {
		s := format(d, "db", "{{.State.Health.Status}}")
		return s == "healthy", s
	})
	pid, ip := format(d, "db", "{{.State.Pid}}"), format(d, "db", "{{.NetworkSettings.Networks.back.IPAddress}}")
	db := filepath.Join(d.Root(), "holdfast.db")

	d.Kill()
	if to := os.Getenv("HF_WRITE_FIXTURE"); to != "" { // for internal/daemon/testdata, see there
		b, err := os.ReadFile(db)
		if err == nil {
			err = os.WriteFile(to, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	newest := setSchema(t, db, 1)
	d.Start()
	if newest > 1 {
		if _, err := os.Stat(db + ".schema-1.bak"); err != nil {
			t.Errorf("no backup: %v", err)
		}
		if !strings.Contains(d.Logs(), "metadata database backed up") {
			t.Error("the log says nothing of a backup")
		}
	}
	equal(t, "the same process", format(d, "db", "{{.State.Status}} {{.State.Pid}} {{.NetworkSettings.Networks.back.IPAddress}}"), fmt.Sprintf("running %s %s", pid, ip))
	equal(t, "exec", d.Docker("exec", "db", "cat", "/data/ready"), "")
	equal(t, "the exited one", format(d, "job", "{{.State.ExitCode}}")+d.Docker("logs", "job"), "3done")
	equal(t, "the spare one", d.Docker("start", "-a", "spare"), "")
	before := countedUp(t, d, "db")
	d.Eventually(settle, "output goes on", func() (bool, string) {
		n := countedUp(t, d, "db")
		return n > before, fmt.Sprint(n)
	})

	d.Kill()
	if was := setSchema(t, db, newest+1); was != newest {
		t.Errorf("schema %d after the migration, want %d", was, newest)
	}
	if err := d.TryStart(); err == nil {
		t.Fatal("a newer daemon's database is taken")
	}
	if !strings.Contains(d.Logs(), fmt.Sprintf("has schema %d, made by a newer Holdfast; this one knows schemas up to %d: start the newer holdfastd", newest+1, newest)) {
		t.Errorf("refused without the reason:\n%s", d.Logs())
	}
	setSchema(t, db, newest)
	d.Start()
	equal(t, "the same process still", format(d, "db", "{{.State.Status}} {{.State.Pid}}"), "running "+pid)
}
