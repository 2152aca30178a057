package container

import (
	"context"
	"path/filepath"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/logs"
	"holdfast.dev/holdfast/internal/container/stdio"
)

// logConfig names the log of a container.
func (s *Service) logConfig(r *Record) logs.Config {
	return logs.Config{
		Type:          r.HostConfig.LogConfig.Type,
		Options:       r.HostConfig.LogConfig.Config,
		Path:          filepath.Join(s.dir(r.ID), r.ID+"-json.log"),
		Dir:           filepath.Join(s.dir(r.ID), "local-logs"),
		ContainerID:   r.ID,
		ContainerName: r.Name,
		ImageID:       r.ImageID,
		ImageName:     r.Config.Image,
		Command:       append([]string{r.Path}, r.Args...),
		Labels:        r.Config.Labels,
		Env:           r.Config.Env,
		Created:       r.Created,
	}
}

// logPath is what inspect shows.
func (s *Service) logPath(r *Record) string {
	if r.HostConfig.LogConfig.Type != logs.JSONFile || r.StartedAt.IsZero() {
		return ""
	}
	return s.logConfig(r).Path
}

// hubOf returns the hub of the container's current run, or of its next one:
// clients attach before the start.
func (s *Service) hubOf(c *Container) *stdio.Hub {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hub == nil {
		id := c.rec.ID
		c.hub = stdio.New(stdio.Config{
			TTY:        c.rec.Config.Tty,
			OpenStdin:  c.rec.Config.OpenStdin,
			StdinOnce:  c.rec.Config.StdinOnce,
			CloseStdin: func(ctx context.Context) error { return s.d.Runtime.CloseStdin(ctx, id, "") },
			Clock:      s.d.Clock,
			Logger:     s.d.Log.With(logkey.Container, id),
		})
	}
	return c.hub
}

// logger returns the open log of the current run, or nil.
func (c *Container) logger() logs.Logger {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log
}

// openLog opens the log and puts it behind the hub of the coming run, which is a
// fresh one or one that an earlier daemon began.
func (s *Service) openLog(c *Container, fresh bool) (*stdio.Hub, error) {
	r := c.record()
	l, err := logs.Open(s.logConfig(&r))
	if err != nil {
		return nil, err
	}
	h := s.hubOf(c)
	h.SetLog(l)
	if err := h.Carry(filepath.Join(s.runDir(r.ID), "output-"), fresh); err != nil {
		// Its output is logged all the same; only a killed daemon may lose some.
		s.d.Log.Warn("state of output not kept", logkey.Container, r.ID, logkey.Err, err)
	}
	c.mu.Lock()
	c.log = l
	c.mu.Unlock()
	return h, nil
}

// closeStreams ends a run's streams: clients are let go, the log is closed.
func (s *Service) closeStreams(c *Container) {
	c.mu.Lock()
	h, l := c.hub, c.log
	c.hub, c.log = nil, nil
	id := c.rec.ID
	c.mu.Unlock()
	if h != nil {
		h.Close()
	}
	if l != nil {
		if err := l.Close(); err != nil {
			s.d.Log.Warn("log did not close", logkey.Container, id, logkey.Err, err)
		}
	}
}
