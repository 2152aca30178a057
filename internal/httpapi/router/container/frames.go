package container

import (
	"encoding/binary"
	"io"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// muxer writes several streams over one connection: each write becomes a frame
// of the stream's number, three zeros, the length (32 bits, big endian) and the
// data.
type muxer struct {
	mu  sync.Mutex // held across the write of a frame
	to  io.Writer
	buf []byte
}

func (m *muxer) stream(t stdcopy.StdType) io.Writer { return muxStream{m, t} }

type muxStream struct {
	m *muxer
	t stdcopy.StdType
}

func (s muxStream) Write(p []byte) (int, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.buf = append(s.m.buf[:0], byte(s.t), 0, 0, 0)
	s.m.buf = binary.BigEndian.AppendUint32(s.m.buf, uint32(len(p)))
	s.m.buf = append(s.m.buf, p...)
	n, err := s.m.to.Write(s.m.buf)
	return max(0, n-8), err
}
