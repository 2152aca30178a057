package course

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	steps, err := parse(strings.Join([]string{
		"# Title", "```text", "$ not a command", "```",
		"```console", "$ echo a \\", "> b", "a b", "$ false", "[exit 1]", "$ true", "```",
		"```sh", "one", "two", "```",
	}, "\n"))
	if err != nil || len(steps) != 4 {
		t.Fatalf("%+v, %v", steps, err)
	}
	if s := steps[0]; s.line != 6 || s.command != "echo a \\\nb" || !s.checked || len(s.want) != 1 || s.want[0] != "a b" {
		t.Errorf("%+v", s)
	}
	if s := steps[1]; s.code != 1 || s.want != nil {
		t.Errorf("%+v", s)
	}
	if s := steps[3]; s.command != "one\ntwo" || s.checked || s.line != 14 {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"```sh\nopen", "```console\nno command\n```"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "ab", false},
		{"a", "", false},
		{"", "a", false},
		{"ID …", "ID 5f", true},
		{"a b", "a      b  ", true},
		{"a b", "ab", false},
		{"…", "", true},
		{"…", "x\ny", true},
		{"a\n…\nd", "a\nb\nc\nd", true},
		{"a\n…\nd", "a\nb\nc", false},
		{"(x)", "(x)", true},
		{"(x)", "x", false},
	} {
		if ok := matches(lines(c.want), lines(c.got)); ok != c.ok {
			t.Errorf("%q against %q: %t", c.got, c.want, ok)
		}
	}
}
