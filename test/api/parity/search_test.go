package parity

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// indexed has a registry that can be searched: "o/yes" is official and has 7
// stars, "o/no" neither.
func indexed(t *testing.T, x *ctx) string {
	t.Helper()
	const addr = "127.0.0.1:5080"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/_ping", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/search", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("q") != "o" || q.Get("n") == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"query":"o","num_results":2,"results":[
			{"name":"o/yes","description":"the one","star_count":7,"is_official":true},
			{"name":"o/no","description":"the other","star_count":2}]}`) // a client that is gone sees nothing
	})
	serve(t, x, addr, mux)
	return addr
}

func searches(t *testing.T, x *ctx) {
	addr := indexed(t, x)
	out := x.Docker("search", "--format", "{{.Name}} {{.Description}} {{.StarCount}} {{.IsOfficial}}", addr+"/o")
	x.equal("what is there", out, "o/yes the one 7 [OK]\no/no the other 2 ")
	x.equal("what counts as automated", strings.TrimSpace(x.ok("GET", "/images/search?term="+addr+"/o&"+filters("is-automated", "true"), nil)), "[]")
	x.DockerFails("Error response from daemon: Unexpected status code 404", "search", addr+"/missing")
	if code, body := x.API("GET", "/images/search?term="+addr+"/o&limit=101", nil); code != 400 || !strings.Contains(string(body), "imit 101 is outside the range of [1, 100]") {
		t.Errorf("a limit out of bounds: %d %s", code, body)
	}
	if code, body := x.API("GET", "/images/search?term=127.0.0.1:5081/o", nil); code != 400 || !strings.Contains(string(body), "invalid registry endpoint") {
		t.Errorf("nobody there: %d %s", code, body)
	}
}

// finds checks that a filter keeps "o/yes" and leaves "o/no" out.
func finds(key, value string) check {
	return func(t *testing.T, x *ctx) {
		got := x.ok("GET", "/images/search?term="+indexed(t, x)+"/o&"+filters(key, value), nil)
		if !strings.Contains(got, `"o/yes"`) || strings.Contains(got, `"o/no"`) {
			t.Errorf("%s=%s: %s", key, value, got)
		}
	}
}
