package stdio

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// source is where an output stream is read from.
type source interface {
	// next waits for output. It is valid until done.
	next() ([]byte, error)
	// done says that what next gave out is dealt with.
	done() error
	close()
}

// newSource looks into a pipe without emptying it, so that what a killed daemon
// had read but not yet logged is still there for the next one.
func newSource(r io.Reader) source {
	f, ok := r.(*os.File)
	if !ok {
		return &reader{r: r, buf: make([]byte, readSize)}
	}
	p, err := newPeeker(f)
	if err != nil { // not a pipe, or no file descriptors left
		return &reader{r: r, buf: make([]byte, readSize)}
	}
	return p
}

// reader is any other stream.
type reader struct {
	r   io.Reader
	buf []byte
}

func (r *reader) next() ([]byte, error) {
	n, err := r.r.Read(r.buf)
	if n > 0 {
		err = nil // an error comes again
	}
	return r.buf[:n], err
}

func (*reader) done() error { return nil }
func (*reader) close()      {}

// peeker copies what is in a pipe by tee(2) and takes it out when it is done with.
type peeker struct {
	raw    syscall.RawConn
	pr, pw int // a pipe of our own that the copy goes through
	null   int
	buf    []byte
	n      int
}

func newPeeker(f *os.File) (*peeker, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode()&os.ModeNamedPipe == 0 {
		return nil, errors.New("not a pipe")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return &peeker{raw: raw, pr: fds[0], pw: fds[1], null: null, buf: make([]byte, readSize)}, nil
}

func (p *peeker) close() {
	for _, fd := range []int{p.pr, p.pw, p.null} {
		_ = unix.Close(fd) // nothing is buffered
	}
}

// next implements source.
func (p *peeker) next() ([]byte, error) { return p.peek(true) }

// peek looks at what is in the pipe; without wait it gives nothing where there is nothing.
func (p *peeker) peek(wait bool) ([]byte, error) {
	var n int64
	var err error
	rerr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, err = unix.Tee(int(fd), p.pw, readSize, unix.SPLICE_F_NONBLOCK) //nolint:gosec // file descriptors are small
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case rerr != nil:
		return nil, rerr
	case !wait && errors.Is(err, unix.EAGAIN):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look into pipe: %w", err)
	case n == 0:
		return nil, io.EOF
	}
	p.n = 0
	for p.n < int(n) {
		k, err := unix.Read(p.pr, p.buf[p.n:n])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || k == 0 {
			return nil, fmt.Errorf("read copy of pipe: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		p.n += k
	}
	return p.buf[:p.n], nil
}

// done implements source.
func (p *peeker) done() error {
	var err error
	cerr := p.raw.Control(func(fd uintptr) { err = p.discard(int(fd)) }) //nolint:gosec // file descriptors are small
	return errors.Join(cerr, err)
}

func (p *peeker) discard(fd int) error {
	for p.n > 0 {
		k, err := unix.Splice(fd, nil, p.null, nil, p.n, unix.SPLICE_F_NONBLOCK)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || k == 0 {
			return fmt.Errorf("take output out of pipe: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		p.n -= int(k)
	}
	return nil
}

// skip takes the first n bytes out of the pipe if they have that checksum: an
// earlier daemon logged them and had no time to take them out.
func (p *peeker) skip(n int, sum uint32) error {
	b, err := p.first(n, sum)
	if err != nil || b == nil {
		return err
	}
	return p.done()
}

// first looks at the first n bytes in the pipe, which are then to be dealt with
// like what next gives; nil where they have not that checksum.
func (p *peeker) first(n int, sum uint32) ([]byte, error) {
	b, err := p.peek(false)
	p.n = 0
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil || len(b) < n || crc32.ChecksumIEEE(b[:n]) != sum {
		return nil, err
	}
	p.n = n
	return b[:n], nil
}
