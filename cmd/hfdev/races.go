package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// knownRace is a data race in somebody else's code that was looked at: why does
// it do no harm, or what is done about it?
type knownRace struct {
	function string // how the accessing function's name begins
	reason   string
}

// knownRaces is the reviewed list. A race is known where both accesses are made by
// a function of the list and our code is nowhere on the way to them.
var knownRaces = []knownRace{
	{
		"github.com/moby/buildkit/frontend/dockerfile/builder.(*withResolveCache).ResolveImageConfig",
		"each call sets CacheError of its group to true, which never changes back",
	},
	{
		"github.com/moby/buildkit/util/flightcontrol.(*CachedGroup",
		"reads that CacheError",
	},
	// The solver is listed whole: its scheduler, edges and jobs share cache keys,
	// vertices and requests among goroutines that are all its own, and each build
	// of the tests meets another pair of them. Those looked at: fields for a trace
	// that is not written (CacheKey.TraceFields beside edgeIndex.enforceIndexID), a
	// vertex's times for the display (notifyStarted beside connectProgressFromState),
	// whether a request was cancelled (pipe's sender.Finalize).
	{
		"github.com/moby/buildkit/solver.",
		"between goroutines of the solver alone, which get nothing from us that they share; theirs to mend",
	},
	{
		"github.com/moby/buildkit/solver/internal/pipe.(*sender[",
		"Finalize looks without the lock whether the request was cancelled: at worst an operation that ended as it was cancelled is not marked so, and its error says it all the same",
	},
}

const ourModule = "holdfast.dev/holdfast/"

// report is one report of the race detector.
type report struct {
	text string
	// access are the functions that touch the memory, from the innermost out,
	// without the standard library's; one of them for each of the two accesses.
	access [][]string
}

// String is one line: who raced with whom.
func (r report) String() string {
	var who []string
	for _, functions := range r.access {
		who = append(who, cmp.Or(strings.Join(functions[:min(2, len(functions))], " < "), "unknown"))
	}
	return "race: " + strings.Join(who, " | ")
}

// runRaces reads what the race detector wrote of programs under test, and fails
// for a race that is not in the list.
func runRaces(patterns []string) error {
	unknown, known, err := readRaces(patterns)
	if err != nil {
		return err
	}
	for _, r := range unknown {
		fmt.Println(r.text)
		fmt.Println("==", r)
	}
	for name, n := range known {
		fmt.Printf("known race, %d times: %s\n", n, name)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%d data races that are not in the list of knownRaces", len(unknown))
	}
	return nil
}

// readRaces gives the reports of files that are not known, and counts the others.
func readRaces(patterns []string) (unknown []report, known map[string]int, err error) {
	known = map[string]int{}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, nil, err
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, nil, err
			}
			for _, r := range parseRaces(string(b)) {
				if k := r.known(knownRaces); k != nil {
					known[k.function]++
					continue
				}
				r.text = file + ":\n" + r.text
				unknown = append(unknown, r)
			}
		}
	}
	return unknown, known, nil
}

// parseRaces reads the detector's text. What it does not understand is a report
// without accesses, which is never known.
func parseRaces(text string) (out []report) {
	const begin = "WARNING: DATA RACE"
	_, text, _ = strings.Cut(text, begin)
	for r := range strings.SplitSeq(text, begin) {
		r, _, _ = strings.Cut(r, "\n==================")
		if strings.TrimSpace(r) == "" {
			continue
		}
		// Where a goroutine was made does not count: all are, in the end, ours.
		accesses, _, _ := strings.Cut(r, "\nGoroutine ")
		out = append(out, report{text: begin + r, access: parseAccesses(accesses)})
	}
	return out
}

func parseAccesses(text string) (out [][]string) {
	for stack := range strings.SplitSeq(text, "\n\n") {
		var functions []string
		for line := range strings.Lines(stack) {
			name, indented := strings.CutPrefix(line, "  ")
			name = strings.TrimSpace(name)
			// Places in files are indented more.
			if !indented || name == "" || strings.HasPrefix(line, "      ") || standard(name) {
				continue
			}
			functions = append(functions, name)
		}
		if strings.TrimSpace(stack) != "" {
			out = append(out, functions)
		}
	}
	return out
}

// standard tells a function of the standard library, whose import paths begin
// without a dot.
func standard(function string) bool {
	first, _, _ := strings.Cut(function, "/")
	if !strings.Contains(function, "/") { // runtime.mapassign(), main.x(): no folder
		first, _, _ = strings.Cut(function, ".")
		return first != "main"
	}
	return !strings.Contains(first, ".")
}

// known is the entry of the list that covers the report, if one does.
func (r report) known(list []knownRace) *knownRace {
	var found *knownRace
	for _, functions := range r.access {
		if len(functions) == 0 || slices.ContainsFunc(functions, func(f string) bool { return strings.HasPrefix(f, ourModule) }) {
			return nil
		}
		var k *knownRace
		for i := range list {
			if strings.HasPrefix(functions[0], list[i].function) {
				k = &list[i]
			}
		}
		if k == nil {
			return nil
		}
		found = k
	}
	return found
}
