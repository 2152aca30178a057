package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/build"
)

// uploadWait bounds how long one of the two requests of a build waits for the
// other, as in Docker.
const uploadWait = 5 * time.Second

// uploads brings the two requests of a build together, whichever comes first.
type uploads struct {
	mu      sync.Mutex // guards waiting
	waiting map[string]*meeting
}

// meeting is of one build and one upload; who waits for it counts in users.
type meeting struct {
	context chan *io.PipeReader
	users   int
}

func (u *uploads) join(id string) (m *meeting, leave func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.waiting == nil {
		u.waiting = map[string]*meeting{}
	}
	m = u.waiting[id]
	if m == nil {
		m = &meeting{context: make(chan *io.PipeReader)}
		u.waiting[id] = m
	}
	m.users++
	return m, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(u.waiting, id)
		}
	}
}

// give hands body to the build and returns when that has read it, or wants no more of it.
func (u *uploads) give(ctx context.Context, id string, body io.Reader) error {
	r, w := io.Pipe()
	if err := u.meet(ctx, id, func(m *meeting, over <-chan struct{}) bool {
		select {
		case m.context <- r:
			return true
		case <-over:
			return false
		}
	}); err != nil {
		return fault.Wrap(errdefs.ErrUnavailable, err, "no build asks for the context of %s", id)
	}
	_, err := io.Copy(w, body)
	_ = w.CloseWithError(err) // always nil
	if err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "upload a build context")
	}
	return nil
}

// take waits for the context; the caller closes it.
func (u *uploads) take(ctx context.Context, id string) (context *io.PipeReader, err error) {
	if err := u.meet(ctx, id, func(m *meeting, over <-chan struct{}) bool {
		select {
		case context = <-m.context:
			return true
		case <-over:
			return false
		}
	}); err != nil {
		return nil, fault.Wrap(errdefs.ErrUnavailable, err, "no context was uploaded for the build %s", id)
	}
	return context, nil
}

func (u *uploads) meet(ctx context.Context, id string, do func(m *meeting, over <-chan struct{}) bool) error {
	m, leave := u.join(id)
	defer leave()
	ctx, cancel := context.WithTimeoutCause(ctx, uploadWait, fmt.Errorf("waited for %v", uploadWait))
	defer cancel()
	if do(m, ctx.Done()) {
		return nil
	}
	return context.Cause(ctx)
}

// Upload is the second request of a build whose first one asked for it.
func (b *Builder) Upload(ctx context.Context, id string, body io.Reader) error {
	return b.uploads.give(ctx, id, body)
}

// receive unpacks an uploaded context to a directory of its own.
func (b *Builder) receive(ctx context.Context, id string) (dir string, err error) {
	if id == "" {
		return "", fault.New(errdefs.ErrInvalidArgument, "a build whose context is uploaded needs an ID")
	}
	body, err := b.uploads.take(ctx, id)
	if err != nil {
		return "", err
	}
	// A cancelled build waits for no client; what that still sends fails.
	stop := context.AfterFunc(ctx, func() { _ = body.CloseWithError(context.Cause(ctx)) })
	defer stop()
	dir, err = b.unpack(body)
	return dir, errors.Join(err, body.CloseWithError(err))
}

// offer serves an unpacked context to the solver, until done is called. BuildKit
// takes local files from sessions: this is one without a client.
func (o *opened) offer(ctx context.Context, opt *bkclient.SolveOpt, r build.Request, dir string) (done func(), err error) {
	if err := mountContext(opt, r, dir); err != nil {
		return nil, err
	}
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("make a session for the build context: %w", err)
	}
	dirs := filesync.StaticDirSource{}
	maps.Copy(dirs, opt.LocalMounts)
	s.Allow(filesync.NewFSSyncProvider(dirs))
	for name := range dirs {
		opt.FrontendAttrs["local-sessionid:"+name] = s.ID()
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		err := s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			work.Go(func() {
				if err := o.sessions.HandleConn(ctx, theirs, meta); err != nil && ctx.Err() == nil {
					o.log.Warn("session of a build context broke", logkey.Err, err)
				}
			})
			return ours, nil
		})
		if err != nil && ctx.Err() == nil {
			o.log.Warn("session of a build context ended", logkey.Err, err)
		}
	})
	return func() {
		cancel()
		_ = s.Close() // its connection is in memory
		work.Wait()
	}, nil
}

func (b *Builder) dropContext(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		b.cfg.Log.Warn("build context not removed", logkey.Path, dir, logkey.Err, err)
	}
}
