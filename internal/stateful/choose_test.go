package stateful

import (
	"slices"
	"testing"
)

func TestChoose(t *testing.T) {
	report := func(member string, timeline, lsn uint64) Report {
		return Report{Member: member, Promised: 8, Position: Position{timeline, lsn}, Node: "node-" + member, Term: 3}
	}
	unfit := func(r Report, why string) Report { r.Unfit = why; return r }
	rank := func(r Report, p int) Report { r.Priority = p; return r }
	late := func(r Report) Report { r.Promised = 7; return r }
	led := Record{Epoch: 7, Leader: "a", Last: "a", Node: "node-a", Term: 1, Sync: Sync{Members: []string{"b", "c"}, Need: 2}}
	alone := Record{Epoch: 7, Last: "a", Sync: Sync{Need: 1}}
	for _, c := range []struct {
		name    string
		record  Record
		reports []Report
		async   bool
		prefer  string
		leader  string
		wait    string
	}{
		{name: "nobody", record: led, wait: "no member has answered"},
		{name: "one of two", record: led, reports: []Report{report("b", 7, 9)}, wait: "rows may be on c or on a alone"},
		{name: "both", record: led, reports: []Report{report("b", 7, 9), report("c", 7, 10)}, leader: "c"},
		{name: "a later timeline wins", record: led, reports: []Report{report("b", 7, 9), report("c", 6, 100)}, leader: "b"},
		{name: "the last leader knows all", record: led, reports: []Report{report("a", 7, 9)}, leader: "a"},
		{name: "an old promise does not count", record: led, reports: []Report{report("b", 7, 9), late(report("c", 7, 9))}, wait: "rows may be on c or on a alone"},
		{name: "nobody else has all", record: alone, reports: []Report{report("b", 7, 9), report("c", 7, 9)}, wait: "a alone has all rows"},
		{name: "first leader", record: Record{Epoch: 7}, reports: []Report{report("b", 0, 0), report("a", 0, 0)}, leader: "a"},
		{name: "priority among equals", record: led, reports: []Report{report("b", 7, 9), rank(report("c", 7, 9), 1)}, leader: "c"},
		{name: "priority is not worth a row", record: led, reports: []Report{report("b", 7, 9), rank(report("c", 7, 8), 1)}, leader: "b"},
		{name: "preferred", record: led, reports: []Report{report("b", 7, 9), rank(report("c", 7, 9), 1)}, prefer: "b", leader: "b"},
		{name: "the furthest cannot", record: led, reports: []Report{report("b", 7, 9), unfit(report("c", 7, 10), "disk full")}, wait: "c, which is furthest, cannot lead: disk full"},
		{name: "async takes what is there", record: led, async: true, reports: []Report{report("b", 7, 9)}, leader: "b"},
		{name: "async passes the unfit", record: led, async: true, reports: []Report{report("b", 7, 9), unfit(report("c", 7, 10), "no-failover")}, leader: "b"},
		{name: "async with none fit", record: led, async: true, reports: []Report{unfit(report("c", 7, 10), "no-failover")}, wait: "c, which is furthest, cannot lead: no-failover"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Choose(c.record, c.reports, !c.async, c.prefer)
			if got.Leader.Member != c.leader || got.Wait != c.wait {
				t.Fatalf("leader %q, wait %q", got.Leader.Member, got.Wait)
			}
			if c.leader == "" {
				return
			}
			r := got.Record
			if r.Epoch != 8 || r.Leader != c.leader || r.Last != c.leader || r.Node != "node-"+c.leader || r.Term != 3 {
				t.Errorf("record %+v", r)
			}
			if slices.Contains(r.Sync.Members, c.leader) || c.async != (r.Sync.Need == 0) {
				t.Errorf("sync %+v", r.Sync)
			}
			if !c.async && !r.Sync.Covers(got.Ack) {
				t.Errorf("%+v does not cover %+v", r.Sync, got.Ack)
			}
		})
	}
}

// TestCovers holds Covers against its meaning, for all sets of four members.
func TestCovers(t *testing.T) {
	members := func(mask int) (m []string) {
		for i := range 4 {
			if mask&(1<<i) != 0 {
				m = append(m, name(i))
			}
		}
		return m
	}
	count := func(mask int) int { return len(members(mask)) }
	for a := range 16 {
		for s := range 16 {
			for ack := 1; ack <= 4; ack++ {
				for need := 1; need <= 5; need++ {
					want := true
					for x := range 16 {
						for y := range 16 {
							if x&a == x && y&s == y && count(x) == ack && count(y) == need && x&y == 0 {
								want = false
							}
						}
					}
					if got := (Sync{members(s), need}).Covers(Ack{members(a), ack}); got != want {
						t.Fatalf("any %d of %v and any %d of %v: %t", ack, members(a), need, members(s), got)
					}
				}
			}
		}
	}
}
