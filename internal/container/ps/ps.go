// Package ps lists processes as the ps program does. What `ps -ef` shows is
// read from /proc; for anything else the host's ps is run.
package ps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate refuses arguments that give the PID column another meaning: rows are
// chosen by it.
func Validate(args string) error {
	for _, m := range regexp.MustCompile(`\s+([^\s]*)=\s*(PID[^\s]*)`).FindAllStringSubmatch(args, -1) {
		if m[1] != "pid" {
			return fmt.Errorf(`specifying "%s=%s" is not allowed`, m[1], m[2])
		}
	}
	return nil
}

// List shows the processes. Empty args are "-ef".
func List(ctx context.Context, args string, pids []int, now time.Time) (titles []string, rows [][]string, err error) {
	if args == "" || args == "-ef" {
		return read("/proc", pids, now)
	}
	return run(ctx, args, pids)
}

func run(ctx context.Context, args string, pids []int) ([]string, [][]string, error) {
	path, err := exec.LookPath("ps")
	if err != nil {
		return nil, nil, fmt.Errorf("arguments other than -ef need the program ps on the host (package procps): %w", err)
	}
	words := strings.Fields(args)
	list := make([]string, len(pids))
	for i, p := range pids {
		list[i] = strconv.Itoa(p)
	}
	out, err := exec.CommandContext(ctx, path, append(slices.Clone(words), "-q"+strings.Join(list, ","))...).Output()
	if err != nil {
		// Some arguments exclude -q: then all are listed.
		out, err = exec.CommandContext(ctx, path, words...).Output()
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			if line, _, _ := bytes.Cut(exit.Stderr, []byte("\n")); len(line) > 0 {
				err = errors.New(string(line))
			}
		}
		return nil, nil, fmt.Errorf("ps: %w", err)
	}
	return parse(string(out), pids)
}

// parse keeps the rows of the given processes, and of their threads where the
// arguments list some.
func parse(out string, pids []int) ([]string, [][]string, error) {
	lines := strings.Split(out, "\n")
	titles := fields(lines[0])
	col := slices.Index(titles, "PID")
	if col < 0 {
		return nil, nil, errors.New("Couldn't find PID field in ps output")
	}
	var rows [][]string
	ours := false // the last process row was one of ours: thread rows follow it
	for _, line := range lines[1:] {
		f := fields(line)
		if len(f) <= col {
			continue
		}
		if f[col] != "-" {
			pid, err := strconv.Atoi(f[col])
			if err != nil {
				return nil, nil, fmt.Errorf("Unexpected pid '%s': %w", f[col], err)
			}
			ours = slices.Contains(pids, pid)
		}
		if ours {
			rows = append(rows, fit(f, len(titles)))
		}
	}
	return titles, rows, nil
}

// fit joins what is over into the last column.
func fit(f []string, n int) []string {
	if len(f) <= n {
		return f
	}
	return append(slices.Clone(f[:n-1]), strings.Join(f[n-1:], " "))
}

// fields splits at ASCII blanks only: names may hold others.
func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("\t\n\f\r ", r) })
}
