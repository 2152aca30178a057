package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// slowToFuzz are packages whose dependencies take long to compile for fuzzing; the
// short form, which is CI's, leaves them out. Their seeds run with the unit tests.
var slowToFuzz = []string{
	"internal/build/buildkit", "internal/container", "internal/ctrd/imagestore",
	"internal/httpapi/router/build", "internal/httpapi/router/container", "internal/image",
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// target is one fuzz test.
type target struct{ dir, name string }

// runFuzz runs every fuzz target for a while. What fails is put by go below
// the package's testdata/fuzz, for the fix to keep.
func runFuzz(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	each := fs.Duration("time", 10*time.Second, "how long each target runs")
	short := fs.Bool("short", false, "leave out what takes minutes to compile")
	run := fs.String("run", "", "only targets that match")
	if err := fs.Parse(args); err != nil {
		return err
	}
	only, err := regexp.Compile(*run)
	if err != nil {
		return err
	}
	targets, err := fuzzTargets("internal")
	if err != nil {
		return err
	}
	passed, skipped := 0, 0
	var failures []string
	for _, t := range targets {
		switch {
		case !only.MatchString(t.name):
			continue
		case *short && slices.Contains(slowToFuzz, t.dir):
			skipped++
			continue
		}
		start := time.Now()
		// Inputs that look new because goroutines took turns in another order are
		// not worth making smaller for a minute, which is go's default.
		out, err := exec.CommandContext(ctx, "go", "test", "./"+t.dir, "-run=^$", "-fuzz=^"+t.name+"$",
			fmt.Sprintf("-fuzztime=%v", *each), "-fuzzminimizetime=20x", fmt.Sprintf("-timeout=%v", *each+10*time.Minute)).CombinedOutput()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !onlyOutOfTime(string(out)) {
			fmt.Printf("FAIL %s %s\n%s", t.dir, t.name, out)
			failures = append(failures, t.dir+" "+t.name)
			continue
		}
		passed++
		fmt.Printf("ok   %s %s %.0fs%s\n", t.dir, t.name, time.Since(start).Seconds(), lastCount(string(out)))
	}
	fmt.Printf("fuzz targets: %d passed, %d failed, %d left out\n", passed, len(failures), skipped)
	if len(failures) > 0 {
		return fmt.Errorf("fuzz targets failed: %s", strings.Join(failures, ", "))
	}
	if passed == 0 {
		return errors.New("no fuzz target ran")
	}
	return nil
}

// outOfTime is how go ends a target whose time is up while a worker is at an input:
// now and then it takes that for a failure, of an input that it does not name.
var outOfTime = regexp.MustCompile(`(?m)^--- FAIL: \w+ \([0-9.]+s\)\n +context deadline exceeded\nFAIL$`)

// onlyOutOfTime tells such an end from a failing input, which go writes to a file.
func onlyOutOfTime(out string) bool {
	return outOfTime.MatchString(out) && strings.Count(out, "--- FAIL") == 1 && !strings.Contains(out, "Failing input") && !strings.Contains(out, "panic:")
}

var execs = regexp.MustCompile(`execs: \d+`)

// lastCount is how many inputs a run got to.
func lastCount(out string) string {
	all := execs.FindAllString(out, -1)
	if len(all) == 0 {
		return ""
	}
	return ", " + all[len(all)-1]
}

func fuzzTargets(root string) ([]target, error) {
	var out []target
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range fuzzFunc.FindAllStringSubmatch(string(b), -1) {
			out = append(out, target{filepath.Dir(p), m[1]})
		}
		return nil
	})
	return out, err
}
