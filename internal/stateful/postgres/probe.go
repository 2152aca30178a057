package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful"
)

// Timing of the probe.
const (
	probeEvery = time.Second
	probeLimit = 3 * time.Second
	// stallLimit is how long a leader may take no connection, or its disk nothing,
	// before another is better.
	stallLimit = 10 * time.Second
)

// reserve is what must be free on a member's disk before it is made leader: a new
// segment of the log.
const reserve = 16 << 20

// probe ends a leader that is there and does nothing: its processes are stopped,
// its disk is full or answers no more. The lease goes on meanwhile, since this
// process is well.
func (s *Server) probe(ctx context.Context) {
	limit := s.c.StallLimit
	if limit == 0 {
		limit = stallLimit
	}
	well := s.c.Now()
	disk := &diskProbe{dir: s.c.Data}
	for sleep(ctx, probeEvery) == nil {
		s.mu.Lock()
		epoch := s.lease.epoch
		leads := s.st.Phase == stateful.Leading && epoch > 0
		s.mu.Unlock()
		err := disk.look(ctx)
		s.setUnfit(disk.unfit)
		if leads && err == nil {
			err = s.takesConnections(ctx)
		}
		if !leads || err == nil {
			well = s.c.Now()
			continue
		}
		if s.c.Now().Sub(well) < limit || ctx.Err() != nil {
			continue
		}
		s.c.Log.Warn("leader does nothing any more: it is killed", logkey.Epoch, epoch, logkey.Err, err)
		s.kill()
		s.drop(epoch)
		well = s.c.Now()
	}
}

func (s *Server) setUnfit(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Unfit = why
}

// takesConnections makes one of its own. A server that answers with an error is
// well: it may have too many of them.
func (s *Server) takesConnections(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var q session
	defer q.close()
	_, err := s.ask(ctx, &q, "select 1")
	var answered *serverError
	if errors.As(err, &answered) {
		return nil
	}
	return err
}

// diskProbe looks whether a disk takes what is written. One that hangs, hangs for
// whoever asks: there is one question at a time.
type diskProbe struct {
	dir    string
	asking chan diskAnswer // nil: no question is open
	unfit  string
}

type diskAnswer struct {
	free uint64
	err  error
}

func (p *diskProbe) look(ctx context.Context) error {
	if p.asking == nil {
		p.asking = make(chan diskAnswer, 1)
		go func(to chan<- diskAnswer) { to <- askDisk(p.dir) }(p.asking)
	}
	t := time.NewTimer(probeLimit)
	defer t.Stop()
	select {
	case a := <-p.asking:
		p.asking, p.unfit = nil, ""
		if a.err == nil && a.free < reserve || errors.Is(a.err, syscall.ENOSPC) || errors.Is(a.err, syscall.EDQUOT) {
			p.unfit = "its disk is full"
		} else if a.err != nil {
			p.unfit = a.err.Error()
		}
		return a.err
	case <-t.C:
		p.unfit = "its disk does not answer"
		return errors.New("the disk takes nothing")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askDisk writes as a database does: to new space, and waits until it is there.
func askDisk(dir string) diskAnswer {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return diskAnswer{err: fmt.Errorf("look at the disk: %w", err)}
	}
	p := filepath.Join(dir, "holdfast.probe")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return diskAnswer{err: fmt.Errorf("write to the disk: %w", err)}
	}
	_, err = f.Write(make([]byte, 16<<10))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), os.Remove(p)); err != nil {
		err = fmt.Errorf("write to the disk: %w", err)
	}
	return diskAnswer{free: uint64(fs.Bavail) * uint64(fs.Bsize), err: err}
}
