package registry

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/base/clock"
)

// open is a registry in a new folder.
func open(t testing.TB, o DirOptions) *Dir {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	d, err := OpenDir(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return d
}

func serve(t testing.TB, d *Dir) string {
	t.Helper()
	s := httptest.NewServer(NewHandler(d, Options{Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// The specification's own suite, with everything it can ask for.
func TestConformance(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	program := filepath.Join(out, "conformance")
	build := exec.Command("go", "build", "-o", program, "github.com/opencontainers/distribution-spec/conformance")
	build.Dir = filepath.Join("..", "..", "tools", "conformance")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	cmd := exec.Command(program)
	cmd.Dir = out
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+serve(t, open(t, DirOptions{})), "OCI_TLS=disabled", "OCI_RESULTS_DIR="+filepath.Join(out, "results"),
		"OCI_CONFIGURATION=", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true")
	report, failed := cmd.CombinedOutput()
	counts := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^  (Disabled|Skip|Pass|FAIL|Error)\.+: +(\d+)$`).FindAllStringSubmatch(string(report), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		counts[m[1]] = n
	}
	if failed != nil || counts["Pass"] < 800 || counts["Disabled"]+counts["Skip"]+counts["FAIL"]+counts["Error"] > 0 {
		t.Errorf("%v, %v\n%s", failed, counts, report)
	}
}
