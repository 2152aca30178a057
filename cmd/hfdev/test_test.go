package main

import (
	"strings"
	"testing"
)

func feed(lines ...string) *tally {
	t := &tally{output: map[string][]string{}, ran: map[string]int{}}
	for _, l := range lines {
		t.line(l + "\n")
	}
	return t
}

func TestTallyCountsTestsAndSubtests(t *testing.T) {
	got := feed(
		`{"Action":"run","Package":"p","Test":"A"}`,
		`{"Action":"pass","Package":"p","Test":"A/x"}`,
		`{"Action":"pass","Package":"p","Test":"A"}`,
		`{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:3: requirement missing: root\n"}`,
		`{"Action":"skip","Package":"p","Test":"B"}`,
		`{"Action":"fail","Package":"p","Test":"C"}`,
		`{"Action":"fail","Package":"p"}`,
	)
	if got.passed != 2 || got.failed != 1 || got.skipped != 1 {
		t.Errorf("got %d passed, %d failed, %d skipped", got.passed, got.failed, got.skipped)
	}
	if len(got.skips) != 1 || !strings.HasSuffix(got.skips[0], "requirement missing: root") {
		t.Errorf("skips: %q", got.skips)
	}
}

func TestTallyCountsAPackageThatDoesNotBuildAsAFailure(t *testing.T) {
	if got := feed(`{"Action":"fail","Package":"p"}`); got.failed != 1 {
		t.Errorf("got %d failed", got.failed)
	}
}

func TestTallyFailsWhenCISkipsARequirement(t *testing.T) {
	got := feed(`{"Action":"output","Package":"p","Test":"B","Output":"    x.go:1: needs root\n"}`, `{"Action":"skip","Package":"p","Test":"B"}`)
	t.Setenv("CI", "true")
	if got.close(nil) == nil {
		t.Error("a skipped requirement passed in CI")
	}
	t.Setenv("CI", "")
	if err := got.close(nil); err != nil {
		t.Errorf("outside of CI a skip is fine: %v", err)
	}
}
