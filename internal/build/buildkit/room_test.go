package buildkit

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// archiveOf has files of these sizes, with nothing in them but zeros.
func archiveOf(t *testing.T, sizes ...int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for range sizes {
		if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: sizes[0]}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, sizes[0]); err != nil {
			t.Fatal(err)
		}
		sizes = sizes[1:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// claiming is an archive whose only header claims more than there is: what a
// sparse file looks like to whoever unpacks it.
func claiming(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "f", Size: size}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatAnArchiveTakesIsBounded(t *testing.T) {
	for _, c := range []struct {
		what    string
		archive []byte
		room    room
		fits    bool
	}{
		{"fits", archiveOf(t, 5000, 1), room{bytes: 3 * block, files: 2}, true},
		{"blocks, not bytes, are counted", archiveOf(t, 5000, 1), room{bytes: 3*block - 1, files: 2}, false},
		{"many small files", archiveOf(t, 0, 0, 0), room{bytes: 1 << 20, files: 2}, false},
		{"a claim", claiming(t, 1<<50), room{bytes: 1 << 40, files: 9}, false},
		{"a claim near the largest number", claiming(t, 1<<63-1), room{bytes: 1 << 40, files: 9}, false},
		{"no archive", []byte(strings.Repeat("text ", 1000)), room{bytes: 1}, true},
		{"nothing", nil, room{}, true},
	} {
		r := c.room
		err := r.count(bytes.NewReader(c.archive), "name.tar")
		if c.fits != (err == nil) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err != nil && (!errors.Is(err, errdefs.ErrResourceExhausted) || !strings.HasPrefix(err.Error(), "name.tar unpacks to more than the disk has room for")) {
			t.Errorf("%s: %v", c.what, err)
		}

		in := within(bytes.NewReader(c.archive), c.room, "name.tar")
		out, err := io.ReadAll(in)
		if c.fits && (err != nil || !bytes.Equal(out, c.archive)) || !c.fits && !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("%s, read: %d of %d bytes, %v", c.what, len(out), len(c.archive), err)
		}
		if err := in.Close(); err != nil {
			t.Errorf("%s, closed: %v", c.what, err)
		}
	}
}

// A reader that is given up in the middle leaves nothing running.
func TestABoundedArchiveMayBeClosedEarly(t *testing.T) {
	in := within(bytes.NewReader(archiveOf(t, 1<<20)), room{bytes: 1 << 30, files: 9}, "name")
	if _, err := io.ReadFull(in, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil { // waits for what counts
		t.Error(err)
	}
}

func TestATwentiethOfWhatIsFreeIsSpared(t *testing.T) {
	for _, c := range []struct {
		bytes, files int64
		want         room
	}{
		{2000 * block, 100, room{1900 * block, 95}},
		{2000 * block, 0, room{1900 * block, 1900}}, // inodes are made as needed
	} {
		if got := roomOf(c.bytes, c.files); got != c.want {
			t.Errorf("%d, %d: got %+v, want %+v", c.bytes, c.files, got, c.want)
		}
	}
}
