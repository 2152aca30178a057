package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful"
	"holdfast.dev/holdfast/internal/stateful/member"
	"holdfast.dev/holdfast/internal/testkit"
)

const (
	patience = 60 * time.Second
	secret   = "it's a secret"
)

// real is a member with a real server, on this machine.
type real struct {
	*Server
	t *testing.T
}

func startReal(t *testing.T, name string, port int, prepare ...func(*Config)) *real {
	t.Helper()
	testkit.RequireRoot(t)
	u, err := user.Lookup("postgres")
	if _, serr := os.Stat("/usr/lib/postgresql/15/bin/postgres"); err != nil || serr != nil {
		testkit.Missing(t, "Postgres 15 (make deps-compat)")
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hf-pg-") // short: a socket is below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := Config{
		Log: slog.New(slog.DiscardHandler), Now: member.Now, Member: name, Data: dir + "/data", StateDir: dir + "/state", SocketDir: dir,
		BinDir: "/usr/lib/postgresql/15/bin", Port: port, Owner: "postgres", UID: uid, GID: gid, Include: []string{dir + "/data/postgresql.conf"},
		Superuser: "postgres", Password: "p", Database: "app", Args: []string{"-c", "shared_buffers=16MB"},
	}
	if testing.Verbose() {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With(logkey.Name, name)
	}
	for _, d := range []string{dir, c.Data, c.StateDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range prepare {
		f(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // it never fails
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &real{s, t}
}

func (r *real) state() stateful.State {
	st, _ := r.State(r.t.Context())
	return st
}

func (r *real) until(what string, f func(stateful.State) bool) stateful.State {
	r.t.Helper()
	var st stateful.State
	testkit.Poll(r.t, patience, r.c.Member+" "+what, func() (bool, string) {
		st = r.state()
		return f(st), fmt.Sprintf("%+v", st)
	})
	return st
}

func (r *real) promise(epoch uint64) stateful.State {
	r.t.Helper()
	var st stateful.State
	testkit.Poll(r.t, patience, r.c.Member+" promises", func() (bool, string) {
		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		defer cancel()
		var err error
		st, err = r.Promise(ctx, epoch)
		return err == nil, fmt.Sprint(err)
	})
	return st
}

func (r *real) lead(epoch uint64, first bool, ack stateful.Ack) stateful.State {
	r.t.Helper()
	until := member.Now().Add(time.Hour)
	if err := r.Lead(r.t.Context(), stateful.Lead{Epoch: epoch, Until: until, Stop: until, First: first, Ack: ack, Secret: secret, Peers: []string{"db-1", "db-2", "db-3"}}); err != nil {
		r.t.Fatal(err)
	}
	return r.until("leads", func(st stateful.State) bool { return st.Phase == stateful.Leading && st.Epoch == epoch })
}

func (r *real) follow(leader *real, epoch uint64) {
	r.t.Helper()
	testkit.Poll(r.t, patience, r.c.Member+" told to follow", func() (bool, string) {
		err := r.Follow(r.t.Context(), stateful.Follow{Epoch: epoch, Host: "127.0.0.1", Port: leader.c.Port, Chain: leader.state().Chain, Secret: secret, MayDiscard: true})
		return err == nil, fmt.Sprint(err)
	})
	r.until("follows", func(st stateful.State) bool { return st.Phase == stateful.Following && st.Epoch == epoch })
	leader.until("sees "+r.c.Member, func(st stateful.State) bool {
		for _, s := range st.Streams {
			if s.Identity == r.state().Identity {
				return true
			}
		}
		return false
	})
}

// sql runs a query as a client does.
func (r *real) sql(query string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), "psql", "-XAtq", "-h", "127.0.0.1", "-p", strconv.Itoa(r.c.Port), "-U", "postgres", "-d", "app", "-c", query)
	cmd.Env = append(os.Environ(), "PGPASSWORD=p", "PGCONNECT_TIMEOUT=5")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *real) must(query string) string {
	r.t.Helper()
	out, err := r.sql(query)
	if err != nil {
		r.t.Fatalf("%s: %v %s", query, err, out)
	}
	return out
}

// A set's life with real servers: made, followed, its leader killed, replaced, the
// old one taken in again though it had more.
func TestSetOfRealServers(t *testing.T) {
	a, b := startReal(t, "db-1", 17431), startReal(t, "db-2", 17432)
	st := a.promise(1)
	if !st.Empty || st.Promised != 1 {
		t.Fatalf("a new member says %+v", st)
	}
	alone := stateful.Ack{Count: 1} // of nobody: commits wait
	st = a.lead(1, true, alone)
	if st.Chain.Epoch() != 1 {
		t.Errorf("history %+v", st.Chain)
	}
	if out := a.must("show synchronous_standby_names"); out != `ANY 1 ("nobody")` {
		t.Errorf("a new leader asks for %s", out)
	}
	b.follow(a, 1)
	ack := stateful.Ack{Members: []string{b.state().Identity}, Count: 1}
	if err := a.Acknowledge(t.Context(), 1, ack); err != nil {
		t.Fatal(err)
	}
	a.must("create table rows (n int)")
	a.must("insert into rows values (1)")
	a.until("knows that its follower has all", func(st stateful.State) bool { return st.InForce && st.CaughtUp })
	if out, err := b.sql("insert into rows values (2)"); err == nil || !strings.Contains(out, "read-only") {
		t.Errorf("a follower takes writes: %s %v", out, err)
	}

	// It holds still for a leader that cannot renew its lease, also when it starts again.
	hold := stateful.Hold{Member: b.state().Identity, Epoch: 1, For: 2 * time.Second}
	for _, bad := range []stateful.Hold{{Member: "db-2.other", Epoch: 1, For: time.Second}, {Member: hold.Member, Epoch: 2, For: time.Second}} {
		if err := b.Hold(t.Context(), bad); err == nil {
			t.Errorf("it holds still for %+v", bad)
		}
	}
	if err := b.Hold(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	until := b.c.Now().Add(hold.For)
	if st, err := b.Promise(t.Context(), 2); err == nil || st.Promised == 2 {
		t.Errorf("held, it promises: %+v", st)
	}
	if st := b.state(); st.Phase != stateful.Following {
		t.Errorf("asked for a promise while it is held, it is %s", st.Phase)
	}
	if again, err := New(b.c); err != nil || again.held(2) == nil {
		t.Errorf("started again it is not held: %v", err)
	}

	// The leader is killed with a row that nobody else has.
	if err := b.Follow(t.Context(), stateful.Follow{Epoch: 0}); err == nil {
		t.Error("a follower takes orders of an epoch that is over")
	}
	end := b.promise(2)
	if b.c.Now().Before(until) {
		t.Error("it promised while it was held")
	}
	if end.Position.Timeline != 1 || end.Promised != 2 {
		t.Errorf("promise %+v", end)
	}
	go func() { _, _ = a.sql("insert into rows values (3)") }() // it waits for ever
	testkit.Poll(t, patience, "the commit waits", func() (bool, string) {
		out := a.must("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
		return out == "1", out
	})
	a.mu.Lock()
	pid := a.cmd.Process.Pid
	a.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.until("tells that it lost epoch 1", func(st stateful.State) bool { return st.Lost == 1 && st.Phase != stateful.Leading })
	b.lead(2, false, stateful.Ack{})
	if out := b.must("select string_agg(n::text, ',') from rows"); out != "1" {
		t.Errorf("the new leader has rows %s", out)
	}
	b.must("insert into rows values (4)")
	was := a.promise(2)
	if was.Position.Timeline != 1 || was.Position.LSN <= end.Position.LSN {
		t.Errorf("the old leader ends at %+v, the new one began at %+v", was.Position, end.Position)
	}
	if err := a.Lead(t.Context(), stateful.Lead{Epoch: 1, Until: member.Now().Add(time.Hour)}); err == nil {
		t.Error("an epoch is led twice")
	}
	a.follow(b, 2)
	for _, m := range []*real{a, b} {
		before := m.state()
		if _, err := m.Promise(t.Context(), 2); err == nil || m.state().Phase != before.Phase {
			t.Errorf("asked late, it is %s and was %s: %v", m.state().Phase, before.Phase, err)
		}
	}
	if now := a.state().Identity; now == was.Identity {
		t.Error("cloned data are the same member")
	}
	testkit.Poll(t, patience, "the new leader's rows on the old one", func() (bool, string) {
		out, err := a.sql("select string_agg(n::text, ',' order by n) from rows")
		return err == nil && out == "1,4", out
	})

	// A clean step down loses nothing and needs no clone.
	if err := b.Acknowledge(t.Context(), 2, stateful.Ack{Members: []string{a.state().Identity}, Count: 1}); err != nil {
		t.Fatal(err)
	}
	was = a.state()
	if _, err := b.StepDown(t.Context(), 2, true); err != nil {
		t.Fatal(err)
	}
	pa, pb := a.promise(3), b.promise(3)
	if pa.Position != pb.Position {
		t.Errorf("after a clean step down they end at %+v and %+v", pa.Position, pb.Position)
	}
	a.lead(3, false, stateful.Ack{})
	before := b.state().Identity
	b.follow(a, 3)
	if b.state().Identity != before {
		t.Error("it was cloned for nothing")
	}
}

// A leader that is told nothing more is dead when its lease ends, with everything
// that serves clients.
func TestLeaderEndsWithItsLease(t *testing.T) {
	a := startReal(t, "db-1", 17441)
	a.promise(1)
	a.lead(1, true, stateful.Ack{})
	sleeper := exec.CommandContext(t.Context(), "psql", "-XAtq", "-h", "127.0.0.1", "-p", "17441", "-U", "postgres", "-d", "app", "-c", "select pg_sleep(1000)")
	sleeper.Env = append(os.Environ(), "PGPASSWORD=p")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Poll(t, patience, "a client is served", func() (bool, string) {
		out := a.must("select count(*) from pg_stat_activity where query like 'select pg_sleep%'")
		return out == "1", out
	})
	a.mu.Lock()
	pid := a.cmd.Process.Pid
	a.lease.stop, a.lease.until = member.Now().Add(500*time.Millisecond), member.Now().Add(time.Second)
	end := a.lease.until
	a.mu.Unlock()
	a.wakeWatch()
	_ = sleeper.Wait() // its connection is cut
	if now := member.Now(); now.After(end) {
		t.Errorf("a client was served until %v after the lease", now.Sub(end))
	}
	a.until("is a standby again", func(st stateful.State) bool { return st.Phase == stateful.Resting && st.Lost == 1 })
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); err == nil {
		t.Error("the server lives on")
	}
	// Also a helper that starts anew knows which epoch was led.
	if s, err := New(a.c); err != nil || s.st.Lost != 1 || s.st.Promised != 1 {
		t.Errorf("%+v %v", s.st, err)
	}
}

// A leader whose server is stopped, or whose disk takes nothing more, is ended though
// its lease goes on: it says that it lost its epoch, and why it is not to lead.
func TestLeaderThatDoesNothing(t *testing.T) {
	impatient := func(c *Config) { c.StallLimit = 2 * time.Second }
	t.Run("its server is stopped", func(t *testing.T) {
		a := startReal(t, "db-1", 17451, impatient)
		a.promise(1)
		a.lead(1, true, stateful.Ack{})
		a.mu.Lock()
		pid := a.cmd.Process.Pid
		a.mu.Unlock()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		a.until("is a standby again", func(st stateful.State) bool { return st.Phase == stateful.Resting && st.Lost == 1 })
	})
	t.Run("its disk is full", func(t *testing.T) {
		var data string
		small := func(c *Config) {
			data = c.Data
			if err := syscall.Mount("tmpfs", data, "tmpfs", 0, fmt.Sprintf("size=256m,uid=%d,gid=%d,mode=700", c.UID, c.GID)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(data, 0); err != nil {
					t.Error(err)
				}
			})
		}
		a := startReal(t, "db-1", 17452, impatient, small)
		a.promise(1)
		a.lead(1, true, stateful.Ack{})
		f, err := os.Create(filepath.Join(data, "ballast"))
		if err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 1<<20); err == nil; {
			_, err = f.Write(b)
		}
		if cerr := f.Close(); cerr != nil || !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err, cerr)
		}
		a.until("is ended", func(st stateful.State) bool { return st.Lost == 1 && st.Unfit == "its disk is full" })
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		a.until("may lead again", func(st stateful.State) bool { return st.Phase == stateful.Resting && st.Unfit == "" })
	})
}
