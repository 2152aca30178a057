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

// TestNextDaemonGoesOnWhereTheLastWasKilled plays a daemon that dies at each step
// of handling a piece of output, by leaving its state as it is there.
func TestNextDaemonGoesOnWhereTheLastWasKilled(t *testing.T) {
	const text = "first line\nsecond li"
	for _, step := range []string{"unread", "read", "prepared", "logged", "taken out", "done", "closed"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			held := fifo(t, path) // as the shim does
			defer held.Close()
			w, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(w, text)
			log := &memLog{}

			c, err := openCarry(filepath.Join(dir, "state-stdout"), true)
			if err != nil {
				t.Fatal(err)
			}
			die := errors.New("killed")
			r := fifo(t, path)
			src, err := newPeeker(r)
			if err != nil {
				t.Fatal(err)
			}
			lines := splitter{stream: "stdout"}
			must := func(err error) {
				t.Helper()
				if err != nil && !errors.Is(err, die) {
					t.Fatal(err)
				}
			}
			at := func(s string) error {
				if s == step {
					return die
				}
				return nil
			}
			must(func() error {
				if err := at("unread"); err != nil {
					return err
				}
				p, err := src.next()
				if err != nil {
					return err
				}
				if err := at("read"); err != nil {
					return err
				}
				ms := lines.split(p, time.Now())
				c.prepare(&lines, p)
				if err := at("prepared"); err != nil {
					return err
				}
				if err := logs.LogAll(log, ms); err != nil {
					return err
				}
				c.logged()
				if err := at("logged"); err != nil {
					return err
				}
				if err := src.done(); err != nil {
					return err
				}
				if err := at("taken out"); err != nil {
					return err
				}
				c.taken()
				if err := at("done"); err != nil {
					return err
				}
				if err := logs.LogAll(log, lines.flush()); err != nil {
					return err
				}
				c.flushed(&lines)
				return nil
			}())
			src.close()
			must(r.Close())
			c.close()

			h := New(Config{Log: log})
			must(h.Carry(filepath.Join(dir, "state-"), false))
			fmt.Fprint(w, "ne\nthird")
			must(w.Close())
			h.Start(Streams{Stdout: fifo(t, path)})
			select {
			case <-h.Drained():
			case <-time.After(10 * time.Second):
				t.Fatal("not drained")
			}
			h.Close()
			if got, want := log.text("stdout"), "first line\nsecond line\nthird"; got != want {
				t.Errorf("logged %q, want %q", got, want)
			}
		})
	}
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
		c.prepare(&in, []byte("piece"))
		c.logged()
		c.close()
		if c, err = openCarry(path, false); err != nil {
			t.Fatal(err)
		}
		var out splitter
		pending, _ := c.restore(&out)
		if !bytes.Equal(out.rest, in.rest) || out.inside != in.inside || !out.since.Equal(in.since) || pending != 5 {
			t.Errorf("%d: got %d bytes, %t, %v, %d pending", n, len(out.rest), out.inside, out.since, pending)
		}
		c.close()
	}
}
