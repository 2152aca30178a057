package testkit

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// TB is the part of testing.TB the kit needs; a TestMain or a program that is no
// test brings its own.
type TB interface {
	Helper()
	Name() string
	Failed() bool
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Missing says that the machine lacks something a test needs: a skip that names
// it, or a failure in CI, where everything must run.
func Missing(t TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("requirement missing: %s", what)
	}
	t.Skipf("requirement missing: %s", what)
}

// RequireRoot skips tests that need root.
func RequireRoot(t TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "root")
	}
}

// RequireProgram returns the path of a program or skips.
func RequireProgram(t TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "program "+name)
	}
	return p
}

// RepoRoot is the top folder of this repository.
func RepoRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// BinDir is where the built programs are: $HF_BIN, or bin/ of the repository.
func BinDir() string {
	if d := os.Getenv("HF_BIN"); d != "" {
		return d
	}
	return filepath.Join(RepoRoot(), "bin")
}

// RequireBin returns the path of one of our programs or skips.
func RequireBin(t TB, name string) string {
	t.Helper()
	p := filepath.Join(BinDir(), name)
	if _, err := os.Stat(p); err != nil {
		Missing(t, "bin/"+name+" (make build)")
	}
	return p
}

// Poll asks cond until it is true. When the deadline passes it fails the test
// with the condition's name and the last state cond told.
func Poll(t TB, within time.Duration, what string, cond func() (ok bool, state string)) {
	t.Helper()
	if state, ok := poll(within, cond); !ok {
		t.Fatalf("%s: not within %v; last state: %s", what, within, state)
	}
}

func poll(within time.Duration, cond func() (bool, string)) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, state := cond()
		if ok {
			return state, true
		}
		select {
		case <-ctx.Done():
			return state, false
		case <-tick.C:
		}
	}
}
