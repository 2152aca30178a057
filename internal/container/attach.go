package container

import (
	"context"
	"errors"
	"io"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/container/logs"
	"holdfast.dev/holdfast/internal/container/stdio"
)

// IsTTY tells whether the container's process has a terminal: its output is
// then one stream.
func (s *Service) IsTTY(_ context.Context, name string) (bool, error) {
	c, err := s.lookup(name)
	if err != nil {
		return false, err
	}
	return c.record().Config.Tty, nil
}

// Attach joins a client to the streams of a container that runs or will.
func (s *Service) Attach(ctx context.Context, name string, o AttachOptions) error {
	if _, err := stdio.ParseDetachKeys(o.DetachKeys); err != nil {
		return err
	}
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	r := c.record()
	switch r.Phase {
	case Paused:
		return conflict("container %s is paused, unpause the container before attach", name)
	case Restarting:
		return conflict("container %s is restarting, wait until the container is running", name)
	case Removing, Dead:
		return conflict("container %s is marked for removal and cannot be attached to", name)
	default: // one that does not run yet gives its output once it does
	}
	begin := func() error {
		if err := o.Started(); err != nil {
			return err
		}
		if o.Logs {
			if err := s.replay(ctx, c, o); err != nil {
				return err
			}
		}
		s.emit(r, events.ActionAttach, nil)
		return nil
	}
	if !o.Stream {
		return begin()
	}
	err = s.hubOf(c).Attach(ctx, stdio.AttachConfig{
		Stdin:      o.Stdin,
		Stdout:     o.Stdout,
		Stderr:     o.Stderr,
		DetachKeys: o.DetachKeys,
		Started:    begin,
	})
	if errors.Is(err, stdio.ErrDetached) || errors.Is(err, context.Canceled) {
		s.emit(r, events.ActionDetach, nil)
		return nil
	}
	return err
}

// replay writes the log so far to a client that attaches.
func (s *Service) replay(ctx context.Context, c *Container, o AttachOptions) error {
	return s.readLog(ctx, c, logs.ReadOptions{Tail: -1}, func(m logs.Message) error {
		var w io.Writer
		switch m.Stream {
		case "stdout":
			w = o.Stdout
		case "stderr":
			w = o.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(line(m))
		return err
	})
}

// line is a message's bytes as the process wrote them.
func line(m logs.Message) []byte {
	if m.Partial {
		return m.Line
	}
	return append(m.Line, '\n')
}
