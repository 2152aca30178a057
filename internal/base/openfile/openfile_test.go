package openfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestGrow(t *testing.T) {
	for _, size := range []int{0, 1, 256, 257, 5000, 1 << 20} {
		got, err := Grow(func(b []byte) (int, error) {
			if len(b) < size {
				return 0, syscall.ERANGE
			}
			return size, nil
		})
		if err != nil || len(got) != size {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
	}
	if _, err := Grow(func([]byte) (int, error) { return 0, syscall.ERANGE }); !errors.Is(err, syscall.ERANGE) {
		t.Errorf("an answer that never fits: %v", err)
	}
	if _, err := Grow(func([]byte) (int, error) { return 0, syscall.ENODATA }); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("another error: %v", err)
	}
}

func TestPath(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("held"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(Path(int(f.Fd()))); err != nil || string(b) != "held" {
		t.Errorf("what was removed while it was open: %q, %v", b, err)
	}
}
