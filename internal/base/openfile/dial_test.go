package openfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDial(t *testing.T) {
	for _, folder := range []string{"short", strings.Repeat("long", 40)} {
		t.Run(folder[:5], func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), folder)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "x.sock")
			if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("nothing there: %v", err)
			}
			handle, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer handle.Close()
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(Path(int(handle.Fd())), "x.sock"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c, err := Dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if _, err := Dial(t.Context(), filepath.Join(dir, "none", "x.sock")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("no folder: %v", err)
			}
		})
	}
}
