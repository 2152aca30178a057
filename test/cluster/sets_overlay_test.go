package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// On an overlay network a set's name leads to its leader, that with -ro to its
// followers, those of its members to each of them; from every node, also after the
// leader's node is lost.
func TestSetOnOverlay(t *testing.T) {
	s := newSetOn(t, "net")
	s.Node(1).Docker("service", "create", "--detach", "--no-resolve-image", "--name", "app", "--mode", "global", "--network", "net",
		"--env", "PGPASSWORD=secret", "--env", "PGCONNECT_TIMEOUT=2", "--entrypoint", "sleep", "--stop-grace-period", "1s", "postgres:15", "100000")
	// sql is a client in the application's container on a node.
	sql := func(node int, host, query string) string {
		return inTask(s.Node(node), "app", fmt.Sprintf("psql -XAtq -h %s -U postgres -d app -c '%s'", host, query))
	}
	says := func(node int, host, query, want string) {
		t.Helper()
		testkit.Poll(t, 2*settle, fmt.Sprintf("%s at %s from node%d", want, host, node), func() (bool, string) {
			out := sql(node, host, query)
			return out == want, out
		})
	}
	leader := s.protected()
	roles := func(leader int, nodes ...int) {
		t.Helper()
		for _, node := range nodes {
			says(node, "db", "select pg_is_in_recovery()", "f")
			says(node, "db-ro", "select pg_is_in_recovery()", "t")
			says(node, fmt.Sprintf("db-%d", leader), "select pg_is_in_recovery()", "f")
		}
	}
	roles(leader, 1, 2, 3)
	says(1, "db", "create table rows (n int primary key)", "")
	says(2, "db", "insert into rows values (1)", "")
	if out := sql(3, "db-ro", "insert into rows values (2)"); !strings.Contains(out, "read-only") {
		t.Errorf("a follower takes writes: %s", out)
	}

	t.Log("another shall lead: the names follow")
	s.Node(1).Holdfast("stateful", "switchover", "db")
	old := leader
	if leader = s.protected(); leader == old {
		t.Fatal("the leader is the same")
	}
	roles(leader, 1, 2, 3)

	t.Log("its node is cut off")
	other := leader%3 + 1
	began := time.Now()
	s.Partition(leader)
	says(other, "db", "insert into rows values (3) on conflict do nothing", "")
	t.Logf("writes by name again after %v", time.Since(began).Round(10*time.Millisecond))
	s.Heal(leader)
	roles(s.protected(), 1, 2, 3)
	says(old, "db", "select count(*) from rows", "2")
	s.Node(1).Docker("service", "rm", "db", "app")
}
