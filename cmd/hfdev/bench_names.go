package main

import (
	"fmt"
	"strconv"

	"holdfast.dev/holdfast/internal/testkit"
)

// targetNames are the queries that one container must get answered in a second.
const targetNames = 10_000

// names measures how many queries for another container's name are answered,
// with 256 of them under way all the time. Lost ones are noted.
func (b *bench) names() {
	b.t.Helper()
	seconds := strconv.Itoa(b.count(3, 1))
	side := func(d *testkit.Daemon, who string) func() float64 {
		d.Docker("network", "create", "names")
		d.Docker("run", "-d", "--name", "named", "--network", "names", "nettool", "sleep", "1000")
		d.Docker("run", "-d", "--name", "asker", "--network", "names", "nettool", "sleep", "1000")
		return func() float64 {
			out := d.Docker("exec", "asker", "nettool", "queries", "named", seconds)
			var rate float64
			var lost int
			if _, err := fmt.Sscan(out, &rate, &lost); err != nil {
				b.t.Fatalf("the asker printed %q: %v", out, err)
			}
			if lost > 0 {
				b.notes = append(b.notes, fmt.Sprintf("names: %s lost %d queries of a sample", who, lost))
			}
			return rate
		}
	}
	sides := []func() float64{side(b.ours, "Holdfast")}
	if b.docker != nil {
		sides = append(sides, side(b.docker, "Docker"))
	}
	s := append(b.pairs(b.count(7, 3), sides...), nil)
	b.rows = append(b.rows, row{what: fmt.Sprintf("names looked up by one container (wanted: %d/s, none lost)", targetNames), unit: perSecond, ours: s[0], peer: s[1], name: "Docker"})
	for _, d := range []*testkit.Daemon{b.ours, b.docker} {
		if d != nil {
			d.Docker("rm", "-f", "named", "asker")
			d.Docker("network", "rm", "names")
		}
	}
}
