package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func oldNames(t *testing.T, c Config, ended bool) (string, []Old) {
	t.Helper()
	list, err := OldFiles(c, ended)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range list {
		names = append(names, strings.TrimPrefix(strings.TrimPrefix(filepath.Base(o.Path), "c-json"), "container"))
		if o.Bytes <= 0 || o.Ended.IsZero() {
			t.Errorf("%+v", o)
		}
	}
	return strings.Join(names, " "), list
}

func TestOldFilesOfLogs(t *testing.T) {
	for _, c := range []struct {
		what, want string
		Config
	}{
		{"json", ".log.2 .log.1", config(t, JSONFile, "max-size=200", "max-file=3")},
		{"not blocking", ".log.2 .log.1", config(t, JSONFile, "max-size=200", "max-file=3", "mode=non-blocking")},
		{"compressed", ".log.2.gz .log.1.gz", config(t, Local, "max-size=200", "max-file=3")},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got, _ := oldNames(t, c.Config, false); got != "" {
				t.Fatalf("a log that never was has %s", got)
			}
			l := mustOpen(t, c.Config)
			for i := range 40 {
				write(t, l, msg(i))
			}
			if err := l.Close(); err != nil { // all is written, and packed
				t.Fatal(err)
			}
			if got, _ := oldNames(t, c.Config, true); got != c.want+" .log" {
				t.Fatalf("ended: %s", got)
			}
			l = mustOpen(t, c.Config)
			got, list := oldNames(t, c.Config, false)
			if got != c.want {
				t.Fatalf("got %s", got)
			}
			// What is written is not removed, whoever asks.
			if _, all := oldNames(t, c.Config, true); !errors.Is(RemoveOld(l, all[len(all)-1]), fs.ErrNotExist) {
				t.Error("the log that is written went")
			}
			// Nor what another file has become since.
			was := list[1]
			was.inode++
			if err := RemoveOld(l, was); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("another file: %v", err)
			}
			if err := RemoveOld(l, list[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(list[0].Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("still there: %v", err)
			}
			if lines := readAll(t, l, ReadOptions{Tail: -1}); len(lines) == 0 || lines[len(lines)-1] != "line 39" {
				t.Errorf("the rest reads %v", lines)
			}
			for i := range 40 { // rotation goes on over the gap
				write(t, l, msg(40+i))
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := oldNames(t, c.Config, false); got != c.want {
				t.Errorf("after more: %s", got)
			}
		})
	}
}

func TestGenerations(t *testing.T) {
	for name, want := range map[string]int{"x.log": 0, "x.log.1": 1, "x.log.12.gz": 12, "x.log.new": -1, "x.log.gz.tmp": -1, "x.log1": -1, "y.log": -1, "x.log.-1": -1, "x.log.0": -1} {
		n, ok := generation("x.log", name)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%s: %d, want %d", name, n, want)
		}
	}
}
