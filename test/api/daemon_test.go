package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// authority makes certificates into a folder: ca.pem, and name.pem and name-key.pem.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.Subject, c.SerialNumber = pkix.Name{CommonName: name}, big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem":     {Type: "CERTIFICATE", Bytes: der},
		name + "-key.pem": {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	got, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return got, key
}

func TestSeveralListenersAndMutualTLS(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "the kit gives it other flags")
	d := own(t, testkit.Options{Stopped: true})
	certs := d.Dir() + "/certs"
	a := newAuthority(t, certs)
	a.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a.issue("cert", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err := os.Rename(certs+"/cert-key.pem", certs+"/key.pem"); err != nil {
		t.Fatal(err)
	}
	second := d.Dir() + "/second.sock"
	d.SetArgs("-H", "unix://"+second, "-H", "tcp://127.0.0.1:2376",
		"--tlsverify", "--tlscacert", certs+"/ca.pem", "--tlscert", certs+"/server.pem", "--tlskey", certs+"/server-key.pem")
	d.Start()
	d.Image("busybox")
	for _, sock := range []string{d.Socket(), second} {
		fi, err := os.Stat(sock)
		if err != nil || fi.Mode()&fs.ModePerm != 0o660 || fi.Mode()&fs.ModeSocket == 0 {
			t.Errorf("%s: %v, %v", sock, fi.Mode(), err)
		}
		equal(t, sock, d.Docker("-H", "unix://"+sock, "info", "-f", "{{.DockerRootDir}}"), d.Root())
	}
	addr := d.Forward("127.0.0.1:2376")
	host := "tcp://" + addr
	equal(t, "with a certificate", d.Docker("--tlsverify", "--tlscacert", certs+"/ca.pem", "--tlscert", certs+"/cert.pem", "--tlskey", certs+"/key.pem",
		"-H", host, "info", "-f", "{{.DockerRootDir}}"), d.Root())
	if r := d.DockerResult("--tls", "--tlscacert", certs+"/ca.pem", "-H", host, "info", "-f", "{{.DockerRootDir}}"); strings.Contains(r.Out, d.Root()) {
		t.Errorf("without a certificate: %s", r)
	}
	if r := d.DockerResult("-H", host, "info", "-f", "{{.DockerRootDir}}"); strings.Contains(r.Out, d.Root()) {
		t.Errorf("without TLS: %s", r)
	}
	// A context holds address and certificates: streams both ways, hijacked, too.
	for _, cli := range clients() {
		name := "tls-" + cli
		create := d.Run("", cli, "context", "create", name, "--docker",
			fmt.Sprintf("host=%s,ca=%s/ca.pem,cert=%s/cert.pem,key=%s/key.pem", host, certs, certs, certs))
		if create.Code != 0 {
			t.Fatalf("%s", create)
		}
		r := d.Run("over TLS\n", cli, "--context", name, "run", "--rm", "-i", "busybox", "cat")
		if r.Code != 0 || r.Out != "over TLS\n" {
			t.Errorf("%s", r)
		}
		if r := d.Run("", cli, "--context", name, "run", "--rm", "busybox", "sh", "-c", "exit 9"); r.Code != 9 {
			t.Errorf("exit code over TLS: %s", r)
		}
	}
	// A certificate of somebody else's.
	b := newAuthority(t, d.Dir()+"/others")
	b.issue("cert", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	pair, err := tls.LoadX509KeyPair(b.dir+"/cert.pem", b.dir+"/cert-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	hc := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}}}
	if resp, err := hc.Get("https://" + addr + "/_ping"); err == nil {
		_ = resp.Body.Close()
		t.Errorf("with another's certificate: %s", resp.Status)
	}
}

func TestPlainTCPIsRefused(t *testing.T) {
	notOnTwin(t, "it allows it")
	d := testkit.New(t, testkit.Options{Stopped: true, IgnoreLeftovers: true})
	d.SetArgs("-H", "tcp://127.0.0.1:2375")
	if err := d.TryStart(); err == nil {
		t.Error("served without TLS")
	}
	contains(t, "log", d.Logs(), "tcp needs mutual TLS")
	d.SetArgs()
}

func TestReloadPidfileAndValidate(t *testing.T) {
	notOnTwin(t, "it looks at our log and our keys")
	d := testkit.New(t, testkit.Options{Stopped: true})
	pidfile, config := d.Dir()+"/the.pid", d.Dir()+"/daemon.json"
	write := func(more map[string]any) {
		t.Helper()
		all := map[string]any{"cgroup-parent": "/" + filepath.Base(d.Dir()), "pidfile": pidfile}
		for k, v := range more {
			all[k] = v
		}
		b, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(nil)
	d.Start()
	pid, err := os.ReadFile(pidfile)
	if err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(d.Pid()) {
		t.Errorf("pidfile %q, %v; the daemon is %d", pid, err, d.Pid())
	}
	labels := func() string {
		return d.Docker("info", "-f", "{{json .Labels}}")
	}
	hup := func() {
		t.Helper()
		if err := syscall.Kill(d.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write(map[string]any{"labels": []string{"rack=4"}})
	hup()
	d.Eventually(settle, "new label", func() (bool, string) { l := labels(); return l == `["rack=4"]`, l })
	if err := os.WriteFile(config, []byte(`{"labels": [`), 0o600); err != nil {
		t.Fatal(err)
	}
	hup()
	d.Eventually(settle, "refusal in the log", func() (bool, string) {
		return strings.Contains(d.Logs(), "configuration not reloaded"), "not yet"
	})
	equal(t, "labels stay", labels(), `["rack=4"]`)

	validate := func() testkit.Result {
		return d.Run("", filepath.Join(testkit.BinDir(), "holdfastd"), "--validate", "--config-file", config)
	}
	if r := validate(); r.Code == 0 || !strings.Contains(r.Err, "invalid JSON") {
		t.Errorf("validate a broken file: %s", r)
	}
	write(map[string]any{"bogus": true})
	if r := validate(); r.Code == 0 || !strings.Contains(r.Err, "bogus") {
		t.Errorf("validate an unknown key: %s", r)
	}
	write(nil)
	if r := validate(); r.Code != 0 || !strings.Contains(r.Out, "configuration OK") {
		t.Errorf("validate: %s", r)
	}
	d.KillAndStart() // over the pidfile of one that was killed
	pid, err = os.ReadFile(pidfile)
	if err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(d.Pid()) {
		t.Errorf("pidfile %q, %v; the daemon is %d", pid, err, d.Pid())
	}
	d.Stop()
	if _, err := os.Stat(pidfile); err == nil {
		t.Error("pidfile is left")
	}
}

func TestLogsAreStructured(t *testing.T) {
	notOnTwin(t, "its log is its own")
	d := testkit.New(t, testkit.Options{Config: map[string]any{"log-format": "json"}})
	d.Docker("version")
	for line := range strings.Lines(d.Logs()) {
		if strings.HasPrefix(line, "=== start") {
			continue // the kit's
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || m["msg"] == nil || m["level"] == nil || m["time"] == nil {
			t.Errorf("not structured: %v: %s", err, line)
		}
	}
	contains(t, "debug log", d.Logs(), "/version")
}

// TestTwoDaemonsOnOneHost: different roots, one network namespace.
func TestTwoDaemonsOnOneHost(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "two of them need more flags")
	d := own(t, testkit.Options{IgnoreLeftovers: true})
	dir := d.Dir() + "/two"
	sock := dir + "/sock"
	d.Exec("mkdir", "-p", dir)
	start := func() int {
		t.Helper()
		pid, err := strconv.Atoi(strings.TrimSpace(d.Exec("sh", "-c", fmt.Sprintf(
			"%s/holdfastd --root %[2]s/root --exec-root %[2]s/run -H unix://%[2]s/sock --cgroup-parent /%[3]s >>%[2]s/log 2>&1 & echo $!",
			testkit.BinDir(), dir, filepath.Base(d.Dir())))))
		if err != nil {
			t.Fatal(err)
		}
		d.Eventually(settle, "second daemon answers", func() (bool, string) {
			r := d.DockerResult("-H", "unix://"+sock, "version")
			return r.Code == 0, r.String()
		})
		return pid
	}
	two := func(args ...string) string { return d.Docker(append([]string{"-H", "unix://" + sock}, args...)...) }
	end := func(pid int, sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		exitedInside(d, strconv.Itoa(pid))
	}
	pid := start()
	image := testkit.ImageSpec{Ref: "busybox:latest", Layers: [][]byte{testkit.BusyboxLayer(t)}, Config: map[string]any{"Env": []string{"PATH=/bin"}}}
	if err := os.WriteFile(dir+"/image.tar", image.Archive(), 0o600); err != nil {
		t.Fatal(err)
	}
	two("load", "-i", dir+"/image.tar")
	serve := func(name string) []string {
		return []string{"busybox", "sh", "-c", "mkdir /w; echo " + name + " > /w/index.html; httpd -f -p 80 -h /w"}
	}
	d.Docker(append([]string{"run", "-d", "--name", "same", "-v", "same:/data", "-p", "8001:80"}, serve("one")...)...)
	two(append([]string{"run", "-d", "--name", "same", "-v", "same:/data", "-p", "8002:80"}, serve("two")...)...)
	answers := func(port, want string) {
		t.Helper()
		d.Eventually(settle, port+" answers", func() (bool, string) {
			resp, err := d.HTTP().Get("http://127.0.0.1:" + port + "/")
			if err != nil {
				return false, err.Error()
			}
			defer resp.Body.Close()
			var b bytes.Buffer
			_, err = b.ReadFrom(resp.Body)
			return strings.TrimSpace(b.String()) == want, fmt.Sprint(b.String(), err)
		})
	}
	answers("8001", "one")
	answers("8002", "two")
	subnet := func(s string) string { return strings.TrimSpace(s) }
	const gw = "{{range .IPAM.Config}}{{.Subnet}}{{end}}"
	if a, b := subnet(d.Docker("network", "inspect", "-f", gw, "bridge")), subnet(two("network", "inspect", "-f", gw, "bridge")); a == b {
		t.Errorf("both bridges have %s", a)
	}
	d.KillAndStart()
	answers("8002", "two")
	answers("8001", "one")
	end(pid, syscall.SIGKILL)
	pid = start()
	answers("8002", "two")
	answers("8001", "one")
	two("rm", "-f", "same")
	two("volume", "rm", "same")
	end(pid, syscall.SIGTERM)
	answers("8001", "one")
	equal(t, "the first's volume", d.Docker("volume", "ls", "-q"), "same")
}

func TestSystemdUnits(t *testing.T) {
	analyze := testkit.RequireProgram(t, "systemd-analyze")
	d := testkit.New(t, testkit.Options{Stopped: true, IgnoreLeftovers: true, Bare: true})
	for _, unit := range []string{"holdfast.service", "holdfast.socket"} {
		b, err := os.ReadFile(filepath.Join(testkit.RepoRoot(), "packaging/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte("/usr/local/bin/"), []byte(testkit.BinDir()+"/"))
		if err := os.WriteFile(filepath.Join(d.Dir(), unit), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := d.Run("", analyze, "verify", "--man=no", d.Dir()+"/holdfast.service", d.Dir()+"/holdfast.socket")
	for line := range strings.Lines(r.Err + r.Out) {
		if strings.Contains(line, "holdfast.") {
			t.Errorf("%s", line)
		}
	}
}
