package imagestore

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"holdfast.dev/holdfast/internal/base/fault"
)

type format int

const (
	plain format = iota
	gzipped
	zstded
	bzipped
	xzed
)

var magics = []struct {
	f     format
	magic []byte
}{
	{gzipped, []byte{0x1f, 0x8b, 0x08}},
	{zstded, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{bzipped, []byte("BZh")},
	{xzed, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
}

// zstdWindow bounds the memory that a zstd stream may ask for.
const zstdWindow = 128 << 20

// sniff tells the compression of what r holds, without consuming it.
func sniff(r *bufio.Reader) (format, error) {
	head, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return plain, err
	}
	return formatOf(head), nil
}

func formatOf(head []byte) format {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.f
		}
	}
	return plain
}

// decompress reads through the compression.
func decompress(r io.Reader, f format) (io.ReadCloser, error) {
	var out io.Reader
	var err error
	switch f {
	case plain:
		out = r
	case gzipped:
		var z *gzip.Reader
		if z, err = gzip.NewReader(r); err == nil {
			return z, nil
		}
	case zstded:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow)); err == nil {
			return z.IOReadCloser(), nil
		}
	case bzipped:
		out = bzip2.NewReader(r)
	case xzed:
		out, err = xz.ReaderConfig{DictCap: zstdWindow}.NewReader(bufio.NewReader(r))
	}
	if err != nil {
		return nil, fault.Wrap(errdefs.ErrInvalidArgument, err, "read compressed stream")
	}
	return io.NopCloser(out), nil
}

// isTar says whether a block looks like the header of a tar entry, or like the
// end of an archive: the empty layer is nothing but that.
func isTar(block []byte) bool {
	if len(block) < 512 {
		return false
	}
	if bytes.Count(block[:512], []byte{0}) == 512 {
		return true
	}
	if bytes.Equal(block[257:262], []byte("ustar")) {
		return true
	}
	// Very old tar has no magic: the checksum tells.
	var want int64
	if _, err := fmt.Sscanf(string(bytes.Trim(block[148:156], " \x00")), "%o", &want); err != nil {
		return false
	}
	var sum int64
	for i, b := range block[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	return sum == want
}
