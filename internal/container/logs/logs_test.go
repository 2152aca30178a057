package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

var epoch = time.Date(2026, 11, 24, 8, 0, 0, 123456789, time.UTC)

func config(t *testing.T, driver string, options ...string) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{Type: driver, Options: map[string]string{}, Path: filepath.Join(dir, "c-json.log"), Dir: filepath.Join(dir, "local")}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		c.Options[k] = v
	}
	return c
}

func mustOpen(t *testing.T, c Config) Logger {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, l Logger, m Message) {
	t.Helper()
	if err := l.Log(m); err != nil {
		t.Fatal(err)
	}
}

func msg(i int) Message {
	return Message{Stream: "stdout", Time: epoch.Add(time.Duration(i) * time.Second), Line: fmt.Appendf(nil, "line %d", i)}
}

func readAll(t *testing.T, l Logger, o ReadOptions) []string {
	t.Helper()
	var out []string
	err := l.Read(context.Background(), o, func(m Message) error {
		out = append(out, string(m.Line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lines(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, string(msg(i).Line))
	}
	return out
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got %d messages %.300q, want %d %.300q", what, len(got), got, len(want), want)
	}
}

func TestJSONFormatIsDockers(t *testing.T) {
	c := config(t, JSONFile, "labels=com.a,none", "env-regex=^PG", "tag={{.Name}}/{{.ID}}")
	c.ContainerName, c.ContainerID = "/db", strings.Repeat("ab", 32)
	c.Labels = map[string]string{"com.a": "1", "com.b": "2"}
	c.Env = []string{"PGDATA=/d", "PATH=/bin"}
	l := mustOpen(t, c)
	write(t, l, Message{Stream: "stdout", Time: epoch, Line: []byte("a\"b\\c\t<é\xff>\x01\u2028")})
	write(t, l, Message{Stream: "stderr", Time: epoch, Line: []byte("part"), Partial: true})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	attrs := `"attrs":{"PGDATA":"/d","com.a":"1","tag":"db/abababababab"}`
	want := `{"log":"a\"b\\c\t\u003cé\ufffd\u003e\u0001\u2028\n","stream":"stdout",` + attrs + `,"time":"2026-11-24T08:00:00.123456789Z"}
{"log":"part","stream":"stderr",` + attrs + `,"time":"2026-11-24T08:00:00.123456789Z"}
`
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, line := range bytes.Split(bytes.TrimSpace(got), []byte("\n")) {
		if !json.Valid(line) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestMessagesComeBackWhole(t *testing.T) {
	for _, driver := range []string{JSONFile, Local} {
		t.Run(driver, func(t *testing.T) {
			c := config(t, driver, "labels=a")
			c.Labels = map[string]string{"a": "x"}
			l := mustOpen(t, c)
			defer l.Close()
			in := []Message{
				{Stream: "stdout", Time: epoch, Line: []byte("")},
				{Stream: "stderr", Time: epoch.Add(1), Line: []byte("p"), Partial: true},
				{Stream: "stderr", Time: epoch.Add(2), Line: bytes.Repeat([]byte("x"), 16<<10)},
			}
			if err := LogAll(l, in, nil); err != nil {
				t.Fatal(err)
			}
			var out []Message
			if err := l.Read(context.Background(), ReadOptions{Tail: -1}, func(m Message) error { out = append(out, m); return nil }); err != nil {
				t.Fatal(err)
			}
			if len(out) != len(in) {
				t.Fatalf("got %d messages, want %d", len(out), len(in))
			}
			for i, m := range out {
				if m.Stream != in[i].Stream || !m.Time.Equal(in[i].Time) || m.Partial != in[i].Partial ||
					!bytes.Equal(m.Line, in[i].Line) || m.Attrs["a"] != "x" {
					t.Errorf("message %d: got %+v, want %+v", i, m, in[i])
				}
			}
		})
	}
}

func TestTornEndIsRepaired(t *testing.T) {
	for _, driver := range []string{JSONFile, Local} {
		c := config(t, driver)
		l := mustOpen(t, c)
		for i := range 3 {
			write(t, l, msg(i))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		path := c.Path
		if driver == Local {
			path = filepath.Join(c.Dir, "container.log")
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		third := len(whole) / 3 * 2
		for cut := 1; cut <= len(whole)-third; cut++ {
			if err := os.WriteFile(path, whole[:len(whole)-cut], 0o640); err != nil {
				t.Fatal(err)
			}
			l := mustOpen(t, c)
			write(t, l, msg(7))
			want := append(lines(0, 2), "line 7")
			if driver == JSONFile && cut == 1 {
				want = append(lines(0, 3), "line 7") // only the newline was missing
			}
			equal(t, fmt.Sprintf("%s cut by %d", driver, cut), readAll(t, l, ReadOptions{Tail: -1}), want)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestRotationKeepsTheNewestFiles(t *testing.T) {
	for _, options := range [][]string{
		{"max-size=1k", "max-file=3"},
		{"max-size=1k", "max-file=3", "compress=true"},
		{"max-size=1k"},
	} {
		c := config(t, JSONFile, options...)
		l := mustOpen(t, c)
		for i := range 200 {
			write(t, l, msg(i))
		}
		got := readAll(t, l, ReadOptions{Tail: -1})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		n := len(got)
		equal(t, fmt.Sprint(options), got, lines(200-n, 200))
		if n == 0 || n >= 100 {
			t.Errorf("%v: %d messages kept", options, n)
		}
		ro := c
		ro.ReadOnly = true
		equal(t, "read-only", readAll(t, mustOpen(t, ro), ReadOptions{Tail: -1}), got)
		names, _ := filepath.Glob(c.Path + "*")
		want := map[int]int{2: 3, 3: 3, 1: 1}[len(options)]
		if len(names) != want {
			t.Errorf("%v: files %v, want %d", options, names, want)
		}
		if err := Remove(c); err != nil {
			t.Fatal(err)
		}
		if names, _ := filepath.Glob(c.Path + "*"); len(names) != 0 {
			t.Errorf("Remove left %v", names)
		}
	}
}

// TestReadAgainstModel holds random logs against a slice of all messages.
func TestReadAgainstModel(t *testing.T) {
	for seed := range int64(16) {
		rnd := rand.New(rand.NewSource(seed))
		driver := []string{JSONFile, Local}[rnd.Intn(2)]
		c := config(t, driver, "max-size=64k", "max-file=50", fmt.Sprintf("compress=%t", rnd.Intn(2) == 0))
		l := mustOpen(t, c)
		var all []Message
		now := epoch
		for range rnd.Intn(400) {
			var batch []Message
			for range 1 + rnd.Intn(3) {
				now = now.Add(time.Duration(rnd.Intn(3)) * time.Second)
				m := Message{
					Stream: []string{"stdout", "stderr"}[rnd.Intn(2)], Time: now, Partial: rnd.Intn(5) == 0,
					Line: fmt.Appendf(nil, "%d %s", len(all)+len(batch), strings.Repeat("y", rnd.Intn(2000))),
				}
				batch = append(batch, m)
			}
			if err := LogAll(l, batch, nil); err != nil {
				t.Fatal(err)
			}
			all = append(all, batch...)
			if rnd.Intn(100) == 0 { // a new daemon
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = mustOpen(t, c)
			}
		}
		for range 20 {
			o := ReadOptions{Tail: rnd.Intn(len(all)+10) - 1}
			if rnd.Intn(3) == 0 {
				o.Since = epoch.Add(time.Duration(rnd.Intn(600)) * time.Second)
			}
			if rnd.Intn(3) == 0 {
				o.Until = epoch.Add(time.Duration(rnd.Intn(600)) * time.Second)
			}
			from := all
			if o.Tail >= 0 {
				from = all[max(0, len(all)-o.Tail):]
			}
			var want []string
			for _, m := range from {
				if !m.Time.Before(o.Since) && (o.Until.IsZero() || !m.Time.After(o.Until)) {
					want = append(want, string(m.Line))
				}
			}
			equal(t, fmt.Sprintf("seed %d %s %+v", seed, driver, o), readAll(t, l, o), want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFollowAcrossRotationLosesNothing(t *testing.T) {
	for _, options := range [][]string{
		{"max-size=2k", "max-file=2"},
		{"max-size=2k", "max-file=3", "compress=true"},
		{"max-size=2k"},
		{"mode=non-blocking", "max-buffer-size=64m", "max-size=2k"},
	} {
		l := mustOpen(t, config(t, JSONFile, options...))
		for i := range 10 {
			write(t, l, msg(i))
		}
		const total = 3000
		var wg sync.WaitGroup
		var got [3][]string
		var ready sync.WaitGroup
		for n := range got {
			ready.Add(1)
			wg.Go(func() {
				first := true
				err := l.Read(context.Background(), ReadOptions{Tail: 5, Follow: true}, func(m Message) error {
					if first {
						ready.Done()
						first = false
					}
					got[n] = append(got[n], string(m.Line))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		ready.Wait()
		for i := 10; i < total; i++ {
			write(t, l, msg(i))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for n := range got {
			from := total - len(got[n])
			equal(t, fmt.Sprint(options), got[n], lines(from, total))
			if from > 10 {
				t.Errorf("%v: first %d messages missing", options, from)
			}
		}
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	l := mustOpen(t, config(t, JSONFile))
	defer l.Close()
	write(t, l, msg(0))
	ctx, cancel := context.WithCancel(context.Background())
	err := l.Read(ctx, ReadOptions{Tail: -1, Follow: true}, func(Message) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestReadAfterCloseSeesAll(t *testing.T) {
	l := mustOpen(t, config(t, Local))
	write(t, l, msg(0))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	equal(t, "after close", readAll(t, l, ReadOptions{Tail: -1, Follow: true}), lines(0, 1))
	if err := l.Log(msg(1)); err == nil {
		t.Error("closed log takes messages")
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		driver, option, want string
	}{
		{"json-file", "", ""},
		{"none", "anything=goes", ""},
		{"local", "max-size=20m", ""},
		{"json-file", "max-size=10m", ""},
		{"json-file", "mode=non-blocking", ""},
		{"gelf", "", "logger: no log driver named 'gelf' is registered"},
		{"json-file", "foo=bar", "unknown log opt 'foo' for json-file log driver"},
		{"local", "foo=bar", "unknown log opt 'foo' for log driver local"},
		{"json-file", "mode=fast", "logger: logging mode not supported: fast"},
		{"json-file", "max-buffer-size=1m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", "max-file=0", "max-file cannot be less than 1"},
		{"json-file", "max-size=-1", "invalid size: '-1'"},
		{"json-file", "max-size=0", "max-size must be a positive number"},
		{"json-file", "compress=true", "compress cannot be true when max-file is less than 2 or max-size is not set"},
	} {
		options := map[string]string{}
		if k, v, ok := strings.Cut(tc.option, "="); ok {
			options[k] = v
		}
		err := Validate(tc.driver, options)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s %s: %v", tc.driver, tc.option, err)
			}
			continue
		}
		if err == nil || err.Error() != tc.want || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s %s: got %v, want %s", tc.driver, tc.option, err, tc.want)
		}
	}
}

func TestNoneCannotBeRead(t *testing.T) {
	l := mustOpen(t, Config{Type: None})
	write(t, l, msg(0))
	err := l.Read(context.Background(), ReadOptions{}, nil)
	if !errdefs.IsNotImplemented(err) || err.Error() != "configured logging driver does not support reading" {
		t.Errorf("got %v", err)
	}
}

// blocked is a Logger that waits.
type blocked struct {
	none
	gate chan struct{}
	mu   sync.Mutex
	n    int
}

func (b *blocked) Log(Message) error {
	<-b.gate
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	return nil
}

func TestNonBlockingDropsWhatDoesNotFit(t *testing.T) {
	b := &blocked{gate: make(chan struct{})}
	r := newRing(b, 100)
	for range 1000 {
		if err := r.Log(Message{Line: bytes.Repeat([]byte("x"), 10)}); err != nil {
			t.Fatal(err)
		}
	}
	close(b.gate)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if b.n < 10 || b.n > 21 || b.n+r.dropped != 1000 {
		t.Errorf("written %d, dropped %d", b.n, r.dropped)
	}
}

// A log on a full disk must fail without tearing a record, and go on afterwards.
func TestFullDiskTearsNothing(t *testing.T) {
	dir := tinyDisk(t)
	c := config(t, JSONFile)
	c.Path = filepath.Join(dir, "c.log")
	l := mustOpen(t, c)
	defer l.Close()
	n := 0
	big := bytes.Repeat([]byte("z"), 10000)
	for ; n < 1000; n++ {
		if err := l.Log(Message{Stream: "stdout", Time: epoch, Line: big}); err != nil {
			break
		}
	}
	if n == 1000 {
		t.Fatal("the disk never filled")
	}
	filler := filepath.Join(dir, "filler")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	write(t, l, msg(1))
	got := readAll(t, l, ReadOptions{Tail: -1})
	if len(got) != n+1 || got[n] != "line 1" {
		t.Errorf("got %d messages, want %d", len(got), n+1)
	}
}
