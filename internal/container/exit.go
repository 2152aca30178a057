package container

import (
	"context"
	"maps"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// drainLimit bounds the wait for output after the main process has gone: a
	// process outside the container may hold the other end for ever.
	drainLimit = 2 * time.Second
	// cleanLimit bounds clearing away after an exit.
	cleanLimit = 2 * time.Minute
)

// exitSeen handles the end of a container's main process.
func (s *Service) exitSeen(ctx context.Context, ev TaskEvent) {
	s.mu.Lock()
	c := s.byID[ev.Container]
	s.mu.Unlock()
	if c == nil {
		return
	}
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	// A second report of an exit, or of a process of an earlier run.
	if !r.Phase.alive() || (ev.Pid != 0 && r.Pid != 0 && ev.Pid != r.Pid) {
		return
	}
	s.finish(ctx, c, ev.Exit)
}

// finish ends a run whose process is gone: streams, mounts, network, record,
// event, and then what the restart policy or --rm says. The caller holds op.
func (s *Service) finish(ctx context.Context, c *Container, exit Exit) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	s.stopHealth(c)
	s.drain(ctx, c)

	down := s.goingDown()
	c.mu.Lock()
	r := c.rec
	e := ending{
		policy: r.HostConfig.RestartPolicy, exitCode: exit.Code, ran: exit.At.Sub(r.StartedAt),
		restarts: r.RestartCount, backoff: c.backoff, forbidden: down || c.noRestart,
	}
	byRestart := c.byRestart
	c.mu.Unlock()

	again, pause := decideRestart(e)
	removing := r.HostConfig.AutoRemove && !again && !byRestart
	to, why := Exited, "process ended"
	if again {
		to, why = Restarting, "restart policy"
	}
	err := s.to(c, to, why, func(r *Record) {
		r.Pid, r.Sandbox = 0, nil
		r.ExitCode, r.FinishedAt = exit.Code, exit.At.UTC()
		if again {
			r.RestartCount++
		}
	})
	// The exit code is written before the task, which knows it too, is deleted.
	// The record of a container that is removed next need not say how it ended:
	// without a task, Restore removes it just the same.
	if err == nil && !removing {
		err = s.save(c)
	}
	s.tearDown(ctx, c, removing)
	s.closeStreams(c)
	if err != nil {
		err = s.save(c)
	}
	if err != nil {
		s.d.Log.Error("exit not recorded", logkey.Container, r.ID, logkey.Err, err)
	}
	s.emit(c.record(), events.ActionDie, map[string]string{
		"exitCode":     strconv.Itoa(exit.Code),
		"execDuration": strconv.Itoa(int(e.ran.Seconds())),
	})
	c.dropUnstarted()
	s.endRun(c)
	s.notifyExit(c) // each run's end, also of one that is followed by another
	if again {
		s.scheduleRestart(c, pause)
		return
	}
	if removing {
		if err := s.remove(ctx, c, true); err != nil {
			s.d.Log.Error("container not removed after its end", logkey.Container, r.ID, logkey.Err, err)
		}
	}
}

// dropUnstarted forgets the execs that nobody started: their container ended.
func (c *Container) dropUnstarted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.execs, func(_ string, e *execState) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return !e.claimed
	})
}

// endRun tells those who wait for the end of this run, not for the container's rest.
func (s *Service) endRun(c *Container) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exited != nil {
		close(c.exited)
		c.exited = nil
	}
}

// drain waits until all output is read and logged.
func (s *Service) drain(ctx context.Context, c *Container) {
	c.mu.Lock()
	h := c.hub
	c.mu.Unlock()
	if h == nil {
		return
	}
	t := s.d.Clock.NewTimer(drainLimit)
	defer t.Stop()
	select {
	case <-h.Drained():
	case <-t.C():
		s.d.Log.Warn("output cut off: another process holds it open", logkey.Container, c.record().ID)
	case <-ctx.Done():
	}
}

// scheduleRestart starts the container again after a pause, unless somebody
// stops it meanwhile. The caller holds op.
func (s *Service) scheduleRestart(c *Container, pause time.Duration) {
	giveUp := make(chan struct{})
	c.mu.Lock()
	c.backoff = pause
	c.stopTimer = giveUp
	c.mu.Unlock()
	s.spawn(func() {
		t := s.d.Clock.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C():
		case <-giveUp:
			return
		case <-s.life.Done():
			return
		}
		select {
		case <-s.serving:
		case <-s.life.Done():
			return
		}
		c.op.Lock()
		defer c.op.Unlock()
		c.mu.Lock()
		mine := c.stopTimer == giveUp
		if mine {
			c.stopTimer = nil
		}
		c.mu.Unlock()
		if !mine || c.record().Phase != Restarting || s.goingDown() {
			return
		}
		if err := s.launch(s.life, c, false); err != nil {
			s.d.Log.Warn("restart by policy gave up", logkey.Container, c.record().ID, logkey.Err, err)
		}
	})
}

// giveUpRestart makes a container that waits for its restart a stopped one.
// The caller holds op.
func (s *Service) giveUpRestart(c *Container, change func(*Record)) error {
	c.mu.Lock()
	if c.stopTimer != nil {
		close(c.stopTimer)
		c.stopTimer = nil
	}
	c.mu.Unlock()
	if err := s.to(c, Exited, "stopped while waiting for restart", change); err != nil {
		return err
	}
	err := s.save(c)
	s.notifyExit(c)
	return err
}

// oomSeen records that the kernel killed a process of the container for memory.
func (s *Service) oomSeen(ev TaskEvent) {
	s.mu.Lock()
	c := s.byID[ev.Container]
	s.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	c.rec.OOMKilled = true
	r := c.rec
	c.mu.Unlock()
	s.emit(r, events.ActionOOM, nil)
}
