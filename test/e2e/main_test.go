package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

const (
	// buildLimit holds for a machine with nothing in its cache.
	buildLimit = 8 * time.Minute
	settle     = 60 * time.Second
)

var example = filepath.Join(testkit.RepoRoot(), "examples", "store")

// scriptEnv is what the example's scripts need of this user's environment, where
// a test changes HOME: caches are shared between runs.
func scriptEnv(t *testing.T) []string {
	t.Helper()
	cache := os.Getenv("HOLDFAST_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "holdfast")
	}
	env := []string{"HOLDFAST_CACHE=" + cache, "HOLDFAST=" + testkit.RequireBin(t, "holdfast")}
	for _, v := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		out, err := exec.Command("go", "env", v).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", v, err)
		}
		env = append(env, v+"="+strings.TrimSpace(string(out)))
	}
	return env
}

// images runs a script of the examples that makes images on d. Its network
// namespace leads nowhere, so where packages must be installed they come through a
// proxy.
func images(t *testing.T, d *testkit.Daemon, script string, args ...string) {
	t.Helper()
	testkit.RequireProgram(t, "mmdebstrap")
	ctx, cancel := context.WithTimeout(t.Context(), buildLimit)
	defer cancel()
	cmd := d.Command(ctx, filepath.Join(testkit.RepoRoot(), "examples", script), args...)
	gateway := d.Docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
	cmd.Env = append(append(cmd.Env, scriptEnv(t)...), "BUILD_HTTP_PROXY="+proxy(t, d, gateway))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// proxy is an HTTP proxy at an address inside the daemon's namespace. It asks
// from outside.
func proxy(t *testing.T, d *testkit.Daemon, address string) string {
	t.Helper()
	l := d.Listen("tcp", net.JoinHostPort(address, "0"))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the client sees a short body
	})}
	go func() { _ = srv.Serve(l) }() // ends when the test closes it
	t.Cleanup(func() { _ = srv.Close() })
	return "http://" + l.Addr().String()
}

// compose runs compose on the store, in the given form.
func compose(d *testkit.Daemon, args ...string) testkit.Result {
	return d.Run("", "docker-compose", append([]string{"-f", filepath.Join(example, "docker-compose.yml")}, args...)...)
}

func mustCompose(t *testing.T, d *testkit.Daemon, args ...string) string {
	t.Helper()
	r := compose(d, args...)
	if r.Code != 0 {
		t.Fatalf("%s\n%s", r, compose(d, "logs", "--tail=20").Out)
	}
	return r.Out
}
