package testkit

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/client"
)

const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
)

// Engine says which daemon program runs.
type Engine string

// The engines: ours, and Docker's as the twin that shows what is expected.
const (
	Holdfastd Engine = "holdfastd"
	Dockerd   Engine = "dockerd"
)

// Options changes what New makes. The zero value is a holdfastd with defaults.
type Options struct {
	Engine Engine
	// Args are added to the daemon's command line.
	Args []string
	// Config is added to the configuration file.
	Config map[string]any
	// RootTmpfs puts the root on a tmpfs of that many MiB, to be filled.
	RootTmpfs int
	// RootExt4 puts it on an ext4 of that many MiB.
	RootExt4 int
	// Stopped: do not start it yet.
	Stopped bool
	// IgnoreLeftovers is for daemons that are made to be broken.
	IgnoreLeftovers bool
	// Bare is for measurements: no comparison before and after, no debug log.
	Bare bool
	// Hostname gives the daemon a machine's name of its own.
	Hostname string
	// Program is another holdfastd than the one in BinDir: the programs beside it are
	// looked for beside this one.
	Program string
	Env     []string // of the daemon, beside the test's own
	// prepare is called with the namespaces, before the daemon first starts.
	prepare func(*holder) error
}

// shared is what all handles of one daemon have in common.
type shared struct {
	opts     Options
	dir      string // everything of this daemon lives below it
	tag      string // its cgroup parent, a word that no other process carries
	root     string
	execRoot string
	sock     string
	ns       *holder

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd ended; its error is in cmd.ProcessState
	images map[string]bool
	base   *state // right after the first start
}

// Daemon is one daemon, as one test sees it.
type Daemon struct {
	*shared
	t TB
}

// New makes a daemon and starts it. It is stopped and removed with the test.
func New(t TB, opts ...Options) *Daemon {
	t.Helper()
	RequireRoot(t)
	for _, p := range []string{"nsenter", "ip", "nft"} {
		RequireProgram(t, p)
	}
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	if o.Engine == "" {
		o.Engine = Holdfastd
	}
	sweep(t)
	d, err := newDaemon(t, o)
	if err != nil {
		t.Fatalf("make a test daemon: %v", err)
	}
	t.Cleanup(d.cleanup)
	if !o.Stopped {
		d.Start()
	}
	return d
}

func newDaemon(t TB, o Options) (*Daemon, error) {
	var r [2]byte
	_, _ = rand.Read(r[:]) // never fails
	tag := dirPrefix + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(r[:])
	dir := filepath.Join(os.TempDir(), tag)
	s := &shared{
		opts: o, dir: dir, tag: tag, images: map[string]bool{},
		root: filepath.Join(dir, "root"), execRoot: filepath.Join(dir, "run"), sock: filepath.Join(dir, "sock"),
	}
	for _, p := range []string{s.root, s.execRoot, dir + "/client", dir + "/home"} {
		if err := os.MkdirAll(p, 0o711); err != nil {
			return nil, err
		}
	}
	ns, err := newHolder(o.Hostname)
	if err != nil {
		return nil, err
	}
	s.ns = ns
	d := &Daemon{shared: s, t: t}
	if err := os.WriteFile(filepath.Join(dir, holderFile), []byte(strconv.Itoa(ns.pid)), 0o644); err != nil {
		return d, err
	}
	if o.prepare != nil {
		if err := o.prepare(ns); err != nil {
			return d, err
		}
	}
	if o.RootTmpfs > 0 {
		if out, err := ns.command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=711", o.RootTmpfs), "tmpfs", s.root).CombinedOutput(); err != nil {
			return d, fmt.Errorf("mount root: %w: %s", err, out)
		}
	}
	if o.RootExt4 > 0 {
		script := fmt.Sprintf("truncate -s %dM %[2]s/disk && mkfs.ext4 -q -m 0 %[2]s/disk && mount -o loop %[2]s/disk %[3]s && chmod 711 %[3]s", o.RootExt4, dir, s.root)
		if out, err := ns.command("sh", "-c", script).CombinedOutput(); err != nil {
			return d, fmt.Errorf("make root: %w: %s", err, out)
		}
	}
	config := map[string]any{"cgroup-parent": "/" + tag}
	if o.Engine == Holdfastd {
		config["plugin-dirs"] = []string{filepath.Join(dir, "plugins")} // not the machine's
	}
	for k, v := range o.Config {
		config[k] = v
	}
	b, err := json.Marshal(config)
	if err != nil {
		return d, err
	}
	return d, os.WriteFile(filepath.Join(dir, "daemon.json"), b, 0o644)
}

// For is the same daemon for another test: failures go to t, and after t
// everything it made is removed and leftovers fail it.
func (d *Daemon) For(t TB) *Daemon {
	t.Helper()
	h := &Daemon{shared: d.shared, t: t}
	t.Cleanup(func() {
		if t.Failed() {
			h.keepArtifacts()
		}
		h.Clean()
	})
	if !h.Running() {
		h.Start()
	}
	return h
}

// Root is the daemon's --root.
func (d *Daemon) Root() string { return d.root }

// ExecRoot is the daemon's --exec-root.
func (d *Daemon) ExecRoot() string { return d.execRoot }

// Dir is a folder of the daemon's own, removed with it.
func (d *Daemon) Dir() string { return d.dir }

// Socket is the path of the API socket.
func (d *Daemon) Socket() string { return d.sock }

// Host is the DOCKER_HOST of this daemon.
func (d *Daemon) Host() string { return "unix://" + d.sock }

// Pid is the running daemon's process, or 0.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// Running tells whether the daemon was started and has not ended.
func (d *Daemon) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// Start starts the daemon and waits until it answers.
func (d *Daemon) Start() {
	d.t.Helper()
	if d.opts.Engine == Holdfastd {
		for _, b := range []string{"holdfastd", "containerd-shim-runc-v2", "runc"} {
			RequireBin(d.t, b)
		}
	} else {
		RequireProgram(d.t, string(d.opts.Engine))
	}
	if err := d.TryStart(); err != nil {
		d.t.Fatalf("%v\n%s", err, tail(d.Logs(), 60))
	}
	if d.base == nil && !d.opts.Bare {
		d.base = d.look()
	}
}

// TryStart starts the daemon and tells why it did not answer.
func (d *Daemon) TryStart() error {
	if err := d.Launch(); err != nil {
		return err
	}
	d.mu.Lock()
	cmd, exited := d.cmd, d.exited
	d.mu.Unlock()
	last, ok := poll(startLimit, func() (bool, string) {
		select {
		case <-exited:
			return true, "ended: " + cmd.ProcessState.String()
		default:
		}
		code, body, err := d.request(http.MethodGet, "/_ping", nil)
		if err != nil {
			return false, err.Error()
		}
		return code == http.StatusOK, fmt.Sprintf("ping answers %d %s", code, body)
	})
	if !ok || strings.HasPrefix(last, "ended") {
		return fmt.Errorf("%s does not answer: %s", d.opts.Engine, last)
	}
	return nil
}

// Launch starts the daemon's process and does not wait for it.
func (d *Daemon) Launch() error {
	cmd := d.serverCommand()
	log, err := os.OpenFile(d.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "=== start %s\n", strings.Join(cmd.Args, " "))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.opts.Engine, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state is in cmd.ProcessState
		close(exited)
	}()
	d.mu.Lock()
	d.cmd, d.exited = cmd, exited
	d.mu.Unlock()
	return nil
}

func (d *Daemon) serverCommand() *exec.Cmd {
	args := []string{"--config-file", filepath.Join(d.dir, "daemon.json"), "-H", d.Host()}
	program := cmp.Or(d.opts.Program, filepath.Join(BinDir(), "holdfastd"))
	if d.opts.Engine == Dockerd {
		program = "dockerd"
		args = append(args, "--data-root", d.root, "--pidfile", d.dir+"/pid")
	} else {
		args = append(args, "--root", d.root)
	}
	args = append(args, "--exec-root", d.execRoot)
	if !d.opts.Bare {
		args = append(args, "--debug")
	}
	cmd := d.ns.command(program, append(args, d.opts.Args...)...)
	// Temporary files go with the folder.
	cmd.Env = append(append(os.Environ(), "TMPDIR="+d.dir), d.opts.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Stop ends the daemon as an administrator does and fails if it does not end well.
func (d *Daemon) Stop() {
	d.t.Helper()
	if code := d.signalAndWait(syscall.SIGTERM, stopLimit); code != 0 {
		d.t.Errorf("daemon ended with code %d after SIGTERM", code)
	}
}

// SetArgs replaces what Options.Args added to the command line, from the next start on.
func (d *Daemon) SetArgs(args ...string) { d.opts.Args = args }

// SetEnv replaces Options.Env, from the next start on.
func (d *Daemon) SetEnv(env ...string) { d.opts.Env = env }

// Wait waits until the daemon ended by itself.
func (d *Daemon) Wait() {
	d.t.Helper()
	Poll(d.t, stopLimit, "the daemon ended", func() (bool, string) { return !d.Running(), "it runs" })
}

// Kill ends the daemon without warning; its containers live on.
func (d *Daemon) Kill() {
	d.t.Helper()
	d.signalAndWait(syscall.SIGKILL, stopLimit)
}

// Restart is Stop and Start.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Stop()
	d.Start()
}

// KillAndStart is Kill and Start.
func (d *Daemon) KillAndStart() {
	d.t.Helper()
	d.Kill()
	d.Start()
}

func (d *Daemon) signalAndWait(sig syscall.Signal, limit time.Duration) int {
	d.t.Helper()
	if !d.Running() {
		return 0
	}
	d.mu.Lock()
	cmd, exited := d.cmd, d.exited
	d.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil {
		d.t.Errorf("signal the daemon: %v", err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
		d.dumpGoroutines()
		if err := cmd.Process.Kill(); err != nil {
			d.t.Errorf("kill the daemon: %v", err)
		}
		<-exited
		d.t.Errorf("daemon did not end within %v after %v", limit, sig)
	}
	return cmd.ProcessState.ExitCode()
}

// LogPath is the file that the daemon's log is in, over all its starts.
func (d *Daemon) LogPath() string { return filepath.Join(d.dir, "daemon.log") }

// Logs is everything the daemon wrote, over all its starts.
func (d *Daemon) Logs() string {
	b, err := os.ReadFile(d.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Client is a moby client of this daemon.
func (d *Daemon) Client() *client.Client {
	d.t.Helper()
	c, err := client.New(client.WithHost(d.Host()))
	if err != nil {
		d.t.Fatalf("make a client: %v", err)
	}
	d.t.Cleanup(func() { _ = c.Close() }) // only idle connections
	return c
}

// DialAPI connects to the API socket.
func (d *Daemon) DialAPI(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", d.sock)
}
