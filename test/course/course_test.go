package course

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// patience is how long one document may take.
const patience = 8 * time.Minute

// TestCourse does what each walk-through says, word for word.
func TestCourse(t *testing.T) {
	docs, err := filepath.Glob(filepath.Join(testkit.RepoRoot(), "docs/course/*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no walk-throughs: %v", err)
	}
	for _, doc := range docs {
		t.Run(strings.TrimSuffix(filepath.Base(doc), ".md"), func(t *testing.T) {
			text, err := os.ReadFile(doc)
			if err != nil {
				t.Fatal(err)
			}
			steps, err := parse(string(text))
			if err != nil {
				t.Fatalf("%s: %v", doc, err)
			}
			if len(steps) == 0 {
				t.Fatalf("%s has no commands", doc)
			}
			d := testkit.New(t)
			d.Image("busybox")
			walk(t, d, filepath.Base(doc), steps)
			d.Clean()
		})
	}
}

// walk runs the steps in one shell, so that what one sets the next sees, and ends
// at the first whose exit status is not what it must be.
func walk(t *testing.T, d *testkit.Daemon, doc string, steps []step) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var script strings.Builder
	fmt.Fprintf(&script, "cd %s\n", dir)
	for i, s := range steps {
		// The command is read from a file, so that it may be of any form, and its
		// standard input is empty, so that it cannot eat the script.
		at := filepath.Join(dir, fmt.Sprintf(".step-%d", i))
		if err := os.WriteFile(at, []byte(s.command+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		source := "source " + at
		if !s.checked {
			source = "set -e; " + source + "; set +e"
		}
		fmt.Fprintf(&script, "echo unfinished >%[1]s.code\n{ %[2]s; } >%[1]s.out 2>&1 </dev/null\necho $? >%[1]s.code\n", at, source)
		fmt.Fprintf(&script, "[ $(cat %s.code) = %d ] || exit 1\n", at, s.code)
	}
	cmd := d.Command(ctx, "bash", "--noprofile", "--norc", "-c", script.String())
	cmd.Env = append(cmd.Env, "PATH="+testkit.BinDir()+":"+os.Getenv("PATH"))
	out, runErr := cmd.CombinedOutput()
	for i, s := range steps {
		at := filepath.Join(dir, fmt.Sprintf(".step-%d", i))
		printed, _ := os.ReadFile(at + ".out")
		ended, err := os.ReadFile(at + ".code")
		code := strings.TrimSpace(string(ended))
		if err != nil {
			t.Fatalf("%s:%d: not reached: %v\n%s", doc, s.line, runErr, out)
		}
		if code != strconv.Itoa(s.code) {
			t.Fatalf("%s:%d: %s\nexit %s, want %d\n%s", doc, s.line, s.command, code, s.code, printed)
		}
		if s.checked && !matches(s.want, lines(string(printed))) {
			t.Errorf("%s:%d: %s\nprinted:\n%s\nwant:\n%s", doc, s.line, s.command, printed, strings.Join(s.want, "\n"))
		}
	}
}

// lines is text as the lines it prints.
func lines(s string) []string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
