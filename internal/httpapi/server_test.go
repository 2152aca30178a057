package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

type routes []route.Route

func (r routes) Routes() []route.Route { return r }

func newServer(t *testing.T, log io.Writer, grace time.Duration, rs ...route.Route) *Server {
	t.Helper()
	return New(Options{
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Clock: clock.System{},
		Version: "1.2.3", Routers: []route.Router{routes(rs)}, Grace: grace,
	})
}

func get(t *testing.T, s *Server, method, path, body string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

func TestNewestVersionIsTheClients(t *testing.T) {
	if MaxVersion != client.MaxAPIVersion {
		t.Errorf("we serve %s, the client knows %s", MaxVersion, client.MaxAPIVersion)
	}
}

func TestVersions(t *testing.T) {
	s := newServer(t, io.Discard, 0, route.Route{Method: "GET", Path: "/v", Handler: func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, route.Version(r.Context()))
		return err
	}})
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/v":       {200, "1.56"},
		"/v1.24/v": {200, "1.24"},
		"/v1.99/v": {400, `{"message":"client version 1.99 is too new. Maximum supported API version is 1.56"}` + "\n"},
		"/v2.0/v":  {400, `{"message":"client version 2.0 is too new. Maximum supported API version is 1.56"}` + "\n"},
		"/v1.23/v": {400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n"},
		"/nowhere": {404, `{"message":"page not found"}` + "\n"},
		"/v1.44/n": {404, `{"message":"page not found"}` + "\n"},
	} {
		resp, body := get(t, s, "GET", path, "")
		if resp.StatusCode != want.status || body != want.body {
			t.Errorf("%s: got %d %q", path, resp.StatusCode, body)
		}
		for k, v := range map[string]string{"Server": "Holdfast/1.2.3 (linux)", "Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false"} {
			if got := resp.Header.Get(k); got != v {
				t.Errorf("%s: header %s is %q", path, k, got)
			}
		}
	}
	if resp, _ := get(t, s, "POST", "/v", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("wrong method: %d", resp.StatusCode)
	}
	if resp, _ := get(t, s, "OPTIONS", "/anything", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("OPTIONS: %d", resp.StatusCode)
	}
}

func TestErrorsToStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{fault.New(errdefs.ErrInvalidArgument, "x"), 400},
		{fault.New(errdefs.ErrUnauthenticated, "x"), 401},
		{fault.New(errdefs.ErrPermissionDenied, "x"), 403},
		{fault.New(errdefs.ErrNotFound, "x"), 404},
		{fault.New(errdefs.ErrConflict, "x"), 409},
		{fault.New(errdefs.ErrAlreadyExists, "x"), 409},
		{fault.New(errdefs.ErrFailedPrecondition, "x"), 409},
		{fault.New(errdefs.ErrNotModified, "x"), 304},
		{fault.New(errdefs.ErrNotImplemented, "x"), 501},
		{fault.New(errdefs.ErrUnavailable, "x"), 503},
		{context.DeadlineExceeded, 500},
		{errors.New("x"), 500},
		{fmt.Errorf("deep: %w", fault.New(errdefs.ErrNotFound, "x")), 404},
		{fault.Wrap(errdefs.ErrInvalidArgument, fault.New(errdefs.ErrNotFound, "x"), "outermost counts"), 400},
	} {
		s := newServer(t, io.Discard, 0, route.Route{Method: "GET", Path: "/", Handler: func(http.ResponseWriter, *http.Request) error { return c.err }})
		resp, body := get(t, s, "GET", "/", "")
		if resp.StatusCode != c.want {
			t.Errorf("%v: got %d, want %d", c.err, resp.StatusCode, c.want)
		}
		want := fmt.Sprintf(`{"message":%q}`+"\n", c.err.Error())
		if c.want == http.StatusNotModified {
			want = ""
		}
		if body != want {
			t.Errorf("%v: body %q", c.err, body)
		}
	}
}

func TestPanicIsAnError(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, &log, 0, route.Route{Method: "GET", Path: "/", Handler: func(http.ResponseWriter, *http.Request) error { panic("oh") }})
	resp, body := get(t, s, "GET", "/", "")
	if resp.StatusCode != 500 || !strings.Contains(body, "oh") || !strings.Contains(log.String(), "server_test.go") {
		t.Errorf("got %d %q, log %s", resp.StatusCode, body, &log)
	}
}

func TestDebugLogHidesSecrets(t *testing.T) {
	var log bytes.Buffer
	var got string
	s := newServer(t, &log, 0, route.Route{Method: "POST", Path: "/auth", Handler: func(_ http.ResponseWriter, r *http.Request) error {
		b, err := io.ReadAll(r.Body)
		got = string(b)
		return err
	}})
	body := `{"username":"u","Password":"hush1","x":[{"IdentityToken":"hush2"}],"Env":["PGPASSWORD=hush3","Y"]}`
	get(t, s, "POST", "/auth?buildargs=hush4", body)
	if got != body {
		t.Errorf("the handler read %q", got)
	}
	if strings.Contains(log.String(), "hush") || !strings.Contains(log.String(), "PGPASSWORD=") {
		t.Errorf("log: %s", &log)
	}
}

// startServer serves on a unix socket until the test ends or stop is called.
func startServer(t *testing.T, s *Server) (socket string, stop func() error) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "api.sock")
	ls, err := Listen(t.Context(), "unix://"+socket, ListenOptions{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ls...) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = stop() })
	return socket, stop
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}

func TestHijack(t *testing.T) {
	s := newServer(t, io.Discard, 0, route.Route{Method: "POST", Path: "/attach", Handler: func(w http.ResponseWriter, _ *http.Request) error {
		conn, r, err := route.Hijack(w)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
			return err
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		_, err = io.WriteString(conn, "you said "+line)
		return err
	}})
	socket, _ := startServer(t, s)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1.40/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	if line, err := br.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

// A client that uploads reads no answer before it has sent all: an early refusal
// must not cut it off while it sends, or it learns of a broken pipe only.
func TestEarlyAnswerReachesAnUploader(t *testing.T) {
	s := newServer(t, io.Discard, 0, route.Route{Method: "POST", Path: "/load", Handler: func(http.ResponseWriter, *http.Request) error {
		return fault.New(errdefs.ErrInvalidArgument, "this is no archive")
	}})
	socket, stop := startServer(t, s)
	defer func() { _ = stop() }()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const chunk, chunks = 1 << 20, 16
	if _, err := fmt.Fprintf(conn, "POST /load HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", chunk*chunks); err != nil {
		t.Fatal(err)
	}
	for i := range chunks {
		if _, err := conn.Write(make([]byte, chunk)); err != nil {
			t.Fatalf("after %d MiB: %v", i, err)
		}
		time.Sleep(60 * time.Millisecond) // slower than the server's own patience
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "this is no archive") {
		t.Errorf("%d %s, %v", resp.StatusCode, body, err)
	}
}

func TestShutdownEndsStreamsAndLetsRequestsFinish(t *testing.T) {
	finish := make(chan struct{})
	started := make(chan struct{}, 2)
	s := newServer(t, io.Discard, time.Minute,
		route.Route{Method: "GET", Path: "/stream", Handler: func(w http.ResponseWriter, r *http.Request) error {
			if _, err := io.WriteString(route.FlushWriter{W: w}, "first\n"); err != nil {
				return err
			}
			started <- struct{}{}
			<-r.Context().Done()
			return nil
		}},
		route.Route{Method: "GET", Path: "/slow", Handler: func(w http.ResponseWriter, _ *http.Request) error {
			started <- struct{}{}
			<-finish
			_, err := io.WriteString(w, "done")
			return err
		}})
	socket, stop := startServer(t, s)
	c := unixClient(socket)
	bodies := make(chan string, 2)
	for _, path := range []string{"/stream", "/slow"} {
		go func() {
			resp, err := c.Get("http://x" + path)
			if err != nil {
				bodies <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			bodies <- fmt.Sprint(string(b), err)
		}()
	}
	<-started
	<-started
	go func() {
		for { // the listener goes first
			conn, err := net.Dial("unix", socket)
			if err != nil {
				close(finish)
				return
			}
			_ = conn.Close()
		}
	}()
	if err := stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
	got := []string{<-bodies, <-bodies}
	if all := strings.Join(got, "|"); !strings.Contains(all, "first\n<nil>") || !strings.Contains(all, "done<nil>") {
		t.Errorf("got %q", got)
	}
}

// A reply that fails half-way must not look whole.
func TestErrorAfterTheFirstByteCutsTheReply(t *testing.T) {
	s := newServer(t, io.Discard, 0, route.Route{Method: "GET", Path: "/export", Handler: func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := io.WriteString(route.FlushWriter{W: w}, "half"); err != nil {
			return err
		}
		return errors.New("disk gone")
	}})
	socket, _ := startServer(t, s)
	resp, err := unixClient(socket).Get("http://x/export")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q without an error", b)
	}
}

// A client that waits while the daemon goes down is told so.
func TestShutdownAnswersWhoIsWaiting(t *testing.T) {
	started := make(chan struct{})
	s := newServer(t, io.Discard, 0, route.Route{Method: "GET", Path: "/wait", Handler: func(_ http.ResponseWriter, r *http.Request) error {
		close(started)
		<-r.Context().Done()
		return r.Context().Err()
	}})
	socket, stop := startServer(t, s)
	status := make(chan string, 1)
	go func() {
		resp, err := unixClient(socket).Get("http://x/wait")
		if err != nil {
			status <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		status <- fmt.Sprint(resp.StatusCode, string(b), err)
	}()
	<-started
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := <-status; !strings.HasPrefix(got, "503") || !strings.Contains(got, "shutting down") {
		t.Errorf("got %s", got)
	}
}
