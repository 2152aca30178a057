package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// snapshotOf is what inspect says.
func snapshotOf(t *testing.T, d *testkit.Daemon, name string) api.Snapshot {
	t.Helper()
	var out []api.Snapshot
	decode(t, []byte(d.Holdfast("volume", "snapshot", "inspect", name)), &out)
	if len(out) != 1 {
		t.Fatalf("inspect %s: %d snapshots", name, len(out))
	}
	return out[0]
}

// fakeMariaDB is a client that, as the real one, does what its input says line by
// line, and writes down what it was told.
const fakeMariaDB = `printf '%s\n' '#!/bin/sh' 'echo "user $* $MYSQL_PWD" >> /d/said' 'while read -r l; do echo "$l" >> /d/said; m=${l##*SELECT \'"'"'}; echo "${m%%\'"'"'*}"; done; echo closed >> /d/said' > /bin/mariadb; chmod +x /bin/mariadb; touch /d/up; exec sleep 1000`

func TestQuiesce(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	isUp := func(container, file string) {
		t.Helper()
		d.Eventually(settle, file, func() (bool, string) {
			r := d.DockerResult("exec", container, "ls", file)
			return r.Code == 0, r.String()
		})
	}
	// By labels; where a copy takes a while the container is paused too.
	up(d, "--name", "q-app", "-v", "q1:/d", "-l", "holdfast.quiesce.pre=echo pre >> /d/log", "-l", "holdfast.quiesce.post=echo post >> /d/log",
		"busybox", "sleep", "1000")
	r := d.Run("", "holdfast", "volume", "snapshot", "create", "--quiesce", "q1@s1")
	if r.Code != 0 || r.Out != "q1@s1\n" || !strings.Contains(r.Err, "application-consistent; held by freeze+label, writes waited ") {
		t.Errorf("create: %s", r)
	}
	s := snapshotOf(t, d, "q1@s1")
	if s.Consistency != "application" || s.Hook != "freeze+label" || s.PausedNanos <= 0 || s.Group != "" {
		t.Errorf("inspect: %+v", s)
	}
	contains(t, "ls", d.Holdfast("volume", "snapshot", "ls", "q1"), "application (freeze+label)")
	equal(t, "it shows the quiet moment", d.Docker("run", "--rm", "-v", "q1@s1:/d:ro", "busybox", "cat", "/d/log"), "pre")
	equal(t, "the container goes on", d.Docker("exec", "q-app", "cat", "/d/log"), "pre\npost")
	d.Holdfast("volume", "snapshot", "create", "--quiesce=freeze", "q1@s2")
	equal(t, "freeze alone tells nobody", d.Docker("exec", "q-app", "cat", "/d/log"), "pre\npost")
	equal(t, "and is", snapshotOf(t, d, "q1@s2").Consistency, "crash")
	holdfastFails(t, d, `invalid --quiesce "please"`, "volume", "snapshot", "create", "--quiesce=please", "q1")
	holdfastFails(t, d, "exclude each other", "volume", "snapshot", "create", "--quiesce", "--live", "q1")

	// A hook that hangs or fails: no snapshot, or one as after a crash.
	up(d, "--name", "q-bad", "-v", "q2:/d", "-l", "holdfast.quiesce.pre=echo no room; sleep 1000", "-l", "holdfast.quiesce.post=echo post >> /d/log", "-l", "holdfast.quiesce.timeout=300ms", "busybox", "sleep", "1000")
	holdfastFails(t, d, "hook label of container q-bad: it was not done after 300ms: no room", "volume", "snapshot", "create", "--quiesce", "q2@s1")
	equal(t, "nothing was made", d.Holdfast("volume", "snapshot", "ls", "-q", "q2"), "")
	d.Holdfast("volume", "snapshot", "create", "--quiesce=try", "q2@s1")
	if s := snapshotOf(t, d, "q2@s1"); s.Consistency != "crash" || !strings.Contains(s.Why, "it was not done after 300ms") {
		t.Errorf("try: %+v", s)
	}
	equal(t, "post ran each time, and nobody is paused", d.Docker("exec", "q-bad", "cat", "/d/log"), "post\npost")

	// A session of MariaDB's client is open until the snapshot is there. (The client is
	// one of ours here: what it is told is looked at.)
	up(d, "--name", "q-maria", "-v", "q3:/d", "-e", "MARIADB_ROOT_PASSWORD=tiger", "busybox", "sh", "-c", fakeMariaDB)
	isUp("q-maria", "/d/up")
	d.Holdfast("volume", "snapshot", "create", "--quiesce", "q3@s1")
	equal(t, "consistency", snapshotOf(t, d, "q3@s1").Hook, "freeze+mariadb")
	const before = "user --no-defaults -u root -N -B -n --unbuffered tiger\nBACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT; SELECT 'holdfast-quiesce-ready';"
	equal(t, "at the moment", d.Docker("run", "--rm", "-v", "q3@s1:/d:ro", "busybox", "cat", "/d/said"), before)
	equal(t, "afterwards", d.Docker("exec", "q-maria", "cat", "/d/said"), before+"\nBACKUP STAGE END; SELECT 'holdfast-quiesce-done';\nclosed")

	// Several volumes are of one moment: the same number is in both.
	up(d, "--name", "q-two", "-l", "com.docker.compose.project=qshop", "-v", "q4:/a", "-v", "q5:/b", "busybox", "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i >> /a/n; echo $i >> /b/n; usleep 200; done")
	up(d, "--name", "q-other", "-l", "com.docker.compose.project=qshop", "-v", "q6:/c", "busybox", "sleep", "1000")
	isUp("q-two", "/b/n")
	equal(t, "of a container", d.Holdfast("volume", "snapshot", "create", "--of-container", "q-two", "one"), "q4@one\nq5@one")
	var n [2]int // it may have been stopped between the two writes
	if _, err := fmt.Sscan(d.Docker("run", "--rm", "-v", "q4@one:/a:ro", "-v", "q5@one:/b:ro", "busybox", "sh", "-c", "tail -n 1 /a/n; tail -n 1 /b/n"), &n[0], &n[1]); err != nil || n[0] < n[1] || n[0] > n[1]+1 {
		t.Errorf("not one moment: %v, %v", n, err)
	}
	if a, b := snapshotOf(t, d, "q4@one"), snapshotOf(t, d, "q5@one"); a.Group == "" || a.Group != b.Group || a.Consistency != "crash" || a.Hook != "freeze" {
		t.Errorf("group: %+v, %+v", a, b)
	}
	equal(t, "of a project", d.Holdfast("volume", "snapshot", "create", "--of-project", "qshop", "@two"), "q4@two\nq5@two\nq6@two")
	holdfastFails(t, d, "volume q4 already has a snapshot two", "volume", "snapshot", "create", "--of-container", "q-two", "two")
	d.Holdfast("volume", "snapshot", "rm", "q4@two")
	holdfastFails(t, d, "volume q5 already has a snapshot two", "volume", "snapshot", "create", "--of-container", "q-two", "two")
	equal(t, "all or nothing", d.Holdfast("volume", "snapshot", "ls", "-q", "q4"), "q4@one")
	holdfastFails(t, d, "no container of a project nope has volumes", "volume", "snapshot", "create", "--of-project", "nope")
	equal(t, "nobody is paused", d.Docker("ps", "-q", "--filter", "status=paused"), "")

	d.Docker("rm", "-f", "q-app", "q-bad", "q-maria", "q-two", "q-other")
	d.Holdfast("volume", "snapshot", "prune", "-f", "--all")
	d.Docker("volume", "rm", "q1", "q2", "q3", "q4", "q5", "q6")
}

// A daemon that is killed while containers are quiet has them go on when it starts.
func TestQuiesceSurvivesKill(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := own(t, testkit.Options{})
	label := func(pre string) []string {
		return []string{"-l", "holdfast.quiesce.pre=" + pre, "-l", "holdfast.quiesce.post=echo post >> /d/log"}
	}
	// While a hook runs: the first container has been told, the second not yet.
	up(d, append(append([]string{"--name", "first", "-v", "data:/d"}, label("echo pre >> /d/log")...), "busybox", "sleep", "1000")...)
	up(d, append(append([]string{"--name", "second", "-v", "data:/d"}, label("touch /d/waits; sleep 1000")...), "busybox", "sleep", "1000")...)
	done := make(chan testkit.Result, 1)
	go func() { done <- d.Run("", "holdfast", "volume", "snapshot", "create", "--quiesce", "data@s1") }()
	d.Eventually(settle, "the second hook runs", func() (bool, string) {
		r := d.DockerResult("exec", "first", "ls", "/d/waits")
		return r.Code == 0, r.String()
	})
	d.KillAndStart()
	if r := <-done; r.Code == 0 {
		t.Errorf("a snapshot that nobody made: %s", r)
	}
	d.Eventually(settle, "both are told to go on", func() (bool, string) {
		r := d.DockerResult("exec", "first", "cat", "/d/log")
		return r.Out == "pre\npost\npost\n", r.String()
	})
	equal(t, "no snapshot", d.Holdfast("volume", "snapshot", "ls", "-q"), "")
	d.Docker("rm", "-f", "second")

	// While they are paused.
	d.Docker("exec", "first", "sh", "-c", "rm /d/log; dd if=/dev/zero of=/d/big bs=1M count=400 2>/dev/null")
	go func() { done <- d.Run("", "holdfast", "volume", "snapshot", "create", "--quiesce", "data@s1") }()
	d.Eventually(30*time.Second, "it is paused", func() (bool, string) {
		return len(done) > 0 || format(d, "first", "{{.State.Paused}}") == "true", "not yet"
	})
	d.KillAndStart()
	r := <-done
	d.Eventually(settle, "it goes on", func() (bool, string) {
		r := d.DockerResult("exec", "first", "cat", "/d/log")
		return r.Out == "pre\npost\n", r.String()
	})
	if got := d.Holdfast("volume", "snapshot", "ls", "-q"); (got != "") != (r.Code == 0) {
		t.Errorf("snapshots after a kill: %q, the client was told %s", got, r)
	}
	d.Docker("rm", "-f", "first")
}
