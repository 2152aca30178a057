package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/container/logs"
)

const patience = 20 * time.Second

// memLog keeps messages; fail makes it refuse them.
type memLog struct {
	mu   sync.Mutex
	all  []logs.Message
	fail error
}

func (*memLog) Name() string { return "mem" }
func (*memLog) Close() error { return nil }

func (m *memLog) Log(l logs.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	l.Line = bytes.Clone(l.Line)
	m.all = append(m.all, l)
	return nil
}

func (*memLog) Read(context.Context, logs.ReadOptions, func(logs.Message) error) error { return nil }

func (m *memLog) text(stream string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, l := range m.all {
		if l.Stream == stream {
			b.Write(l.Line)
			if !l.Partial {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// proc is the process's side of a hub.
type proc struct {
	stdin          *os.File
	stdout, stderr *os.File
	closed         chan struct{}
}

func start(t *testing.T, cfg Config) (*Hub, *proc) {
	t.Helper()
	closed := make(chan struct{})
	cfg.CloseStdin = func(context.Context) error { close(closed); return nil }
	h := New(cfg)
	p := run(t, h, cfg.TTY)
	p.closed = closed
	return h, p
}

// run starts a hub on pipes.
func run(t *testing.T, h *Hub, tty bool) *proc {
	t.Helper()
	pipe := func() (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return r, w
	}
	var p proc
	var s Streams
	r, w := pipe()
	p.stdin, s.Stdin = r, w
	s.Stdout, p.stdout = pipe()
	if !tty {
		s.Stderr, p.stderr = pipe()
	}
	h.Start(s)
	t.Cleanup(h.Close)
	return &p
}

func (p *proc) exit() {
	_ = p.stdout.Close()
	if p.stderr != nil {
		_ = p.stderr.Close()
	}
}

func wait(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("%s: waited too long", what)
	}
}

func result(t *testing.T, what string, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(patience):
		t.Fatalf("%s: waited too long", what)
		return nil
	}
}

// buffer is a client's output.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(b.String(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("output %q never had %q", b.String(), want)
		}
	}
}

// attach joins a client and returns once it is joined.
func attach(t *testing.T, h *Hub, a AttachConfig) <-chan error {
	t.Helper()
	joined := make(chan struct{})
	a.Started = func() error { close(joined); return nil }
	done := make(chan error, 1)
	go func() { done <- h.Attach(context.Background(), a) }()
	wait(t, "join", joined)
	return done
}

func TestManyClientsGetAllOutput(t *testing.T) {
	log := &memLog{}
	h, p := start(t, Config{Log: log})
	const clients = 8
	var out, errs [clients]buffer
	var done [clients]<-chan error
	for i := range clients {
		done[i] = attach(t, h, AttachConfig{Stdout: &out[i], Stderr: &errs[i]})
	}
	var want strings.Builder
	for i := range 5000 {
		line := fmt.Sprintf("line %d of the output\n", i)
		want.WriteString(line)
		if _, err := io.WriteString(p.stdout, line); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(p.stderr, "no newline")
	p.exit()
	wait(t, "drained", h.Drained())
	for i := range clients {
		if err := result(t, "client", done[i]); err != nil {
			t.Error(err)
		}
		if out[i].String() != want.String() || errs[i].String() != "no newline" {
			t.Errorf("client %d got %d and %d bytes", i, len(out[i].String()), len(errs[i].String()))
		}
	}
	if log.text("stdout") != want.String() || log.text("stderr") != "no newline" {
		t.Error("log is not the output")
	}
}

func TestClientAttachedBeforeStart(t *testing.T) {
	h := New(Config{})
	var out buffer
	done := attach(t, h, AttachConfig{Stdout: &out})
	p := run(t, h, false)
	fmt.Fprint(p.stdout, "first")
	p.exit()
	if err := result(t, "client", done); err != nil || out.String() != "first" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestCloseWithoutStartLetsClientsGo(t *testing.T) {
	h := New(Config{OpenStdin: true})
	r, w := io.Pipe()
	defer w.Close()
	var out buffer
	done := attach(t, h, AttachConfig{Stdin: r, Stdout: &out})
	h.Close()
	h.Close()
	wait(t, "drained", h.Drained())
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
	h.Start(Streams{}) // too late, and harmless
}

func TestAttachAfterTheEnd(t *testing.T) {
	h, p := start(t, Config{})
	p.exit()
	wait(t, "drained", h.Drained())
	if err := result(t, "client", attach(t, h, AttachConfig{Stdout: &buffer{}})); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsAProcessesOutput(t *testing.T) {
	log := &memLog{}
	h, p := start(t, Config{Log: log})
	var out buffer
	done := attach(t, h, AttachConfig{Stdout: &out})
	fmt.Fprint(p.stdout, "unfinished")
	out.await(t, "unfinished")
	h.Close() // the process still holds its end open
	wait(t, "drained", h.Drained())
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
	if log.text("stdout") != "unfinished" {
		t.Errorf("logged %q", log.text("stdout"))
	}
}

// stuck is a client that takes nothing until it is let go.
type stuck struct{ gate chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.gate; return len(p), nil }

// fakeClock fires its timers by hand.
type fakeClock struct {
	clock.System
	made chan *fakeTimer
}

type fakeTimer struct{ ch chan time.Time }

func (c *fakeClock) NewTimer(time.Duration) clock.Timer {
	t := &fakeTimer{ch: make(chan time.Time, 1)}
	c.made <- t
	return t
}

func (t *fakeTimer) C() <-chan time.Time      { return t.ch }
func (*fakeTimer) Stop() bool                 { return true }
func (*fakeTimer) Reset(d time.Duration) bool { return true }

func TestStuckClientIsDroppedOthersLoseNothing(t *testing.T) {
	clk := &fakeClock{made: make(chan *fakeTimer, 100)}
	log := &memLog{}
	h, p := start(t, Config{Log: log, Clock: clk})
	s := stuck{gate: make(chan struct{})}
	slow := attach(t, h, AttachConfig{Stdout: s})
	var out buffer
	fast := attach(t, h, AttachConfig{Stdout: &out})

	const total = clientBuffer + 4<<20
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	wrote := make(chan error, 1)
	go func() {
		for n := 0; n < total; n += len(line) {
			if _, err := p.stdout.Write(line); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	select {
	case timer := <-clk.made: // the process waits for the stuck client
		timer.ch <- time.Now()
	case <-time.After(patience):
		t.Fatal("nobody waits for the stuck client")
	}
	if err := result(t, "process", wrote); err != nil {
		t.Fatal(err)
	}
	p.exit()
	wait(t, "drained", h.Drained())
	if err := result(t, "fast client", fast); err != nil {
		t.Error(err)
	}
	if len(out.String()) != total || len(log.text("stdout")) != total {
		t.Errorf("fast client got %d, log %d, want %d", len(out.String()), len(log.text("stdout")), total)
	}
	close(s.gate)
	if err := result(t, "stuck client", slow); !errors.Is(err, ErrStalled) {
		t.Errorf("stuck client: %v", err)
	}
}

// A client that is slow, but takes something, gets everything.
func TestSlowClientGetsAll(t *testing.T) {
	h, p := start(t, Config{})
	pr, pw := io.Pipe()
	done := attach(t, h, AttachConfig{Stdout: pw})
	const total = clientBuffer + 2<<20
	go func() {
		for n := 0; n < total; n += 4096 {
			_, _ = p.stdout.Write(make([]byte, 4096))
		}
		p.exit()
	}()
	got := 0
	buf := make([]byte, 64<<10)
	for got < total {
		n, err := pr.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
}

func TestDetachKeys(t *testing.T) {
	for _, tc := range []struct{ keys, in, passed string }{
		{"", "ab\x10\x11", "ab"},
		{"ctrl-x,x", "ab\x18x", "ab"},
		{"", "a\x10b\x10\x11", "a\x10b"},
	} {
		h, p := start(t, Config{TTY: true, OpenStdin: true, StdinOnce: true})
		pr, pw := io.Pipe()
		var out buffer
		done := attach(t, h, AttachConfig{Stdin: pr, Stdout: &out, DetachKeys: tc.keys})
		for _, key := range []byte(tc.in) { // as typed
			if _, err := pw.Write([]byte{key}); err != nil {
				t.Fatal(err)
			}
		}
		if err := result(t, "client", done); !errors.Is(err, ErrDetached) {
			t.Errorf("%q: %v", tc.in, err)
		}
		got := make([]byte, len(tc.passed))
		if _, err := io.ReadFull(p.stdin, got); err != nil || string(got) != tc.passed {
			t.Errorf("%q: process read %q, %v", tc.in, got, err)
		}
		select {
		case <-p.closed:
			t.Error("detaching closed stdin")
		default:
		}
	}
	h := New(Config{TTY: true, OpenStdin: true})
	err := h.Attach(context.Background(), AttachConfig{DetachKeys: "ctrl-nonsense"})
	if !errdefs.IsInvalidArgument(err) || err.Error() != "Invalid detach keys (ctrl-nonsense) provided" {
		t.Errorf("got %v", err)
	}
}

func TestStdinOnceEndsWithItsClient(t *testing.T) {
	h, p := start(t, Config{OpenStdin: true, StdinOnce: true})
	var out buffer
	done := attach(t, h, AttachConfig{Stdin: strings.NewReader("all of it"), Stdout: &out})
	got, err := io.ReadAll(p.stdin)
	if err != nil || string(got) != "all of it" {
		t.Fatalf("process read %q, %v", got, err)
	}
	wait(t, "runtime told", p.closed)
	fmt.Fprint(p.stdout, "answer") // the client still gets output
	p.exit()
	if err := result(t, "client", done); err != nil || out.String() != "answer" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestStdinStaysOpenForTheNextClient(t *testing.T) {
	h, p := start(t, Config{OpenStdin: true})
	for _, text := range []string{"one ", "two "} {
		done := attach(t, h, AttachConfig{Stdin: strings.NewReader(text), Stdout: &buffer{}})
		if err := result(t, "client", done); err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(p.stdin, got); err != nil || string(got) != "one two " {
		t.Errorf("process read %q, %v", got, err)
	}
}

func TestStdinIsIgnoredWhereNotOpen(t *testing.T) {
	h, p := start(t, Config{})
	var out buffer
	done := attach(t, h, AttachConfig{Stdin: strings.NewReader("x"), Stdout: &out})
	fmt.Fprint(p.stdout, "y")
	out.await(t, "y")
	p.exit()
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
}

// A process that does not read its stdin must not keep its clients.
func TestClientLeavesABlockedStdin(t *testing.T) {
	h, p := start(t, Config{OpenStdin: true, StdinOnce: true})
	pr, pw := io.Pipe()
	go func() {
		for {
			if _, err := pw.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	done := attach(t, h, AttachConfig{Stdin: pr, Stdout: &buffer{}})
	p.exit()
	wait(t, "drained", h.Drained())
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
	h.Close()
}

func TestClientEndsWithItsContext(t *testing.T) {
	h, _ := start(t, Config{OpenStdin: true})
	pr, _ := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- h.Attach(ctx, AttachConfig{Stdin: pr, Stdout: &buffer{}, Started: func() error { cancel(); return nil }})
	}()
	if err := result(t, "client", done); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(h.clients) != 0 {
		t.Error("client is still joined")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestGoneClientClosesStdinOnce(t *testing.T) {
	h, p := start(t, Config{OpenStdin: true, StdinOnce: true})
	pr, _ := io.Pipe()
	done := attach(t, h, AttachConfig{Stdin: pr, Stdout: brokenWriter{}})
	fmt.Fprint(p.stdout, "x")
	if err := result(t, "client", done); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	wait(t, "stdin closed", p.closed)
}

func TestFailingLogHurtsNobody(t *testing.T) {
	log := &memLog{fail: errors.New("no space left on device")}
	h, p := start(t, Config{Log: log})
	var out buffer
	done := attach(t, h, AttachConfig{Stdout: &out})
	fmt.Fprintln(p.stdout, "lost")
	out.await(t, "lost\n")
	log.mu.Lock()
	log.fail = nil
	log.mu.Unlock()
	fmt.Fprintln(p.stdout, "kept")
	p.exit()
	if err := result(t, "client", done); err != nil {
		t.Error(err)
	}
	wait(t, "drained", h.Drained())
	if got := log.text("stdout"); got != "kept\n" {
		t.Errorf("logged %q", got)
	}
}

func TestSplitter(t *testing.T) {
	long := strings.Repeat("a", maxLine)
	for _, tc := range []struct {
		name string
		in   []string
		want []string // "+" in front of a partial one
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"pieces", []string{"a", "b\nc", "\n"}, []string{"ab", "c"}},
		{"empty", []string{"\n\n"}, []string{"", ""}},
		{"rest", []string{"a\nb"}, []string{"a", "+b"}},
		{"exactly the limit", []string{long + "\n"}, []string{long}},
		{"over the limit", []string{long + "b\n"}, []string{"+" + long, "b"}},
		{"limit, newline later", []string{long, "\n"}, []string{"+" + long, ""}},
		{"two limits", []string{long[:100], long, long[:maxLine-100] + "z\n"}, []string{"+" + long, "+" + long, "z"}},
		{"limit at the end", []string{long}, []string{"+" + long}},
	} {
		s := splitter{stream: "stdout"}
		var got []string
		add := func(ms []logs.Message) {
			for _, m := range ms {
				text := string(m.Line)
				if m.Partial {
					text = "+" + text
				}
				got = append(got, text)
			}
		}
		for i, in := range tc.in {
			add(s.split([]byte(in), time.Unix(int64(i), 0)))
		}
		add(s.flush())
		if strings.Join(got, "|") != strings.Join(tc.want, "|") {
			t.Errorf("%s: got %d pieces, want %d", tc.name, len(got), len(tc.want))
		}
	}
}

func TestPiecesOfALineHaveItsTime(t *testing.T) {
	s := splitter{}
	first := time.Unix(1, 0)
	ms := append([]logs.Message{}, s.split(bytes.Repeat([]byte("a"), maxLine+1), first)...)
	ms = append(ms, s.split([]byte("b\nnext\n"), time.Unix(2, 0))...)
	if len(ms) != 3 || !ms[0].Time.Equal(first) || !ms[1].Time.Equal(first) || !ms[2].Time.Equal(time.Unix(2, 0)) {
		t.Errorf("got %v", ms)
	}
}
