package tree

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is what an entry is.
type Kind string

// Kinds of entries. Sockets are nothing without the one who listens, and are left out.
const (
	Directory Kind = "d"
	File      Kind = "f"
	Symlink   Kind = "l"
	HardLink  Kind = "h" // another name of the file Link
	Fifo      Kind = "p"
	CharDev   Kind = "c"
	BlockDev  Kind = "b"
)

// Entry is one name in a tree.
type Entry struct {
	Path   Text            `json:"p"` // relative to the root, which is "."
	Kind   Kind            `json:"k"`
	Mode   uint32          `json:"m,omitempty"`
	UID    uint32          `json:"u,omitempty"`
	GID    uint32          `json:"g,omitempty"`
	MTime  int64           `json:"t,omitempty"` // nanoseconds
	Size   int64           `json:"s,omitempty"`
	Link   Text            `json:"l,omitempty"`
	Device uint64          `json:"r,omitempty"`
	Xattrs map[Text][]byte `json:"x,omitempty"`
	Holes  int64           `json:"holes,omitempty"` // bytes of a file that take no room
	Digest string          `json:"d,omitempty"`     // SHA-256 of a file's content
	Object string          `json:"o,omitempty"`     // where the repository keeps it
	Inode  uint64          `json:"i,omitempty"`     // with CTime: tells a file that is as it was
	CTime  int64           `json:"c,omitempty"`
	// Several says that the file has further names, which come later.
	Several bool `json:"-"`
}

// Text is a name as the file system has it: any bytes but 0. In JSON what is no
// UTF-8 is written as %XX, and % as %25.
type Text string

// MarshalText implements encoding.TextMarshaler.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.Escaped()), nil }

// Escaped is the form that is UTF-8.
func (t Text) Escaped() string {
	s := string(t)
	if utf8.ValidString(s) && !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '%' || r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "%%%02X", s[i])
			i++
			continue
		}
		b.WriteString(s[i : i+n])
		i += n
	}
	return b.String()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Text) UnmarshalText(b []byte) error {
	s := string(b)
	if !strings.Contains(s, "%") {
		*t = Text(s)
		return nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return fmt.Errorf("name %.100q: %% without two digits", s)
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return fmt.Errorf("name %.100q: %w", s, err)
		}
		out = append(out, byte(n))
		i += 2
	}
	*t = Text(out)
	return nil
}

// Before tells whether a comes before b in an index: a directory before what is in
// it, and that before its next sibling.
func Before(a, b Text) bool {
	if a == b {
		return false
	}
	if a == "." || b == "." {
		return a == "."
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return true
		case b[i] == '/':
			return false
		}
		return a[i] < b[i]
	}
	return len(a) < len(b)
}
