package build

import (
	"regexp"
	"strconv"
	"strings"
)

// Caret points at the word of a Dockerfile that an error is about. Lines are those
// of the instruction, without their ends. It returns the line that has the word
// and, below, a caret under where it begins; the instruction's own first word where
// the error names none that is there. Empty for no lines.
//
// BuildKit tells the lines of an error and no columns
// (https://github.com/moby/buildkit/blob/master/solver/pb/ops.proto, Range).
func Caret(lines []string, message string) string {
	for _, word := range named(message) {
		for _, line := range lines {
			if at := find(line, word); at >= 0 {
				return under(line, at)
			}
		}
	}
	for _, line := range lines {
		if text := strings.TrimLeft(line, " \t"); text != "" && !strings.HasPrefix(text, "#") {
			return under(line, len(line)-len(text))
		}
	}
	return ""
}

var (
	unknown = regexp.MustCompile(`unknown (?:instruction|flag): (\S+)`)
	quoted  = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	single  = regexp.MustCompile(`'([^' ]+)'`)
)

// named lists the words that an error may be about, the likeliest first.
func named(message string) []string {
	var out []string
	if m := unknown.FindStringSubmatch(message); m != nil {
		out = append(out, m[1])
	}
	if strings.Contains(message, "unterminated heredoc") {
		out = append(out, "<<")
	}
	for _, q := range quoted.FindAllString(message, -1) {
		if s, err := strconv.Unquote(q); err == nil && s != "" {
			out = append(out, s)
		}
	}
	for _, m := range single.FindAllStringSubmatch(message, -1) {
		out = append(out, m[1])
	}
	return out
}

// find is where a word begins in a line, whatever its case; -1: nowhere.
func find(line, word string) int {
	if at := strings.Index(line, word); at >= 0 {
		return at
	}
	low := strings.ToLower(line)
	if len(low) != len(line) { // letters whose cases have different lengths
		return -1
	}
	return strings.Index(low, strings.ToLower(word))
}

// under is a line with a caret below the byte at. Tabs stay tabs, so that the
// caret stands right whatever their width.
func under(line string, at int) string {
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, line[:at])
	return line + "\n" + pad + "^"
}
