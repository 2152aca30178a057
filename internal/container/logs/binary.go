package logs

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// maxRecord bounds what a reader takes for one record. A line is at most 16
// KiB; the rest is for attributes.
const maxRecord = 16 << 20

// binaryCodec is the local driver's format. A record is its payload between
// two copies of the payload's length (32 bits, big endian), so that it can be
// read from either end. The payload is
//
//	flags       1 byte: stderr, partial, has attributes
//	time        8 bytes, Unix nanoseconds
//	attributes  if there are: how many, then key and value, each behind its
//	            length, all as uvarints
//	line        the rest
type binaryCodec struct{}

const (
	flagStderr = 1 << iota
	flagPartial
	flagAttrs

	lenSize    = 4
	minPayload = 9
)

func (binaryCodec) encode(dst []byte, m Message) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	var flags byte
	if m.Stream == "stderr" {
		flags |= flagStderr
	}
	if m.Partial {
		flags |= flagPartial
	}
	if len(m.Attrs) > 0 {
		flags |= flagAttrs
	}
	dst = append(dst, flags)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Time.UnixNano()))
	if len(m.Attrs) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(m.Attrs)))
		for _, k := range slices.Sorted(maps.Keys(m.Attrs)) {
			dst = binary.AppendUvarint(dst, uint64(len(k)))
			dst = append(dst, k...)
			dst = binary.AppendUvarint(dst, uint64(len(m.Attrs[k])))
			dst = append(dst, m.Attrs[k]...)
		}
	}
	dst = append(dst, m.Line...)
	n := uint32(len(dst) - start - lenSize)
	binary.BigEndian.PutUint32(dst[start:], n)
	return binary.BigEndian.AppendUint32(dst, n)
}

func (binaryCodec) cut(b []byte) (int, error) {
	if len(b) < lenSize {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint32(b))
	if n < minPayload || n > maxRecord {
		return 0, fmt.Errorf("broken log record %s", quote(b))
	}
	if total := n + 2*lenSize; len(b) >= total {
		if int(binary.BigEndian.Uint32(b[total-lenSize:])) != n {
			return 0, fmt.Errorf("broken log record %s", quote(b))
		}
		return total, nil
	}
	return 0, nil
}

func (binaryCodec) decode(rec []byte) (Message, bool) {
	p := rec[lenSize : len(rec)-lenSize]
	m := Message{Stream: "stdout", Partial: p[0]&flagPartial != 0}
	if p[0]&flagStderr != 0 {
		m.Stream = "stderr"
	}
	m.Time = time.Unix(0, int64(binary.BigEndian.Uint64(p[1:]))).UTC()
	flags, p := p[0], p[minPayload:]
	if flags&flagAttrs != 0 {
		var ok bool
		if m.Attrs, p, ok = decodeAttrs(p); !ok {
			return Message{}, false
		}
	}
	m.Line = slices.Clone(p)
	return m, true
}

func decodeAttrs(p []byte) (map[string]string, []byte, bool) {
	count, n := binary.Uvarint(p)
	if n <= 0 || count > uint64(len(p)) {
		return nil, nil, false
	}
	p = p[n:]
	str := func() (string, bool) {
		size, n := binary.Uvarint(p)
		if n <= 0 || size > uint64(len(p)-n) {
			return "", false
		}
		s := string(p[n : n+int(size)])
		p = p[n+int(size):]
		return s, true
	}
	attrs := map[string]string{}
	for range count {
		k, ok := str()
		if !ok {
			return nil, nil, false
		}
		if attrs[k], ok = str(); !ok {
			return nil, nil, false
		}
	}
	return attrs, p, true
}

func (c binaryCodec) tail(r io.ReaderAt, size int64, n int) (int64, int, error) {
	off := size
	for found := range n {
		if off == 0 {
			return 0, found, nil
		}
		start, err := c.before(r, off)
		if err != nil {
			return 0, 0, err
		}
		off = start
	}
	return off, n, nil
}

// before returns where the record that ends at end begins.
func (binaryCodec) before(r io.ReaderAt, end int64) (int64, error) {
	var b [lenSize]byte
	if end < minPayload+2*lenSize {
		return 0, fmt.Errorf("broken log record before %d", end)
	}
	if _, err := r.ReadAt(b[:], end-lenSize); err != nil && err != io.EOF {
		return 0, err
	}
	n := int64(binary.BigEndian.Uint32(b[:]))
	start := end - n - 2*lenSize
	if n < minPayload || start < 0 {
		return 0, fmt.Errorf("broken log record before %d", end)
	}
	if _, err := r.ReadAt(b[:], start); err != nil && err != io.EOF {
		return 0, err
	}
	if int64(binary.BigEndian.Uint32(b[:])) != n {
		return 0, fmt.Errorf("broken log record before %d", end)
	}
	return start, nil
}

func (c binaryCodec) sound(r io.ReaderAt, size int64) (int64, []byte, error) {
	if size == 0 {
		return 0, nil, nil
	}
	if _, err := c.before(r, size); err == nil {
		return size, nil, nil
	}
	// The end is torn: the last whole record is found from the front.
	good := int64(0)
	var b [lenSize]byte
	for good+minPayload+2*lenSize <= size {
		if _, err := r.ReadAt(b[:], good); err != nil && err != io.EOF {
			return 0, nil, err
		}
		n := int64(binary.BigEndian.Uint32(b[:]))
		end := good + n + 2*lenSize
		if n < minPayload || n > maxRecord || end > size {
			break
		}
		if _, err := r.ReadAt(b[:], end-lenSize); err != nil && err != io.EOF {
			return 0, nil, err
		}
		if int64(binary.BigEndian.Uint32(b[:])) != n {
			break
		}
		good = end
	}
	return good, nil, nil
}
