package ctrd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What an engine that was killed took off its records and not off the disk is known
// for what it is, and goes when the next one starts.
func TestLostContentIsFoundAndCollected(t *testing.T) {
	m := newMachine(t)
	if err := m.engine.Rootfs().Prepare(t.Context(), strings.Repeat("c", idLength), ""); err != nil {
		t.Fatal(err)
	}
	lost := filepath.Join(m.cfg.Root, "content", "blobs", "sha256", strings.Repeat("ab", 32))
	plant := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(lost), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(lost, []byte("lost"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() bool { _, err := os.Lstat(lost); return os.IsNotExist(err) }
	plant()
	m.restart()
	for end := time.Now().Add(patience); !gone(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an engine that starts leaves it there")
		}
	}
	plant() // the engine's first collection is over, and the next looks at the disk no more
	all, err := m.engine.OnDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Path == lost && (s.Refs || s.Part != "") {
			t.Errorf("the lost blob: %+v", s)
		}
		if s.Part != "" && !s.Refs {
			t.Errorf("in use: %+v", s)
		}
	}
	if len(all) < 2 {
		t.Errorf("%+v", all)
	}
	if err := m.engine.Collect(t.Context()); err != nil || gone() {
		t.Errorf("a plain collection looks at the disk: %v; then Sweep has no reason to be", err)
	}
	if err := m.engine.Sweep(t.Context()); err != nil || !gone() {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := m.engine.Rootfs().Layer(t.Context(), strings.Repeat("c", idLength)); err != nil {
		t.Errorf("a container's layer went: %v", err)
	}
}
