package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the registry's storage
	"github.com/sirupsen/logrus"

	"holdfast.dev/holdfast/internal/testkit"
)

// registry is one that runs in this process and listens in a daemon's network
// namespace.
type registry struct {
	addr string

	mu       sync.Mutex // guards what follows
	requests []string
}

type registryOptions struct {
	addr           string // 127.0.0.1:5000
	user, password string // basic authentication
	tls            bool   // with a certificate nobody trusts
	// slow, if set, is called before each blob is sent.
	slow func()
}

func newRegistry(t *testing.T, d *testkit.Daemon, o registryOptions) *registry {
	t.Helper()
	if o.addr == "" {
		o.addr = "127.0.0.1:5000"
	}
	config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": configuration.Parameters{}, "delete": configuration.Parameters{"enabled": true}}}
	config.Log.Level = "error"
	config.Log.AccessLog.Disabled = true
	logrus.SetOutput(io.Discard) // the registry's own log, of every request
	config.HTTP.Secret = "of this test"
	ctx, cancel := context.WithCancel(context.Background())
	app := handlers.NewApp(ctx, config)
	r := &registry{addr: o.addr}
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		if o.user != "" {
			if u, p, ok := req.BasicAuth(); !ok || u != o.user || p != o.password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
				return
			}
		}
		if o.slow != nil && req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			o.slow()
		}
		app.ServeHTTP(w, req)
	})
	l := d.Listen("tcp", o.addr)
	if o.tls {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate(t, o.addr)}})
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // always ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		cancel()
		_ = app.Shutdown()
	})
	return r
}

func (r *registry) count(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, q := range r.requests {
		if strings.HasPrefix(q, prefix) {
			n++
		}
	}
	return n
}

func certificate(t *testing.T, addr string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestPushAndPull(t *testing.T) {
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{})
	ref := r.addr + "/team/app:v1"
	d.Load(testkit.ImageSpec{Ref: ref, Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"app": {Body: "one"}}.Tar()}, Config: map[string]any{"Cmd": []string{"cat", "/app"}}})
	contains(t, "push", d.Docker("push", ref), "v1: digest: sha256:")
	id := format(d, ref, "{{.Id}}")
	d.Docker("rmi", ref)
	out := d.Docker("pull", ref)
	contains(t, "pull", out, "Status: Downloaded newer image for "+ref)
	contains(t, "pull", out, "Digest: sha256:")
	equal(t, "same image", format(d, ref, "{{.Id}}"), id)
	equal(t, "runs", d.Docker("run", "--rm", ref), "one")
	again := d.Docker("pull", ref)
	contains(t, "again", again, "Status: Image is up to date for "+ref)
	if strings.Contains(again, "Pulling fs layer") {
		t.Errorf("a pull of what is there shows layers: %s", again)
	}
	digest := format(d, ref, "{{index .RepoDigests 0}}")
	contains(t, "digest", digest, r.addr+"/team/app@sha256:")
	d.Docker("rmi", "-f", ref)
	d.Docker("pull", digest)
	equal(t, "runs by digest", d.Docker("run", "--rm", digest), "one")
	// A layer that is there is not fetched a second time.
	d.Docker("rmi", "-f", digest)
	second := r.addr + "/team/app:v2"
	d.Load(testkit.ImageSpec{Ref: second, Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"app": {Body: "two"}}.Tar()}})
	d.Docker("push", second)
	d.Docker("pull", ref)
	tags := strings.Fields(d.Docker("images", "--format", "{{.Tag}}", r.addr+"/team/app"))
	slices.Sort(tags) // both were made at the same time
	equal(t, "tags", strings.Join(tags, " "), "v1 v2")
	if n := r.count("GET /v2/team/app/blobs"); n > 12 {
		t.Errorf("%d blobs fetched", n)
	}
	// run pulls what is missing
	d.Docker("rmi", "-f", ref)
	res := d.DockerResult("run", "--rm", ref)
	equal(t, "pulled by run", res.Out, "one")
	// The wording of engines with an image store of containerd, and of those before.
	absent, nosuch := r.addr+"/team/app:absent: not found", "tag does not exist: "+r.addr+"/nosuch:latest"
	if engine == testkit.Dockerd {
		absent, nosuch = "manifest unknown", "An image does not exist locally with the tag: "+r.addr+"/nosuch"
	}
	d.DockerFails(absent, "pull", r.addr+"/team/app:absent")
	d.DockerFails(nosuch, "push", r.addr+"/nosuch")
	d.DockerFails("An image does not exist locally with the tag: "+r.addr+"/nosuch", "push", "-a", r.addr+"/nosuch")
}

func TestPullThroughOurClientShowsProgress(t *testing.T) {
	notOnTwin(t, "the client speaks newer versions only")
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{})
	ref := r.addr + "/bar:v1"
	// A layer that no other image has: with all layers present nothing is shown.
	d.Load(testkit.ImageSpec{Ref: ref, Layers: [][]byte{testkit.BusyboxLayer(t), testkit.Layer{"only-here": {Body: "x"}}.Tar()}})
	d.Holdfast("push", ref)
	d.Holdfast("rmi", ref)
	testkit.RequireProgram(t, "script")
	res := d.Run("", "script", "-qec", testkit.RequireBin(t, "holdfast")+" pull "+ref, "/dev/null")
	contains(t, "progress", res.Out, "Pull complete")
	code, body := d.API(http.MethodPost, "/images/create?fromImage="+r.addr+"/bar&tag=v1", nil)
	if code != 200 || !strings.Contains(string(body), `"status"`) {
		t.Errorf("stream: %d %s", code, body)
	}
}

func TestRegistryWithCredentials(t *testing.T) {
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{user: "me", password: "secret"})
	ref := r.addr + "/private:v1"
	d.Docker("tag", "busybox", ref)
	d.DockerFails("", "push", ref)
	d.DockerFails("401", "login", "-u", "me", "-p", "wrong", r.addr)
	contains(t, "login", d.Docker("login", "-u", "me", "-p", "secret", r.addr), "Login Succeeded")
	d.Docker("push", ref)
	d.Docker("rmi", ref)
	d.Docker("pull", ref)
	d.Docker("logout", r.addr)
	d.Docker("rmi", ref)
	d.DockerFails("", "pull", ref)
}

func TestRegistriesOffLoopbackNeedTLSOrADeclaration(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		tls, decl bool
		refusal   string
	}{
		{"plain, undeclared", false, false, "server gave HTTP response to HTTPS client"},
		{"plain, declared", false, true, ""},
		{"unknown certificate, undeclared", true, false, "certificate"},
		{"unknown certificate, declared", true, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := testkit.Options{}
			if tc.decl {
				o.Config = map[string]any{"insecure-registries": []string{"10.99.0.0/24"}}
			}
			d := own(t, o)
			d.Exec("ip", "addr", "add", "10.99.0.1/32", "dev", "lo")
			r := newRegistry(t, d, registryOptions{addr: "10.99.0.1:5000", tls: tc.tls})
			ref := r.addr + "/x:v1"
			d.Docker("tag", "busybox", ref)
			if tc.refusal != "" {
				d.DockerFails(tc.refusal, "push", ref)
				return
			}
			d.Docker("push", ref)
			d.Docker("rmi", ref)
			d.Docker("pull", ref)
		})
	}
}

func TestDistributionInspect(t *testing.T) {
	d := daemon(t)
	r := newRegistry(t, d, registryOptions{})
	ref := r.addr + "/seen:v1"
	d.Docker("tag", "busybox", ref)
	d.Docker("push", ref)
	code, body := d.API(http.MethodGet, fmt.Sprintf("/distribution/%s/json", ref), nil)
	if code != 200 || !strings.Contains(string(body), "sha256:") {
		t.Errorf("%d %s", code, body)
	}
}
