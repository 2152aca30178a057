package analyze

import "io"

// ahead reads on while what was read is looked at: unpacking a compressed layer
// and hashing its files are each other's equal in work.
type ahead struct {
	full chan block
	free chan []byte
	quit chan struct{}
	done chan struct{}

	cur  block
	rest []byte
}

type block struct {
	b   []byte
	err error
}

const (
	aheadBlocks = 4
	aheadBlock  = 256 << 10
)

func readAhead(r io.Reader) *ahead {
	a := &ahead{
		full: make(chan block, aheadBlocks), free: make(chan []byte, aheadBlocks),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadBlocks {
		a.free <- make([]byte, aheadBlock)
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.quit:
			return
		}
		n, err := 0, error(nil)
		for n < len(b) && err == nil {
			var k int
			k, err = r.Read(b[n:])
			n += k
			select {
			case <-a.quit:
				return
			default:
			}
		}
		a.full <- block{b[:n], err} // has room: there are no more blocks than that
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.b != nil {
			a.free <- a.cur.b[:cap(a.cur.b)]
		}
		a.cur = <-a.full
		a.rest = a.cur.b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends reading ahead and waits for it.
func (a *ahead) stop() {
	close(a.quit)
	<-a.done
}
