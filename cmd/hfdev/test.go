package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// class is one cost class of tests (HACKING.md).
type class struct {
	name string
	dir  string   // of a module of its own; empty: this one
	args []string // of go test
	pkgs []string
	// not lists packages to leave out of a pattern.
	not []string
	// raced: the daemons under test are those built with the race detector, where
	// there are.
	raced bool
}

// The heavy packages of the client are left out of -race: they are docker's and
// compose's code, have no concurrency of ours, and take minutes to compile again.
// internal/stateful has no goroutine, and explores a million states.
var heavy = []string{"/internal/cli", "/cmd/holdfast", "/internal/stateful"}

func classes() []class {
	return []class{
		{name: "unit", args: []string{"-race", "-shuffle=on", "-timeout=10m"}, pkgs: []string{"./internal/...", "./cmd/..."}, not: append([]string{"/internal/testkit"}, heavy...)},
		{name: "unit", args: []string{"-shuffle=on", "-timeout=10m"}, pkgs: []string{"./internal/cli/...", "./internal/stateful/...", "./cmd/holdfast/...", "./internal/testkit/...", "./build/..."}},
		{name: "unit", dir: "examples/store", args: []string{"-shuffle=on", "-timeout=10m"}, pkgs: []string{"./..."}},
		{name: "api", args: []string{"-timeout=20m", "-parallel=4"}, pkgs: []string{"./test/api"}, raced: true},
		{name: "api", args: []string{"-timeout=15m"}, pkgs: []string{"./test/api/parity", "./test/compat", "./test/course"}},
		// The tables have a case for each option and few that meet: not in CI, which
		// they would make six minutes longer.
		{name: "race", args: []string{"-timeout=30m"}, pkgs: []string{"./test/api/parity", "./test/compat"}, raced: true},
		{name: "cluster", args: []string{"-timeout=20m", "-parallel=3"}, pkgs: []string{"./test/cluster/..."}},
		{name: "e2e", args: []string{"-timeout=15m"}, pkgs: []string{"./test/e2e/..."}},
		{name: "chaos", args: []string{"-timeout=24h", "-run=Chaos"}, pkgs: []string{"./test/api/..."}},
	}
}

// event is one line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

// testTime is how long one top-level test ran, its waiting for others that run beside
// it not counted.
type testTime struct {
	name    string
	seconds float64
}

// tally counts tests and keeps what failed tests printed.
type tally struct {
	passed, failed, skipped int
	output                  map[string][]string // package/test → lines
	failures                []string
	skips                   []string
	ran                     map[string]int // package → tests passed
	slow                    []testTime
}

func runTests(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	run := fs.String("run", "", "only tests that match")
	count := fs.Int("count", 1, "times to run each test")
	race := fs.String("race", "", "folder of programs built with the race detector, for the class api")
	if err := fs.Parse(args); err != nil {
		return err
	}
	want := fs.Args()
	if len(want) == 0 {
		want = []string{"unit", "api", "cluster", "e2e"}
	}
	t := &tally{output: map[string][]string{}, ran: map[string]int{}}
	var errs []error
	raced := false
	for _, c := range classes() {
		if !slices.Contains(want, c.name) {
			continue
		}
		pkgs, err := c.packages(ctx)
		if err != nil {
			return err
		}
		if len(pkgs) == 0 {
			continue
		}
		fmt.Printf("== %s: go test %s, %d packages\n", c.name, strings.Join(c.args, " "), len(pkgs))
		before := t.passed
		goArgs := append([]string{"test", "-C", cmp.Or(c.dir, "."), "-json", fmt.Sprintf("-count=%d", *count)}, c.args...)
		if *run != "" {
			goArgs = append(goArgs, "-run="+*run)
		}
		var env []string
		if c.raced && *race != "" {
			if env, err = raceEnv(*race, !raced); err != nil {
				return err
			}
			raced = true
		}
		if err := t.goTest(ctx, env, append(goArgs, pkgs...)); err != nil {
			errs = append(errs, fmt.Errorf("class %s: %w", c.name, err))
		}
		if t.passed == before && *run == "" {
			errs = append(errs, fmt.Errorf("class %s: no test passed", c.name))
		}
	}
	if raced {
		if err := t.races(*race); err != nil {
			errs = append(errs, err)
		}
	}
	return t.close(errs)
}

// raceReports begins the names of the files that the programs in dir, which are
// built with the race detector, write their reports to: one for each process.
func raceReports(dir string) string { return filepath.Join(dir, "report") }

// raceEnv makes tests use those programs. A report ends no program: the test goes on.
func raceEnv(dir string, fresh bool) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if fresh {
		old, err := filepath.Glob(raceReports(dir) + ".*")
		if err != nil {
			return nil, err
		}
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				return nil, err
			}
		}
	}
	return []string{"HF_BIN=" + dir, "GORACE=exitcode=0 log_path=" + raceReports(dir)}, nil
}

// races counts as one test: no program under test had a race that is not known.
func (t *tally) races(dir string) error {
	const name = "data races of the programs under test"
	unknown, known, err := readRaces([]string{raceReports(dir) + ".*"})
	if err != nil {
		return err
	}
	for f, n := range known {
		fmt.Printf("known race, %d times: %s\n", n, f)
	}
	if len(unknown) == 0 {
		t.passed++
		return nil
	}
	t.failed++
	t.failures = append(t.failures, name)
	for _, r := range unknown {
		fmt.Println(r.text)
		t.failures = append(t.failures, r.String()) // what is kept of a long log is its end
	}
	return fmt.Errorf("%s: %d that are not in the list of knownRaces", name, len(unknown))
}

// close prints the summary. Its last line is for machines.
func (t *tally) close(errs []error) error {
	slices.SortFunc(t.slow, func(a, b testTime) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Println("== slowest:")
	for _, s := range t.slow[:min(20, len(t.slow))] {
		fmt.Printf("  %6.1fs %s\n", s.seconds, s.name)
	}
	if len(t.skips) > 0 {
		fmt.Printf("== skipped:\n  %s\n", strings.Join(t.skips, "\n  "))
	}
	if len(t.failures) > 0 {
		fmt.Printf("== failed:\n  %s\n", strings.Join(t.failures, "\n  "))
	}
	if os.Getenv("CI") == "true" {
		for _, s := range t.skips {
			if strings.Contains(s, "requirement missing") || strings.Contains(s, "needs root") {
				errs = append(errs, fmt.Errorf("a required test was skipped: %s", s))
			}
		}
	}
	for _, err := range errs {
		fmt.Println("==", err)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	return errors.Join(errs...)
}

func (c class) packages(ctx context.Context) ([]string, error) {
	var pkgs []string
	for _, pattern := range c.pkgs {
		dir := filepath.Join(c.dir, strings.TrimSuffix(pattern, "/..."))
		if _, err := os.Stat(dir); err != nil {
			continue // not in this tree
		}
		out, err := exec.CommandContext(ctx, "go", "list", "-C", cmp.Or(c.dir, "."), "-e", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}", pattern).Output()
		if err != nil {
			return nil, fmt.Errorf("go list %s: %w", pattern, err)
		}
		for _, p := range strings.Fields(string(out)) {
			if !slices.ContainsFunc(c.not, func(s string) bool { return strings.HasSuffix(p, s) || strings.Contains(p, s+"/") }) {
				pkgs = append(pkgs, p)
			}
		}
	}
	return pkgs, nil
}

func (t *tally) goTest(ctx context.Context, env, args []string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			t.line(line)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, cmd.Wait())
		}
	}
	return cmd.Wait()
}

func (t *tally) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		fmt.Print(line) // not from a test: the go command itself
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		t.output[key] = append(t.output[key], e.Output)
		if e.Action == "build-output" {
			fmt.Print(e.Output)
		}
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		t.endPackage(e)
		return
	}
	if !strings.Contains(e.Test, "/") {
		t.slow = append(t.slow, testTime{key, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		t.passed++
		t.ran[e.Package]++
	case "fail":
		t.failed++
		t.failures = append(t.failures, key)
		fmt.Printf("--- FAIL %s\n%s", key, strings.Join(t.output[key], ""))
	case "skip":
		t.skipped++
		t.skips = append(t.skips, key+": "+reason(t.output[key]))
	}
	delete(t.output, key)
}

func (t *tally) endPackage(e event) {
	if e.Action == "fail" {
		failedTests := slices.ContainsFunc(t.failures, func(f string) bool { return strings.HasPrefix(f, e.Package+" ") })
		if !failedTests { // it did not build, or died outside of a test
			t.failed++
			t.failures = append(t.failures, e.Package)
		}
		// A panic or a time-out is told in the package's, or in an unfinished test's, output.
		for key, out := range t.output {
			if strings.HasPrefix(key, e.Package+" ") {
				fmt.Print(strings.Join(out[max(0, len(out)-200):], ""))
			}
		}
	}
	fmt.Printf("%-4s %s %.1fs, %d passed\n", e.Action, e.Package, e.Elapsed, t.ran[e.Package])
	for key := range t.output {
		if strings.HasPrefix(key, e.Package+" ") {
			delete(t.output, key)
		}
	}
}

// reason is the text a skipped test gave.
func reason(output []string) string {
	for _, l := range output {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "===") && !strings.HasPrefix(l, "---") {
			return l
		}
	}
	return "no reason given"
}
