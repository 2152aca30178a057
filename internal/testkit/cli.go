package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// commandLimit ends a client that hangs, so that a test fails with its output
// and not with the test binary's time-out.
const commandLimit = 2 * time.Minute

// Result is what a client program printed and how it ended.
type Result struct {
	Args     []string
	Out, Err string
	Code     int
}

// String shows everything that a person would read, for failures.
func (r Result) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Code, readable(r.Out), readable(r.Err))
}

// readable leaves out the middle of what nobody reads to its end.
func readable(s string) string {
	const most = 32 << 10
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s\n… %d bytes …\n%s", s[:most/2], len(s)-most, s[len(s)-most/2:])
}

// env is the environment of client programs: this daemon, and no configuration
// of the user's.
func (d *Daemon) env() []string {
	return append(os.Environ(),
		"DOCKER_HOST="+d.Host(), "DOCKER_CONFIG="+d.dir+"/client", "HOLDFAST_CONFIG="+d.dir+"/client",
		"HOME="+d.dir+"/home", "DOCKER_CLI_HINTS=false", "DOCKER_CONTEXT=", "NO_COLOR=1")
}

// Command prepares a client program: "docker", "holdfast", "docker-compose" or a path.
func (d *Daemon) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	d.t.Helper()
	switch program {
	case "docker":
		program = RequireProgram(d.t, "docker")
	case "holdfast", "docker-compose":
		program = RequireBin(d.t, program)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = d.env()
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a client program with the given standard input.
func (d *Daemon) Run(stdin string, program string, args ...string) Result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := d.Command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	err := cmd.Run()
	r := Result{Args: append([]string{program}, args...), Out: stdout.String(), Err: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		d.t.Fatalf("%s: no end within %v\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), commandLimit, readable(r.Out), readable(r.Err))
	case err != nil && !errors.As(err, &exit):
		d.t.Fatalf("run %s: %v", program, err)
	}
	return r
}

// Docker runs the stock docker CLI, which must succeed, and returns its standard
// output without the last newline.
func (d *Daemon) Docker(args ...string) string {
	d.t.Helper()
	return d.must(d.Run("", "docker", args...))
}

// DockerResult runs the stock docker CLI, however it ends.
func (d *Daemon) DockerResult(args ...string) Result {
	d.t.Helper()
	return d.Run("", "docker", args...)
}

// DockerFails runs the stock docker CLI, which must fail with a message that
// contains text.
func (d *Daemon) DockerFails(text string, args ...string) {
	d.t.Helper()
	r := d.Run("", "docker", args...)
	if r.Code == 0 || !strings.Contains(r.Err, text) {
		d.t.Errorf("want a failure that says %q, got %s", text, r)
	}
}

// Holdfast runs our own CLI, which must succeed.
func (d *Daemon) Holdfast(args ...string) string {
	d.t.Helper()
	return d.must(d.Run("", "holdfast", args...))
}

func (d *Daemon) must(r Result) string {
	d.t.Helper()
	if r.Code != 0 {
		d.t.Fatalf("%s", r)
	}
	return strings.TrimRight(r.Out, "\n")
}
