package stdio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carry is what a daemon that is killed hands to the next one, for one output
// stream: the beginning of a line whose end has not come, and how much of what
// lies in the pipe is in the log already. It is a file mapped into memory, so that
// keeping it up to date is a few stores and no system call. It need not outlive
// the machine's run: neither do processes and pipes.
//
// Layout: a head, then two slots. The head says which slot counts and how many
// bytes of the pipe are logged but not yet taken out of it, in one word: it is
// changed by one store. A slot is written only while the other one counts.
type carry struct {
	mem  []byte
	next uint64 // the head that was prepared
}

const (
	carryHead  = 64
	slotHead   = 32
	carrySlot  = slotHead + maxLine
	carrySize  = carryHead + 2*carrySlot
	slotMask   = 1
	takenShift = 8

	// Offsets in a slot.
	slotLen    = 0  // of the line's beginning
	slotInside = 4  // 1: a piece of the line was logged before
	slotSum    = 8  // of the bytes that were logged last
	slotSince  = 16 // when the line began, nanoseconds since 1970
)

// openCarry maps the file, with what an earlier daemon left in it, or fresh.
func openCarry(path string, fresh bool) (*carry, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o710); err != nil {
		return nil, fmt.Errorf("make folder of output state: %w", err)
	}
	flags := os.O_RDWR | os.O_CREATE
	if fresh {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open output state: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(carrySize); err != nil {
		return nil, fmt.Errorf("size output state: %w", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, carrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) //nolint:gosec // file descriptors are small
	if err != nil {
		return nil, fmt.Errorf("map output state: %w", err)
	}
	// Pages that the disk has no room for would end the process when they are
	// written; better to have no state.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, carrySize); err != nil && !errors.Is(err, unix.EOPNOTSUPP) { //nolint:gosec // file descriptors are small
		return nil, errors.Join(fmt.Errorf("make room for output state: %w", err), unix.Munmap(mem))
	}
	return &carry{mem: mem}, nil
}

func (c *carry) close() {
	if c != nil {
		_ = unix.Munmap(c.mem) // it is our own mapping
		c.mem = nil
	}
}

func (c *carry) head() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&c.mem[0])) }

func (c *carry) slot(i uint64) []byte {
	from := carryHead + int(i&slotMask)*carrySlot
	return c.mem[from : from+carrySlot]
}

// prepare writes down, before p is logged, what s holds of the line that goes on
// after it. It counts from logged on. A daemon killed between the log's write and
// logged has p logged twice: that must be an instant, with no work in it.
func (c *carry) prepare(s *splitter, p []byte) {
	if c != nil {
		c.next = c.fill(s, uint64(len(p)), crc32.ChecksumIEEE(p))
	}
}

// logged notes that what was prepared is logged; it is still in the pipe.
func (c *carry) logged() {
	if c != nil {
		c.head().Store(c.next)
	}
}

// flushed notes that the beginning of a line was logged as well.
func (c *carry) flushed(s *splitter) {
	if c != nil {
		head := c.head().Load()
		c.head().Store(c.fill(s, head>>takenShift, binary.LittleEndian.Uint32(c.slot(head)[slotSum:])))
	}
}

// fill writes the slot that does not count and returns the head that makes it count.
func (c *carry) fill(s *splitter, pending uint64, sum uint32) (head uint64) {
	next := c.head().Load()&slotMask ^ 1
	b := c.slot(next)
	binary.LittleEndian.PutUint32(b[slotLen:], uint32(len(s.rest))) //nolint:gosec // less than maxLine
	inside := uint32(0)
	if s.inside {
		inside = 1
	}
	binary.LittleEndian.PutUint32(b[slotInside:], inside)
	binary.LittleEndian.PutUint32(b[slotSum:], sum)
	binary.LittleEndian.PutUint64(b[slotSince:], uint64(s.since.UnixNano())) //nolint:gosec // read back the same way
	copy(b[slotHead:], s.rest)
	return next | pending<<takenShift
}

// taken notes that the pipe holds nothing any more that is logged.
func (c *carry) taken() {
	if c != nil {
		c.head().Store(c.head().Load() & slotMask)
	}
}

// restore gives s what an earlier daemon held, and says how many bytes at the
// start of the pipe, with which checksum, that one may have logged.
func (c *carry) restore(s *splitter) (pending int, sum uint32) {
	if c == nil {
		return 0, 0
	}
	head := c.head().Load()
	b := c.slot(head)
	n := binary.LittleEndian.Uint32(b[slotLen:])
	if n >= maxLine {
		return 0, 0 // not ours
	}
	s.rest = append([]byte(nil), b[slotHead:slotHead+n]...)
	s.inside = binary.LittleEndian.Uint32(b[slotInside:]) == 1
	s.since = time.Unix(0, int64(binary.LittleEndian.Uint64(b[slotSince:]))) //nolint:gosec // written the same way
	return int(head >> takenShift), binary.LittleEndian.Uint32(b[slotSum:])  //nolint:gosec // at most readSize
}
