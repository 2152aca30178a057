package imagestore_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"

	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
)

// registryApp is a registry that keeps its images in memory.
func registryApp(t *testing.T, password string) http.Handler {
	t.Helper()
	c := &configuration.Configuration{}
	c.Log.Level = "error"
	c.Log.AccessLog.Disabled = true
	logrus.SetOutput(io.Discard) // what it writes of every request
	c.Storage = configuration.Storage{"inmemory": nil, "maintenance": {"uploadpurging": map[any]any{"enabled": false}}}
	c.HTTP.Secret = "test"
	if password != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		must(t, err)
		file := filepath.Join(t.TempDir(), "htpasswd")
		must(t, os.WriteFile(file, []byte("user:"+string(hash)+"\n"), 0o600))
		c.Auth = configuration.Auth{"htpasswd": {"realm": "test", "path": file}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	app := handlers.NewApp(ctx, c)
	t.Cleanup(cancel)
	return app
}

func hostOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// stocked returns a fixture with a two-layer image named for the registry.
func stocked(t *testing.T, name string, hosts imagestore.HostOptions) (*fixture, string) {
	t.Helper()
	f := newFixtureAt(t, t.TempDir(), hosts)
	base := tarOf(t, dir("etc"), file{name: "etc/a", body: strings.Repeat("1", 3<<20)})
	top := tarOf(t, dir("etc"), file{name: "etc/.wh.a"}, file{name: "etc/b", body: "3"})
	var out bytes.Buffer
	must(t, f.Load(context.Background(), bytes.NewReader(dockerArchive(t, name, nil, base, top)), nil, &out, true))
	got, err := f.Inspect(context.Background(), name, image.InspectOptions{})
	must(t, err)
	return f, got.ID
}

func TestPushAndPull(t *testing.T) {
	needsRoot(t)
	s := httptest.NewServer(registryApp(t, ""))
	defer s.Close()
	name := hostOf(s) + "/team/app:1"
	ctx := context.Background()
	f, id := stocked(t, name, imagestore.HostOptions{})
	var out bytes.Buffer
	must(t, f.Push(ctx, named(t, name), image.PushOptions{}, &out))
	for _, want := range []string{
		"The push refers to repository [" + hostOf(s) + "/team/app]", `"status":"Pushed"`, "1: digest: " + id + " size: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("push says nothing of %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	must(t, f.Push(ctx, named(t, name), image.PushOptions{}, &out))
	if !strings.Contains(out.String(), "Layer already exists") {
		t.Errorf("second push:\n%s", out.String())
	}

	g := newFixture(t)
	out.Reset()
	must(t, g.Pull(ctx, named(t, name), image.PullOptions{}, &out))
	for _, want := range []string{
		`"status":"Pulling from team/app","id":"1"`, "Pulling fs layer", `"status":"Downloading"`, "Pull complete",
		"Digest: " + id, "Status: Downloaded newer image for " + name,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("pull says nothing of %q:\n%s", want, out.String())
		}
	}
	run, err := g.Runnable(ctx, name, nil)
	must(t, err)
	if run.ID != id || len(g.layers()) != 2 {
		t.Errorf("pulled %s with layers %v, want %s", run.ID, g.layers(), id)
	}
	if !slices.Contains(g.actions(), "pull") {
		t.Errorf("events: %v", g.actions())
	}
	out.Reset()
	must(t, g.Pull(ctx, named(t, name), image.PullOptions{}, &out))
	if !strings.Contains(out.String(), "Status: Image is up to date for "+name) {
		t.Errorf("second pull:\n%s", out.String())
	}
	d, err := g.Distribution(ctx, name, image.Remote{})
	must(t, err)
	if d.Descriptor.Digest.String() != id || len(d.Platforms) != 1 || d.Platforms[0].Architecture != "amd64" {
		t.Errorf("distribution: %+v", d)
	}
	_, err = g.Remove(ctx, name, image.RemoveOptions{})
	must(t, err)
	g.empty()

	must(t, f.Tag(ctx, id, named(t, hostOf(s)+"/team/app:2")))
	must(t, f.Push(ctx, named(t, hostOf(s)+"/team/app:2"), image.PushOptions{}, &out))
	all := named(t, name)
	ref := image.PullOptions{}
	must(t, g.Pull(ctx, nameOnly(t, all.Name()), ref, &out))
	got, err := g.Inspect(ctx, id, image.InspectOptions{})
	must(t, err)
	if slices.Sort(got.RepoTags); len(got.RepoTags) != 2 {
		t.Errorf("pull of all tags: %v", got.RepoTags)
	}
}

func TestPullRefused(t *testing.T) {
	needsRoot(t)
	s := httptest.NewServer(registryApp(t, ""))
	defer s.Close()
	f := newFixture(t)
	ctx := context.Background()
	var out bytes.Buffer
	err := f.Pull(ctx, named(t, hostOf(s)+"/none:1"), image.PullOptions{}, &out)
	if !errdefs.IsNotFound(err) {
		t.Errorf("unknown image: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	nobody := l.Addr().String()
	must(t, l.Close())
	err = f.Pull(ctx, named(t, nobody+"/none:1"), image.PullOptions{}, &out)
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no registry: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("output before the registry answered: %s", out.String())
	}
	f.empty()
}

func TestPullOtherPlatform(t *testing.T) {
	needsRoot(t)
	s := httptest.NewServer(registryApp(t, ""))
	defer s.Close()
	name := hostOf(s) + "/app:1"
	f, _ := stocked(t, name, imagestore.HostOptions{})
	ctx := context.Background()
	var out bytes.Buffer
	must(t, f.Push(ctx, named(t, name), image.PushOptions{}, &out))
	_, err := f.Runnable(ctx, name, &otherPlatform)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/s390x)") {
		t.Errorf("runnable = %v", err)
	}
}

func TestRegistryPassword(t *testing.T) {
	needsRoot(t)
	s := httptest.NewServer(registryApp(t, "secret"))
	defer s.Close()
	name := hostOf(s) + "/app:1"
	f, id := stocked(t, name, imagestore.HostOptions{})
	ctx := context.Background()
	var out bytes.Buffer
	good := image.Remote{Auth: image.Auth{Username: "user", Password: "secret", ServerAddress: hostOf(s)}}
	bad := image.Remote{Auth: image.Auth{Username: "user", Password: "wrong"}}
	if err := f.Push(ctx, named(t, name), image.PushOptions{}, &out); err == nil || !strings.Contains(err.Error(), "no basic auth credentials") {
		t.Errorf("push without a password: %v", err)
	}
	if err := f.Push(ctx, named(t, name), image.PushOptions{Remote: bad}, &out); err == nil {
		t.Error("push with a wrong password works")
	}
	must(t, f.Push(ctx, named(t, name), image.PushOptions{Remote: good}, &out))
	g := newFixture(t)
	must(t, g.Pull(ctx, named(t, name), image.PullOptions{Remote: good}, &out))
	if run, err := g.Runnable(ctx, id, nil); err != nil || run.ID != id {
		t.Errorf("pulled: %+v, %v", run, err)
	}
	if _, err := f.Auth(ctx, good.Auth); err != nil {
		t.Errorf("login: %v", err)
	}
	bad.Auth.ServerAddress = hostOf(s)
	if _, err := f.Auth(ctx, bad.Auth); !errdefs.IsUnauthorized(err) {
		t.Errorf("login with a wrong password: %v", err)
	}
	// Credentials for one registry are not shown to another.
	other := good
	other.Auth.ServerAddress = "registry.example.com"
	if err := g.Pull(ctx, named(t, name), image.PullOptions{Remote: other}, &out); err == nil {
		t.Error("another registry's credentials were used")
	}
}

// tokenServer guards a registry with bearer tokens for user:secret or the
// identity token "refresh".
func tokenServer(t *testing.T, next http.Handler) *httptest.Server {
	t.Helper()
	var s *httptest.Server
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		ok := u == "user" && p == "secret" || r.FormValue("refresh_token") == "refresh" ||
			r.PostFormValue("username") == "user" && r.PostFormValue("password") == "secret"
		if !ok {
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"good","access_token":"good","refresh_token":"refresh","expires_in":300}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	s = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestRegistryToken(t *testing.T) {
	needsRoot(t)
	s := tokenServer(t, registryApp(t, ""))
	name := hostOf(s) + "/app:1"
	f, _ := stocked(t, name, imagestore.HostOptions{})
	ctx := context.Background()
	var out bytes.Buffer
	password := image.Auth{Username: "user", Password: "secret", ServerAddress: hostOf(s)}
	must(t, f.Push(ctx, named(t, name), image.PushOptions{Remote: image.Remote{Auth: password}}, &out))
	token, err := f.Auth(ctx, password)
	must(t, err)
	if token != "refresh" {
		t.Errorf("identity token %q", token)
	}
	for _, a := range []image.Auth{{IdentityToken: token}, {RegistryToken: "good"}} {
		g := newFixture(t)
		if err := g.Pull(ctx, named(t, name), image.PullOptions{Remote: image.Remote{Auth: a}}, &out); err != nil {
			t.Errorf("pull with %+v: %v", a, err)
		}
	}
	password.Password = "wrong"
	if _, err := f.Auth(ctx, password); !errdefs.IsUnauthorized(err) {
		t.Errorf("login with a wrong password: %v", err)
	}
}

// TestRegistryTLS needs an address that is not loopback, which needs no certificate.
func TestRegistryTLS(t *testing.T) {
	needsRoot(t)
	addr := hostAddress(t)
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	must(t, err)
	s := httptest.NewUnstartedServer(registryApp(t, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
	must(t, s.Listener.Close())
	s.Listener = l
	s.TLS = serverCert(t, addr)
	s.StartTLS()
	defer s.Close()
	name := hostOf(s) + "/app:1"
	ctx := context.Background()
	var out bytes.Buffer
	f, _ := stocked(t, name, imagestore.HostOptions{})
	if err := f.Push(ctx, named(t, name), image.PushOptions{}, &out); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("push to an unknown authority: %v", err)
	}
	certs := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(certs, hostOf(s)), 0o755))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]})
	must(t, os.WriteFile(filepath.Join(certs, hostOf(s), "ca.crt"), ca, 0o644))
	g, _ := stocked(t, name, imagestore.HostOptions{CertsDirs: []string{certs}})
	must(t, g.Push(ctx, named(t, name), image.PushOptions{}, &out))
	h := newFixtureAt(t, t.TempDir(), imagestore.HostOptions{Insecure: []string{addr + "/32"}})
	must(t, h.Pull(ctx, named(t, name), image.PullOptions{}, &out))
}

func TestPlainHTTPOnlyWhereDeclared(t *testing.T) {
	needsRoot(t)
	addr := hostAddress(t)
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	must(t, err)
	s := httptest.NewUnstartedServer(registryApp(t, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
	must(t, s.Listener.Close())
	s.Listener = l
	s.Start()
	defer s.Close()
	name := hostOf(s) + "/app:1"
	ctx := context.Background()
	var out bytes.Buffer
	f, _ := stocked(t, name, imagestore.HostOptions{})
	if err := f.Push(ctx, named(t, name), image.PushOptions{}, &out); err == nil || !strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		t.Errorf("push without TLS: %v", err)
	}
	g, _ := stocked(t, name, imagestore.HostOptions{Insecure: []string{hostOf(s)}})
	must(t, g.Push(ctx, named(t, name), image.PushOptions{}, &out))
}

func TestMirror(t *testing.T) {
	needsRoot(t)
	app := registryApp(t, "")
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		app.ServeHTTP(w, r)
	}))
	defer s.Close()
	ctx := context.Background()
	var out bytes.Buffer
	f, id := stocked(t, hostOf(s)+"/library/app:1", imagestore.HostOptions{})
	must(t, f.Push(ctx, named(t, hostOf(s)+"/library/app:1"), image.PushOptions{}, &out))
	asked.Store(0)
	g := newFixtureAt(t, t.TempDir(), imagestore.HostOptions{Mirrors: []string{s.URL}})
	must(t, g.Pull(ctx, named(t, "app:1"), image.PullOptions{}, &out))
	if run, err := g.Runnable(ctx, "app:1", nil); err != nil || run.ID != id || asked.Load() == 0 {
		t.Errorf("pulled through the mirror: %+v, %v", run, err)
	}
}
