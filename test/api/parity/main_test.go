package parity

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

const settle = 30 * time.Second

var (
	update = flag.Bool("update", false, "write docs/compatibility.md anew")
	shared *testkit.Shared
	cdiDir string // where the daemon looks for descriptions of devices
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "hf-cdi-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cdiDir = dir
	code := testkit.RunMain(m, "parity-shared", testkit.Options{Args: []string{"--cdi-spec-dir", dir}}, func(s *testkit.Shared) { shared = s })
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func daemon(t *testing.T) *testkit.Daemon {
	t.Helper()
	d := shared.For(t)
	d.Image("busybox")
	return d
}

// state is what the document says of a row.
type state string

const (
	served  state = "served"
	partly  state = "partly"
	refused state = "refused"
)

// row is one line of the document and what proves it.
type row struct {
	name  string // flag, or endpoint, or filter
	state state
	note  string // refused: the message; partly: what is missing
	check check
}

// check drives one row.
type check func(t *testing.T, x *ctx)

// ctx is a daemon and the command a case is about.
type ctx struct {
	*testkit.Daemon
	t    *testing.T
	verb string // "run", "create", "update", "exec"
	name string // of the container of this case
	note string // of the row
}

// hf runs our client, however it ends: its command tree is what the rows are of.
func (x *ctx) hf(args ...string) testkit.Result { return x.Run("", "holdfast", args...) }

// start makes a container with flags that runs script to its end, by the verb of
// the case, and gives what it printed.
func (x *ctx) start(script string, flags ...string) testkit.Result {
	tail := []string{"busybox", "sh", "-c", script}
	args := append([]string{x.verb, "--name", x.name}, flags...)
	r := x.hf(append(args, tail...)...)
	if x.verb == "create" && r.Code == 0 {
		made := r
		r = x.hf("start", "-a", x.name)
		r.Args, r.Err = append(made.Args, r.Args...), made.Err+r.Err
	}
	return r
}

// make makes a container with flags that is there to be looked at.
func (x *ctx) make(flags ...string) {
	x.t.Helper()
	args := []string{x.verb, "--name", x.name}
	if x.verb == "run" {
		args = append(args, "-d")
	}
	x.Holdfast(append(append(args, flags...), "busybox", "sleep", "600")...)
}

func (x *ctx) inspect(tmpl string) string {
	x.t.Helper()
	return x.Docker("inspect", "-f", tmpl, x.name)
}

func (x *ctx) equal(what, got, want string) {
	x.t.Helper()
	if got != want {
		x.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// prints: the script prints just this in a container with the flags.
func prints(want, script string, flags ...string) check {
	return func(t *testing.T, x *ctx) {
		if r := x.start(script, flags...); r.Code != 0 || strings.TrimSpace(r.Out) != want {
			t.Errorf("want %q: %s", want, r)
		}
	}
}

// shows: inspect shows this of a container with the flags.
func shows(want, tmpl string, flags ...string) check {
	return func(_ *testing.T, x *ctx) {
		x.make(flags...)
		x.equal(tmpl, x.inspect(tmpl), want)
	}
}

// refuses: the flags are refused with the row's note in the message.
func refuses(flags ...string) check {
	return func(t *testing.T, x *ctx) {
		if r := x.start("true", flags...); r.Code == 0 || x.note == "" || !strings.Contains(r.Err, x.note) {
			t.Errorf("want a refusal that says %q: %s", x.note, r)
		}
	}
}

// both: one after the other, each with a container of its own.
func both(checks ...check) check {
	return func(t *testing.T, x *ctx) {
		for i, c := range checks {
			y := *x
			y.name = fmt.Sprintf("%s-%d", x.name, i)
			c(t, &y)
		}
	}
}

// drive runs the checks of a table's rows.
func drive(t *testing.T, verb string, rows []row) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			r.check(t, &ctx{Daemon: daemon(t), t: t, verb: verb, name: "case", note: r.note})
		})
	}
}
