package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFuzzTargetsAreFound(t *testing.T) {
	got, err := fuzzTargets(filepath.Join("..", "..", "internal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []target{
		{filepath.Join("..", "..", "internal/httpapi/route"), "FuzzFilters"},
		{filepath.Join("..", "..", "internal/ctrd/imagestore"), "FuzzLoad"},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%v is not among %v", want, got)
		}
	}
	for _, dir := range slowToFuzz {
		if _, err := os.Stat(filepath.Join("..", "..", dir)); err != nil {
			t.Error(err)
		}
	}
}

func TestTheEndOfTheTimeIsNoFailure(t *testing.T) {
	const end = "fuzz: elapsed: 1s, execs: 37485 (34689/sec), new interesting: 1 (total: 139)\n--- FAIL: FuzzHostPorts (1.09s)\n    context deadline exceeded\nFAIL\nexit status 1\n"
	for out, want := range map[string]bool{
		end: true,
		"--- FAIL: FuzzX (0.09s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:9: context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n": false,
		end + "panic: no\n":          false,
		"FAIL\tpkg [build failed]\n": false,
	} {
		if got := onlyOutOfTime(out); got != want {
			t.Errorf("%q: %v", out, got)
		}
	}
}
