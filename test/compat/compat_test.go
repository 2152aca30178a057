package compat

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// engine lets the suites run against Docker's own daemon, to see what Docker does:
// HF_ENGINE=dockerd go test ./test/compat
var engine = testkit.Engine(os.Getenv("HF_ENGINE"))

var shared *testkit.Shared

func TestMain(m *testing.M) {
	code := testkit.RunMain(m, "compat-shared", testkit.Options{Engine: engine}, func(s *testkit.Shared) { shared = s })
	if err := writeOutcomes(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// here is a file of this folder.
func here(parts ...string) string {
	return filepath.Join(append([]string{testkit.RepoRoot(), "test", "compat"}, parts...)...)
}

func wholeProgram(t *testing.T, name, program string, args ...string) {
	t.Helper()
	d := shared.For(t)
	d.Image("busybox")
	step(t, name, "life of a container", func() error {
		if r := d.Run("", program, args...); r.Code != 0 || !strings.HasSuffix(r.Out, "all went well\n") {
			return errors.New(r.String())
		}
		return nil
	})
}

func TestDockerPy(t *testing.T) {
	// Debian's, whatever other python is first in the path.
	const python = "/usr/bin/python3"
	if err := exec.CommandContext(t.Context(), python, "-c", "import docker").Run(); err != nil {
		testkit.Missing(t, "docker-py (python3-docker)")
	}
	wholeProgram(t, "docker-py", python, here("dockerpy", "client.py"))
}

func TestDockerode(t *testing.T) {
	node := testkit.RequireProgram(t, "node")
	if _, err := os.Stat(here("dockerode", "node_modules", "dockerode")); err != nil {
		testkit.Missing(t, "dockerode (make deps-compat)")
	}
	wholeProgram(t, "dockerode", node, here("dockerode", "client.mjs"))
}

// program builds a Go program of this folder, static as containers want it.
func program(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(dir))
	cmd := exec.CommandContext(t.Context(), testkit.RequireProgram(t, "go"), "build", "-trimpath", "-o", out, ".")
	cmd.Dir = here(dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, b)
	}
	return out
}

func TestTestcontainersGo(t *testing.T) {
	wholeProgram(t, "testcontainers-go", "env", "TESTCONTAINERS_RYUK_DISABLED=true", program(t, "testcontainers"))
}

// ryukImage is the name that testcontainers-go knows it by.
const ryukImage = "testcontainers/ryuk:0.14.0"

// Ryuk's own image is not at hand: ours speaks its protocol (test/compat/ryuk).
// The program dies without a word, and what it made must go.
func TestTestcontainersGoWithRyuk(t *testing.T) {
	d := shared.For(t)
	d.Image("busybox")
	body, err := os.ReadFile(program(t, "ryuk"))
	if err != nil {
		t.Fatal(err)
	}
	d.Load(testkit.ImageSpec{
		Ref: ryukImage, Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"ryuk": {Body: string(body), Mode: 0o755}}.Tar()},
		Config: map[string]any{"Cmd": []string{"/ryuk"}},
	})
	abandoning := program(t, "testcontainers")
	step(t, "testcontainers-go", "Ryuk removes what a killed program left", func() error {
		// In the daemon's namespace, where the ports are that it publishes.
		out := d.Exec("env", "DOCKER_HOST="+d.Host(), "HOME="+d.Dir()+"/home", "RYUK_RECONNECTION_TIMEOUT=500ms", "RYUK_CONNECTION_TIMEOUT=30s", abandoning, "abandon")
		if err := holds("the program", out, "abandoned "); err != nil {
			return err
		}
		_, id, _ := strings.Cut(strings.TrimSpace(out), "abandoned ")
		d.Eventually(time.Minute, "all is removed", func() (bool, string) {
			left := d.Docker("ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Status}}")
			return left == "" && d.DockerResult("inspect", id).Code != 0, left
		})
		return nil
	})
}
