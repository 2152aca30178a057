package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLeftoverMountsGoBeforeTheirFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	data, temp := t.TempDir(), t.TempDir()
	precious := filepath.Join(data, "precious")
	inside := filepath.Join(temp, "diff-1")
	for _, err := range []error{
		os.WriteFile(precious, []byte("x"), 0o600), os.Mkdir(inside, 0o700), os.WriteFile(filepath.Join(temp, "file"), nil, 0o600),
		unix.Mount(data, inside, "", unix.MS_BIND, ""), unix.Mount(data, inside, "", unix.MS_BIND, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := emptyTemp(temp); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted there: %v", err)
	}
}
