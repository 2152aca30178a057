package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// engine lets the suites run against Docker's own daemon, to see what Docker does:
// HF_ENGINE=dockerd go test ./test/compat
var engine = testkit.Engine(os.Getenv("HF_ENGINE"))

var shared *testkit.Shared

func TestMain(m *testing.M) {
	os.Exit(testkit.RunMain(m, "compat-shared", testkit.Options{Engine: engine}, func(s *testkit.Shared) { shared = s }))
}

// here is a file of this folder.
func here(parts ...string) string {
	return filepath.Join(append([]string{testkit.RepoRoot(), "test", "compat"}, parts...)...)
}

func client(t *testing.T, program string, args ...string) {
	t.Helper()
	d := shared.For(t)
	d.Image("busybox")
	r := d.Run("", program, args...)
	if r.Code != 0 || !strings.HasSuffix(r.Out, "all went well\n") {
		t.Errorf("%s", r)
	}
}

func TestDockerPy(t *testing.T) {
	// Debian's, whatever other python is first in the path.
	const python = "/usr/bin/python3"
	if err := exec.CommandContext(t.Context(), python, "-c", "import docker").Run(); err != nil {
		testkit.Missing(t, "docker-py (python3-docker)")
	}
	client(t, python, here("dockerpy", "client.py"))
}

func TestDockerode(t *testing.T) {
	node := testkit.RequireProgram(t, "node")
	if _, err := os.Stat(here("dockerode", "node_modules", "dockerode")); err != nil {
		testkit.Missing(t, "dockerode (make deps-compat)")
	}
	client(t, node, here("dockerode", "client.mjs"))
}

// Ryuk, which would remove what a crashed test left, is an image of its own and
// not at hand.
func TestTestcontainersGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "testcontainers")
	cmd := exec.CommandContext(t.Context(), testkit.RequireProgram(t, "go"), "build", "-o", program, ".")
	cmd.Dir = here("testcontainers")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	client(t, "env", "TESTCONTAINERS_RYUK_DISABLED=true", program)
}
