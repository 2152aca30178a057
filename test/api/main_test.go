package api

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// settle is how long anything may take that is not instant; tests poll.
const settle = 30 * time.Second

// engine lets the suites run against Docker's own daemon, to see what Docker
// does: HF_ENGINE=dockerd go test ./test/api
var engine = testkit.Engine(os.Getenv("HF_ENGINE"))

var shared *testkit.Shared

func TestMain(m *testing.M) {
	os.Exit(testkit.RunMain(m, "api-shared", testkit.Options{Engine: engine}, func(s *testkit.Shared) { shared = s }))
}

// daemon is the shared daemon with the busybox image.
func daemon(t *testing.T) *testkit.Daemon {
	t.Helper()
	d := shared.For(t)
	d.Image("busybox")
	return d
}

// own is a daemon of the test's own, for faults.
func own(t *testing.T, o testkit.Options) *testkit.Daemon {
	t.Helper()
	o.Engine = engine
	d := testkit.New(t, o)
	if o.RootTmpfs+o.RootExt4 == 0 && !o.Stopped {
		d.Image("busybox")
	}
	return d
}

// notOnTwin skips what only our engine promises.
func notOnTwin(t *testing.T, why string) {
	t.Helper()
	if engine == testkit.Dockerd {
		t.Skipf("not on the twin: %s", why)
	}
}

// up starts a container in the background and returns its ID.
func up(d *testkit.Daemon, args ...string) string {
	return d.Docker(append([]string{"run", "-d"}, args...)...)
}

// format is `docker inspect -f`.
func format(d *testkit.Daemon, name, tmpl string) string {
	return d.Docker("inspect", "-f", tmpl, name)
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func contains(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want it to contain %q", what, got, want)
	}
}

// waitLog polls a container's log until it contains text.
func waitLog(d *testkit.Daemon, name, text string) {
	d.Eventually(settle, "log of "+name+" contains "+text, func() (bool, string) {
		r := d.DockerResult("logs", name)
		return strings.Contains(r.Out+r.Err, text), r.String()
	})
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}
