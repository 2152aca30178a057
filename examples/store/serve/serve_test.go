package serve_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast.dev/holdfast/examples/store/serve"
	"holdfast.dev/holdfast/examples/store/serve/servetest"
)

func get(h http.Handler, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealthDoesNotDependOnTheDatabaseAndReadinessDoes(t *testing.T) {
	store := &servetest.Store{}
	h := serve.WithHealth(store, http.NotFoundHandler())
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(h, path); code != http.StatusOK {
			t.Errorf("%s with a database: %d %s", path, code, body)
		}
	}
	store.ReadyFunc = func(context.Context) error { return errors.New("dial tcp 10.0.0.7: user=secret") }
	if code, _ := get(h, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz without a database: %d", code)
	}
	code, body := get(h, "/readyz")
	if code != http.StatusServiceUnavailable || strings.Contains(body, "secret") {
		t.Errorf("/readyz without a database: %d %s", code, body)
	}
}

func TestMainRefusesToStartWithoutSettings(t *testing.T) {
	t.Setenv("ConnectionStrings:StoreContext", "Port=1")
	if code := serve.Main([]string{"web", "-addr", "127.0.0.1:0"}, nil); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if code := serve.Main([]string{"web", "-nonsense"}, nil); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
}

func TestCheckAsksTheRunningProgram(t *testing.T) {
	srv := httptest.NewServer(serve.WithHealth(&servetest.Store{}, http.NotFoundHandler()))
	addr := srv.URL[strings.LastIndex(srv.URL, ":"):]
	if code := serve.Main([]string{"web", "-check", "-addr", addr}, nil); code != 0 {
		t.Errorf("running: exit code %d, want 0", code)
	}
	srv.Close()
	if code := serve.Main([]string{"web", "-check", "-addr", addr}, nil); code != 1 {
		t.Errorf("gone: exit code %d, want 1", code)
	}
}
