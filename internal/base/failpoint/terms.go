package failpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Set is the points that shall fail and how.
type Set struct {
	mu     sync.Mutex // guards points
	points map[string][]term
}

type term struct {
	left   int // hits left; negative: for ever
	action string
	text   string
}

// Parse reads "name=terms;name=terms".
func Parse(s string) (*Set, error) {
	out := &Set{points: map[string][]term{}}
	for point := range strings.SplitSeq(s, ";") {
		if point = strings.TrimSpace(point); point == "" {
			continue
		}
		name, terms, ok := strings.Cut(point, "=")
		if !ok {
			return nil, fmt.Errorf("failpoint %q: want name=terms", point)
		}
		for t := range strings.SplitSeq(terms, "->") {
			parsed, err := parseTerm(strings.TrimSpace(t))
			if err != nil {
				return nil, fmt.Errorf("failpoint %s: %w", name, err)
			}
			out.points[name] = append(out.points[name], parsed)
		}
	}
	return out, nil
}

func parseTerm(s string) (term, error) {
	t := term{left: -1, action: s}
	if count, action, ok := strings.Cut(s, "*"); ok {
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 {
			return t, fmt.Errorf("term %q: count %q is not a number", s, count)
		}
		t.left, t.action = n, action
	}
	if action, rest, ok := strings.Cut(t.action, "("); ok && strings.HasSuffix(rest, ")") {
		t.action, t.text = action, strings.TrimSuffix(rest, ")")
	}
	switch t.action {
	case "off", "error", "panic", "kill":
		return t, nil
	}
	return t, fmt.Errorf("term %q: action is not off, error, panic or kill", s)
}

// Hit does what the point's present term says.
func (s *Set) Hit(name string) error {
	t, ok := s.next(name)
	if !ok {
		return nil
	}
	switch t.action {
	case "error":
		if t.text == "" {
			t.text = "failpoint " + name
		}
		return errors.New(t.text)
	case "panic":
		panic("failpoint " + name)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {} // not one step further
	}
	return nil
}

func (s *Set) next(name string) (term, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	terms := s.points[name]
	for len(terms) > 0 && terms[0].left == 0 {
		terms = terms[1:]
	}
	s.points[name] = terms
	if len(terms) == 0 {
		return term{}, false
	}
	t := terms[0]
	if t.left > 0 {
		terms[0].left--
	}
	return t, true
}
