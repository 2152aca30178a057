package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// set is a stateful set db of three Postgres servers, one a node.
type set struct {
	*testkit.Cluster
	t *testing.T
}

func newSet(t *testing.T, labels ...string) *set {
	t.Helper()
	return newSetOn(t, "host", labels...)
}

// newSetOn makes it on a network, which is made where it is not the nodes' own.
func newSetOn(t *testing.T, network string, labels ...string) *set {
	t.Helper()
	testkit.RequireBin(t, "holdfast-member")
	image := testkit.Postgres(t)
	c := swarm(t, 3, 3)
	for i := range 3 {
		c.Node(i + 1).Load(image)
	}
	if network != "host" {
		c.Node(1).Docker("network", "create", "-d", "overlay", network)
	}
	args := []string{
		"service", "create", "--detach", "--no-resolve-image", "--name", "db", "--network", network, "--replicas", "3", "--env", "POSTGRES_PASSWORD=secret", "--env", "POSTGRES_DB=app",
		"--label", "holdfast.stateful.profile=postgres", "--mount", "type=volume,source=data,target=/var/lib/postgresql/data",
	}
	for _, l := range labels {
		args = append(args, "--label", l)
	}
	c.Node(1).Docker(append(args, "postgres:15", "postgres", "-c", "shared_buffers=16MB")...)
	s := &set{c, t}
	return s
}

// sql runs a query at the server of one node as a client on that node does.
func (s *set) sql(node int, query string) (string, error) {
	args := append(s.Node(node).EnterArgs(), "psql", "-XAtq", "-h", s.Addr(node), "-U", "postgres", "-d", "app", "-c", query)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret", "PGCONNECT_TIMEOUT=2")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// leader waits for a node whose server takes writes, and is none of those.
func (s *set) leader(not ...int) int {
	s.t.Helper()
	leader := 0
	testkit.Poll(s.t, 2*settle, "a leader", func() (bool, string) {
		var said []string
		for i := 1; i <= s.Size(); i++ {
			if slices.Contains(not, i) {
				continue
			}
			out, err := s.sql(i, "select pg_is_in_recovery()")
			if out == "f" {
				leader = i
				return true, ""
			}
			said = append(said, fmt.Sprintf("node%d: %s %v", i, out, err))
		}
		return false, strings.Join(said, "\n") + "\n" + s.Node(1).DockerResult("service", "ps", "--no-trunc", "db").String()
	})
	return leader
}

// followed waits until a leader asks n followers for acknowledgements, and says
// which. It may be another than before: where the swarm's managers elect their own
// leader for longer than a lease lasts, a set's leader stops.
func (s *set) followed(n int) (leader int) {
	s.t.Helper()
	testkit.Poll(s.t, 2*settle, fmt.Sprintf("a leader that asks %d followers", n), func() (bool, string) {
		var said []string
		for i := 1; i <= s.Size(); i++ {
			out, err := s.sql(i, "select count(*) from pg_stat_replication where sync_state = 'quorum'")
			if out == fmt.Sprint(n) {
				leader = i
				return true, ""
			}
			said = append(said, fmt.Sprintf("node%d: %s %v", i, out, err))
		}
		return false, strings.Join(said, "\n") + s.Node(1).Run("", "holdfast", "stateful", "inspect", "db").String() + s.logs()
	})
	return leader
}

// logs are the ends of what the members' helpers say.
func (s *set) logs() string {
	var b strings.Builder
	for i := 1; i <= s.Size(); i++ {
		for _, id := range strings.Fields(s.Node(i).DockerResult("ps", "-q").Out) {
			fmt.Fprintf(&b, "node%d:\n%s\n", i, s.Node(i).DockerResult("logs", "--tail", "20", id))
		}
	}
	return b.String()
}

func (s *set) must(node int, query string) string {
	s.t.Helper()
	out, err := s.sql(node, query)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// container is the member's on a node.
func (s *set) container(node int) string {
	s.t.Helper()
	return strings.TrimSpace(s.Node(node).Docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name"))
}

// inspect is the set as a node's manager shows it.
func (s *set) inspect(node int) (v api.StatefulSet) {
	s.t.Helper()
	s.Node(node).Eventually(settle, "the set shown", func() (bool, string) {
		r := s.Node(node).Run("", "holdfast", "stateful", "inspect", "db")
		return r.Code == 0 && json.Unmarshal([]byte(r.Out), &v) == nil, r.String()
	})
	return v
}

// raftLeader is the node that leads the managers, as another sees it; 0 if it sees none.
func (s *set) raftLeader(from int) int {
	for line := range strings.Lines(s.Node(from).DockerResult("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}").Out) {
		if name, ok := strings.CutSuffix(strings.TrimSpace(line), " Leader"); ok {
			n, _ := strconv.Atoi(strings.TrimPrefix(name, "node")) // 0: none
			return n
		}
	}
	return 0
}

func (s *set) holdfastFails(text string, args ...string) {
	s.t.Helper()
	if r := s.Node(1).Run("", "holdfast", args...); r.Code == 0 || !strings.Contains(r.Err, text) {
		s.t.Errorf("want a failure that says %q, got %s", text, r)
	}
}

// show holds what the client shows of the set.
func (s *set) show(leader int) {
	s.t.Helper()
	name := fmt.Sprintf("db-%d", leader)
	s.Node(3).Eventually(settle, "the set shown as it is", func() (bool, string) {
		ls, status := s.Node(3).Holdfast("stateful", "ls"), s.Node(3).Holdfast("stateful", "status", "db")
		ok := strings.Contains(ls, name) && strings.Contains(ls, "writable") && strings.Count(status, "following") == 2 &&
			strings.Count(status, "leading") == 1 && strings.Count(status, "yes") == 2
		return ok, ls + status
	})
	if out := s.Node(2).Holdfast("stateful", "history", "db"); !strings.Contains(out, " leads after db-") || !strings.Contains(out, "takes writes") {
		s.t.Errorf("history shows %s", out)
	}
	s.holdfastFails("stateful set nothing not found", "stateful", "inspect", "nothing")
}

// writer commits one row after the other at whatever node takes writes, and
// remembers those that were acknowledged.
type writer struct {
	s     *set
	mu    sync.Mutex // guards what follows
	acked []int
	gap   time.Duration // the longest time between two of them
	since time.Duration // and since somebody asked
	last  time.Time
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

func (s *set) write() *writer {
	w := &writer{s: s, stop: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	s.t.Cleanup(w.halt)
	go func() {
		defer close(w.done)
		at := 1
		for n := 1; ; n++ {
			select {
			case <-w.stop:
				return
			default:
			}
			if _, err := s.sql(at, fmt.Sprintf("insert into rows values (%d)", n)); err != nil {
				at = at%s.Size() + 1
				continue
			}
			w.mu.Lock()
			now := time.Now()
			d := now.Sub(w.last)
			w.acked, w.gap, w.since, w.last = append(w.acked, n), max(w.gap, d), max(w.since, d), now
			w.mu.Unlock()
		}
	}()
	return w
}

// gapSince is the longest time between two rows since it was asked last.
func (w *writer) gapSince() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.since
	w.since = 0
	return d.Round(10 * time.Millisecond)
}

// halt stops writing.
func (w *writer) halt() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

// end stops writing and holds what was acknowledged against what is there.
func (w *writer) end(leader int) {
	w.s.t.Helper()
	w.halt()
	have := map[string]bool{}
	for _, n := range strings.Fields(w.s.must(leader, "select n from rows")) {
		have[n] = true
	}
	lost := 0
	for _, n := range w.acked {
		if !have[fmt.Sprint(n)] {
			lost++
		}
	}
	if lost > 0 || len(w.acked) == 0 {
		w.s.t.Errorf("%d of %d acknowledged rows are lost", lost, len(w.acked))
	}
	w.s.t.Logf("%d rows acknowledged, none lost; the longest wait for one was %v", len(w.acked), w.gap.Round(10*time.Millisecond))
}

// writable tells whether a node's server takes writes, asked on the node itself.
func (s *set) writable(node int) bool {
	out, err := s.sql(node, "select pg_is_in_recovery()")
	return err == nil && out == "f"
}

// more waits until further rows are acknowledged, by whichever server leads.
func (w *writer) more() {
	w.s.t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	before := count()
	testkit.Poll(w.s.t, 2*settle, "more rows", func() (bool, string) {
		now := count()
		return now > before+5, fmt.Sprint(now-before, " more")
	})
}

// A set's leader is killed, cut off, and loses its daemon. Each time another takes
// over, never two at once, and nothing that was acknowledged is lost. A user sees
// one service.
func TestSetReplacesItsLeader(t *testing.T) {
	s := newSet(t)
	leader := s.followed(2)
	if out := s.Node(2).Docker("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}"); out != "db replicated 3/3" {
		t.Errorf("service ls shows %q", out)
	}
	if out := s.Node(1).Docker("service", "ps", "--format", "{{.Name}} {{.Node}}", "db"); out != "db-1.1 node1\ndb-2.1 node2\ndb-3.1 node3" {
		t.Errorf("service ps shows %q", out)
	}
	s.Node(1).DockerFails("is a member of a stateful set", "service", "rm", "db-1")
	s.must(leader, "create table rows (n int primary key)")
	w := s.write()
	w.more()

	t.Log("another shall lead")
	to := fmt.Sprintf("db-%d", leader%3+1)
	s.holdfastFails("leads already", "stateful", "switchover", "--to", fmt.Sprintf("db-%d", leader), "db")
	s.holdfastFails("no such member", "stateful", "switchover", "--to", "db-9", "db")
	w.gapSince()
	if out := s.Node(2).Holdfast("stateful", "switchover", "--to", to, "db"); !strings.HasPrefix(out, to+" leads in epoch ") {
		t.Errorf("switchover says %q", out)
	}
	w.more()
	t.Logf("a planned switchover: %v without a row", w.gapSince())
	leader = s.followed(2)
	s.show(leader)

	t.Log("a follower is rebuilt")
	follower := leader%3 + 1
	s.holdfastFails("switch over first", "stateful", "rebuild", "db", fmt.Sprintf("db-%d", leader))
	s.holdfastFails("no such member", "stateful", "rebuild", "db", "db-9")
	mark := func() string {
		return s.must(leader, fmt.Sprintf("select application_name from pg_stat_replication where sync_state = $$quorum$$ and application_name like $$db-%d.%%$$", follower))
	}
	s.protected()
	before := mark()
	s.Node(1).Holdfast("stateful", "rebuild", "db", fmt.Sprintf("db-%d", follower))
	testkit.Poll(t, settle, "another member in its place", func() (bool, string) {
		now := mark()
		return now != "" && now != before, before + " " + now
	})
	s.protected()

	t.Log("the server is killed")
	pid := strings.TrimSpace(s.Node(leader).Docker("exec", s.container(leader), "sh", "-c", "head -1 /var/lib/postgresql/data/postmaster.pid"))
	s.Node(leader).Docker("exec", s.container(leader), "kill", "-9", pid)
	w.gapSince()
	s.leader(leader)
	w.more()
	t.Logf("a killed server: %v without a row", w.gapSince())
	leader = s.followed(2)

	t.Log("its daemon starts again in time")
	s.Node(leader).KillAndStart()
	w.more()

	t.Log("the managers elect a leader of their own")
	leader = s.protected()
	raft := s.raftLeader(1)
	if raft == leader {
		s.Node(leader).Holdfast("stateful", "switchover", "db")
		leader = s.protected()
	}
	epoch := s.inspect(leader).Epoch
	w.gapSince()
	s.Partition(raft)
	testkit.Poll(t, settle, "another raft leader", func() (bool, string) {
		now := s.raftLeader(leader)
		return now > 0 && now != raft, fmt.Sprintf("node%d", now)
	})
	w.more()
	if now := s.inspect(leader).Epoch; now != epoch {
		t.Errorf("a healthy leader was replaced since the managers elected: epoch %d, and %d before", now, epoch)
	}
	t.Logf("an election of the managers: %v without a row", w.gapSince())
	s.Heal(raft)
	leader = s.protected()

	t.Log("its node is cut off")
	w.gapSince()
	s.Partition(leader)
	old := leader
	s.leader(old)
	if s.writable(old) {
		t.Error("the old leader still takes writes beside the new one")
	}
	w.more()
	t.Logf("a lost node: %v without a row", w.gapSince())
	if s.writable(old) {
		t.Error("the old leader takes writes again")
	}
	s.Heal(old)
	leader = s.followed(2)

	t.Log("its daemon is killed")
	s.Node(leader).Kill()
	old = leader
	s.leader(old)
	if s.writable(old) {
		t.Error("the old leader still takes writes beside the new one")
	}
	w.more()
	s.Node(old).Start()
	leader = s.followed(2)
	w.end(leader)
	s.Node(1).Docker("service", "rm", "db")
	for i := range 3 {
		s.Node(i+1).Eventually(settle, "the members gone", func() (bool, string) {
			out := s.Node(i+1).Docker("ps", "-aq")
			return out == "", out
		})
	}
}

// What a set cannot be is refused, with the reason.
func TestSetsThatAreRefused(t *testing.T) {
	d := single(t, testkit.Options{})
	create := func(want string, args ...string) {
		t.Helper()
		all := append([]string{"service", "create", "--detach", "--name", "db", "--label", "holdfast.stateful.profile=postgres"}, args...)
		d.DockerFails(want, append(all, "busybox")...)
	}
	volume := "--mount=type=volume,source=data,target=/d"
	create("anything but one network", volume, "--replicas", "3")
	d.Docker("network", "create", "-d", "overlay", "net")
	create("--endpoint-mode dnsrr", "--network", "net", "--endpoint-mode", "dnsrr", volume)
	create("exactly one volume", "--network", "host")
	create("without a plain name", "--network", "host", "--mount", "type=volume,target=/d")
	create("a replicated service", "--network", "host", volume, "--mode", "global")
	create("a published port", "--network", "host", volume, "--publish", "mode=host,target=5432,published=5432")
	create("strict set of two members", "--network", "host", volume, "--replicas", "2", "--label", "holdfast.stateful.synchronous=strict")
	create("may be on, off or strict", "--network", "host", volume, "--label", "holdfast.stateful.synchronous=perhaps")
	create("label holdfast.stateful.color is not known", "--network", "host", volume, "--label", "holdfast.stateful.color=red")
	d.DockerFails("there is no profile", "service", "create", "--detach", "--network", "host", volume, "--label", "holdfast.stateful.profile=oracle", "busybox")
	d.DockerFails("makes a set of a service", "service", "create", "--detach", "--label", "holdfast.stateful.port=1", "busybox")
}
