package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
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
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

const patience = 20 * time.Second

// fake answers what a test gives it; what it was not given panics.
type fake struct {
	Backend
	create  func(domain.CreateOptions) (container.CreateResponse, error)
	stop    func(name, signal string, timeout *int) error
	kill    func(name, signal string) error
	start   func(name string) error
	wait    func(container.WaitCondition) (<-chan container.WaitResponse, error)
	list    func(domain.ListOptions) ([]container.Summary, error)
	inspect func(name string) (container.InspectResponse, error)
	update  func(container.UpdateConfig) ([]string, error)
	resize  func(h, w uint32) error
	tty     func() (bool, error)
	logs    func(ctx context.Context, o domain.LogsOptions, stdout, stderr io.Writer) error
	attach  func(ctx context.Context, o domain.AttachOptions) error
	stats   func(stream, oneShot bool, emit func(container.StatsResponse) error) error
	stat    func(path string) (container.PathStat, error)
	archive func(path string) (io.ReadCloser, container.PathStat, error)
	extract func(path string, noOverwrite, copyUIDGID bool, r io.Reader) error
	export  func(w io.Writer) error

	execCreate func(container.ExecCreateRequest) (string, error)
	execStart  func(ctx context.Context, o domain.ExecStartOptions) error
	commit     func(domain.CommitOptions) (string, error)
}

func (f *fake) Create(_ context.Context, in domain.CreateOptions) (container.CreateResponse, error) {
	return f.create(in)
}
func (f *fake) Stop(_ context.Context, n, s string, t *int) error { return f.stop(n, s, t) }
func (f *fake) Kill(_ context.Context, n, s string) error         { return f.kill(n, s) }
func (f *fake) Start(_ context.Context, n string) error           { return f.start(n) }
func (f *fake) Wait(_ context.Context, _ string, c container.WaitCondition) (<-chan container.WaitResponse, error) {
	return f.wait(c)
}

func (f *fake) List(_ context.Context, o domain.ListOptions) ([]container.Summary, error) {
	return f.list(o)
}

func (f *fake) Inspect(_ context.Context, n string, _ bool) (container.InspectResponse, error) {
	return f.inspect(n)
}

func (f *fake) Update(_ context.Context, _ string, u container.UpdateConfig) ([]string, error) {
	return f.update(u)
}
func (f *fake) Resize(_ context.Context, _ string, h, w uint32) error { return f.resize(h, w) }
func (f *fake) IsTTY(context.Context, string) (bool, error)           { return f.tty() }
func (f *fake) Logs(ctx context.Context, _ string, o domain.LogsOptions, a, b io.Writer) error {
	return f.logs(ctx, o, a, b)
}

func (f *fake) Attach(ctx context.Context, _ string, o domain.AttachOptions) error {
	return f.attach(ctx, o)
}

func (f *fake) Stats(_ context.Context, _ string, s, o bool, emit func(container.StatsResponse) error) error {
	return f.stats(s, o, emit)
}

func (f *fake) StatPath(_ context.Context, _, p string) (container.PathStat, error) { return f.stat(p) }

func (f *fake) ArchivePath(_ context.Context, _, p string) (io.ReadCloser, container.PathStat, error) {
	return f.archive(p)
}

func (f *fake) ExtractToDir(_ context.Context, _, p string, a, b bool, r io.Reader) error {
	return f.extract(p, a, b, r)
}
func (f *fake) Export(_ context.Context, _ string, w io.Writer) error { return f.export(w) }
func (f *fake) ExecCreate(_ context.Context, _ string, c container.ExecCreateRequest) (string, error) {
	return f.execCreate(c)
}

func (f *fake) ExecStart(ctx context.Context, _ string, o domain.ExecStartOptions) error {
	return f.execStart(ctx, o)
}

func (f *fake) Commit(_ context.Context, o domain.CommitOptions) (string, error) { return f.commit(o) }

func handler(f *fake) http.Handler {
	return httpapi.New(httpapi.Options{
		Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Routers: []route.Router{New(f, f, 1)},
	}).Handler()
}

// call makes one request without a connection to take over.
func call(t *testing.T, f *fake, method, url, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	handler(f).ServeHTTP(w, r)
	return w
}

func message(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return m.Message
}

func TestErrorsAndStatuses(t *testing.T) {
	none := fault.New(errdefs.ErrNotFound, "No such container: x")
	f := &fake{
		create: func(domain.CreateOptions) (container.CreateResponse, error) {
			return container.CreateResponse{ID: "abc"}, nil
		},
		start: func(n string) error {
			if n == "on" {
				return fault.New(errdefs.ErrNotModified, "container is already running")
			}
			return nil
		},
		kill:    func(string, string) error { return none },
		stop:    func(string, string, *int) error { return nil },
		tty:     func() (bool, error) { return false, none },
		inspect: func(string) (container.InspectResponse, error) { return container.InspectResponse{}, none },
		resize:  func(uint32, uint32) error { return nil },
		execCreate: func(container.ExecCreateRequest) (string, error) {
			return "e1", nil
		},
	}
	for _, tc := range []struct {
		method, url, body string
		status            int
		text              string
	}{
		{"POST", "/containers/create", `{"Image":"a"}`, 201, ""},
		{"POST", "/containers/create", `{"Image":`, 400, "invalid JSON: unexpected EOF"},
		{"POST", "/containers/create", ``, 400, "invalid JSON: EOF"},
		{"POST", "/containers/create", `{"Image":"a"}{"x":1}`, 400, "unexpected content after JSON"},
		{"POST", "/containers/create", `null`, 400, "config cannot be empty in order to create a container"},
		{
			"POST", "/v1.43/containers/create", `{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`, 400,
			"Container cannot be created with multiple network endpoints: a, b",
		},
		{
			"POST", "/containers/create?platform=x/y/z/zz", `{"Image":"a"}`, 400,
			`"x/y/z/zz": cannot parse platform specifier: invalid argument`,
		},
		{
			"POST", "/containers/create", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","TmpfsOptions":{}}]}}`, 400,
			`TmpfsOptions must not be specified on mount type "bind"`,
		},
		{"POST", "/containers/a/start", ``, 204, ""},
		{"POST", "/containers/on/start", ``, 304, ""},
		{
			"POST", "/containers/a/start", `{"Binds":["/a:/a"]}`, 400,
			"starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
		},
		{"POST", "/containers/x/kill", ``, 404, "cannot kill container: x: No such container: x"},
		{"POST", "/containers/a/stop?t=soon", ``, 400, `strconv.Atoi: parsing "soon": invalid syntax`},
		{"POST", "/containers/a/stop?t=3", ``, 204, ""},
		{"POST", "/containers/a/wait?condition=bored", ``, 400, `invalid condition: "bored"`},
		{"POST", "/containers/a/resize?h=-1&w=2", ``, 400, `invalid resize height "-1": value out of range`},
		{"POST", "/containers/a/resize?h=1&w=x", ``, 400, `invalid resize width "x": invalid syntax`},
		{"POST", "/containers/a/resize?h=1&w=2", ``, 200, ""},
		{"GET", "/containers/x/json", ``, 404, "No such container: x"},
		{"GET", "/containers/x/logs?stdout=1", ``, 404, "No such container: x"},
		{"GET", "/containers/x/logs", ``, 400, "must specify at least one of 'stdout' or 'stderr'"},
		{
			"GET", "/containers/x/logs?stdout=1&since=yesterday", ``, 400,
			`invalid value for "since": invalid timestamp "yesterday": invalid seconds "yesterday": invalid syntax`,
		},
		{"GET", "/containers/json?limit=few", ``, 400, `strconv.Atoi: parsing "few": invalid syntax`},
		{"GET", "/containers/json?filters=nonsense", ``, 400, "invalid filter"},
		{"POST", "/containers/a/exec", `{"Cmd":["true"]}`, 201, ""},
		{"POST", "/containers/a/exec", `{"Cmd":[]}`, 400, "No exec command specified"},
		{"HEAD", "/containers/a/archive", ``, 400, ""},
		{"GET", "/containers/a/archive", ``, 400, "bad parameter: path cannot be empty"},
		{"POST", "/commit?container=a&repo=UPPER", ``, 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
	} {
		w := call(t, f, tc.method, tc.url, tc.body)
		if w.Code != tc.status {
			t.Errorf("%s %s %s: status %d, want %d: %s", tc.method, tc.url, tc.body, w.Code, tc.status, w.Body)
			continue
		}
		if tc.text != "" && message(t, w) != tc.text {
			t.Errorf("%s %s: %q, want %q", tc.method, tc.url, message(t, w), tc.text)
		}
	}
}

// A refused attach is told as text: its client waits for a raw stream.
func TestAttachRefused(t *testing.T) {
	w := call(t, &fake{tty: func() (bool, error) { return false, fault.New(errdefs.ErrNotFound, "No such container: x") }}, "POST", "/containers/x/attach?stream=1&stdout=1", "")
	if w.Code != http.StatusNotFound || w.Body.String() != "No such container: x\r\n" || w.Header().Get("Content-Type") != "application/vnd.docker.raw-stream" {
		t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
	}
}

func TestStopSignalNeedsItsVersion(t *testing.T) {
	var got string
	f := &fake{stop: func(_, signal string, timeout *int) error {
		got = fmt.Sprint(signal, " ", *timeout)
		return nil
	}}
	for version, want := range map[string]string{"/v1.41": " -1", "/v1.42": "INT -1", "": "INT -1"} {
		if w := call(t, f, "POST", version+"/containers/a/stop?signal=INT&t=-1", ""); w.Code != 204 || got != want {
			t.Errorf("%s: status %d, got %q", version, w.Code, got)
		}
	}
}

func TestCreateDefaultsAndVersions(t *testing.T) {
	var in domain.CreateOptions
	f := &fake{create: func(o domain.CreateOptions) (container.CreateResponse, error) {
		in = o
		return container.CreateResponse{ID: "abc"}, nil
	}}
	post := func(url, body string) container.CreateResponse {
		t.Helper()
		w := call(t, f, "POST", url, body)
		if w.Code != 201 {
			t.Fatalf("%s: %d %s", url, w.Code, w.Body)
		}
		var out container.CreateResponse
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		if out.Warnings == nil {
			t.Errorf("%s: warnings are null", url)
		}
		return out
	}
	post("/containers/create?name=db&platform=linux/amd64", `{"Image":"a","KernelMemory":5,"HostConfig":{"PidsLimit":-1,"KernelMemory":7}}`)
	if in.Name != "db" || in.Platform == nil || in.HostConfig.NetworkMode != "bridge" || in.HostConfig.PidsLimit != nil ||
		in.Networking.EndpointsConfig == nil || in.HostConfig.IpcMode != "" {
		t.Errorf("got %+v", in)
	}
	post("/v1.39/containers/create", `{"Image":"a","HostConfig":{"ConsoleSize":[1,2],"Annotations":{"a":"b"}},"Healthcheck":{"StartInterval":1000000000}}`)
	if in.HostConfig.IpcMode != "shareable" || in.HostConfig.CgroupnsMode != "host" || in.HostConfig.ConsoleSize != [2]uint{} ||
		in.HostConfig.Annotations != nil || in.Config.Healthcheck.StartInterval != 0 {
		t.Errorf("1.39: got %+v", in.HostConfig)
	}
	post("/containers/create", `{"Image":"a","HostConfig":{"NetworkMode":"default"},"NetworkingConfig":{"EndpointsConfig":{"default":{"Aliases":["x"]},"other":null}}}`)
	if in.Networking.EndpointsConfig["bridge"].Aliases[0] != "x" || in.Networking.EndpointsConfig["other"] == nil {
		t.Errorf("endpoints: got %+v", in.Networking.EndpointsConfig)
	}
	post("/v1.43/containers/create", `{"Image":"a","MacAddress":"02:42:ac:11:00:02","HostConfig":{"NetworkMode":"net"}}`)
	if got := in.Networking.EndpointsConfig["net"].MacAddress.String(); got != "02:42:ac:11:00:02" {
		t.Errorf("MAC address of 1.43: %q", got)
	}
	out := post("/v1.45/containers/create", `{"Image":"a","MacAddress":"02:42:ac:11:00:02","HostConfig":{"Sysctls":{"net.ipv4.conf.eth0.forwarding":"1","a.b":"c"}}}`)
	if in.Networking.EndpointsConfig["bridge"].DriverOpts[endpointSysctls] != "net.ipv4.conf.IFNAME.forwarding=1" ||
		len(in.HostConfig.Sysctls) != 1 || len(out.Warnings) != 2 {
		t.Errorf("1.45: %+v, warnings %q", in.Networking.EndpointsConfig["bridge"], out.Warnings)
	}
	if w := call(t, f, "POST", "/containers/create", `{"Image":"a","MacAddress":"02:42:ac:11:00:02"}`); w.Code != 400 {
		t.Errorf("container-wide MAC address: %d", w.Code)
	}
	out = post("/containers/create", `{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[]}}}`)
	if len(in.HostConfig.PortBindings) != 1 || len(in.HostConfig.PortBindings[network.MustParsePort("80/tcp")]) != 1 || len(out.Warnings) != 1 {
		t.Errorf("ports: %+v, warnings %q", in.HostConfig.PortBindings, out.Warnings)
	}
}

func TestListAndInspectPerVersion(t *testing.T) {
	var asked domain.ListOptions
	f := &fake{
		list: func(o domain.ListOptions) ([]container.Summary, error) {
			asked = o
			s := container.Summary{ID: "abc", Health: &container.HealthSummary{Status: "healthy"}}
			s.HostConfig.Annotations = map[string]string{"a": "b"}
			return []container.Summary{s}, nil
		},
		inspect: func(string) (container.InspectResponse, error) {
			return container.InspectResponse{ID: "0123456789abcdef", Config: &container.Config{Hostname: "h"}, NetworkSettings: &container.NetworkSettings{
				Networks: map[string]*network.EndpointSettings{"bridge": {EndpointID: "ep"}, "mine": {Aliases: []string{"a"}}},
			}}, nil
		},
	}
	w := call(t, f, "GET", `/v1.45/containers/json?all=1&limit=3&size=true&since=x&filters={"label":{"a=b":true}}`, "")
	if w.Code != 200 || !asked.All || asked.Limit != 3 || !asked.Size || asked.Filters["since"][0] != "x" || asked.Filters["label"][0] != "a=b" {
		t.Errorf("%d, asked %+v", w.Code, asked)
	}
	if strings.Contains(w.Body.String(), "healthy") || strings.Contains(w.Body.String(), `"b"`) {
		t.Errorf("1.45 shows newer fields: %s", w.Body)
	}
	if w := call(t, f, "GET", "/containers/json", ""); !strings.Contains(w.Body.String(), "healthy") {
		t.Errorf("newest hides fields: %s", w.Body)
	}
	old, now := call(t, f, "GET", "/v1.44/containers/x/json", "").Body.String(), call(t, f, "GET", "/containers/x/json", "").Body.String()
	if strings.Count(old, `"EndpointID":"ep"`) != 2 || !strings.Contains(old, `["a","0123456789ab","h"]`) {
		t.Errorf("1.44: %s", old)
	}
	if strings.Count(now, `"EndpointID":"ep"`) != 1 || !strings.Contains(now, `["a"]`) {
		t.Errorf("newest: %s", now)
	}
}

func TestUpdatePerVersion(t *testing.T) {
	var got container.UpdateConfig
	f := &fake{update: func(u container.UpdateConfig) ([]string, error) { got = u; return nil, nil }}
	w := call(t, f, "POST", "/v1.44/containers/a/update", `{"PidsLimit":-5,"Memory":1000,"BlkioDeviceReadBps":[{"Path":"/dev/a","Rate":1}]}`)
	if w.Code != 200 || *got.PidsLimit != 0 || got.Memory != 1000 || got.BlkioDeviceReadBps != nil {
		t.Errorf("%d %s %+v", w.Code, w.Body, got)
	}
}

func TestArchive(t *testing.T) {
	st := container.PathStat{Name: "f", Size: 3}
	f := &fake{
		stat: func(p string) (container.PathStat, error) { return st, nil },
		archive: func(p string) (io.ReadCloser, container.PathStat, error) {
			return io.NopCloser(strings.NewReader("tar")), st, nil
		},
		extract: func(p string, no, ids bool, r io.Reader) error {
			b, err := io.ReadAll(r)
			if p != "/d" || !no || !ids || string(b) != "tar" {
				return fmt.Errorf("got %q %t %t %q", p, no, ids, b)
			}
			return err
		},
		export: func(w io.Writer) error { return errors.New("broken") },
	}
	for _, method := range []string{"HEAD", "GET"} {
		w := call(t, f, method, "/containers/a/archive?path=/f", "")
		b, err := base64.StdEncoding.DecodeString(w.Header().Get(pathStatHeader))
		if w.Code != 200 || err != nil || !strings.Contains(string(b), `"name":"f","size":3`) {
			t.Errorf("%s: %d %s %v", method, w.Code, b, err)
		}
		if method == "GET" && w.Body.String() != "tar" {
			t.Errorf("got %q", w.Body)
		}
	}
	r := httptest.NewRequest("PUT", "/containers/a/archive?path=/d&noOverwriteDirNonDir=1&copyUIDGID=true", strings.NewReader("tar"))
	r.Header.Set("Content-Type", "application/x-tar")
	w := httptest.NewRecorder()
	handler(f).ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("PUT: %d %s", w.Code, w.Body)
	}
	if w := call(t, f, "GET", "/containers/a/export", ""); w.Code != 500 || message(t, w) != "broken" {
		t.Errorf("export: %d %s", w.Code, w.Body)
	}
}

func TestCommit(t *testing.T) {
	var got domain.CommitOptions
	f := &fake{commit: func(o domain.CommitOptions) (string, error) { got = o; return "sha256:1", nil }}
	w := call(t, f, "POST", "/commit?container=a&repo=r&pause=0&comment=c&changes=CMD+x&changes=ENV+a=b", `{"User":"u"}`)
	if w.Code != 201 || got.Container != "a" || got.Ref != "docker.io/library/r:latest" || got.Pause || got.Config.User != "u" || len(got.Changes) != 2 {
		t.Errorf("%d %s %+v", w.Code, w.Body, got)
	}
	call(t, f, "POST", "/commit?container=a", "")
	if got.Config != nil || !got.Pause || got.Ref != "" {
		t.Errorf("bare: %+v", got)
	}
}

// live serves a fake on a real socket.
type live struct {
	t    *testing.T
	path string
}

func serve(t *testing.T, f *fake) live {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler(f))
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return live{t, path}
}

// open sends a request and reads the answer's header.
func (l live) open(request string) (*net.UnixConn, *bufio.Reader, *http.Response) {
	l.t.Helper()
	c, err := net.Dial("unix", l.path)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		l.t.Fatal(err)
	}
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		l.t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return c.(*net.UnixConn), br, resp //nolint:forcetypeassert // dialled as unix
}

func TestWaitAnswersItsHeaderAtOnce(t *testing.T) {
	exit := make(chan container.WaitResponse, 1)
	l := serve(t, &fake{wait: func(c container.WaitCondition) (<-chan container.WaitResponse, error) {
		if c != container.WaitConditionNextExit {
			return nil, fmt.Errorf("got %s", c)
		}
		return exit, nil
	}})
	_, _, resp := l.open("POST /containers/a/wait?condition=next-exit HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	exit <- container.WaitResponse{StatusCode: 3}
	b := make([]byte, 100)
	n, _ := resp.Body.Read(b)
	if got := string(b[:n]); got != `{"StatusCode":3}`+"\n" {
		t.Errorf("got %q", got)
	}
}

const upgrade = "Connection: Upgrade\nUpgrade: tcp\n"

func TestAttachSpeaksBothWays(t *testing.T) {
	for _, tc := range []struct {
		name, version, headers string
		tty                    bool
		status                 int
		contentType            string
	}{
		{"upgraded", "", upgrade, false, 101, "application/vnd.docker.multiplexed-stream"},
		{"upgraded, terminal", "", upgrade, true, 101, "application/vnd.docker.raw-stream"},
		{"upgraded, old", "/v1.41", upgrade, false, 101, "application/vnd.docker.raw-stream"},
		{"not upgraded", "", "", false, 200, "application/vnd.docker.raw-stream"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := serve(t, &fake{
				tty: func() (bool, error) { return tc.tty, nil },
				attach: func(_ context.Context, o domain.AttachOptions) error {
					if err := o.Started(); err != nil {
						return err
					}
					in, err := io.ReadAll(o.Stdin) // until the client closes its half
					if err != nil {
						return err
					}
					if _, err := o.Stdout.Write(append([]byte("out:"), in...)); err != nil {
						return err
					}
					if o.Stderr != nil && !tc.tty {
						_, err = o.Stderr.Write([]byte("err"))
					}
					return err
				},
			})
			conn, br, resp := l.open("POST " + tc.version + "/containers/a/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\nHost: x\nContent-Length: 0\n" + tc.headers + "\nearly ")
			if resp.StatusCode != tc.status || resp.Header.Get("Content-Type") != tc.contentType {
				t.Fatalf("%s %s", resp.Status, resp.Header)
			}
			fmt.Fprint(conn, "late")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			var err error
			if tc.tty {
				_, err = io.Copy(&out, br)
			} else {
				_, err = stdcopy.StdCopy(&out, &errs, br)
			}
			if err != nil || out.String() != "out:early late" || (!tc.tty && errs.String() != "err") {
				t.Errorf("got %q %q %v", out.String(), errs.String(), err)
			}
		})
	}
}

// A client that goes must end its attach, even one that takes part by
// listening only; one that closed only its sending half has not gone.
func TestAttachNoticesAGoneClient(t *testing.T) {
	for _, stdin := range []string{"0", "1"} {
		ended, eof := make(chan struct{}), make(chan struct{})
		l := serve(t, &fake{
			tty: func() (bool, error) { return false, nil },
			attach: func(ctx context.Context, o domain.AttachOptions) error {
				defer close(ended)
				if err := o.Started(); err != nil {
					return err
				}
				if o.Stdin != nil {
					if _, err := io.ReadAll(o.Stdin); err != nil {
						return err
					}
					close(eof)
				}
				<-ctx.Done()
				return ctx.Err()
			},
		})
		conn, _, _ := l.open("POST /containers/a/attach?stream=1&stdout=1&stdin=" + stdin + " HTTP/1.1\nHost: x\nContent-Length: 0\n" + upgrade + "\n")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if stdin == "1" {
			<-eof
		}
		select {
		case <-ended:
			t.Fatal("ended while the client listens")
		case <-time.After(50 * time.Millisecond): // no proof, but what a wrong watch would fail
		}
		_ = conn.Close()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("stdin=%s: attach goes on without its client", stdin)
		}
	}
}

func TestLogsAreFramedAndFlushed(t *testing.T) {
	for _, tty := range []bool{false, true} {
		more := make(chan struct{})
		var asked domain.LogsOptions
		l := serve(t, &fake{
			tty: func() (bool, error) { return tty, nil },
			logs: func(_ context.Context, o domain.LogsOptions, stdout, stderr io.Writer) error {
				asked = o
				if err := o.Started(); err != nil {
					return err
				}
				fmt.Fprintln(stdout, "one")
				<-more
				fmt.Fprintln(stderr, "two")
				return errors.New("torn")
			},
		})
		_, _, resp := l.open("GET /containers/a/logs?stdout=1&stderr=1&follow=1&tail=5&since=1.5 HTTP/1.1\nHost: x\n\n")
		first := make([]byte, map[bool]int{false: 12, true: 4}[tty])
		if _, err := io.ReadFull(resp.Body, first); err != nil { // before there is more
			t.Fatal(err)
		}
		close(more)
		rest, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if asked.Tail != 5 || !asked.Follow || !asked.Since.Equal(time.Unix(1, 5e8)) {
			t.Errorf("asked %+v", asked)
		}
		all := append(first, rest...)
		if tty {
			if string(all) != "one\ntwo\nError grabbing logs: torn\n" || resp.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" {
				t.Errorf("terminal: %q %s", all, resp.Header)
			}
			continue
		}
		var out, errs bytes.Buffer
		_, err = stdcopy.StdCopy(&out, &errs, bytes.NewReader(all))
		if out.String() != "one\n" || errs.String() != "two\n" || err == nil || !strings.Contains(err.Error(), "torn") {
			t.Errorf("got %q %q %v", out.String(), errs.String(), err)
		}
	}
}

func TestExecStart(t *testing.T) {
	start := func(f *fake, body string) (*net.UnixConn, *bufio.Reader, *http.Response) {
		return serve(t, f).open(fmt.Sprintf("POST /exec/e1/start HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: %d\n%s\n%s", len(body), upgrade, body))
	}
	t.Run("attached", func(t *testing.T) {
		var got domain.ExecStartOptions
		_, br, resp := start(&fake{execStart: func(_ context.Context, o domain.ExecStartOptions) error {
			got = o
			if err := o.Started(); err != nil {
				return err
			}
			_, err := o.Stdout.Write([]byte("hello"))
			return err
		}}, `{"Tty":true,"ConsoleSize":[10,20]}`)
		all, err := io.ReadAll(br)
		if resp.StatusCode != 101 || string(all) != "hello" || err != nil || got.ConsoleSize[1] != 20 || !got.TTY {
			t.Errorf("%s %q %v %+v", resp.Status, all, err, got)
		}
	})
	t.Run("cannot run", func(t *testing.T) {
		_, br, resp := start(&fake{execStart: func(context.Context, domain.ExecStartOptions) error {
			return fault.New(errdefs.ErrInvalidArgument, "OCI runtime exec failed: no such file")
		}}, `{}`)
		var out, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &errs, br); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 101 || out.String() != "OCI runtime exec failed: no such file\r\n" {
			t.Errorf("%s %q", resp.Status, out.String())
		}
	})
	t.Run("unknown", func(t *testing.T) {
		_, _, resp := start(&fake{execStart: func(context.Context, domain.ExecStartOptions) error {
			return fault.New(errdefs.ErrNotFound, "No such exec instance: e1")
		}}, `{}`)
		if resp.StatusCode != 404 {
			t.Error(resp.Status)
		}
	})
	t.Run("detached", func(t *testing.T) {
		_, _, resp := start(&fake{execStart: func(_ context.Context, o domain.ExecStartOptions) error {
			if !o.Detach || o.Stdout != nil {
				return fmt.Errorf("got %+v", o)
			}
			return nil
		}}, `{"Detach":true}`)
		if resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
	})
}

func TestStatsStream(t *testing.T) {
	f := &fake{stats: func(stream, oneShot bool, emit func(container.StatsResponse) error) error {
		if err := emit(container.StatsResponse{ID: "a"}); err != nil || !stream {
			return err
		}
		return emit(container.StatsResponse{ID: "b"})
	}}
	if w := call(t, f, "GET", "/containers/a/stats", ""); strings.Count(w.Body.String(), "\n") != 2 {
		t.Errorf("stream: %s", w.Body)
	}
	if w := call(t, f, "GET", "/containers/a/stats?stream=0&one-shot=1", ""); strings.Count(w.Body.String(), "\n") != 1 {
		t.Errorf("one: %s", w.Body)
	}
}

func TestWebsocketAttach(t *testing.T) {
	l := serve(t, &fake{
		tty: func() (bool, error) { return true, nil },
		attach: func(_ context.Context, o domain.AttachOptions) error {
			if err := o.Started(); err != nil {
				return err
			}
			b := make([]byte, 10)
			n, err := o.Stdin.Read(b)
			if err != nil {
				return err
			}
			_, err = o.Stdout.Write(append([]byte("got "), b[:n]...))
			return err
		},
	})
	conn, br, resp := l.open("GET /containers/a/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\nHost: x\nOrigin: http://x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
	if resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	if _, err := conn.Write([]byte{0x82, 0x82, 0, 0, 0, 0, 'h', 'i'}); err != nil { // a masked binary frame
		t.Fatal(err)
	}
	frame := make([]byte, 8)
	if _, err := io.ReadFull(br, frame); err != nil || string(frame) != "\x82\x06got hi" {
		t.Errorf("got %q %v", frame, err)
	}
}
