package httpapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/httpapi/route"
)

func quiet() ListenOptions { return ListenOptions{Log: slog.New(slog.DiscardHandler)} }

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "api.sock")
	o := quiet()
	o.Group = strconv.Itoa(os.Getgid())
	ls, err := Listen(t.Context(), "unix://"+path, o)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := Listen(t.Context(), "unix://"+path, o); !errdefs.IsAlreadyExists(err) {
		t.Errorf("live socket taken over: %v", err)
	}
	// A daemon that was killed leaves its socket.
	ls[0].(*net.UnixListener).SetUnlinkOnClose(false)
	if err := ls[0].Close(); err != nil {
		t.Fatal(err)
	}
	ls, err = Listen(t.Context(), "unix://"+path, o)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if err := ls[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix://"+path, o); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

func TestSocketGroup(t *testing.T) {
	o := quiet()
	o.Group = "no-such-group"
	path := filepath.Join(t.TempDir(), "api.sock")
	ls, err := Listen(t.Context(), "unix://"+path, o)
	if err != nil {
		t.Fatalf("missing default group: %v", err)
	}
	_ = ls[0].Close()
	o.GroupRequired = true
	if _, err := Listen(t.Context(), "unix://"+path, o); err == nil {
		t.Error("missing group that the user named: no error")
	}
}

func TestTCPWithoutTLSIsRefused(t *testing.T) {
	if _, err := Listen(t.Context(), "tcp://127.0.0.1:0", quiet()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	o := quiet()
	o.PlainTCP = true
	ls, err := Listen(t.Context(), "tcp://127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	_ = ls[0].Close()
}

func TestBadHosts(t *testing.T) {
	for _, h := range []string{"x", "http://x", "unix://relative", "fd://"} {
		if _, err := Listen(t.Context(), h, quiet()); err == nil {
			t.Errorf("%s: no error", h)
		}
	}
}

// pki makes a CA and certificates signed by it, as PEM files in dir.
func pki(t *testing.T, dir string, names ...string) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, typ string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	template := func(name string, ca bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: ca, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
	}
	caKey, ca := newKey(), template("ca", true)
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	for _, n := range names {
		key := newKey()
		der, err := x509.CreateCertificate(rand.Reader, template(n, false), ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		write(n+".pem", "CERTIFICATE", der)
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(n+"-key.pem", "EC PRIVATE KEY", keyDER)
	}
}

func TestMutualTLS(t *testing.T) {
	good, bad := t.TempDir(), t.TempDir()
	pki(t, good, "server", "client")
	pki(t, bad, "client")
	o := quiet()
	var err error
	o.TLS, err = LoadTLS(TLSFiles{CA: filepath.Join(good, "ca.pem"), Cert: filepath.Join(good, "server.pem"), Key: filepath.Join(good, "server-key.pem"), Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	ls, err := Listen(t.Context(), "tcp://127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, io.Discard, 0, route.Route{Method: "GET", Path: "/", Handler: func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, r.Proto)
		return err
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ls...) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(good, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)
	for name, want := range map[string]bool{good: true, bad: false, "": false} {
		c := &tls.Config{RootCAs: pool}
		if name != "" {
			cert, err := tls.LoadX509KeyPair(filepath.Join(name, "client.pem"), filepath.Join(name, "client-key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{cert}
		}
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}}
		resp, err := h.Get("https://" + ls[0].Addr().String() + "/")
		if (err == nil) != want {
			t.Errorf("client of %q: %v", name, err)
		}
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !strings.HasPrefix(string(b), "HTTP/1.1") {
				t.Errorf("protocol %s", b)
			}
		}
		h.CloseIdleConnections()
	}
	if _, err := LoadTLS(TLSFiles{Cert: "/nonexistent", Key: "/nonexistent"}); err == nil {
		t.Error("missing certificate: no error")
	}
}

// The child of this test finds its socket as systemd would pass it.
func TestSocketActivation(t *testing.T) {
	if os.Getenv("HF_ACTIVATION_CHILD") != "" {
		serveActivated()
		return
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSocketActivation$")
	cmd.Env = append(os.Environ(), "HF_ACTIVATION_CHILD=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=holdfast.socket")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "activated" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func serveActivated() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	check(os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())))
	ls, err := Listen(context.Background(), "fd://holdfast.socket", quiet())
	check(err)
	conn, err := ls[0].Accept()
	check(err)
	_, err = io.WriteString(conn, "activated")
	check(err)
	check(conn.Close())
	os.Exit(0)
}
