package sendstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/internal/base/fault"
)

// Magic begins every stream.
const Magic = "btrfs-stream\x00"

const (
	maxVersion = 2
	headerSize = 10
	// maxCommand bounds a command. The kernel's largest have 144 KiB.
	maxCommand = 1 << 20
)

// Commands, from fs/btrfs/send.h.
const (
	cmdSubvol      = 1
	cmdSnapshot    = 2
	cmdMkfile      = 3
	cmdMkdir       = 4
	cmdMknod       = 5
	cmdMkfifo      = 6
	cmdMksock      = 7
	cmdSymlink     = 8
	cmdRename      = 9
	cmdLink        = 10
	cmdUnlink      = 11
	cmdRmdir       = 12
	cmdSetXattr    = 13
	cmdRemoveXattr = 14
	cmdWrite       = 15
	cmdClone       = 16
	cmdTruncate    = 17
	cmdChmod       = 18
	cmdChown       = 19
	cmdUtimes      = 20
	cmdEnd         = 21
	cmdFallocate   = 23
)

type attribute uint16

// Attributes of commands.
const (
	attrUUID          attribute = 1
	attrCtransid      attribute = 2
	attrSize          attribute = 4
	attrMode          attribute = 5
	attrUID           attribute = 6
	attrGID           attribute = 7
	attrRdev          attribute = 8
	attrMtime         attribute = 10
	attrAtime         attribute = 11
	attrXattrName     attribute = 13
	attrXattrData     attribute = 14
	attrPath          attribute = 15
	attrPathTo        attribute = 16
	attrPathLink      attribute = 17
	attrOffset        attribute = 18
	attrData          attribute = 19
	attrCloneUUID     attribute = 20
	attrCloneCtransid attribute = 21
	attrClonePath     attribute = 22
	attrCloneOffset   attribute = 23
	attrCloneLen      attribute = 24
	attrFallocate     attribute = 25
	maxAttribute      attribute = 64
)

// invalid is an error of the stream itself.
func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, "this is no btrfs stream that can be received: "+format, args...)
}

// reader reads commands.
type reader struct {
	from    io.Reader
	version uint32
	buf     []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the kernel's crc32c, which begins with 0 and is not inverted.
func checksum(parts ...[]byte) uint32 {
	sum := ^uint32(0)
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return ^sum
}

func (r *reader) header() error {
	var b [len(Magic) + 4]byte
	if _, err := io.ReadFull(r.from, b[:]); err != nil {
		return cutOff(err)
	}
	if string(b[:len(Magic)]) != Magic {
		return invalid("it begins with something else")
	}
	r.version = binary.LittleEndian.Uint32(b[len(Magic):])
	if r.version < 1 || r.version > maxVersion {
		return invalid("its version is %d, and known are 1 to %d", r.version, maxVersion)
	}
	return nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("it is cut off")
	}
	return fmt.Errorf("read btrfs stream: %w", err)
}

// command is one of a stream. It is valid until the next is read.
type command struct {
	kind  uint16
	attrs map[attribute][]byte
}

func (r *reader) next() (command, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r.from, h[:]); err != nil {
		return command{}, cutOff(err)
	}
	size := binary.LittleEndian.Uint32(h[:])
	c := command{kind: binary.LittleEndian.Uint16(h[4:])}
	want := binary.LittleEndian.Uint32(h[6:])
	if size > maxCommand {
		return c, invalid("a command of %d bytes", size)
	}
	if cap(r.buf) < int(size) {
		r.buf = make([]byte, max(int(size), 256<<10))
	}
	body := r.buf[:size]
	if _, err := io.ReadFull(r.from, body); err != nil {
		return c, cutOff(err)
	}
	clear(h[6:])
	if checksum(h[:], body) != want {
		return c, invalid("the checksum of a command is wrong")
	}
	var err error
	c.attrs, err = r.attributes(body)
	return c, err
}

// attributes splits the body of a command. In version 2 data has no length: it
// goes on to the end.
func (r *reader) attributes(b []byte) (map[attribute][]byte, error) {
	out := map[attribute][]byte{}
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, invalid("an attribute is cut off")
		}
		kind := attribute(binary.LittleEndian.Uint16(b))
		b = b[2:]
		size := len(b)
		if kind != attrData || r.version < 2 {
			if len(b) < 2 {
				return nil, invalid("an attribute is cut off")
			}
			size = int(binary.LittleEndian.Uint16(b))
			b = b[2:]
		}
		if size > len(b) || kind == 0 || kind > maxAttribute {
			return nil, invalid("attribute %d of %d bytes", kind, size)
		}
		if _, twice := out[kind]; twice {
			return nil, invalid("attribute %d is there twice", kind)
		}
		out[kind], b = b[:size], b[size:]
	}
	return out, nil
}

func (c command) bytes(a attribute) ([]byte, error) {
	b, ok := c.attrs[a]
	if !ok {
		return nil, invalid("command %d lacks attribute %d", c.kind, a)
	}
	return b, nil
}

func (c command) fixed(a attribute, size int) ([]byte, error) {
	b, err := c.bytes(a)
	if err == nil && len(b) != size {
		err = invalid("attribute %d has %d bytes", a, len(b))
	}
	return b, err
}

func (c command) number(a attribute) (uint64, error) {
	b, err := c.fixed(a, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// offset is a number that can be a place in a file.
func (c command) offset(a attribute) (int64, error) {
	n, err := c.number(a)
	if err == nil && n > 1<<62 {
		err = invalid("offset %d", n)
	}
	return int64(n), err //nolint:gosec // checked
}

// id is an owner or a mode.
func (c command) id(a attribute) (uint32, error) {
	n, err := c.number(a)
	if err == nil && n > 1<<32-2 {
		err = invalid("attribute %d is %d", a, n)
	}
	return uint32(n), err //nolint:gosec // checked
}

// UUID names a subvolume, over all machines.
type UUID [16]byte

func (c command) uuid(a attribute) (u UUID, err error) {
	b, err := c.fixed(a, len(u))
	copy(u[:], b)
	return u, err
}
