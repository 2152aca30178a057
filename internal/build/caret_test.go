package build

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCaret(t *testing.T) {
	for _, c := range []struct{ lines, message, want string }{
		{"FORM busybox", "dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)", "FORM busybox\n^"},
		{"  form busybox", "unknown instruction: FORM", "  form busybox\n  ^"},
		{"COPY --chwon=1 a /b", "dockerfile parse error on line 2: unknown flag: --chwon (did you mean chown?)", "COPY --chwon=1 a /b\n     ^"},
		{"RUN <<EOF", "unterminated heredoc", "RUN <<EOF\n    ^"},
		{"FROM a as B!", `invalid name for build stage: "B!", name can't start with a number or contain symbols`, "FROM a as B!\n          ^"},
		{"RUN a && \\\n\tb --mount=${x", `failed to process "${x": missing }`, "\tb --mount=${x\n\t          ^"},
		{"WORKDIR", "WORKDIR requires exactly one argument", "WORKDIR\n^"},
		{"# a comment\n ADD", "ADD requires at least two arguments", " ADD\n ^"},
		{"ENV a='x y", `unexpected end of statement while looking for matching single-quote: 'x`, "ENV a='x y\n^"},
		{"HEALTHCHECK FOO", `Unknown type "FOO" in HEALTHCHECK (try CMD)`, "HEALTHCHECK FOO\n            ^"},
		{"EXPOSE Äöü x", `invalid containerPort: "x"`, "EXPOSE Äöü x\n           ^"},
		{"", "whatever", ""},
	} {
		if got := Caret(strings.Split(c.lines, "\n"), c.message); got != c.want {
			t.Errorf("%q, %q:\n%s\nwant\n%s", c.lines, c.message, got, c.want)
		}
	}
}

// Whatever stands in a Dockerfile, the caret is under its line.
func FuzzCaret(f *testing.F) {
	f.Add("RUN <<EOF", `unterminated heredoc "a"`)
	f.Add("ſ İ \t", "unknown instruction: i")
	f.Fuzz(func(t *testing.T, line, message string) {
		if strings.Contains(line, "\n") || !utf8.ValidString(line) {
			return
		}
		got := Caret([]string{line}, message)
		if got == "" {
			return
		}
		above, below, _ := strings.Cut(got, "\n")
		if above != line || utf8.RuneCountInString(below) > utf8.RuneCountInString(line)+1 || strings.TrimLeft(below, " \t") != "^" {
			t.Errorf("%q", got)
		}
	})
}
