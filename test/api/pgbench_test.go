package api

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// bench is a Postgres in a container, with a volume, that pgbench writes to.
type bench struct {
	*testkit.Daemon
	t      *testing.T
	volume string
}

// newBench makes a database with checksums on the volume, which is there.
func newBench(t *testing.T, d *testkit.Daemon, volume string) bench {
	t.Helper()
	up(d, "--name", volume, "-u", "999", "-e", "PGHOST=/tmp", "-v", volume+":/var/lib/postgresql/data", "--entrypoint", "sh", "postgres:15", "-c",
		`initdb -k -A trust >/dev/null && exec postgres -c listen_addresses= -c unix_socket_directories=/tmp -c max_wal_size=64MB`)
	return bench{d, t, volume}
}

// write fills the tables and has pgbench at work until the container ends.
func (b bench) write() {
	b.t.Helper()
	b.Eventually(time.Minute, "a database", func() (bool, string) {
		r := b.DockerResult("exec", b.volume, "psql", "-U", "postgres", "-c", "SELECT 1")
		return r.Code == 0, r.String()
	})
	b.Docker("exec", b.volume, "pgbench", "-q", "-i", "-s", "1", "-U", "postgres", "postgres")
	b.Docker("exec", "-d", b.volume, "pgbench", "-n", "-c", "2", "-T", "86400", "-U", "postgres", "postgres")
	b.Eventually(time.Minute, "transactions", func() (bool, string) {
		r := b.DockerResult("exec", b.volume, "psql", "-U", "postgres", "-Atc", "SELECT count(*) > 20 FROM pgbench_history")
		return strings.TrimSpace(r.Out) == "t", r.String()
	})
}

// whole starts the database of a volume as it is and looks whether anything is wrong
// with it: as pg_amcheck and the checksums see it, and by what each transaction keeps.
const whole = `pg_ctl -w -s -l /tmp/log -o "-c listen_addresses= -c unix_socket_directories=/tmp" start || { cat /tmp/log; exit 1; }
export PGHOST=/tmp PGUSER=postgres
psql -v ON_ERROR_STOP=1 -Atc "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
 AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)
 AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
 AND (SELECT count(*) FROM pgbench_accounts) = 100000 AND (SELECT count(*) FROM pgbench_history) > 0" &&
pg_amcheck --install-missing --heapallindexed -d postgres && pg_ctl -w -s -m fast stop && pg_checksums --check >/dev/null && echo good`

func (b bench) check(what, volume string) {
	b.t.Helper()
	r := b.DockerResult("run", "--rm", "-u", "999", "-v", volume+":/var/lib/postgresql/data", "--entrypoint", "sh", "postgres:15", "-c", whole)
	if r.Code != 0 || r.Out != "t\ngood\n" {
		b.t.Errorf("%s: %s", what, r)
	}
}

// kept makes a snapshot in some way while pgbench writes, and looks at a clone of it.
func (b bench) kept(round int, consistency, hook string, how ...string) {
	b.t.Helper()
	name := fmt.Sprintf("s%d", round)
	b.Holdfast(append(append([]string{"volume", "snapshot", "create"}, how...), b.volume+"@"+name)...)
	s := snapshotOf(b.t, b.Daemon, b.volume+"@"+name)
	if s.Consistency != consistency || s.Hook != hook || s.Why != "" {
		b.t.Errorf("%s %v: %+v", b.volume, how, s)
	}
	b.t.Logf("%s %v: %s, writes waited %s", b.volume, how, s.Method, time.Duration(s.PausedNanos))
	clone := b.volume + "-" + name
	b.Holdfast("volume", "clone", b.volume+"@"+name, clone)
	b.check(fmt.Sprintf("%s %v", b.volume, how), clone)
	b.Docker("volume", "rm", clone)
	b.Holdfast("volume", "trash", "empty", "-f")
	b.Holdfast("volume", "snapshot", "rm", b.volume+"@"+name)
}

// While pgbench writes, each snapshot is a database that starts, without an error in
// it and without half a transaction.
func TestChaosPgbenchSnapshots(t *testing.T) {
	d := btrfsDaemon(t, testkit.Options{})
	d.Load(testkit.Postgres(t))
	d.Docker("volume", "create", "-d", "btrfs", "shared")
	d.Docker("volume", "create", "copied")
	shared, copied := newBench(t, d, "shared"), newBench(t, d, "copied")
	shared.write()
	copied.write()
	end := time.Now().Add(chaosTime(t, 0))
	long := os.Getenv("HF_CHAOS_DURATION") != ""
	for round := 0; round == 0 || time.Now().Before(end); round += 10 {
		shared.kept(round, "application", "postgres", "--quiesce")
		shared.kept(round+1, "crash", "")
		copied.kept(round+2, "application", "freeze+postgres", "--quiesce")
		if long {
			copied.kept(round+3, "crash", "freeze", "--quiesce=freeze")
			shared.kept(round+4, "crash", "freeze", "--quiesce=freeze")
		}
	}
	// A session that was ended as it should leaves no backup open.
	equal(t, "sessions", d.Docker("exec", "shared", "psql", "-U", "postgres", "-Atc", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-quiesce'"), "0")
	d.Docker("rm", "-f", "shared", "copied")
	d.Docker("volume", "rm", "shared", "copied")
	d.Holdfast("volume", "trash", "empty", "-f")
	d.Holdfast("pool", "rm", "default")
}
