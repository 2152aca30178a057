package main

import "testing"

func TestSortRaces(t *testing.T) {
	const report = `==================
WARNING: DATA RACE
Write at 0x1 by goroutine 2:
  github.com/moby/buildkit/solver.x()
      /a.go:1 +0x1

Goroutine 2 (running) created at:
  holdfast.dev/holdfast/internal/build.y()
      /b.go:1 +0x1
==================
==================
WARNING: DATA RACE
Read at 0x1 by goroutine 3:
  holdfast.dev/holdfast/internal/container.z()
      /c.go:1 +0x1
==================
`
	ours, theirs := sortRaces(report)
	if len(ours) != 1 || len(theirs) != 1 {
		t.Fatalf("ours %q, theirs %q", ours, theirs)
	}
	if got := firstFrame(theirs[0]); got != "github.com/moby/buildkit/solver.x()" {
		t.Errorf("got %q", got)
	}
	if ours, theirs := sortRaces(""); len(ours)+len(theirs) != 0 {
		t.Errorf("of nothing: %q %q", ours, theirs)
	}
}
