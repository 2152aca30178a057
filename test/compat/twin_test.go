package compat

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// difference is a step that the twin, Debian's dockerd 20.10, does not go through.
type difference struct{ step, reason string }

// differences are reviewed: each has its reason, and one that is no more fails
// the run on the twin.
var differences = []difference{}

// outcome is what one step came to, for docs/compat-twin.md.
type outcome struct {
	Client, Step string
	Failed       string // empty: it went through
	Reason       string // why the twin may fail here
}

var outcomes struct {
	sync.Mutex
	all []outcome
}

// step runs one thing that a client does. On ours it must go through; on the
// twin, too, but for the differences.
func step(t *testing.T, client, name string, do func() error) {
	t.Helper()
	t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
		err := do()
		o := outcome{Client: client, Step: name}
		if err != nil {
			o.Failed = firstLine(err.Error())
		}
		known := slices.IndexFunc(differences, func(d difference) bool { return d.step == client+": "+name })
		if known >= 0 {
			o.Reason = differences[known].reason
		}
		outcomes.Lock()
		outcomes.all = append(outcomes.all, o)
		outcomes.Unlock()
		switch {
		case engine == testkit.Dockerd && known >= 0 && err != nil:
			t.Logf("as known (%s): %v", differences[known].reason, err)
		case engine == testkit.Dockerd && known >= 0:
			t.Errorf("the twin goes through this: take it off the differences")
		case err != nil:
			t.Error(err)
		}
	})
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// writeOutcomes leaves what came out for hfdev twin.
func writeOutcomes() error {
	dir := os.Getenv("HF_COMPAT_OUT")
	if dir == "" {
		return nil
	}
	b, err := json.MarshalIndent(outcomes.all, "", " ")
	if err != nil {
		return err
	}
	name := string(engine)
	if name == "" {
		name = string(testkit.Holdfastd)
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), b, 0o644)
}

// expect is an error unless got is want.
func expect(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s: got %q, want %q", what, got, want)
	}
	return nil
}

// holds is an error unless got contains want.
func holds(what, got, want string) error {
	if !strings.Contains(got, want) {
		return fmt.Errorf("%s: %q is not in %q", what, want, got)
	}
	return nil
}
