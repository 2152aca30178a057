package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	defaultStopTimeout = 10 * time.Second
	// killLimit is how long a killed process may take to be gone.
	killLimit = 10 * time.Second
	forEver   = time.Duration(-1)
)

// Stop ends a container: its stop signal, then, after the timeout, SIGKILL. A
// nil timeout is the container's own, a negative one waits for ever.
func (s *Service) Stop(ctx context.Context, name, signal string, timeout *int) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	if !c.settled().Phase.running() {
		return fault.New(errdefs.ErrNotModified, "container is already stopped")
	}
	sig, limit, err := s.stopWish(c.record(), signal, timeout)
	if err != nil {
		return err
	}
	if err := s.stop(context.WithoutCancel(ctx), c, sig, limit); err != nil {
		return fmt.Errorf("cannot stop container: %s: %w", name, err)
	}
	return nil
}

// stopWish works out signal and patience of a stop.
func (s *Service) stopWish(r Record, signal string, timeout *int) (syscall.Signal, time.Duration, error) {
	sig := stopSignal(r.Config.StopSignal)
	if signal != "" {
		var err error
		if sig, err = parseSignal(signal); err != nil {
			return 0, 0, err
		}
	}
	if timeout == nil {
		timeout = r.Config.StopTimeout
	}
	if timeout == nil {
		timeout = s.d.Settings.StopTimeout
	}
	switch {
	case timeout == nil:
		return sig, defaultStopTimeout, nil
	case *timeout < 0:
		return sig, forEver, nil
	}
	return sig, time.Duration(*timeout) * time.Second, nil
}

// stop signals, waits, and kills. It holds op only while it signals.
func (s *Service) stop(ctx context.Context, c *Container, sig syscall.Signal, limit time.Duration) error {
	exited, err := s.signal(ctx, c, sig, true)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if exited == nil { // it did not run, or waited for its restart
		s.emit(c.record(), events.ActionStop, nil)
		return nil
	}
	if s.await(ctx, exited, limit) {
		s.emit(c.record(), events.ActionStop, nil)
		return nil
	}
	s.d.Log.Info("container did not end in time: killing it", logkey.Container, c.record().ID)
	if err := s.kill(ctx, c); err != nil {
		return err
	}
	s.emit(c.record(), events.ActionStop, nil)
	return nil
}

// kill sends SIGKILL and waits for the end. A container that does not run is
// no error.
func (s *Service) kill(ctx context.Context, c *Container) error {
	exited, err := s.signal(ctx, c, syscall.SIGKILL, true)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if exited == nil || s.await(ctx, exited, killLimit) {
		return nil
	}
	// The exit may have happened and its event been lost: ask.
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	if !r.Phase.alive() {
		return nil
	}
	st, err := s.d.Runtime.State(ctx, r.ID, "")
	switch {
	case errdefs.IsNotFound(err):
		s.finish(ctx, c, Exit{Code: 128 + int(syscall.SIGKILL), At: s.d.Clock.Now()})
		return nil
	case err == nil && st.Status == TaskStopped:
		s.finish(ctx, c, st.Exit)
		return nil
	}
	return errors.New("tried to kill container, but did not receive an exit event")
}

// await waits for an exit, for ever where limit is negative.
func (s *Service) await(ctx context.Context, exited <-chan struct{}, limit time.Duration) bool {
	if limit < 0 {
		select {
		case <-exited:
			return true
		case <-ctx.Done():
			return false
		}
	}
	t := s.d.Clock.NewTimer(limit)
	defer t.Stop()
	select {
	case <-exited:
		return true
	case <-t.C():
		return false
	case <-ctx.Done():
		return false
	}
}

// signal sends a signal to the main process and returns a channel that closes
// with the run, or nil where nothing runs. stopping says that the container
// shall end by it: that is written down first, so that a new daemon neither
// restarts it nor forgets to end it.
func (s *Service) signal(ctx context.Context, c *Container, sig syscall.Signal, stopping bool) (<-chan struct{}, error) {
	c.op.Lock()
	defer c.op.Unlock()
	r := c.record()
	byUser := func(r *Record) { r.StoppedByUser = r.StoppedByUser || !s.goingDown() }
	if r.Phase == Restarting {
		if !stopping {
			return nil, nil
		}
		return nil, s.giveUpRestart(c, byUser)
	}
	if !r.Phase.alive() {
		return nil, nil
	}
	c.mu.Lock()
	exited, noRestart := c.exited, c.noRestart
	if stopping {
		c.noRestart = true
	}
	c.mu.Unlock()
	switch {
	case stopping && r.Phase != Stopping:
		if err := s.to(c, Stopping, "asked to stop", byUser); err != nil {
			return nil, err
		}
		s.saveStopping(c)
	case !stopping:
		c.mu.Lock()
		byUser(&c.rec)
		c.mu.Unlock()
	}
	err := s.d.Runtime.Kill(ctx, r.ID, "", sig)
	if err != nil && !errdefs.IsNotFound(err) {
		if stopping && r.Phase != Stopping {
			err = errors.Join(err, s.to(c, r.Phase, "signal not sent", func(now *Record) { now.StoppedByUser = r.StoppedByUser }))
			c.mu.Lock()
			c.noRestart = noRestart
			c.mu.Unlock()
		}
		return nil, fmt.Errorf("Cannot kill container %s: %w", r.ID, err)
	}
	if r.Phase == Paused && stopping && err == nil {
		// A frozen process sees the signal once it is thawed.
		if rerr := s.d.Runtime.Resume(ctx, r.ID); rerr != nil {
			s.d.Log.Warn("cannot unpause container", logkey.Container, r.ID, logkey.Err, rerr)
		}
	}
	if err == nil {
		s.emit(r, events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	}
	return exited, err
}

// saveStopping writes the intent to stop. One with --rm needs none: whatever
// becomes of it, it is removed once it is found without a process. An intent
// that cannot be written keeps no container running: it may be the one that
// filled the disk.
func (s *Service) saveStopping(c *Container) {
	r := c.record()
	if r.HostConfig.AutoRemove {
		return
	}
	if err := s.save(c); err != nil {
		s.d.Log.Warn("stop not recorded", logkey.Container, r.ID, logkey.Err, err)
	}
}

// Kill sends a signal, SIGKILL by default; that one waits for the end.
func (s *Service) Kill(ctx context.Context, name, signal string) error {
	sig := syscall.SIGKILL
	if signal != "" {
		var err error
		if sig, err = parseSignal(signal); err != nil {
			return err
		}
	}
	if sig <= 0 || sig > 64 {
		return invalid("the linux daemon does not support signal %d", sig)
	}
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	r := c.settled()
	if !r.Phase.running() {
		return errNotRunning(r.ID)
	}
	ctx = context.WithoutCancel(ctx)
	if sig == syscall.SIGKILL {
		return s.kill(ctx, c)
	}
	// Docker takes any signal for the wish to stop where the container names no
	// stop signal of its own: restart policies end then. It need not die.
	asks := r.Config.StopSignal == "" || stopSignal(r.Config.StopSignal) == sig
	return s.signalOnly(ctx, c, sig, asks)
}

// signalOnly sends a signal that the process may survive: the phase stays.
func (s *Service) signalOnly(ctx context.Context, c *Container, sig syscall.Signal, asks bool) error {
	if asks {
		c.mu.Lock()
		c.noRestart = true
		thaw := c.rec.Phase == Paused
		restarting := c.rec.Phase == Restarting
		c.mu.Unlock()
		if restarting {
			_, err := s.signal(ctx, c, sig, true)
			return err
		}
		if thaw {
			defer func() {
				if err := s.Unpause(ctx, c.record().ID); err != nil {
					s.d.Log.Warn("cannot unpause container", logkey.Container, c.record().ID, logkey.Err, err)
				}
			}()
		}
	}
	_, err := s.signal(ctx, c, sig, false)
	return err
}

// Restart stops a container, where it runs, and starts it.
func (s *Service) Restart(ctx context.Context, name, signal string, timeout *int) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	sig, limit, err := s.stopWish(c.record(), signal, timeout)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	setByRestart := func(v bool) {
		c.mu.Lock()
		c.byRestart = v
		c.mu.Unlock()
	}
	if c.settled().Phase.running() {
		setByRestart(true)
		err := s.stop(ctx, c, sig, limit)
		setByRestart(false)
		if err != nil {
			return fmt.Errorf("Cannot restart container %s: %w", name, err)
		}
	}
	if err := s.Start(ctx, c.record().ID); err != nil && !errdefs.IsNotModified(err) {
		return fmt.Errorf("Cannot restart container %s: %w", name, err)
	}
	s.emit(c.record(), events.ActionRestart, nil)
	return nil
}
