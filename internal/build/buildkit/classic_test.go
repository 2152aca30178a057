package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"testing"
)

// ended is a request's body: its end is seen only by who reads on after the last
// of its bytes.
type ended struct {
	io.Reader
	seen bool
}

func (e *ended) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	e.seen = e.seen || errors.Is(err, io.EOF)
	return n, err
}

// The server notices that a client has gone only after the end of what it sent.
func TestAContextIsReadToItsEnd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the context is unpacked in a namespace of its own")
	}
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	b := &Builder{cfg: Config{Root: t.TempDir()}}
	for name, body := range map[string][]byte{
		"plain":       plain.Bytes(),
		"with a tail": append(bytes.Clone(plain.Bytes()), make([]byte, 1<<20)...),
		"compressed":  packed.Bytes(),
		"with more":   append(bytes.Clone(packed.Bytes()), make([]byte, 1<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			e := &ended{Reader: bytes.NewReader(body)}
			if _, err := b.unpack(e); err != nil {
				t.Fatal(err)
			}
			if !e.seen {
				t.Error("the end was not read")
			}
		})
	}
}
