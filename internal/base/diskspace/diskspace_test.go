package diskspace

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReserveKeepsTheContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1 << 20, 4096} { // the second asks for less than there is
		if err := Reserve(path, size); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) != 1<<20 || !bytes.HasPrefix(b, []byte("content\x00")) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Sys().(*syscall.Stat_t).Blocks*512 < 1<<20 { //nolint:forcetypeassert // of this system
			t.Errorf("blocks: %+v, %v", fi, err)
		}
	}
}
