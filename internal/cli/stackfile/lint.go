package stackfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
	"go.yaml.in/yaml/v3"
)

// Problem is what is wrong at one place of a file.
type Problem struct {
	File         string
	Line, Column int // from 1
	What         string
	Meant        string // what was probably meant, if that is known
}

// Error implements error.
func (p Problem) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.What)
	if p.Meant != "" {
		s += " (did you mean " + p.Meant + "?)"
	}
	return s
}

// Problems are those of all files.
type Problems []Problem

// Error implements error.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Lint finds keys that compose's schema does not have at their place, and lists
// whose dash lost its blank. It is for files that were refused: it says where, and
// what was meant.
func Lint(file string, src []byte) Problems {
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return syntax(file, src, err)
	}
	if len(doc.Content) == 0 {
		return nil
	}
	top, err := composeSchema()
	if err != nil {
		return nil // then compose's own words must do
	}
	l := linter{file: file, src: strings.Split(string(src), "\n"), top: top}
	l.walk(doc.Content[0], []any{top}, "")
	return l.found
}

// yamlLine is where yaml's errors say what line they are about.
var yamlLine = regexp.MustCompile(`^yaml: (?:line |.*\bline )(\d+)(?:, column \d+)?: (.*)$`)

// syntax is a file that is not YAML: looks for the dash that lost its blank.
func syntax(file string, src []byte, err error) Problems {
	for i, line := range strings.Split(string(src), "\n") {
		if col, item := glued(line); item != "" {
			return Problems{{File: file, Line: i + 1, Column: col, What: noBlank(item), Meant: blank(item)}}
		}
	}
	var line int
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	if _, serr := fmt.Sscan(m[1], &line); serr != nil {
		return nil
	}
	return Problems{{File: file, Line: line, Column: 1, What: m[2]}}
}

// gluedItem is a line that begins with a dash and a quote.
var gluedItem = regexp.MustCompile(`^( *)(-(?:'[^']*'|"[^"]*")) *(?:#.*)?$`)

func glued(line string) (column int, item string) {
	m := gluedItem.FindStringSubmatch(strings.TrimRight(line, "\r"))
	if m == nil {
		return 0, ""
	}
	return len(m[1]) + 1, m[2]
}

func noBlank(item string) string {
	return item + " is no item of a list: a dash needs a blank after it"
}

func blank(item string) string { return "- " + strings.TrimPrefix(item, "-") }

type linter struct {
	file  string
	src   []string
	top   map[string]any
	found Problems
}

func (l *linter) add(n *yaml.Node, what, meant string) {
	l.found = append(l.found, Problem{l.file, n.Line, n.Column, what, meant})
}

// walk holds a node against what may be at its place.
func (l *linter) walk(n *yaml.Node, may []any, at string) {
	if n.Kind == yaml.AliasNode {
		return // looked at where it is defined
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		return // !reset and the like
	}
	all := l.alternatives(may)
	if l.lostBlank(n, all) {
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		l.mapping(n, all, at)
	case yaml.SequenceNode:
		var items []any
		for _, a := range all {
			if i, ok := a["items"]; ok {
				items = append(items, i)
			}
		}
		for i, item := range n.Content {
			l.walk(item, items, fmt.Sprintf("%s[%d]", at, i))
		}
	default:
	}
}

func (l *linter) mapping(n *yaml.Node, all []map[string]any, at string) {
	known, open := map[string][]any{}, true
	patterns := map[string][]any{}
	var rest []any
	for _, a := range all {
		props, _ := a["properties"].(map[string]any)
		for k, v := range props {
			known[k] = append(known[k], v)
		}
		pats, _ := a["patternProperties"].(map[string]any)
		for k, v := range pats {
			patterns[k] = append(patterns[k], v)
		}
		switch more := a["additionalProperties"].(type) {
		case bool:
			if !more {
				open = false
			}
		case map[string]any:
			rest = append(rest, more)
		}
		if a["unevaluatedProperties"] == false {
			open = false
		}
	}
	for _, a := range all { // one form that takes any key is enough
		if more, said := a["additionalProperties"]; said && more != false {
			open = true
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			continue // looked at where it is defined
		}
		here := join(at, key.Value)
		next := slices.Clone(known[key.Value])
		ok := len(next) > 0
		for p, subs := range patterns {
			if re, err := regexp.Compile(p); err == nil && re.MatchString(key.Value) {
				next, ok = append(next, subs...), true
			}
		}
		if !ok {
			next = append(next, rest...)
		}
		if !ok && !open {
			where := "at the top of a compose file"
			if at != "" {
				where = "in " + at
			}
			l.add(key, fmt.Sprintf("there is no key %q %s", key.Value, where), nearest(key.Value, slices.Sorted(maps.Keys(known))))
			continue
		}
		if len(next) > 0 {
			l.walk(value, next, here)
		}
	}
}

// lostBlank tells of -'8085:80' where a list is wanted. To YAML it is a text, or
// the key of a mapping.
func (l *linter) lostBlank(n *yaml.Node, all []map[string]any) bool {
	first := n
	if n.Kind == yaml.MappingNode && len(n.Content) > 0 {
		first = n.Content[0]
	}
	if first.Kind != yaml.ScalarNode || first.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 ||
		!strings.HasPrefix(first.Value, "-") || first.Line < 1 || first.Line > len(l.src) {
		return false
	}
	list := false
	for _, a := range all {
		list = list || takes(a, "array")
		if n.Kind == yaml.ScalarNode && takes(a, "string") {
			return false // such a text is fine here
		}
	}
	if !list {
		return false
	}
	line := l.src[first.Line-1]
	item := strings.TrimSpace(line[min(first.Column-1, len(line)):])
	l.add(first, noBlank(item), blank(item))
	return true
}

// takes tells whether a schema takes values of a type.
func takes(a map[string]any, kind string) bool {
	switch t := a["type"].(type) {
	case string:
		return t == kind
	case []any:
		return slices.Contains(t, any(kind))
	}
	return false
}

// alternatives are all forms that a value may have.
func (l *linter) alternatives(may []any) []map[string]any {
	var out []map[string]any
	var add func(v any, depth int)
	add = func(v any, depth int) {
		s, ok := v.(map[string]any)
		if !ok || depth > 20 {
			return
		}
		if ref, ok := s["$ref"].(string); ok {
			add(l.resolve(ref), depth+1)
		}
		for _, k := range []string{"oneOf", "anyOf", "allOf"} {
			list, _ := s[k].([]any)
			for _, sub := range list {
				add(sub, depth+1)
			}
		}
		out = append(out, s)
	}
	for _, v := range may {
		add(v, 0)
	}
	return out
}

func (l *linter) resolve(ref string) any {
	var v any = l.top
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[part]
	}
	return v
}

var composeSchema = sync.OnceValues(func() (map[string]any, error) {
	var top map[string]any
	if err := json.Unmarshal([]byte(schema.Schema), &top); err != nil {
		return nil, err
	}
	if top["properties"] == nil {
		return nil, errors.New("compose's schema has another form")
	}
	return top, nil
})

// nearest is the word that differs least, if it is near enough to be meant.
func nearest(word string, words []string) string {
	best, limit := "", max(1, len(word)/3)+1
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d < limit {
			best, limit = w, d
		}
	}
	return best
}

// distance is how many letters must be changed, added, left out, or swapped with
// their neighbour.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
