package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// nettool and volplugin are programs for containers, whole in one static file. A
// process of tests builds each once.
var (
	nettool   = sync.OnceValues(func() ([]byte, error) { return buildProgram("nettool") })
	volplugin = sync.OnceValues(func() ([]byte, error) { return buildProgram("volplugin") })
)

func buildProgram(name string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "hf-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./internal/testkit/"+name)
	cmd.Dir = RepoRoot()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", name, err, b)
	}
	body, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", name, err)
	}
	return body, nil
}
