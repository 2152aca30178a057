package main

import (
	"strings"
	"testing"
)

func TestTwinTable(t *testing.T) {
	got := twinTable(
		[]twinStep{{Client: "c", Step: "one"}, {Client: "c", Step: "two"}, {Client: "c", Step: "three", Failed: "a|b"}},
		[]twinStep{{Client: "c", Step: "one", Failed: "no", Reason: "old"}, {Client: "c", Step: "two"}},
	)
	for _, want := range []string{"| c | one | ok | fails: no | old |\n", "| c | two | ok | ok |  |\n", "| c | three | fails: a\\|b | not run |  |\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no row %q in\n%s", want, got)
		}
	}
}
