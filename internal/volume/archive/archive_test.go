package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/internal/volume/archive"
	"holdfast.dev/holdfast/internal/volume/drivertest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to change owners")
	}
}

// A tree is what it was after it went through a tar, but for sockets, which no
// tar holds.
func TestThereAndBack(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	drivertest.Sample(t, src, "one")
	want := regexp.MustCompile(`(?m)^"sock" .*\n`).ReplaceAllString(drivertest.Describe(t, src), "")
	var b bytes.Buffer
	must(t, archive.Write(t.Context(), src, &b))
	var z, g bytes.Buffer
	zw, err := zstd.NewWriter(&z)
	must(t, err)
	gw := gzip.NewWriter(&g)
	for _, w := range []io.WriteCloser{zw, gw} {
		_, err := w.Write(b.Bytes())
		must(t, errors.Join(err, w.Close()))
	}
	for name, data := range map[string][]byte{"plain": b.Bytes(), "zstd": z.Bytes(), "gzip": g.Bytes()} {
		dst := t.TempDir()
		r, err := archive.Extract(t.Context(), bytes.NewReader(data), dst)
		must(t, err)
		drivertest.Same(t, name, drivertest.Describe(t, dst), want)
		if r.Files != 53 {
			t.Errorf("%s: %d files", name, r.Files)
		}
	}
}

func tarOf(t *testing.T, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "evil"
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1000, 0)
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// What a tar from elsewhere may try. Nothing is made outside, and it is refused.
func TestHostileTars(t *testing.T) {
	needRoot(t)
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("p"), 0o600))
	good := tarOf(t, reg("a"), reg("b"))
	for name, data := range map[string][]byte{
		"parent":            tarOf(t, reg("../evil")),
		"parent inside":     tarOf(t, reg("a/../../evil")),
		"absolute":          tarOf(t, reg(outside+"/evil")),
		"through a link":    tarOf(t, link("d", outside), reg("d/evil")),
		"onto a link":       tarOf(t, link("f", outside+"/precious"), reg("f")),
		"through two":       tarOf(t, link("d", "e"), link("e", ".."), reg("d/evil")),
		"hard link out":     tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: outside + "/precious"}),
		"hard link up":      tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../etc/passwd"}),
		"hard link by link": tarOf(t, link("d", outside), tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "d/precious"}),
		"hard link nowhere": tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "nothing"}),
		"directory as link": tarOf(t, link("d", outside), tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o777}),
		"twice":             tarOf(t, reg("a"), reg("a")),
		"file as directory": tarOf(t, reg("a"), reg("a/b")),
		"root is a file":    tarOf(t, reg(".")),
		"root is a link":    tarOf(t, link("./", outside)),
		"odd type":          tarOf(t, tar.Header{Typeflag: tar.TypeCont, Name: "c"}),
		"cut off":           good[:1200],
		"nothing":           {},
		"empty":             tarOf(t),
		"text":              []byte(strings.Repeat("this is no tar ", 100)),
		"half zstd":         {0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3},
		"half gzip":         {0x1f, 0x8b, 8, 0, 0},
	} {
		dst := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(dst, 0o755))
		_, err := archive.Extract(t.Context(), bytes.NewReader(data), dst)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if es, err := os.ReadDir(filepath.Dir(dst)); err != nil || len(es) != 1 {
			t.Errorf("%s: beside the volume: %v, %v", name, es, err)
		}
	}
	es, err := os.ReadDir(outside)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(outside, "precious"))
	if len(es) != 1 || err != nil || string(b) != "p" {
		t.Errorf("outside: %v, %q, %v", es, b, err)
	}
	if fi, err := os.Stat(outside); err != nil || fi.Mode().Perm() == 0o777 {
		t.Errorf("outside: %v, %v", fi.Mode(), err)
	}
}

// Tars that others make, without entries for directories.
func TestOrdinaryTar(t *testing.T) {
	needRoot(t)
	dst := t.TempDir()
	_, err := archive.Extract(t.Context(), bytes.NewReader(tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a/b/c", Uid: 70, Mode: 0o640})), dst)
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(dst, "a/b/c")); err != nil || string(b) != "evil" {
		t.Errorf("%q, %v", b, err)
	}
}
