package cli

import (
	"slices"
	"testing"
)

func TestBuilds(t *testing.T) {
	for _, c := range []struct {
		args, want []string
		ok         bool
	}{
		{[]string{"build", "-t", "x", "."}, []string{"build", "-t", "x", "."}, true},
		{[]string{"image", "build", "."}, []string{"build", "."}, true},
		{[]string{"builder", "prune", "-a"}, []string{"prune", "-a"}, true},
		{[]string{"bake"}, []string{"bake"}, true},
		{[]string{"image", "ls"}, nil, false},
		{[]string{"image"}, nil, false},
		{[]string{"run", "build"}, nil, false},
		{nil, nil, false},
	} {
		got, ok := builds(c.args)
		if ok != c.ok || !slices.Equal(got, c.want) {
			t.Errorf("builds(%q) = %q, %v", c.args, got, ok)
		}
	}
}
