package logs

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// codec is the form of messages in a file.
type codec interface {
	// encode appends the record of m.
	encode(dst []byte, m Message) []byte
	// cut returns the length of the first record of b, 0 where b has no whole
	// one, or an error where b cannot be the start of a record.
	cut(b []byte) (int, error)
	// decode reads a record that cut found; ok is false for one to skip.
	decode(rec []byte) (m Message, ok bool)
	// tail returns where the last n records of r begin, and how many there are
	// if that is less than n.
	tail(r io.ReaderAt, size int64, n int) (off int64, found int, err error)
	// sound returns the length of r without a torn last record, and what to
	// append to make that whole.
	sound(r io.ReaderAt, size int64) (good int64, add []byte, err error)
}

// jsonCodec is Docker's json-file format: an object a line.
type jsonCodec struct{}

func (jsonCodec) encode(dst []byte, m Message) []byte {
	dst = append(dst, `{"log":"`...)
	dst = appendEscaped(dst, m.Line)
	if !m.Partial {
		dst = append(dst, `\n`...)
	}
	dst = append(dst, `","stream":"`...)
	dst = appendEscaped(dst, []byte(m.Stream))
	dst = append(dst, '"')
	if len(m.Attrs) > 0 {
		dst = append(dst, `,"attrs":{`...)
		for i, k := range slices.Sorted(maps.Keys(m.Attrs)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '"')
			dst = appendEscaped(dst, []byte(k))
			dst = append(dst, `":"`...)
			dst = appendEscaped(dst, []byte(m.Attrs[k]))
			dst = append(dst, '"')
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `,"time":"`...)
	dst = m.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, "\"}\n"...)
}

// appendEscaped appends b as the inside of a JSON string, with the characters
// escaped that Docker escapes.
func appendEscaped(dst, b []byte) []byte {
	const hex = "0123456789abcdef"
	for len(b) > 0 {
		c := b[0]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(b)
			switch {
			case r == utf8.RuneError && n == 1:
				dst = append(dst, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				dst = append(dst, `\u202`...)
				dst = append(dst, hex[r&0xf])
			default:
				dst = append(dst, b[:n]...)
			}
			b = b[n:]
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&0xf])
		default:
			dst = append(dst, c)
		}
		b = b[1:]
	}
	return dst
}

func (jsonCodec) cut(b []byte) (int, error) {
	return bytes.IndexByte(b, '\n') + 1, nil
}

func (jsonCodec) decode(rec []byte) (Message, bool) {
	var v struct {
		Log    string            `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if err := json.Unmarshal(rec, &v); err != nil {
		return Message{}, false
	}
	m := Message{Stream: v.Stream, Time: v.Time, Attrs: v.Attrs, Partial: true, Line: []byte(v.Log)}
	if n := len(m.Line); n > 0 && m.Line[n-1] == '\n' {
		m.Line, m.Partial = m.Line[:n-1], false
	}
	return m, true
}

const blockSize = 64 << 10

func (jsonCodec) tail(r io.ReaderAt, size int64, n int) (int64, int, error) {
	if n <= 0 {
		return size, 0, nil
	}
	buf := make([]byte, blockSize)
	found := 0
	for end := size; end > 0; {
		start := max(0, end-blockSize)
		b := buf[:end-start]
		if _, err := r.ReadAt(b, start); err != nil && err != io.EOF {
			return 0, 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || start+int64(i) == size-1 {
				continue // the newline that ends the file begins no record
			}
			if found++; found == n {
				return start + int64(i) + 1, n, nil
			}
		}
		end = start
	}
	if size > 0 {
		found++
	}
	return 0, found, nil
}

func (c jsonCodec) sound(r io.ReaderAt, size int64) (int64, []byte, error) {
	if size == 0 {
		return 0, nil, nil
	}
	var last [1]byte
	if _, err := r.ReadAt(last[:], size-1); err != nil && err != io.EOF {
		return 0, nil, err
	}
	if last[0] == '\n' {
		return size, nil, nil
	}
	good, _, err := c.tail(r, size, 1)
	if err != nil {
		return 0, nil, err
	}
	if rest := size - good; rest < maxRecord {
		b := make([]byte, rest)
		if _, err := r.ReadAt(b, good); err != nil && err != io.EOF {
			return 0, nil, err
		}
		if json.Valid(b) {
			return size, []byte("\n"), nil
		}
	}
	return good, nil, nil
}

// quote is for messages about broken files.
func quote(b []byte) string { return strconv.Quote(string(b[:min(len(b), 40)])) }
