package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A log file that is read back may have been torn, or written by who knows
// what. Reading it must end; opened for writing it must take one more message
// and give it back.
func FuzzReadBack(f *testing.F) {
	m := Message{Line: []byte("hello"), Stream: "stderr", Time: time.Unix(1, 2), Attrs: map[string]string{"a": "b"}}
	one := binaryCodec{}.encode(nil, m)
	for _, seed := range [][]byte{
		nil, one, append(bytes.Clone(one), one[:len(one)-3]...),
		{0, 0, 0, 9},
		{0xff, 0xff, 0xff, 0xff, 0},
		bytes.Repeat([]byte{0}, 40),
		{0, 0, 0, 10, flagAttrs, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 10},
	} {
		f.Add(true, seed)
	}
	line := jsonCodec{}.encode(nil, m)
	for _, seed := range [][]byte{
		line, append(bytes.Clone(line), line[:20]...), []byte("\n\n"), []byte("{}\n[]\nnull\n{\"log\":1}\n"), []byte("{\"log\":\"\\ud800\",\"time\":\"x\"}"), []byte(`{"log":"whole"}`),
	} {
		f.Add(false, seed)
	}
	f.Fuzz(func(t *testing.T, binary bool, data []byte) {
		dir := t.TempDir()
		c := Config{Type: JSONFile, Path: filepath.Join(dir, "container.log"), Dir: dir}
		if binary {
			c.Type = Local
		}
		if err := os.WriteFile(c.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		look := c
		look.ReadOnly = true
		for _, tail := range []int{-1, 0, 1, 100} {
			l, err := Open(look)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			_ = l.Read(t.Context(), ReadOptions{Tail: tail}, func(Message) error { n++; return nil }) // a broken file may say so
			if tail >= 0 && n > tail {
				t.Errorf("%d of %d messages", n, tail)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		l, err := Open(c)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer l.Close()
		if err := l.Log(m); err != nil {
			t.Fatalf("log: %v", err)
		}
		var got []Message
		if err := l.Read(t.Context(), ReadOptions{Tail: 1}, func(m Message) error { got = append(got, m); return nil }); err != nil {
			t.Fatalf("read: %v", err)
		}
		if len(got) != 1 || string(got[0].Line) != "hello" || !got[0].Time.Equal(m.Time) || got[0].Stream != "stderr" {
			t.Errorf("read back %+v", got)
		}
	})
}

func FuzzOptions(f *testing.F) {
	f.Add("max-size", "10m")
	f.Add("max-file", "0")
	f.Add("tag", "{{.Name}}/{{.ID}}")
	f.Add("tag", "{{range .Config}}{{.}}{{end}}")
	f.Add("labels-regex", "(")
	f.Add("mode", "non-blocking")
	f.Fuzz(func(t *testing.T, key, value string) {
		for _, driver := range Drivers() {
			if Validate(driver, map[string]string{key: value}) != nil || driver == None {
				continue
			}
			s, err := parse(driver, map[string]string{key: value})
			if err != nil || s.maxFiles < 1 || s.maxSize < 0 || s.buffer < 0 {
				t.Errorf("%s: %s=%s is %+v, %v", driver, key, value, s, err)
			}
		}
	})
}
