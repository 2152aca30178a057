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

	"holdfast.dev/holdfast/internal/container/logs"
)

// carry is what a daemon that is killed hands to the next one, for one output
// stream: the beginning of a line whose end has not come, and how much of what
// lies in the pipe is in the log already. It is a file mapped into memory, so that
// keeping it up to date is a few stores and no system call. It need not outlive
// the machine's run: neither do processes and pipes.
//
// Layout: a head, two slots, an intent. The head says which slot counts and how
// many bytes of the pipe are logged but not yet taken out of it, in one word: it is
// changed by one store. A slot is written only while the other one counts.
//
// A kill takes a thread at the end of a system call above all: the log's write is
// done and nothing says so. So the intent says what is about to be logged and where
// in the log it begins, and the next daemon looks there.
type carry struct {
	mem  []byte
	next uint64 // the head that was prepared
}

const (
	carryHead = 64
	slotHead  = 32
	carrySlot = slotHead + maxLine
	// The intent came later: it lies behind what older daemons wrote.
	carryIntent = carryHead + 2*carrySlot
	carrySize   = carryIntent + intentFirst + 2*placeSize
	slotMask    = 1
	takenShift  = 8

	// Offsets in a slot.
	slotLen    = 0  // of the line's beginning
	slotInside = 4  // 1: a piece of the line was logged before
	slotSum    = 8  // of the bytes that were logged last
	slotSince  = 16 // when the line began, nanoseconds since 1970

	// Offsets in the intent.
	intentKind  = 0  // one of intentNone…
	intentPlace = 8  // 0, or which of the two places counts
	intentBytes = 16 // how many of the pipe, with intentSum
	intentSum   = 24
	intentNow   = 32 // the time the messages have
	intentFirst = 64 // two places
	placeSize   = 64

	// Offsets in a place.
	placeFile   = 0
	placeBorn   = 8
	placeAt     = 16
	placeBefore = 24 // messages of the batch
	placeAfter  = 32
)

// Kinds of intent.
const (
	intentNone  = iota
	intentWrite // output is logged
	intentFlush // the beginning of a line is logged, at the end of the stream
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

func (c *carry) intent() []byte { return c.mem[carryIntent:] }

// word is a part of the intent that says whether another part counts.
func (c *carry) word(off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&c.intent()[off]))
}

// prepare writes down, before p is logged, what s holds of the line that goes on
// after it, which counts from logged on, and that p, read at now, is being logged.
func (c *carry) prepare(s *splitter, p []byte, now time.Time) {
	if c == nil {
		return
	}
	sum := crc32.ChecksumIEEE(p)
	c.next = c.fill(s, uint64(len(p)), sum)
	b := c.intent()
	binary.LittleEndian.PutUint64(b[intentBytes:], uint64(len(p)))
	binary.LittleEndian.PutUint32(b[intentSum:], sum)
	binary.LittleEndian.PutUint64(b[intentNow:], uint64(now.UnixNano())) //nolint:gosec // read back the same way
	c.word(intentPlace).Store(0)
	c.word(intentKind).Store(intentWrite)
}

// prepareFlush is prepare for the beginning of a line that s held and gave out.
func (c *carry) prepareFlush(s *splitter) {
	if c == nil {
		return
	}
	head := c.head().Load()
	c.next = c.fill(s, head>>takenShift, binary.LittleEndian.Uint32(c.slot(head)[slotSum:]))
	c.word(intentPlace).Store(0)
	c.word(intentKind).Store(intentFlush)
}

// note says where the coming write of the log begins, and how many messages of
// what was prepared are logged before and after it.
func (c *carry) note(p logs.Place, before, after int) {
	if c == nil {
		return
	}
	which := c.word(intentPlace).Load()&1 + 1 // 1, 2, 1…
	b := c.place(which)
	binary.LittleEndian.PutUint64(b[placeFile:], p.File)
	binary.LittleEndian.PutUint64(b[placeBorn:], p.Born)
	binary.LittleEndian.PutUint64(b[placeAt:], uint64(p.At))       //nolint:gosec // a file's size
	binary.LittleEndian.PutUint64(b[placeBefore:], uint64(before)) //nolint:gosec // a count
	binary.LittleEndian.PutUint64(b[placeAfter:], uint64(after))   //nolint:gosec // a count
	c.word(intentPlace).Store(which)
}

func (c *carry) place(which uint64) []byte {
	from := intentFirst + int(which-1)*placeSize //nolint:gosec // 1 or 2
	return c.intent()[from : from+placeSize]
}

// logged notes that what was prepared is logged; output is still in the pipe.
func (c *carry) logged() {
	if c != nil {
		c.head().Store(c.next)
		c.word(intentKind).Store(intentNone)
	}
}

// adopt is prepare for an intent that an earlier daemon left: that one and its
// place stand until the next write is noted.
func (c *carry) adopt(s *splitter, pending int, sum uint32) {
	if c != nil {
		c.next = c.fill(s, uint64(pending), sum) //nolint:gosec // at most readSize
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

// left is what an earlier daemon was in the middle of.
type left struct {
	pending int    // bytes at the start of the pipe that it logged
	sum     uint32 // of them, or of what it was logging
	intent  uint64
	bytes   int       // at the start of the pipe that it was logging
	now     time.Time // the time their messages have
	// noted: where the last write of these messages was to begin, and how many of
	// them were logged before and are logged after it.
	noted         bool
	place         logs.Place
	before, after int
}

// restore gives s what an earlier daemon held, and says what that one was doing.
func (c *carry) restore(s *splitter) left {
	if c == nil {
		return left{}
	}
	head := c.head().Load()
	b := c.slot(head)
	n := binary.LittleEndian.Uint32(b[slotLen:])
	if n >= maxLine {
		return left{} // not ours
	}
	s.rest = append([]byte(nil), b[slotHead:slotHead+n]...)
	s.inside = binary.LittleEndian.Uint32(b[slotInside:]) == 1
	s.since = time.Unix(0, int64(binary.LittleEndian.Uint64(b[slotSince:])))                  //nolint:gosec // written the same way
	l := left{pending: int(head >> takenShift), sum: binary.LittleEndian.Uint32(b[slotSum:])} //nolint:gosec // at most readSize
	// With bytes pending the intent was fulfilled.
	if l.pending == 0 {
		c.restoreIntent(&l)
	}
	return l
}

func (c *carry) restoreIntent(l *left) {
	b := c.intent()
	number := func(b []byte, off int) int { return int(binary.LittleEndian.Uint64(b[off:])) } //nolint:gosec // written by note and prepare
	if l.intent = c.word(intentKind).Load(); l.intent == intentWrite {
		l.bytes = number(b, intentBytes)
		l.sum = binary.LittleEndian.Uint32(b[intentSum:])
		l.now = time.Unix(0, int64(number(b, intentNow)))
	}
	which := c.word(intentPlace).Load()
	if l.intent == intentNone || which != 1 && which != 2 {
		return
	}
	p := c.place(which)
	l.noted = true
	l.place = logs.Place{File: binary.LittleEndian.Uint64(p[placeFile:]), Born: binary.LittleEndian.Uint64(p[placeBorn:]), At: int64(number(p, placeAt))}
	l.before, l.after = number(p, placeBefore), number(p, placeAfter)
}
