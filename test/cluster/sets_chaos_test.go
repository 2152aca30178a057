package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// chaosShort is how long faults are made where HF_CHAOS_DURATION does not say.
const chaosShort = 10 * time.Second

// protected waits until the set would survive the loss of its leader, and says who
// that is.
func (s *set) protected() (leader int) {
	s.t.Helper()
	testkit.Poll(s.t, 3*settle, "a protected set", func() (bool, string) {
		var said []string
		for i := 1; i <= s.Size(); i++ {
			if s.Cut(i) || !s.Node(i).Running() {
				continue
			}
			r := s.Node(i).Run("", "holdfast", "stateful", "inspect", "db")
			var v api.StatefulSet
			if r.Code != 0 || json.Unmarshal([]byte(r.Out), &v) != nil || !v.Protected {
				said = append(said, fmt.Sprintf("node%d: %s", i, r))
				continue
			}
			n := slices.IndexFunc(v.Members, func(m api.StatefulMember) bool { return m.Name == v.Leader })
			leader, _ = strconv.Atoi(strings.TrimPrefix(v.Members[n].Node, "node")) // 0 fails below
			return leader > 0, fmt.Sprint(v.Members[n])
		}
		return false, strings.Join(said, "\n") + s.logs()
	})
	return leader
}

// beat is an acknowledged row: who took it, and when it was under way.
type beat struct {
	n, node  int
	reign    string // a server's node and when it started: it leads once at most
	from, to time.Time
}

// checker commits rows at all nodes at once, all the time.
type checker struct {
	s     *set
	mu    sync.Mutex // guards beats
	beats []beat
	stop  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once
}

func (s *set) check() *checker {
	c := &checker{s: s, stop: make(chan struct{})}
	for node := 1; node <= s.Size(); node++ {
		c.wg.Go(func() { c.commit(node) })
	}
	s.t.Cleanup(c.halt)
	return c
}

func (c *checker) halt() {
	c.once.Do(func() { close(c.stop) })
	c.wg.Wait()
}

// commit commits rows at one node. One that follows refuses.
func (c *checker) commit(node int) {
	for n := node; ; n += c.s.Size() {
		from := time.Now()
		out, err := c.s.sql(node, fmt.Sprintf("insert into rows values (%d) returning pg_postmaster_start_time()", n))
		pause := 200 * time.Millisecond
		if err == nil {
			c.mu.Lock()
			c.beats = append(c.beats, beat{n, node, fmt.Sprintf("node%d since %s", node, out), from, time.Now()})
			c.mu.Unlock()
			pause = 30 * time.Millisecond
		}
		select {
		case <-c.stop:
			return
		case <-time.After(pause):
		}
	}
}

func (c *checker) acked() []beat {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.beats)
}

// reign is that of a node's server, if it took the last row.
func (c *checker) reign(node int) string {
	all := c.acked()
	if len(all) == 0 || all[len(all)-1].node != node {
		return ""
	}
	return all[len(all)-1].reign
}

// more waits for rows that are begun after now, under any reign but one.
func (c *checker) more(not string) {
	c.s.t.Helper()
	since := time.Now()
	testkit.Poll(c.s.t, 2*settle, "rows again", func() (bool, string) {
		fresh := 0
		for _, b := range c.acked() {
			if b.from.After(since) && b.reign != not {
				fresh++
			}
		}
		return fresh > 3, fmt.Sprint(fresh, " rows since the fault")
	})
}

// quiet waits until no node takes writes.
func (c *checker) quiet() {
	c.s.t.Helper()
	testkit.Poll(c.s.t, settle, "no leader", func() (bool, string) {
		for i := 1; i <= c.s.Size(); i++ {
			if c.s.writable(i) {
				return false, fmt.Sprintf("node%d takes writes", i)
			}
		}
		return true, ""
	})
}

// end stops and holds what was acknowledged against what is there, and against
// itself: two reigns are never at the same time.
func (c *checker) end(leader int) {
	t := c.s.t
	t.Helper()
	c.halt()
	have := map[string]bool{}
	for _, n := range strings.Fields(c.s.must(leader, "select n from rows")) {
		have[n] = true
	}
	lost := 0
	for _, b := range c.beats {
		if !have[strconv.Itoa(b.n)] {
			lost++
		}
	}
	if lost > 0 || len(c.beats) == 0 {
		t.Errorf("%d of %d acknowledged rows are lost", lost, len(c.beats))
	}
	first, last := map[string]time.Time{}, map[string]time.Time{}
	var gap time.Duration
	slices.SortFunc(c.beats, func(a, b beat) int { return cmp.Compare(a.to.UnixNano(), b.to.UnixNano()) })
	for i, b := range c.beats {
		if i > 0 {
			gap = max(gap, b.to.Sub(c.beats[i-1].to))
		}
		// A server that has acknowledged leads from then on to its last row, at least.
		if f, ok := first[b.reign]; !ok || b.to.Before(f) {
			first[b.reign] = b.to
		}
		if b.from.After(last[b.reign]) {
			last[b.reign] = b.from
		}
	}
	for a, from := range first {
		for b, other := range first {
			if a < b && from.Before(last[b]) && other.Before(last[a]) {
				t.Errorf("two lead at once: %s from %v to %v, %s from %v to %v", a, from, last[a], b, other, last[b])
			}
		}
	}
	t.Logf("%d rows acknowledged under %d leaders, none lost; the longest wait for one was %v", len(c.beats), len(first), gap.Round(10*time.Millisecond))
}

// setFault is what can happen to a member, its node or all of them. begin makes it;
// end, where there is one, undoes what does not end by itself: a leader is replaced
// meanwhile.
type setFault struct {
	name  string
	begin func(node int) (end func())
}

func (s *set) faults() []setFault {
	inside := func(node int, args ...string) {
		s.Node(node).DockerResult(append([]string{"exec", s.container(node)}, args...)...) // it may be down already
	}
	postmaster := `kill -%s $(head -1 /var/lib/postgresql/data/postmaster.pid)`
	return []setFault{
		{name: "the server is killed", begin: func(node int) func() {
			inside(node, "sh", "-c", fmt.Sprintf(postmaster, "9"))
			return nil
		}},
		{name: "the container is killed", begin: func(node int) func() {
			s.Node(node).DockerResult("kill", s.container(node))
			return nil
		}},
		{name: "the daemon is killed", begin: func(node int) func() {
			s.Node(node).KillAndStart()
			return nil
		}},
		{name: "the server is stopped", begin: func(node int) func() {
			inside(node, "sh", "-c", fmt.Sprintf(postmaster, "STOP"))
			return func() { inside(node, "sh", "-c", fmt.Sprintf(postmaster, "CONT")) }
		}},
		{name: "the container is frozen", begin: func(node int) func() {
			id := s.container(node)
			s.Node(node).DockerResult("pause", id)
			return func() { s.Node(node).DockerResult("unpause", id) }
		}},
		{name: "the daemon is stopped", begin: func(node int) func() {
			pid := s.Node(node).Pid()
			signal := func(sig syscall.Signal) {
				if err := syscall.Kill(pid, sig); err != nil {
					s.t.Errorf("signal the daemon of node%d: %v", node, err)
				}
			}
			signal(syscall.SIGSTOP)
			return func() { signal(syscall.SIGCONT) }
		}},
		{name: "the node is cut off", begin: func(node int) func() {
			s.Partition(node)
			return func() { s.Heal(node) }
		}},
	}
}

// Faults of all kinds hit a set in random order, for HF_CHAOS_DURATION (make
// test-set-chaos). HF_CHAOS_SEED does a run's order again. After each the set takes
// writes again; at the end no acknowledged row is lost, and never two led at once.
func TestSetChaos(t *testing.T) {
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("HF_CHAOS_DURATION"), chaosShort.String()))
	if err != nil {
		t.Fatalf("HF_CHAOS_DURATION: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("HF_CHAOS_SEED"); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("HF_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("HF_CHAOS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // it is to be repeatable
	s := newSet(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Node(1).Run("", "holdfast", "stateful", "inspect", "db"), s.logs())
		}
	})
	s.must(s.protected(), "create table rows (n int primary key)")
	c := s.check()
	faults := s.faults()
	end := time.Now().Add(duration)
	for n := 1; time.Now().Before(end); n++ {
		// A set that lost a member may wait for it: the next fault comes when it could
		// lose its leader again.
		leader := s.protected()
		began := time.Now()
		switch random.IntN(8) {
		case 0: // the managers are parted: none of them can do anything
			t.Logf("%d: all nodes are cut off", n)
			for i := 1; i <= s.Size(); i++ {
				s.Partition(i)
			}
			c.quiet()
			for i := 1; i <= s.Size(); i++ {
				s.Heal(i)
			}
		case 1:
			a, b := faults[random.IntN(len(faults))], faults[random.IntN(len(faults))]
			first := 1 + random.IntN(s.Size())
			second := 1 + (first+random.IntN(s.Size()-1))%s.Size()
			t.Logf("%d: node%d: %s, node%d: %s (node%d leads)", n, first, a.name, second, b.name, leader)
			for _, undo := range []func(){a.begin(first), b.begin(second)} {
				if undo != nil {
					undo()
				}
			}
		default:
			f, node := faults[random.IntN(len(faults))], 1+random.IntN(s.Size())
			if random.IntN(2) == 0 {
				node = leader
			}
			t.Logf("%d: node%d: %s (node%d leads)", n, node, f.name, leader)
			reign := c.reign(node) // the same server may lead again, started anew
			undo := f.begin(node)
			if undo == nil {
				break
			}
			c.more(reign)
			undo()
		}
		c.more("")
		t.Logf("   rows again after %v", time.Since(began).Round(10*time.Millisecond))
	}
	c.end(s.protected())
}
