package main

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestMedianAndVerdict(t *testing.T) {
	if m := (samples{3, 1, 2}).median(); m != 2 {
		t.Errorf("median of three: %v", m)
	}
	if m := (samples{4, 1, 2, 3}).median(); m != 2.5 {
		t.Errorf("median of four: %v", m)
	}
	for _, c := range []struct {
		r    row
		want string
	}{
		{row{unit: milliseconds, ours: samples{3}, peer: samples{10}, target: 0.35}, "met"},
		{row{unit: milliseconds, ours: samples{7}, peer: samples{10}, target: 0.35}, "missed by 100 %"},
		{row{unit: gigabits, ours: samples{10}, peer: samples{10}, target: 1}, "met"},
		{row{unit: gigabits, ours: samples{9}, peer: samples{10}, target: 1}, "missed by 10 %"},
		{row{unit: milliseconds, ours: samples{7}, target: 0.35}, "not measured"},
		{row{unit: milliseconds, ours: samples{1.5}, peer: samples{1}, within: 2}, "met"},
		{row{unit: milliseconds, ours: samples{3}, within: 2}, "missed by 50 %"},
		{row{unit: milliseconds, ours: samples{7}, peer: samples{1}}, ""},
	} {
		if got := c.r.verdict(); got != c.want {
			t.Errorf("%v: %q, want %q", c.r, got, c.want)
		}
	}
}

func TestSpliceKeepsTheProse(t *testing.T) {
	got, err := splice("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n", "new\n")
	if err != nil || got != "before\n"+beginMark+"\nnew\n"+endMark+"\nafter\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := splice("no marks", "new"); err == nil || !strings.Contains(err.Error(), beginMark) {
		t.Errorf("a document without marks: %v", err)
	}
}

func TestPairsAlternateAndDropTheFirst(t *testing.T) {
	var order string
	b := &bench{}
	got := b.pairs(3, func() float64 { order += "a"; return 1 }, func() float64 { order += "b"; return 2 })
	if order != "baabbaab" && order != "abbaabba" {
		t.Errorf("order %s", order)
	}
	if len(got[0]) != 3 || len(got[1]) != 3 || got[0].median() != 1 || got[1].median() != 2 {
		t.Errorf("got %v", got)
	}
}

// TestClientsEndWhereWorkFails: with every client gone nobody takes the next piece;
// a measurement of 200 containers waited for that for ever.
func TestClientsEndWhereWorkFails(t *testing.T) {
	var begun, returned atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		clients(10*churnClients, func(int) {
			begun.Add(1)
			runtime.Goexit() // as FailNow does
		})
		returned.Add(1)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("clients does not end")
	}
	if returned.Load() != 0 || begun.Load() > churnClients {
		t.Errorf("%d pieces begun; goes on: %d", begun.Load(), returned.Load())
	}
	var sum atomic.Int64
	clients(100, func(i int) { sum.Add(int64(i)) })
	if sum.Load() != 4950 {
		t.Errorf("not every piece was done: %d", sum.Load())
	}
}
