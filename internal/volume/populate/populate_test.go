package populate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to change owners and make devices")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample makes one of everything.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	p := func(s string) string { return filepath.Join(dir, s) }
	must(t, os.Mkdir(p("sub"), 0o750))
	must(t, os.WriteFile(p("sub/file"), []byte("hello"), 0o640))
	must(t, os.Chown(p("sub/file"), 33, 44))
	must(t, unix.Chmod(p("sub/file"), 0o4755))
	must(t, os.Link(p("sub/file"), p("hard")))
	must(t, os.Symlink("../etc/passwd", p("sub/sym")))
	must(t, os.Symlink("nowhere", p("dangling")))
	must(t, os.Lchown(p("dangling"), 5, 6))
	must(t, os.Link(p("dangling"), p("dangling2")))
	must(t, unix.Mkfifo(p("fifo"), 0o622))
	must(t, unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(p("sock"), unix.S_IFSOCK|0o600, 0))
	f, err := os.Create(p("sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 64<<20)
	must(t, err)
	must(t, f.Close())
	if err := unix.Setxattr(p("sub/file"), "user.color", []byte("blue"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	for _, n := range []string{"sub/file", "sub", "fifo"} {
		must(t, os.Chtimes(p(n), time.Unix(1000, 5), time.Unix(2000, 7)))
	}
	must(t, os.Chown(dir, 70, 71))
	must(t, os.Chmod(dir, 0o700))
	return dir
}

// describe lists a tree with everything the copy must keep.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	must(t, filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %o %d:%d rdev=%d", rel, st.Mode, st.Uid, st.Gid, st.Rdev)
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			x := make([]byte, 100)
			n, _ := unix.Getxattr(p, "user.color", x)
			line += fmt.Sprintf(" size=%d sum=%d x=%s", len(b), bytes.Count(b, []byte("e")), x[:max(n, 0)])
		}
		if fi.Mode()&os.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		} else {
			line += fmt.Sprint(" ", fi.ModTime().UnixNano())
		}
		if st.Nlink > 1 && !fi.IsDir() {
			if first, ok := inodes[st.Ino]; ok {
				line += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCopiesEverything(t *testing.T) {
	needRoot(t)
	src, dst := sample(t), t.TempDir()
	must(t, Copier{}.Populate(t.Context(), src, dst, ""))
	equal(t, describe(t, dst), describe(t, src))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dst, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the holes were filled: %d bytes", st.Blocks*512)
	}
	// Again: it has content, nothing happens.
	must(t, os.WriteFile(filepath.Join(dst, "mine"), nil, 0o600))
	want := describe(t, dst)
	must(t, Copier{}.Populate(t.Context(), src, dst, ""))
	equal(t, describe(t, dst), want)
}

func TestEmptySourceGivesItsOwner(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	must(t, os.Chown(src, 999, 998))
	must(t, unix.Chmod(src, 0o1770))
	must(t, Copier{}.Populate(t.Context(), src, dst, ""))
	equal(t, describe(t, dst), describe(t, src))
}

func TestVolumeWithContentStays(t *testing.T) {
	needRoot(t)
	src, dst := sample(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dst, "mine"), []byte("x"), 0o600))
	want := describe(t, dst)
	must(t, Copier{}.Populate(t.Context(), src, dst, ""))
	equal(t, describe(t, dst), want)
}

func TestCutOffCopyIsFinished(t *testing.T) {
	needRoot(t)
	src := sample(t)
	want := describe(t, src)
	t.Run("while copying", func(t *testing.T) {
		dst := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dst, staging, "sub", "junk"), 0o700))
		must(t, os.Symlink("/etc", filepath.Join(dst, staging, "etc")))
		must(t, Copier{}.Populate(t.Context(), src, dst, ""))
		equal(t, describe(t, dst), want)
	})
	t.Run("while moving", func(t *testing.T) {
		dst := t.TempDir()
		must(t, Copier{}.Populate(t.Context(), src, dst, ""))
		must(t, os.Mkdir(filepath.Join(dst, staged), 0o700))
		must(t, os.Rename(filepath.Join(dst, "sub"), filepath.Join(dst, staged, "sub")))
		must(t, Copier{}.Populate(t.Context(), src, dst, ""))
		equal(t, describe(t, dst), want)
	})
	t.Run("somebody else's file", func(t *testing.T) {
		dst := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dst, staged), 0o700))
		must(t, os.WriteFile(filepath.Join(dst, staged, "hard"), []byte("ours"), 0o600))
		must(t, os.WriteFile(filepath.Join(dst, "hard"), []byte("theirs"), 0o600))
		must(t, Copier{}.Populate(t.Context(), src, dst, ""))
		if b, err := os.ReadFile(filepath.Join(dst, "hard")); err != nil || string(b) != "theirs" {
			t.Errorf("got %q, %v", b, err)
		}
	})
}

func TestFailureLeavesTheVolumeEmpty(t *testing.T) {
	needRoot(t)
	src, dst := sample(t), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Copier{}).Populate(ctx, src, dst, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(describe(t, dst)) != 1 {
		t.Errorf("left: %v", describe(t, dst))
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	src, dst := sample(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), make([]byte, 4<<20), 0o600))
	if err := unix.Mount("tmpfs", dst, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	defer func() { must(t, unix.Unmount(dst, 0)) }()
	if err := (Copier{}).Populate(t.Context(), src, dst, ""); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "big") {
		t.Errorf("got %v", err)
	}
	if es, err := os.ReadDir(dst); err != nil || len(es) != 0 {
		t.Errorf("left: %v, %v", es, err)
	}
	must(t, unix.Mount("tmpfs", dst, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	must(t, Copier{}.Populate(t.Context(), src, dst, ""))
	if _, err := os.Stat(filepath.Join(dst, "big")); err != nil {
		t.Error(err)
	}
}
