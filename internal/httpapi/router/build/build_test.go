package build

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	domain "holdfast.dev/holdfast/internal/build"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

// fake is a builder that does what its fields say.
type fake struct {
	build    func(domain.Request, *domain.Classic) (string, []string, error)
	request  domain.Request
	prune    domain.PruneOptions
	canceled string
	uploaded [2]string   // which build's context, and what it was
	served   chan string // what the client sent first
}

func (f *fake) Build(_ context.Context, r domain.Request, body io.Reader, p *domain.Classic) (string, []string, error) {
	f.request = r
	if _, err := io.Copy(io.Discard, body); err != nil {
		return "", nil, err
	}
	return f.build(r, p)
}

func (f *fake) BuildInSession(_ context.Context, r domain.Request, trace func([]byte) error) (string, error) {
	f.request = r
	return "sha256:0123456789abcdef", trace([]byte("status"))
}

func (f *fake) Upload(_ context.Context, id string, body io.Reader) error {
	b, err := io.ReadAll(body)
	f.uploaded = [2]string{id, string(b)}
	return err
}

func (f *fake) Cancel(id string) { f.canceled = id }

func (f *fake) Prune(_ context.Context, o domain.PruneOptions) ([]domain.CacheRecord, error) {
	f.prune = o
	return []domain.CacheRecord{{ID: "a", Size: 3}, {ID: "b", Size: 4}}, nil
}

func (f *fake) ServeSession(ctx context.Context, c net.Conn, _ http.Header) error {
	return f.ServeControl(ctx, c)
}

func (f *fake) ServeControl(_ context.Context, c net.Conn) error {
	line, err := bufio.NewReader(c).ReadString('\n')
	f.served <- line
	return err
}

func call(t *testing.T, f *fake, path string, q url.Values, header http.Header) (*httptest.ResponseRecorder, error) {
	t.Helper()
	r := httptest.NewRequestWithContext(route.WithVersion(t.Context(), "1.50"), http.MethodPost, path+"?"+q.Encode(), strings.NewReader("tar"))
	for k, v := range header {
		r.Header[k] = v
	}
	if err := r.ParseForm(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	for _, rt := range New(f).Routes() {
		if rt.Path == path {
			return w, rt.Handler(w, r)
		}
	}
	t.Fatalf("no route %s", path)
	return nil, nil
}

func good(domain.Request, *domain.Classic) (string, []string, error) {
	return "sha256:0123456789abcdef", []string{"app:latest"}, nil
}

func TestBuildReadsDockersParameters(t *testing.T) {
	f := &fake{build: good}
	auth := base64.URLEncoding.EncodeToString([]byte(`{"reg:5000":{"username":"u","password":"p"}}`))
	w, err := call(t, f, "/build", url.Values{
		"t": {"app", "app:2"}, "dockerfile": {"sub/Dockerfile"}, "target": {"build"}, "buildargs": {`{"A":"1","B":null}`},
		"labels": {`{"l":"v"}`}, "cachefrom": {`["x","y"]`}, "extrahosts": {"a:1.2.3.4"}, "networkmode": {"none"},
		"nocache": {"1"}, "pull": {"1"}, "shmsize": {"67108864"}, "ulimits": {`[{"Name":"nofile","Soft":1,"Hard":2}]`},
		"memory": {"0"}, "cpuquota": {"0"}, "rm": {"1"}, "buildid": {"id"}, "version": {"1"},
	}, http.Header{registryConfig: {auth}})
	if err != nil {
		t.Fatal(err)
	}
	one := "1"
	got := f.request
	if !reflect.DeepEqual(got.Tags, []string{"app", "app:2"}) || got.Dockerfile != "sub/Dockerfile" || got.Target != "build" ||
		!reflect.DeepEqual(got.Args, map[string]*string{"A": &one, "B": nil}) || got.Labels["l"] != "v" ||
		!reflect.DeepEqual(got.CacheFrom, []string{"x", "y"}) || got.ExtraHosts[0] != "a:1.2.3.4" || got.Network != "none" ||
		!got.NoCache || !got.Pull || got.ShmSize != 64<<20 || got.Ulimits[0].Hard != 2 || got.ID != "id" || got.Auth["reg:5000"].Password != "p" {
		t.Errorf("got %+v", got)
	}
	for _, want := range []string{`{"aux":{"ID":"sha256:0123456789abcdef"}}`, "Successfully built 0123456789ab", "Successfully tagged app:latest"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in %s", want, w.Body)
		}
	}
}

func TestBuildRefusesWhatItDoesNotServeByName(t *testing.T) {
	for key, flag := range map[string]string{"memory": "--memory", "squash": "--squash", "cgroupparent": "--cgroup-parent", "securityopt": "--security-opt"} {
		value := "1"
		if key == "securityopt" {
			value = `["seccomp=unconfined"]`
		}
		_, err := call(t, &fake{build: good}, "/build", url.Values{key: {value}}, nil)
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, q := range []url.Values{{"version": {"2"}}, {"remote": {"client-session"}}} {
		if _, err := call(t, &fake{build: good}, "/build", q, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", q, err)
		}
	}
}

func TestBuildInASessionSendsTheTraceAndTheID(t *testing.T) {
	f := &fake{}
	w, err := call(t, f, "/build", url.Values{
		"version": {"2"}, "session": {"s1"}, "remote": {"client-session"}, "dockerfile": {"D"}, "outputs": {`[{"Type":"local","Attrs":{"a":"b"}}]`},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.request.Session != "s1" || f.request.Remote != "" || f.request.Outputs[0].Attrs["a"] != "b" {
		t.Errorf("got %+v", f.request)
	}
	want := `{"id":"moby.buildkit.trace","aux":"c3RhdHVz"}` + "\r\n" + `{"id":"moby.image.id","aux":{"ID":"sha256:0123456789abcdef"}}` + "\r\n"
	if w.Body.String() != want {
		t.Errorf("got %s, want %s", w.Body, want)
	}
}

func TestBuildTellsFailuresBeforeAndAfterTheFirstMessage(t *testing.T) {
	before := &fake{build: func(domain.Request, *domain.Classic) (string, []string, error) { return "", nil, errors.New("bad") }}
	if _, err := call(t, before, "/build", nil, nil); err == nil {
		t.Error("an error before the first message must give a status")
	}
	after := &fake{build: func(_ domain.Request, p *domain.Classic) (string, []string, error) {
		p.Step(domain.Step{ID: "a", Name: "[1/1] RUN false", Started: true})
		return "", nil, &domain.StepError{Command: "false", Code: 3}
	}}
	w, err := call(t, after, "/build", nil, nil)
	if err != nil || !strings.Contains(w.Body.String(), `"errorDetail":{"code":3,"message":"The command 'false' returned a non-zero code: 3"}`) {
		t.Errorf("%v: %s", err, w.Body)
	}
}

func TestQuietBuildSaysOnlyTheIDUnlessItFails(t *testing.T) {
	q := url.Values{"q": {"1"}}
	w, err := call(t, &fake{build: good}, "/build", q, nil)
	if err != nil || strings.TrimSpace(w.Body.String()) != `{"stream":"sha256:0123456789abcdef\n"}` {
		t.Errorf("%v: %s", err, w.Body)
	}
	w, err = call(t, &fake{build: func(_ domain.Request, p *domain.Classic) (string, []string, error) {
		p.Step(domain.Step{ID: "a", Name: "[1/1] RUN false", Started: true})
		return "", nil, &domain.StepError{Command: "false", Code: 1}
	}}, "/build", q, nil)
	if err != nil || !strings.Contains(w.Body.String(), "Step 1/1 : RUN false") || !strings.Contains(w.Body.String(), "errorDetail") {
		t.Errorf("%v: %s", err, w.Body)
	}
}

func TestPruneReadsFilters(t *testing.T) {
	f := &fake{}
	w, err := call(t, f, "/build/prune", url.Values{
		"all": {"1"}, "reserved-space": {"10"}, "max-used-space": {"20"}, "min-free-space": {"30"},
		"filters": {`{"until":["24h"],"type":["regular"],"shared":["false"],"inuse":["0"],"private":["true"],"description!":["x"],"id":["abc"]}`},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.prune.UnusedIn != 24*time.Hour || f.prune.Reserved != 10 || f.prune.MaxUsed != 20 || f.prune.MinFree != 30 || !f.prune.All {
		t.Errorf("got %+v", f.prune)
	}
	for _, want := range []string{"type==regular", "private", "idle", "description!=x", "id~=abc"} {
		if !strings.Contains(strings.Join(f.prune.Filters, " "), want) {
			t.Errorf("no filter %s in %v", want, f.prune.Filters)
		}
	}
	if got := strings.TrimSpace(w.Body.String()); got != `{"CachesDeleted":["a","b"],"SpaceReclaimed":7}` {
		t.Errorf("got %s", got)
	}
	// The older name, which newer clients still send.
	if _, err := call(t, f, "/build/prune", url.Values{"keep-storage": {"11"}}, nil); err != nil || f.prune.Reserved != 11 {
		t.Errorf("keep-storage: %+v, %v", f.prune, err)
	}
	for _, bad := range []string{`{"until":["x"]}`, `{"shared":["perhaps"]}`, `{"nosuch":["x"]}`} {
		if _, err := call(t, f, "/build/prune", url.Values{"filters": {bad}}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestCancelPassesTheIDOn(t *testing.T) {
	f := &fake{}
	if _, err := call(t, f, "/build/cancel", url.Values{"id": {"x"}}, nil); err != nil || f.canceled != "x" {
		t.Errorf("%v, canceled %q", err, f.canceled)
	}
	if _, err := call(t, f, "/build/cancel", nil, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without an ID: %v", err)
	}
}

func TestSessionAndGRPCTakeTheConnectionOver(t *testing.T) {
	for _, path := range []string{"/session", "/grpc"} {
		f := &fake{served: make(chan string, 1)}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, rt := range New(f).Routes() {
				if rt.Path == r.URL.Path {
					if err := rt.Handler(w, r); err != nil {
						http.Error(w, err.Error(), http.StatusBadRequest)
					}
				}
			}
		}))
		defer srv.Close()
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The first line of the new protocol comes in the same packet as the request.
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nearly\n"); err != nil {
			t.Fatal(err)
		}
		status, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(status, "101 Switching Protocols") {
			t.Errorf("%s: %q, %v", path, status, err)
		}
		if got := <-f.served; got != "early\n" {
			t.Errorf("%s: the backend read %q", path, got)
		}
		if _, err := call(t, f, path, nil, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s without upgrade: %v", path, err)
		}
	}
}

// TestUploadOfAContext is what docker 18.09 to 22 sends for `docker build -`.
func TestUploadOfAContext(t *testing.T) {
	f := &fake{}
	if w, err := call(t, f, "/build", url.Values{"version": {"2"}, "buildid": {"upload-request:b1"}}, nil); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %v", w.Code, err)
	}
	if f.uploaded != [2]string{"b1", "tar"} {
		t.Errorf("uploaded %q", f.uploaded)
	}
	if _, err := call(t, f, "/build", url.Values{"version": {"2"}, "buildid": {"b1"}, "session": {"s"}, "remote": {"upload-request"}}, nil); err != nil {
		t.Fatal(err)
	}
	if f.request.ID != "b1" || f.request.Session != "s" || f.request.Remote != domain.UploadRequest {
		t.Errorf("got %+v", f.request)
	}
	if _, err := call(t, f, "/build", url.Values{"version": {"2"}, "buildid": {"b1"}, "remote": {"upload-request"}}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a session: %v", err)
	}
}
