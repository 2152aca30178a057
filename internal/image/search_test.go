package image

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/registry"

	"holdfast.dev/holdfast/internal/base/filter"
)

func TestSplitTerm(t *testing.T) {
	for in, want := range map[string][2]string{
		"nginx":                    {"docker.io", "nginx"},
		"library/nginx":            {"docker.io", "nginx"},
		"team/app":                 {"docker.io", "team/app"},
		"docker.io/library/nginx":  {"docker.io", "nginx"},
		"index.docker.io/team/app": {"docker.io", "team/app"},
		"localhost/app":            {"localhost", "app"},
		"registry:5000/library/x":  {"registry:5000", "library/x"},
		"example.org/":             {"example.org", ""},
		"":                         {"docker.io", ""},
	} {
		if index, term := splitTerm(in); index != want[0] || term != want[1] {
			t.Errorf("%q: %q, %q", in, index, term)
		}
	}
}

func TestSearchFilter(t *testing.T) {
	popular, plain := registry.SearchResult{StarCount: 10, IsOfficial: true}, registry.SearchResult{StarCount: 3}
	for _, c := range []struct {
		args           filter.Args
		popular, plain bool
		nothing        bool
		refused        string
	}{
		{args: nil, popular: true, plain: true},
		{args: filter.Args{"stars": {"3"}}, popular: true, plain: true},
		{args: filter.Args{"stars": {"3", "4"}}, popular: true},
		{args: filter.Args{"is-official": {"true"}}, popular: true},
		{args: filter.Args{"is-official": {"0"}}, plain: true},
		{args: filter.Args{"is-automated": {"false"}}, popular: true, plain: true},
		{args: filter.Args{"is-automated": {"true"}}, nothing: true},
		{args: filter.Args{"stars": {"many"}}, refused: "invalid filter 'stars=many'"},
		{args: filter.Args{"is-official": {"maybe"}}, refused: "invalid filter 'is-official=[maybe]'"},
		{args: filter.Args{"colour": {"red"}}, refused: "invalid filter 'colour'"},
	} {
		keep, err := searchFilter(c.args)
		switch {
		case c.refused != "":
			if err == nil || !strings.HasPrefix(err.Error(), c.refused) {
				t.Errorf("%v: %v", c.args, err)
			}
		case err != nil || c.nothing != (keep == nil):
			t.Errorf("%v: nothing %t, %v", c.args, keep == nil, err)
		case keep != nil && (keep(popular) != c.popular || keep(plain) != c.plain):
			t.Errorf("%v: %t, %t", c.args, keep(popular), keep(plain))
		}
	}
}
