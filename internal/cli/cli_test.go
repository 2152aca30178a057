package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockercli "github.com/docker/cli/cli"
)

// envChild makes the test binary be the program.
const envChild = "HF_TEST_CLI"

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(Main(os.Args, Version{Version: "1.2.3", Commit: "abc"}))
	}
	os.Exit(m.Run())
}

type outcome struct {
	out, err string
	code     int
}

// program is the program, with the given environment and no configuration.
func program(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	home := t.TempDir()
	cmd.Env = append([]string{envChild + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_CONFIG=" + home + "/config"}, env...)
	cmd.WaitDelay = time.Second
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func runForTest(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	return finish(t, program(t, env, args...))
}

// fakeEngine answers pings and versions, and what handle adds.
func fakeEngine(t *testing.T, handle func(http.ResponseWriter, *http.Request)) (host string) {
	t.Helper()
	// Short: a socket's path may have 108 bytes.
	dir, err := os.MkdirTemp("", "hf-cli-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the folder of a test
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.50")
		w.Header().Set("Ostype", "linux")
		w.Header().Set("Swarm", "inactive")
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			_, _ = io.WriteString(w, "OK") // the client tells
			return
		}
		handle(w, r)
	})}
	go func() { _ = srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return "unix://" + sock
}

// named is an engine with one container of that name.
func named(t *testing.T, name string) string {
	t.Helper()
	return fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/containers/json") {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `[{"Id":"1234567890123456","Names":["/%s"],"State":"exited"}]`, name)
	})
}

func TestEndpoint(t *testing.T) {
	ours, docker, flag, inContext := named(t, "ours"), named(t, "docker"), named(t, "flag"), named(t, "context")
	home := t.TempDir()
	env := func(more ...string) []string {
		return append([]string{"HOME=" + home, "DOCKER_CONFIG=" + home}, more...)
	}
	if out := runForTest(t, env(), "context", "create", "other", "--docker", "host="+inContext); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	ps := []string{"ps", "--format", "{{.Names}}"}
	for _, tc := range []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"HOLDFAST_HOST before DOCKER_HOST", []string{EnvHost + "=" + ours, "DOCKER_HOST=" + docker}, nil, "ours"},
		{"DOCKER_HOST", []string{"DOCKER_HOST=" + docker}, nil, "docker"},
		{"-H before all", []string{EnvHost + "=" + ours, "DOCKER_HOST=" + docker, "DOCKER_CONTEXT=other"}, []string{"-H", flag}, "flag"},
		{"--context before the environment", []string{EnvHost + "=" + ours, "DOCKER_HOST=" + docker}, []string{"--context", "other"}, "context"},
		{"--context default", []string{EnvHost + "=" + ours, "DOCKER_CONTEXT=other"}, []string{"--context", "default"}, "ours"},
		{"DOCKER_CONTEXT", []string{"DOCKER_CONTEXT=other"}, nil, "context"},
		{"DOCKER_HOST before DOCKER_CONTEXT", []string{"DOCKER_HOST=" + docker, "DOCKER_CONTEXT=other"}, nil, "docker"},
	} {
		out := runForTest(t, env(tc.env...), append(tc.args, ps...)...)
		if out.code != 0 || strings.TrimSpace(out.out) != tc.want {
			t.Errorf("%s: got %+v, want %s", tc.name, out, tc.want)
		}
	}
	if out := runForTest(t, env(), "context", "use", "other"); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	if out := runForTest(t, env(), ps...); strings.TrimSpace(out.out) != "context" {
		t.Errorf("the current context is not used: %+v", out)
	}
	if out := runForTest(t, env(EnvHost+"="+ours), ps...); strings.TrimSpace(out.out) != "ours" {
		t.Errorf("%s does not override the current context: %+v", EnvHost, out)
	}
	out := runForTest(t, env(), "--context", "other", "-H", flag, "ps")
	if out.code == 0 || !strings.Contains(out.err, "cannot specify both --host and --context") {
		t.Errorf("both: %+v", out)
	}
}

func TestDefaultEndpoint(t *testing.T) {
	none := func(string) string { return "" }
	if got := (choice{env: none}).host(); got != DefaultHost {
		t.Errorf("got %q", got)
	}
	if got := (choice{env: none, current: "other"}).host(); got != "" {
		t.Errorf("a current context is overridden by %q", got)
	}
	if got := (choice{env: none, current: "other", context: "default"}).host(); got != DefaultHost {
		t.Errorf("the context default is %q", got)
	}
}

func TestExitCodesAndMessages(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{errors.New("no"), 1, "no"},
		{dockercli.StatusError{StatusCode: 42}, 42, "exit status 42"},
		{dockercli.StatusError{StatusCode: 126, Status: "told"}, 126, "told"},
		{fmt.Errorf("wrapped: %w", dockercli.StatusError{StatusCode: 127, Status: "x"}), 127, "wrapped: x"},
		{fmt.Errorf("wrapped: %w", interrupted{syscall.SIGINT}), 130, ""},
		{interrupted{syscall.SIGTERM}, 143, ""},
		{errdefs.ErrAborted, 1, errdefs.ErrAborted.Error()},
	} {
		if got := exitCode(tc.err); got != tc.code {
			t.Errorf("%v: exit code %d, want %d", tc.err, got, tc.code)
		}
		if got := message(tc.err); got != tc.text && tc.code != 42 {
			t.Errorf("%v: message %q, want %q", tc.err, got, tc.text)
		}
	}
}

func TestInterruptEndsWith130(t *testing.T) {
	asked := make(chan struct{}, 1)
	host := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // the client may be gone
			asked <- struct{}{}
			<-r.Context().Done()
		}
	})
	for _, tc := range []struct {
		sig  syscall.Signal
		code int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}} {
		cmd := program(t, []string{"DOCKER_HOST=" + host}, "events")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-asked
		if err := cmd.Process.Signal(tc.sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the exit code tells
		if code := cmd.ProcessState.ExitCode(); code != tc.code || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d, stderr %q", tc.sig, code, stderr.String())
		}
	}
}

func TestVersionHelpAndUnknownCommands(t *testing.T) {
	if out := runForTest(t, nil, "--version"); out.code != 0 || out.out != "Holdfast version 1.2.3, build abc\n" {
		t.Errorf("%+v", out)
	}
	host := named(t, "x")
	env := []string{"DOCKER_HOST=" + host}
	out := runForTest(t, env, "version", "--format", "{{.Client.Platform.Name}} {{.Client.Version}} {{.Client.GitCommit}}")
	if !strings.HasPrefix(out.out, "Holdfast 1.2.3 abc") {
		t.Errorf("version: %+v", out)
	}
	for _, tc := range []struct {
		args []string
		code int
		has  string
	}{
		{[]string{"nonsense"}, 1, "holdfast: unknown command: holdfast nonsense"},
		{[]string{"help", "nonsense"}, 1, "unknown help topic: nonsense"},
		{[]string{"--nonsense"}, 125, "unknown flag: --nonsense"},
		{[]string{"ps", "--nonsense"}, 125, "Usage:  holdfast ps"},
		{[]string{"ps", "surplus"}, 1, "'holdfast ps' accepts no arguments"},
		{[]string{"compose", "up", "--nonsense"}, 1, "unknown flag: --nonsense"},
		{[]string{"checkpoint", "ls", "x"}, 1, "experimental"},
	} {
		out := runForTest(t, env, tc.args...)
		if out.code != tc.code || !strings.Contains(out.err, tc.has) {
			t.Errorf("%q: want %d and %q, got %+v", tc.args, tc.code, tc.has, out)
		}
	}
	out = runForTest(t, env, "--help")
	for _, want := range []string{"holdfast [OPTIONS] COMMAND", "compose", "swarm", "volume"} {
		if !strings.Contains(out.out, want) {
			t.Errorf("help lacks %q: %s", want, out.out)
		}
	}
	// No engine at the default address, wherever this runs: HOLDFAST_HOST.
	out = runForTest(t, []string{EnvHost + "=unix:///nonexistent/sock"}, "ps")
	if out.code != 1 || !strings.Contains(out.err, "unix:///nonexistent/sock") {
		t.Errorf("no engine: %+v", out)
	}
}

func TestCompletion(t *testing.T) {
	env := []string{"DOCKER_HOST=" + named(t, "database")}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "ru"}, "run\t"},
		{[]string{"__complete", "rm", ""}, "database"},
		{[]string{"__complete", "volume", "cr"}, "create\t"},
		{[]string{"__complete", "compose", "up", "--det"}, "--detach\t"},
		{[]string{"__complete", "--context", ""}, "default"},
		{[]string{"__complete", "--log-level", "w"}, "warn"},
		{[]string{"completion", "bash"}, "holdfast"},
		{[]string{"completion", "zsh"}, "#compdef holdfast"},
		{[]string{"completion", "fish"}, "complete -c holdfast"},
	} {
		out := runForTest(t, env, tc.args...)
		if out.code != 0 || !strings.Contains(out.out, tc.want) {
			t.Errorf("%q: want %q, got code %d %.300s %s", tc.args, tc.want, out.code, out.out, out.err)
		}
	}
}

func TestInvokedAsDockerCompose(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), composeName)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte("services:\n  a:\n    image: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-f", file, "config", "--services"}, {"--file", file, "config", "--services"}} {
		cmd := program(t, []string{"DOCKER_HOST=" + named(t, "x")}, args...)
		cmd.Path, cmd.Args[0] = link, link
		if out := finish(t, cmd); out.code != 0 || out.out != "a\n" {
			t.Errorf("%q: %+v", args, out)
		}
	}
	if got := withCompose([]string{"/x/docker-compose", "up"}); strings.Join(got[1:], " ") != "compose up" {
		t.Errorf("got %q", got)
	}
	if got := withCompose([]string{"holdfast", "up"}); strings.Join(got, " ") != "holdfast up" {
		t.Errorf("got %q", got)
	}
}

func TestPlugins(t *testing.T) {
	home := t.TempDir()
	plugin := filepath.Join(home, "cli-plugins", "docker-hello")
	if err := os.MkdirAll(filepath.Dir(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
case $1 in
docker-cli-plugin-metadata) echo '{"SchemaVersion":"0.1.0","Vendor":"us","Version":"v1","ShortDescription":"Say hello"}' ;;
*) echo "args: $*"; echo "host: $DOCKER_HOST"; exit 7 ;;
esac
`
	if err := os.WriteFile(plugin, []byte(script), 0o755); err != nil { // 0o755: it is run
		t.Fatal(err)
	}
	host := named(t, "x")
	env := []string{"DOCKER_CONFIG=" + home, EnvHost + "=" + host}
	out := runForTest(t, env, "hello", "--flag", "x")
	if out.code != 7 || out.out != "args: hello --flag x\nhost: "+host+"\n" {
		t.Errorf("a plugin does not get our engine, or we not its exit code: %+v", out)
	}
	if out := runForTest(t, env, "--help"); !strings.Contains(out.out, "Say hello") {
		t.Errorf("help lacks the plugin: %s", out.out)
	}
}

func TestAsDockersPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), pluginName)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 8)
	host := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "snapshots") {
			asked <- r.URL.Path
		}
		_, _ = io.WriteString(w, "[]")
	})
	call := func(env []string, args ...string) outcome {
		cmd := program(t, env, args...)
		cmd.Path, cmd.Args[0] = link, link
		return finish(t, cmd)
	}
	if out := call(nil, "docker-cli-plugin-metadata"); out.code != 0 || !strings.Contains(out.out, `"SchemaVersion":"0.1.0","Vendor":"Holdfast","Version":"1.2.3"`) {
		t.Errorf("metadata: %+v", out)
	}
	// As docker calls it: all that was said to it.
	for _, args := range [][]string{{"-H", host, "holdfast", "volume", "snapshot", "ls", "data"}, {"--log-level=info", "holdfast", "-H", host, "volume", "snapshot", "ls", "data"}} {
		out := call(nil, args...)
		if out.code != 0 {
			t.Errorf("%q: %+v", args, out)
			continue
		}
		if got := <-asked; got != "/holdfast/v1/volumes/data/snapshots" {
			t.Errorf("%q asks %s", args, got)
		}
	}
	for _, args := range [][]string{{"holdfast", "volume", "snapshot", "--help"}, {"help", "holdfast", "volume", "snapshot"}} {
		if out := call(nil, args...); out.code != 0 || !strings.Contains(out.out, "Usage:  docker holdfast volume snapshot COMMAND") {
			t.Errorf("%q: %+v", args, out)
		}
	}
	if out := call(nil, "__complete", "holdfast", "volume", "snapsh"); !strings.Contains(out.out, "snapshot") {
		t.Errorf("completion: %+v", out)
	}
	for _, tc := range []struct{ args, want string }{
		{"volume ls", "volume ls"}, // by hand
		{"holdfast", ""},
		{"--config holdfast holdfast run holdfast", "--config holdfast run holdfast"},
		{"--no-such-flag holdfast", "--no-such-flag holdfast"},
		{"help holdfast", "help"},
	} {
		if got := strings.Join(withoutName(strings.Fields(tc.args)), " "); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.args, got, tc.want)
		}
	}
	none := func(string) string { return "" }
	if got := (choice{env: none, plugin: true}).host(); got != "" {
		t.Errorf("as docker's plugin it talks to %s, not to docker's engine", got)
	}
	own := func(k string) string { return map[string]string{EnvHost: "unix:///x"}[k] }
	if got := (choice{env: own, plugin: true}).host(); got != "unix:///x" {
		t.Errorf("%s does not count: %q", EnvHost, got)
	}
}

func TestRegistryIsNotOpenToAll(t *testing.T) {
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"without --tls-cert only loopback addresses": {"--listen", "0.0.0.0:0"},
		"without --tls-cert only loopback":           {"--listen", ":5000"},
		"only loopback addresses are listened on":    {"--listen", "example.com:5000"},
		"missing port":                     {"--listen", "127.0.0.1"},
		"--tls-client-ca needs --tls-cert": {"--tls-client-ca", "x.pem"},
		"they must all be set":             {"--tls-cert", "x.pem"},
		"read the certificate":             {"--tls-cert", "x.pem", "--tls-key", "y.pem", "--listen", "0.0.0.0:0"},
		"must be more than nothing":        {"--gc-grace", "0s"},
		"requires 1 argument":              {"more"},
	} {
		if out := runForTest(t, nil, append(append([]string{"registry", "serve"}, args...), dir)...); out.code == 0 || !strings.Contains(out.err, want) {
			t.Errorf("%v: %+v, want %q", args, out, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it made %v, %v", left, err)
	}
}
