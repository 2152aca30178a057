package imagestore_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/ctrd/imagestore"
	"holdfast.dev/holdfast/internal/image"
)

// searched is an index that answers searches for whoever logs in.
type searched struct {
	password string // empty: anybody may ask
	requests []string
}

func (s *searched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests = append(s.requests, r.URL.String())
	if r.URL.Path == "/v1/_ping" {
		return
	}
	if _, p, _ := r.BasicAuth(); p != s.password {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	switch r.URL.Query().Get("q") {
	case "garbled":
		_, _ = io.WriteString(w, "<html>")
	case "missing":
		http.NotFound(w, r)
	default:
		_, _ = io.WriteString(w, `{"results":[
			{"name":"team/app","description":"ours","star_count":7,"is_official":true,"is_automated":true},
			{"name":"other/app","star_count":2}]}`)
	}
}

func TestSearch(t *testing.T) {
	needsRoot(t)
	index := &searched{password: "secret"}
	s := httptest.NewServer(index)
	defer s.Close()
	f := newFixtureAt(t, t.TempDir(), imagestore.HostOptions{})
	ask := func(o image.SearchOptions) ([]string, error) {
		index.requests = nil
		o.Term = hostOf(s) + "/" + o.Term
		o.Auth.Username = "us"
		all, err := f.Search(context.Background(), o)
		names := []string{}
		for _, r := range all {
			names = append(names, r.Name)
			if r.IsAutomated { //nolint:staticcheck // that it is never told is what is tested
				t.Errorf("%s counts as automated", r.Name)
			}
		}
		return names, err
	}
	in := image.Remote{Auth: image.Auth{Password: "secret"}}
	for _, c := range []struct {
		o       image.SearchOptions
		want    []string
		asked   string // the last request
		refused string
	}{
		{image.SearchOptions{Remote: in, Term: "a b/c"}, []string{"team/app", "other/app"}, "/v1/search?n=25&q=a+b%2Fc", ""},
		{image.SearchOptions{Remote: in, Term: "app", Limit: 3, Filters: filter.Args{"stars": {"3"}}}, []string{"team/app"}, "/v1/search?n=3&q=app", ""},
		{image.SearchOptions{Remote: in, Term: "app", Filters: filter.Args{"is-automated": {"true"}}}, []string{}, "", ""},
		{image.SearchOptions{Remote: in, Term: "app", Limit: 101}, []string{}, "", "limit 101 is outside the range of [1, 100]"},
		{image.SearchOptions{Remote: in, Term: "http://app"}, []string{}, "", "should not have a scheme"},
		{image.SearchOptions{Remote: in, Term: "missing"}, []string{}, "/v1/search?n=25&q=missing", "Unexpected status code 404"},
		{image.SearchOptions{Remote: in, Term: "garbled"}, []string{}, "/v1/search?n=25&q=garbled", "error decoding registry search results"},
		{image.SearchOptions{Term: "app"}, []string{}, "/v1/search?n=25&q=app", "Unexpected status code 401"},
		{
			image.SearchOptions{Remote: image.Remote{Auth: image.Auth{Password: "secret", ServerAddress: "elsewhere:5000"}}, Term: "app"},
			[]string{},
			"/v1/search?n=25&q=app", "Unexpected status code 401",
		},
	} {
		got, err := ask(c.o)
		if !reflect.DeepEqual(got, c.want) || (c.refused == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%+v: %v, %v", c.o, got, err)
		}
		asked := ""
		if n := len(index.requests); n > 0 {
			asked = index.requests[n-1]
		}
		if asked != c.asked {
			t.Errorf("%+v: asked %v", c.o, index.requests)
		}
	}
}

func TestSearchTrustsWhatIsDeclared(t *testing.T) {
	needsRoot(t)
	addr := hostAddress(t)
	serve := func(secure bool) *httptest.Server {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
		must(t, err)
		s := httptest.NewUnstartedServer(&searched{})
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
		must(t, s.Listener.Close())
		s.Listener = l
		if secure {
			s.TLS = serverCert(t, addr)
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s
	}
	secure, plain := serve(true), serve(false)
	certs := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(certs, hostOf(secure)), 0o755))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.TLS.Certificates[0].Certificate[0]})
	must(t, os.WriteFile(filepath.Join(certs, hostOf(secure), "ca.crt"), ca, 0o644))
	insecure := imagestore.HostOptions{Insecure: []string{addr + "/32"}}
	for _, c := range []struct {
		what    string
		server  *httptest.Server
		hosts   imagestore.HostOptions
		refused string
	}{
		{"TLS of an unknown authority", secure, imagestore.HostOptions{}, "--insecure-registry " + hostOf(secure)},
		{"TLS of a known authority", secure, imagestore.HostOptions{CertsDirs: []string{certs}}, ""},
		{"TLS, declared insecure", secure, insecure, ""},
		{"plain HTTP", plain, imagestore.HostOptions{}, "invalid registry endpoint https://" + hostOf(plain) + "/v1/: "},
		{"plain HTTP, declared insecure", plain, insecure, ""},
	} {
		f := newFixtureAt(t, t.TempDir(), c.hosts)
		got, err := f.Search(context.Background(), image.SearchOptions{Term: hostOf(c.server) + "/app"})
		if c.refused == "" && (err != nil || len(got) != 2) || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v, %v", c.what, got, err)
		}
	}
}
