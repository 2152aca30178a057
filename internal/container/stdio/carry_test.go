package stdio

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/container/logs"
)

func fifo(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// daemonSteps is one daemon's work on one piece of output and on the stream's end,
// up to the step at which it is killed: it leaves everything as it is there.
type daemonSteps struct {
	carry *carry
	src   source
	lines splitter
	log   logs.Logger
	at    func(step string) error // an error where it is killed
}

func (d *daemonSteps) run() error {
	if err := d.at("unread"); err != nil {
		return err
	}
	p, err := d.src.next()
	if err != nil {
		return err
	}
	if err := d.at("read"); err != nil {
		return err
	}
	now := time.Now()
	ms := d.lines.split(p, now)
	d.carry.prepare(&d.lines, p, now)
	if err := d.batch(ms, "prepared", "half written", "written"); err != nil {
		return err
	}
	d.carry.logged()
	if err := d.at("logged"); err != nil {
		return err
	}
	if err := d.src.done(); err != nil {
		return err
	}
	if err := d.at("taken out"); err != nil {
		return err
	}
	d.carry.taken()
	if err := d.at("done"); err != nil {
		return err
	}
	ms = d.lines.flush()
	d.carry.prepareFlush(&d.lines)
	if err := d.batch(ms, "flush prepared", "", "flush written"); err != nil {
		return err
	}
	d.carry.logged()
	return nil
}

// batch logs ms; a write that a kill cuts off has written some of them.
func (d *daemonSteps) batch(ms []logs.Message, before, half, after string) error {
	if err := d.at(before); err != nil {
		return err
	}
	if err := d.at(half); err != nil {
		note := func(p logs.Place, before, _ int) { d.carry.note(p, before, len(ms)) }
		return errors.Join(err, logs.LogAll(d.log, ms[:len(ms)/2], note))
	}
	if err := logs.LogAll(d.log, ms, d.carry.note); err != nil {
		return err
	}
	return d.at(after)
}

// TestNextDaemonGoesOnWhereTheLastWasKilled plays a daemon that dies at each step
// of handling a piece of output, and the next one. The kernel ends a process as a
// system call of it returns: the log's write may be done, or done in part, and
// nothing else that comes after it.
func TestNextDaemonGoesOnWhereTheLastWasKilled(t *testing.T) {
	const text = "first line\n2\n3\n4\nsecond li"
	logKinds := map[string]logs.Config{
		"json-file":            {Type: logs.JSONFile},
		"local":                {Type: logs.Local},
		"rotated at each line": {Type: logs.JSONFile, Options: map[string]string{"max-size": "1", "max-file": "20"}},
		"rotated, compressed":  {Type: logs.Local, Options: map[string]string{"max-size": "1", "max-file": "20"}},
	}
	for kind, c := range logKinds {
		for _, step := range []string{"unread", "read", "prepared", "half written", "written", "logged", "taken out", "done", "flush prepared", "flush written", ""} {
			t.Run(kind+"/"+step, func(t *testing.T) { killedAt(t, c, text, step) })
		}
	}
}

func killedAt(t *testing.T, c logs.Config, text, step string) {
	dir := t.TempDir()
	c.Path, c.Dir = filepath.Join(dir, "log"), filepath.Join(dir, "logs")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "out")
	must(syscall.Mkfifo(path, 0o600))
	held := fifo(t, path) // as the shim does
	defer held.Close()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(err)
	fmt.Fprint(w, text)

	killed := errors.New("killed")
	d := daemonSteps{lines: splitter{stream: "stdout"}, at: func(s string) error {
		if s == step && s != "" {
			return killed
		}
		return nil
	}}
	d.log, err = logs.Open(c)
	must(err)
	d.carry, err = openCarry(filepath.Join(dir, "state-stdout"), true)
	must(err)
	r := fifo(t, path)
	d.src, err = newPeeker(r)
	must(err)
	if err := d.run(); err != nil && !errors.Is(err, killed) {
		t.Fatal(err)
	}
	if step != "half written" { // by then it is dead
		// What the other stream logs in the meantime does not count.
		must(d.log.Log(logs.Message{Stream: "stderr", Time: time.Now(), Line: []byte("other")}))
	}
	d.src.close()
	must(r.Close())
	d.carry.close()
	must(d.log.Close())

	l, err := logs.Open(c)
	must(err)
	h := New(Config{Log: l})
	must(h.Carry(filepath.Join(dir, "state-"), false))
	fmt.Fprint(w, "ne\nthird")
	must(w.Close())
	h.Start(Streams{Stdout: fifo(t, path), Stderr: nopCloser{strings.NewReader("a line\nof the other\n")}})
	select {
	case <-h.Drained():
	case <-time.After(patience):
		t.Fatal("not drained")
	}
	h.Close()
	var got strings.Builder
	must(l.Read(t.Context(), logs.ReadOptions{Tail: -1}, func(m logs.Message) error {
		if m.Stream == "stdout" {
			got.Write(m.Line)
			if !m.Partial {
				got.WriteByte('\n')
			}
		}
		return nil
	}))
	must(l.Close())
	if want := text + "ne\nthird"; got.String() != want {
		t.Errorf("logged %q, want %q", got.String(), want)
	}
}

// TestKilledTwice: the daemon that takes over is killed in its turn while it logs
// what the first one had not.
func TestKilledTwice(t *testing.T) {
	dir := t.TempDir()
	c, err := openCarry(filepath.Join(dir, "state"), true)
	if err != nil {
		t.Fatal(err)
	}
	s := splitter{rest: []byte("x"), since: time.Unix(1, 0)}
	c.prepare(&s, []byte("y\n"), time.Unix(2, 0))
	c.note(logs.Place{File: 1, Born: 2, At: 3}, 0, 4)
	c.note(logs.Place{File: 5, Born: 6, At: 7}, 4, 9)
	var again splitter
	l := c.restore(&again)
	if l.intent != intentWrite || l.bytes != 2 || !l.now.Equal(time.Unix(2, 0)) || !l.noted ||
		l.place != (logs.Place{File: 5, Born: 6, At: 7}) || l.before != 4 || l.after != 9 {
		t.Fatalf("got %+v", l)
	}
	if len(again.rest) != 0 {
		t.Errorf("the line's beginning counts before it is logged: %q", again.rest)
	}
	c.adopt(&s, l.bytes, l.sum)
	if l := c.restore(&again); l.intent != intentWrite || l.before != 4 || l.place.File != 5 {
		t.Errorf("after adopt: %+v", l)
	}
	c.note(logs.Place{File: 8}, 6, 9)
	if l := c.restore(&again); l.before != 6 || l.place.File != 8 {
		t.Errorf("after a note: %+v", l)
	}
	c.logged()
	if l := c.restore(&again); l.intent != intentNone || l.pending != 2 || string(again.rest) != "x" {
		t.Errorf("after logged: %+v, %q", l, again.rest)
	}
	c.close()
}

func TestFreshRunForgetsTheLast(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []string{"one", "oneone"} {
		log := &memLog{}
		h := New(Config{Log: log})
		if err := h.Carry(filepath.Join(dir, "state-"), true); err != nil {
			t.Fatal(err)
		}
		h.Start(Streams{Stdout: nopCloser{strings.NewReader(want)}})
		<-h.Drained()
		h.Close()
		if log.text("stdout") != want {
			t.Errorf("logged %q, want %q", log.text("stdout"), want)
		}
	}
}

type nopCloser struct{ *strings.Reader }

func (nopCloser) Close() error { return nil }

// TestRestsOfAllSizes: what a daemon held comes back the same.
func TestRestsOfAllSizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, n := range []int{0, 1, 100, maxLine - 1} {
		c, err := openCarry(path, false)
		if err != nil {
			t.Fatal(err)
		}
		in := splitter{rest: bytes.Repeat([]byte("x"), n), inside: n%2 == 1, since: time.Unix(7, int64(n))}
		c.prepare(&in, []byte("piece"), time.Now())
		c.logged()
		c.close()
		if c, err = openCarry(path, false); err != nil {
			t.Fatal(err)
		}
		var out splitter
		pending := c.restore(&out).pending
		if !bytes.Equal(out.rest, in.rest) || out.inside != in.inside || !out.since.Equal(in.since) || pending != 5 {
			t.Errorf("%d: got %d bytes, %t, %v, %d pending", n, len(out.rest), out.inside, out.since, pending)
		}
		c.close()
	}
}
