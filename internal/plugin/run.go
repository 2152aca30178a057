package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
)

const (
	// DefaultTimeout is how long a plugin may take until it listens.
	DefaultTimeout = 30 * time.Second
	// grace is what a plugin gets to end by itself.
	grace = 10 * time.Second
	// A plugin that ends by itself is started again after a pause that grows from
	// firstPause to longestPause and is short again for one that ran for steady.
	firstPause   = 100 * time.Millisecond
	longestPause = time.Minute
	steady       = 10 * time.Second
)

// run is the process of an enabled plugin, through all its restarts.
type run struct {
	end  context.CancelFunc
	done chan struct{}
}

// Start clears away what an earlier daemon left half done, takes over the plugins
// that still run, and starts the others in the background.
func (s *Service) Start(ctx context.Context) error {
	s.runc, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.settle(ctx); err != nil {
		return fmt.Errorf("clear away what is left of plugins: %w", err)
	}
	for _, r := range s.all() {
		if !r.Enabled {
			if err := s.halt(ctx, &r); err != nil {
				return err
			}
			continue
		}
		alive, err := s.d.Tasks.Adopt(ctx, r.ID, s.logger(&r))
		if err != nil {
			return err
		}
		s.supervise(r.ID, alive) //nolint:contextcheck // it outlives the start
	}
	return nil
}

// Stop lets go of the plugins; with end it ends their processes, too.
func (s *Service) Stop(ctx context.Context, end bool) error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	s.wg.Wait()
	if !end {
		return nil
	}
	var errs []error
	for _, r := range s.all() {
		errs = append(errs, s.halt(ctx, &r))
	}
	return errors.Join(errs...)
}

// Enable starts a plugin and waits until it listens.
func (s *Service) Enable(ctx context.Context, name string, timeout time.Duration) error {
	return s.change(ctx, name, func(r Record) error {
		if r.Enabled {
			return fault.New(errdefs.ErrFailedPrecondition, "plugin %q is already enabled", r.Name)
		}
		if t := unserved(&r.Config); t != "" {
			return fault.New(errdefs.ErrNotImplemented, "plugin %q has the interface %s, which is not supported: only volume drivers are", r.Name, t)
		}
		if timeout <= 0 {
			timeout = DefaultTimeout
		}
		if err := s.launch(ctx, &r, timeout); err != nil {
			return errors.Join(err, s.halt(context.WithoutCancel(ctx), &r))
		}
		r.Enabled = true
		if err := s.put(r); err != nil {
			return errors.Join(err, s.halt(context.WithoutCancel(ctx), &r))
		}
		s.supervise(r.ID, true) //nolint:contextcheck // it outlives the request
		s.emit(events.ActionEnable, r.ID, r.Name)
		return nil
	})
}

// Disable stops a plugin. One with volumes is stopped by force only.
func (s *Service) Disable(ctx context.Context, name string, force bool) error {
	return s.change(ctx, name, func(r Record) error {
		if !r.Enabled {
			return fault.New(errdefs.ErrFailedPrecondition, "plugin %q is already disabled", r.Name)
		}
		if !force {
			if err := s.unused(&r); err != nil {
				return err
			}
		}
		ctx := context.WithoutCancel(ctx)
		r.Enabled = false
		if err := s.put(r); err != nil { // from here on nobody starts it again
			return err
		}
		if err := s.halt(ctx, &r); err != nil {
			return err
		}
		s.emit(events.ActionDisable, r.ID, r.Name)
		return nil
	})
}

// launch makes a plugin's process and waits until it listens.
func (s *Service) launch(ctx context.Context, r *Record, timeout time.Duration) error {
	at := s.at(r)
	if err := os.RemoveAll(at.run); err != nil { // a socket that nobody listens on any more
		return fmt.Errorf("clear the run directory of plugin %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(at.run, 0o700); err != nil {
		return fmt.Errorf("make the run directory of plugin %s: %w", r.Name, err)
	}
	if r.Config.PropagatedMount != "" {
		if err := os.MkdirAll(at.propagated, 0o755); err != nil { //nolint:gosec // volumes are in it
			return fmt.Errorf("make the shared directory of plugin %s: %w", r.Name, err)
		}
		if err := s.d.Machine.Share(at.propagated); err != nil {
			return fmt.Errorf("share the mounts of plugin %s: %w", r.Name, err)
		}
	}
	spec, err := s.spec(ctx, r, at)
	if err != nil {
		return err
	}
	if err := s.d.Tasks.Start(ctx, r.ID, spec, s.logger(r)); err != nil {
		return fmt.Errorf("start plugin %s: %w", r.Name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it does not listen on %s after %s", r.Config.Interface.Socket, timeout))
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	s.wg.Go(func() { // ends with the plugin or with ctx
		if code, err := s.d.Tasks.Wait(ctx, r.ID); err == nil {
			ended(fmt.Errorf("it ended with code %d; the daemon's log has what it wrote", code))
		}
	})
	if err := s.d.Machine.Listening(ctx, at.socket(&r.Config)); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fault.Wrap(errdefs.ErrUnavailable, err, "start plugin %s", r.Name)
	}
	return nil
}

func (s *Service) spec(ctx context.Context, r *Record, at places) (*specs.Spec, error) {
	base, err := s.d.Tasks.Base(ctx)
	if err != nil {
		return nil, err
	}
	in := &specInput{base: base, rec: r, at: at, cgroup: s.d.Cgroup(r.ID), have: s.d.Capabilities}
	for _, dev := range r.Settings.Devices {
		if dev.Path == nil || *dev.Path == "" {
			return nil, fault.New(errdefs.ErrInvalidArgument, "plugin %s: the path of device %q is not set", r.Name, dev.Name)
		}
		d, err := s.d.Machine.Device(*dev.Path)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: device %q: %w", r.Name, dev.Name, err)
		}
		in.devices = append(in.devices, d)
	}
	return buildSpec(in)
}

func (s *Service) logger(r *Record) func(string) {
	return func(line string) { s.d.Log.Info("plugin says", logkey.Name, r.Name, logkey.Text, line) }
}

// supervise keeps an enabled plugin running until halt, or Stop.
func (s *Service) supervise(id string, alive bool) {
	ctx, end := context.WithCancel(s.runc)
	r := &run{end: end, done: make(chan struct{})}
	s.mu.Lock()
	s.runs[id] = r
	s.mu.Unlock()
	s.wg.Go(func() {
		defer close(r.done)
		defer end()
		pause := firstPause
		for {
			if alive {
				since := s.d.Clock.Now()
				code, err := s.d.Tasks.Wait(ctx, id)
				if ctx.Err() != nil {
					return
				}
				s.d.Log.Warn("plugin ended, it is started again", logkey.Name, id, logkey.Status, code, logkey.Err, err)
				if s.d.Clock.Now().Sub(since) >= steady {
					pause = firstPause
				}
			}
			if clock.Sleep(ctx, s.d.Clock, pause) != nil {
				return
			}
			pause = min(2*pause, longestPause)
			if alive = s.again(ctx, id); ctx.Err() != nil {
				return
			}
		}
	})
}

// again starts a plugin that ended, as it is recorded now.
func (s *Service) again(ctx context.Context, id string) bool {
	rec, err := s.find(id)
	if err == nil {
		err = s.d.Tasks.Delete(ctx, id)
	}
	if err == nil {
		if err = s.launch(ctx, &rec, DefaultTimeout); err != nil {
			err = errors.Join(err, s.d.Tasks.Delete(context.WithoutCancel(ctx), id))
		}
	}
	if err != nil && ctx.Err() == nil {
		s.d.Log.Error("plugin does not start", logkey.Name, id, logkey.Err, err)
	}
	return err == nil
}

// halt ends a plugin's process and its supervision, and unmounts what it had
// mounted for others. It may be repeated, and called where nothing runs.
func (s *Service) halt(ctx context.Context, r *Record) error {
	s.mu.Lock()
	run := s.runs[r.ID]
	delete(s.runs, r.ID)
	s.mu.Unlock()
	if run != nil {
		run.end()
		<-run.done
	}
	if err := s.d.Tasks.Terminate(ctx, r.ID); err == nil {
		wait, cancel := context.WithTimeout(ctx, grace)
		if _, err := s.d.Tasks.Wait(wait, r.ID); err != nil {
			s.d.Log.Warn("plugin does not end by itself, it is killed", logkey.Name, r.Name)
		}
		cancel()
	} else if !errdefs.IsNotFound(err) {
		s.d.Log.Warn("plugin not asked to end, it is killed", logkey.Name, r.Name, logkey.Err, err)
	}
	if err := s.d.Tasks.Delete(ctx, r.ID); err != nil {
		return fmt.Errorf("stop plugin %s: %w", r.Name, err)
	}
	at := s.at(r)
	if err := s.d.Machine.Unshare(at.propagated); err != nil {
		return fmt.Errorf("unmount what plugin %s had mounted: %w", r.Name, err)
	}
	if err := os.RemoveAll(at.run); err != nil {
		return fmt.Errorf("remove the run directory of plugin %s: %w", r.Name, err)
	}
	return nil
}
