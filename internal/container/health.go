package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
	maxHealthLog         = 5
	maxHealthOutput      = 4096
	// probeFailed is the exit code of a check that could not run or took too long.
	probeFailed = -1
)

// probeCommand is what a health check runs, or nil where there is none.
func probeCommand(c *container.Config) []string {
	h := c.Healthcheck
	if h == nil || len(h.Test) == 0 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(append([]string{}, shell...), h.Test[1:]...)
	}
	return nil
}

// newHealth is the health of a container that just started; nil without a check.
func newHealth(r *Record) *container.Health {
	if len(probeCommand(r.Config)) == 0 {
		return nil
	}
	h := &container.Health{Status: container.Starting}
	if r.Health != nil {
		h.Log = r.Health.Log
	}
	return h
}

// startHealth begins to check a running container, if it has a check.
func (s *Service) startHealth(c *Container) {
	s.stopHealth(c)
	r := c.record()
	cmd := probeCommand(r.Config)
	if len(cmd) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(s.life)
	c.mu.Lock()
	c.health = cancel
	c.mu.Unlock()
	s.spawn(func() { s.watchHealth(ctx, c, cmd) })
}

// stopHealth ends the checks; one that runs is given up, its result ignored.
func (s *Service) stopHealth(c *Container) {
	c.mu.Lock()
	cancel := c.health
	c.health = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (s *Service) watchHealth(ctx context.Context, c *Container, cmd []string) {
	for {
		if clock.Sleep(ctx, s.d.Clock, healthPause(c.record(), s.d.Clock.Now())) != nil {
			return
		}
		res := s.probe(ctx, c, cmd)
		if ctx.Err() != nil {
			return
		}
		s.judge(ctx, c, res)
	}
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// healthPause is the time until the next check.
func healthPause(r Record, now time.Time) time.Duration {
	h := r.Config.Healthcheck
	starting := r.Health != nil && r.Health.Status == container.Starting
	if starting && now.Sub(r.StartedAt) < h.StartPeriod {
		return orDefault(h.StartInterval, defaultStartInterval)
	}
	return orDefault(h.Interval, defaultInterval)
}

// probe runs the check once.
func (s *Service) probe(ctx context.Context, c *Container, cmd []string) *container.HealthcheckResult {
	r := c.record()
	limit := orDefault(r.Config.Healthcheck.Timeout, defaultTimeout)
	out := &cutBuffer{max: maxHealthOutput}
	res := &container.HealthcheckResult{Start: s.d.Clock.Now()}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := errors.New("too late")
	started, done := make(chan struct{}), make(chan struct{})
	go func() {
		// The check has its time from when it runs: the engine's own share can
		// be as long as a short limit.
		select {
		case <-started:
		case <-done:
			return
		}
		t := s.d.Clock.NewTimer(limit)
		defer t.Stop()
		select {
		case <-t.C():
			cancel(late)
		case <-done:
		}
	}()
	code, err := s.runExec(ctx, c, container.ExecCreateRequest{
		AttachStdout: true, AttachStderr: true, Cmd: cmd, User: r.Config.User, WorkingDir: r.Config.WorkingDir,
	}, nil, out, func() { close(started) })
	close(done)
	res.End = s.d.Clock.Now()
	switch {
	case errors.Is(context.Cause(ctx), late):
		res.ExitCode = probeFailed
		res.Output = fmt.Sprintf("Health check exceeded timeout (%v)", limit)
		if text := out.String(); text != "" {
			res.Output += ": " + text
		}
	case err != nil:
		res.ExitCode, res.Output = probeFailed, err.Error()
	default:
		res.ExitCode, res.Output = code, out.String()
	}
	return res
}

// nextHealth is the health after a result. It does not change old.
func nextHealth(old *container.Health, cfg *container.HealthConfig, startedAt time.Time, res *container.HealthcheckResult) *container.Health {
	next := &container.Health{Status: old.Status, FailingStreak: old.FailingStreak}
	log := old.Log
	if len(log) >= maxHealthLog {
		log = log[len(log)-maxHealthLog+1:]
	}
	next.Log = append(append([]*container.HealthcheckResult{}, log...), res)
	if res.ExitCode == 0 {
		next.Status, next.FailingStreak = container.Healthy, 0
		return next
	}
	// While it starts, failures do not count.
	if old.Status == container.Starting && res.Start.Sub(startedAt) < cfg.StartPeriod {
		return next
	}
	next.FailingStreak++
	retries := cfg.Retries
	if retries <= 0 {
		retries = defaultRetries
	}
	if next.FailingStreak >= retries {
		next.Status = container.Unhealthy
	}
	return next
}

// judge puts a result into the record and tells the world of a change.
func (s *Service) judge(ctx context.Context, c *Container, res *container.HealthcheckResult) {
	c.mu.Lock()
	if ctx.Err() != nil || c.rec.Health == nil {
		c.mu.Unlock()
		return
	}
	old := c.rec.Health
	next := nextHealth(old, c.rec.Config.Healthcheck, c.rec.StartedAt, res)
	c.rec.Health = next
	r := c.rec
	c.mu.Unlock()
	if old.Status == next.Status {
		return
	}
	s.d.Log.Info("health changed", logkey.Container, r.ID, logkey.From, string(old.Status), logkey.To, string(next.Status))
	s.emit(r, events.Action(string(events.ActionHealthStatus)+": "+string(next.Status)), nil)
}

// cutBuffer keeps the first max bytes and says that there were more.
type cutBuffer struct {
	buf bytes.Buffer
	max int
	cut bool
}

// Write implements io.Writer; it takes everything.
func (b *cutBuffer) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.max - b.buf.Len(); len(p) > room {
		p, b.cut = p[:room], true
	}
	b.buf.Write(p)
	return n, nil
}

func (b *cutBuffer) String() string {
	if b.cut {
		return b.buf.String() + "..."
	}
	return b.buf.String()
}
