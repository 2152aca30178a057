package drivertest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"
	"time"
)

// hostile are streams, of either kind, that try to leave the volume.
func hostile(t *testing.T, outside string) map[string][]byte {
	t.Helper()
	evil := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: outside}
	const mkfile, symlink, rename, hardlink, unlink, write = 3, 8, 9, 10, 11, 15
	btrfsLink := btrfsCommand(symlink, attr{path, "d"}, attr{pathLink, outside})
	return map[string][]byte{
		"tar: up":                hostileTar(t, evil("../evil")),
		"tar: absolute":          hostileTar(t, evil(outside+"/evil")),
		"tar: through a link":    hostileTar(t, link, evil("d/evil")),
		"tar: hard link":         hostileTar(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: outside + "/precious"}),
		"btrfs: up":              btrfsStream(btrfsCommand(mkfile, attr{path, "../evil"})),
		"btrfs: absolute":        btrfsStream(btrfsCommand(mkfile, attr{path, outside + "/evil"})),
		"btrfs: through a link":  btrfsStream(btrfsLink, btrfsCommand(mkfile, attr{path, "d/evil"})),
		"btrfs: write by a link": btrfsStream(btrfsLink, btrfsCommand(write, attr{path, "d/precious"}, attr{offset, "\x00\x00\x00\x00\x00\x00\x00\x00"}, attr{data, "evil"})),
		"btrfs: take in":         btrfsStream(btrfsLink, btrfsCommand(rename, attr{path, "d/precious"}, attr{pathTo, "mine"})),
		"btrfs: hard link":       btrfsStream(btrfsLink, btrfsCommand(hardlink, attr{path, "mine"}, attr{pathLink, "d/precious"})),
		"btrfs: remove":          btrfsStream(btrfsLink, btrfsCommand(unlink, attr{path, "d/precious"})),
	}
}

func hostileTar(t *testing.T, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "evil"
		}
		h.Size, h.Mode, h.ModTime = int64(len(body)), 0o644, time.Unix(1000, 0)
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// Attributes of commands of btrfs streams.
const (
	uuid     = 1
	ctransid = 2
	path     = 15
	pathTo   = 16
	pathLink = 17
	offset   = 18
	data     = 19
)

type attr struct {
	kind  uint16
	value string
}

func btrfsCommand(kind uint16, attrs ...attr) []byte {
	var body []byte
	for _, a := range attrs {
		body = binary.LittleEndian.AppendUint16(body, a.kind)
		body = binary.LittleEndian.AppendUint16(body, uint16(len(a.value))) //nolint:gosec // they are short
		body = append(body, a.value...)
	}
	h := binary.LittleEndian.AppendUint32(nil, uint32(len(body))) //nolint:gosec // as above
	h = binary.LittleEndian.AppendUint16(h, kind)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := ^crc32.Update(crc32.Update(^uint32(0), table, append(h, 0, 0, 0, 0)), table, body)
	return append(binary.LittleEndian.AppendUint32(h, sum), body...)
}

func btrfsStream(commands ...[]byte) []byte {
	const subvol, end = 1, 21
	b := append([]byte("btrfs-stream\x00"), 1, 0, 0, 0)
	b = append(b, btrfsCommand(subvol, attr{path, "s"}, attr{uuid, "0123456789abcdef"}, attr{ctransid, "\x01\x00\x00\x00\x00\x00\x00\x00"})...)
	return append(append(b, bytes.Join(commands, nil)...), btrfsCommand(end)...)
}
