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
