package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runRaces reads what the race detector wrote of daemons under test. A race that
// none of our code takes part in is told and does not fail: BuildKit's solver has
// some.
func runRaces(patterns []string) error {
	reports, foreign := 0, 0
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			ours, theirs := sortRaces(string(b))
			reports, foreign = reports+len(ours), foreign+len(theirs)
			for _, r := range ours {
				fmt.Println(r)
			}
			for _, r := range theirs {
				fmt.Println("not ours:", firstFrame(r))
			}
		}
	}
	fmt.Printf("races: %d ours, %d of others\n", reports, foreign)
	if reports > 0 {
		return fmt.Errorf("%d data races", reports)
	}
	return nil
}

// sortRaces parts reports whose accesses our code takes part in from the others.
// Where a goroutine was made does not count: all are, in the end, ours.
func sortRaces(text string) (ours, theirs []string) {
	_, text, _ = strings.Cut(text, "WARNING: DATA RACE")
	for r := range strings.SplitSeq(text, "WARNING: DATA RACE") {
		accesses, _, _ := strings.Cut(r, "\nGoroutine ")
		switch {
		case strings.TrimSpace(accesses) == "":
		case strings.Contains(accesses, "holdfast.dev/holdfast/"):
			ours = append(ours, r)
		default:
			theirs = append(theirs, r)
		}
	}
	return ours, theirs
}

// firstFrame is the innermost function of a report.
func firstFrame(r string) string {
	for line := range strings.Lines(r) {
		if strings.HasPrefix(line, "  ") {
			return strings.TrimSpace(line)
		}
	}
	return "a report without a stack"
}
