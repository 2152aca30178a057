package drivertest

import (
	"bytes"
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

// acl is a POSIX ACL as the kernel keeps it: owner rwx, user 1234 r--, group r-x,
// mask rwx, others none.
var acl = []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\xd2\x04\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")

// Sample fills a directory with one of everything; text is in its files.
func Sample(t *testing.T, dir, text string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(dir, s) }
	must(t, os.Mkdir(p("sub"), 0o750))
	must(t, os.Mkdir(p("empty"), 0o711))
	write(t, p("sub/file"), []byte(text))
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
	write(t, p("a\nb*"), nil)
	f, err := os.Create(p("sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end of "+text), 8<<20)
	must(t, errors.Join(err, f.Close()))
	for i := range 50 {
		write(t, p(fmt.Sprintf("sub/many%d", i)), []byte(strings.Repeat(text, i)))
	}
	for _, x := range []struct {
		file, name string
		value      []byte
	}{
		{"sub/file", "user.color", []byte("blue")},
		{"sub", "user.dir", []byte("yes")},
		{"sub/many3", "system.posix_acl_access", acl},
		{"sub", "system.posix_acl_default", acl},
		{"fifo", "trusted.pipe", []byte("x")},
	} {
		if err := unix.Setxattr(p(x.file), x.name, x.value, 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"sub/file", "sub", "fifo", "empty"} {
		must(t, os.Chtimes(p(n), time.Unix(1000, 5), time.Unix(2000, 7)))
	}
	must(t, os.Chown(dir, 70, 71))
	must(t, os.Chmod(dir, 0o700))
	must(t, os.Chtimes(dir, time.Unix(1000, 5), time.Unix(3000, 7)))
}

// Describe lists a tree with all that a copy must keep.
func Describe(t *testing.T, dir string) string {
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
		line := fmt.Sprintf("%q %o %d:%d rdev=%d %d", rel, st.Mode, st.Uid, st.Gid, st.Rdev, fi.ModTime().UnixNano())
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size=%d %q", len(b), bytes.Trim(b[max(0, len(b)-100):], "\x00"))
			if len(b) > 1<<20 && st.Blocks*512 > int64(len(b))/2 {
				line += " not sparse"
			}
		}
		if fi.Mode()&os.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		names := make([]byte, 1000)
		if n, err := unix.Llistxattr(p, names); err == nil {
			for _, x := range slices.Sorted(slices.Values(strings.FieldsFunc(string(names[:n]), func(r rune) bool { return r == 0 }))) {
				v := make([]byte, 1000)
				if n, err := unix.Lgetxattr(p, x, v); err == nil {
					line += fmt.Sprintf(" %s=%q", x, v[:n])
				}
			}
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
	return strings.Join(out, "\n")
}

// Same compares two descriptions.
func Same(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "nothing", "nothing"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("%s: got  %s\nwant %s", what, a, b)
			return
		}
	}
}
