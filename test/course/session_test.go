package course

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// step is one command of a document and what it must do.
type step struct {
	line    int    // of the document, from 1
	command string // of any number of lines
	checked bool   // whether the output must be want
	want    []string
	code    int // the exit status it must end with
}

// exitLine ends the output of a command that must fail.
var exitLine = regexp.MustCompile(`^\[exit ([0-9]+)\]$`)

// parse reads a document's fenced blocks. A block of another kind than console
// and sh is for readers.
func parse(doc string) ([]step, error) {
	var steps []step
	kind, begin := "", 0
	var block []string
	for i, l := range strings.Split(doc, "\n") {
		fence, isFence := strings.CutPrefix(l, "```")
		switch {
		case isFence && kind == "":
			kind, begin, block = "for readers", i+1, nil
			if fence == "console" || fence == "sh" {
				kind = fence
			}
		case isFence:
			switch kind {
			case "sh":
				steps = append(steps, step{line: begin + 1, command: strings.Join(block, "\n")})
			case "console":
				session, err := parseSession(begin+1, block)
				if err != nil {
					return nil, err
				}
				steps = append(steps, session...)
			}
			kind = ""
		case kind != "":
			block = append(block, l)
		}
	}
	if kind != "" {
		return nil, fmt.Errorf("line %d: the block is not closed", begin)
	}
	return steps, nil
}

// parseSession reads a console block: "$ " begins a command, "> " goes on with
// it, other lines are output.
func parseSession(first int, block []string) ([]step, error) {
	var steps []step
	for i, l := range block {
		if command, ok := strings.CutPrefix(l, "$ "); ok {
			steps = append(steps, step{line: first + i, command: command, checked: true})
			continue
		}
		if len(steps) == 0 {
			return nil, fmt.Errorf("line %d: output of no command", first+i)
		}
		s := &steps[len(steps)-1]
		more, goesOn := strings.CutPrefix(l, "> ")
		switch m := exitLine.FindStringSubmatch(l); {
		case goesOn && s.want == nil:
			s.command += "\n" + more
		case m != nil:
			var err error
			if s.code, err = strconv.Atoi(m[1]); err != nil {
				return nil, fmt.Errorf("line %d: %w", first+i, err)
			}
		default:
			s.want = append(s.want, l)
		}
	}
	return steps, nil
}

// anything stands for text that differs from run to run: within a line for any text,
// alone on a line for any number of lines.
const anything = "…"

// matches holds output against what the document prints.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == anything {
		for skip := range len(got) + 1 {
			if matches(want[1:], got[skip:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && lineMatches(want[0], got[0]) && matches(want[1:], got[1:])
}

func lineMatches(want, got string) bool {
	parts := strings.Split(want, anything)
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	// Columns are as wide as what is in them: one blank stands for many.
	pattern := regexp.MustCompile(` +`).ReplaceAllString(strings.Join(parts, ".*"), " +")
	return regexp.MustCompile("^" + pattern + " *$").MatchString(got)
}
