package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/stdio"
)

// Start lets a container run.
func (s *Service) Start(ctx context.Context, name string) error {
	c, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch c.record().Phase {
	case Paused:
		return conflict("cannot start a paused container, try unpause instead")
	case Running, Stopping, Restarting:
		return fault.New(errdefs.ErrNotModified, "container is already running")
	case Removing, Dead:
		return conflict("container is marked for removal and cannot be started")
	default:
	}
	// Half a start helps nobody: it finishes even if the client goes.
	return s.launch(context.WithoutCancel(ctx), c, true)
}

// launch starts a container whose op the caller holds. manual is false for
// starts by restart policy, which keep counting.
func (s *Service) launch(ctx context.Context, c *Container, manual bool) error {
	before := c.record()
	if s.goingDown() {
		return fault.New(errdefs.ErrUnavailable, "the daemon is shutting down")
	}
	now := s.d.Clock.Now().UTC()
	err := s.to(c, Starting, "start", func(r *Record) {
		r.StartedAt = now
		r.Error, r.ExitCode, r.OOMKilled, r.Pid = "", 0, false, 0
		if manual {
			r.StoppedByUser, r.RestartCount = false, 0
		}
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	if manual {
		c.backoff = 0
	}
	c.noRestart = false
	c.mu.Unlock()

	pid, err := s.bringUp(ctx, c)
	if err != nil {
		return s.failStart(ctx, c, before, err)
	}
	c.mu.Lock()
	c.exited = make(chan struct{})
	c.mu.Unlock()
	if err := s.to(c, Running, "start", func(r *Record) { r.Pid = pid; r.Health = newHealth(r) }); err != nil {
		return err
	}
	s.emit(c.record(), events.ActionStart, nil)
	r := c.record()
	s.refreshLinks(&r)
	s.startHealth(c) //nolint:contextcheck // the checks outlive the request
	return nil
}

// failStart puts a container back where it was before a start that failed.
func (s *Service) failStart(ctx context.Context, c *Container, before Record, cause error) error {
	s.tearDown(ctx, c, false)
	s.closeStreams(c)
	code, cause := explainStart(cause)
	to := Exited
	if before.StartedAt.IsZero() {
		to = Created
	}
	err := s.to(c, to, "start failed", func(r *Record) {
		r.StartedAt, r.Sandbox, r.Pid = before.StartedAt, nil, 0
		r.Error, r.ExitCode = cause.Error(), code
	})
	if err == nil {
		err = s.save(c)
	}
	if err != nil {
		s.d.Log.Error("failed start not recorded", logkey.Container, before.ID, logkey.Err, err)
	}
	if before.Phase == Restarting { // else nobody was told that it ran
		s.notifyExit(c)
	}
	if before.HostConfig.AutoRemove {
		if err := s.remove(ctx, c, true); err != nil {
			s.d.Log.Error("container not removed after failed start", logkey.Container, before.ID, logkey.Err, err)
		}
	}
	return cause
}

// Exit codes of a start that failed, as shells and Docker have them.
const (
	exitCannotRun = 126
	exitNotFound  = 127
	exitUnknown   = 128
)

// explainStart finds the exit code for a failed start and words the error so
// that Docker's CLI, which looks for these texts, ends with that code too.
func explainStart(err error) (code int, explained error) {
	text := err.Error()
	low := strings.ToLower(text)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(low, w) })
	}
	var runtime *runtimeError
	if !errors.As(err, &runtime) {
		return exitUnknown, err
	}
	text = runtime.Error()
	switch {
	case has(syscall.EACCES.Error()):
		return exitCannotRun, fault.New(errdefs.ErrInvalidArgument, "%s", text)
	case has(syscall.EISDIR.Error()):
		return exitCannotRun, fault.New(errdefs.ErrInvalidArgument, "%s: %s", text, syscall.EACCES)
	case has(syscall.ENOTDIR.Error()):
		return exitNotFound, fault.New(errdefs.ErrInvalidArgument, "%s: Are you trying to mount a directory onto a file (or vice-versa)? "+
			"Check if the specified host path exists and is the expected type", text)
	case has("executable file not found", "no such file or directory"):
		return exitNotFound, fault.New(errdefs.ErrInvalidArgument, "%s", text)
	}
	return exitUnknown, err
}

// runtimeError is an error of the runtime while it made or started the process.
type runtimeError struct{ err error }

func (e *runtimeError) Error() string { return e.err.Error() }
func (e *runtimeError) Unwrap() error { return e.err }

// Keys of the times a start took: what is ours, the runtime's making of the
// process, and its letting go.
const (
	keyPrepare = "prepare"
	keyCreate  = "create"
	keyStart   = "start"
)

// bringUp does everything between a record and a running process. What it made
// before an error is for tearDown.
func (s *Service) bringUp(ctx context.Context, c *Container) (pid int, err error) {
	rec := c.record()
	begin := s.d.Clock.Now()
	in := &specInput{settings: s.d.Settings, host: s.d.Host}
	if in.security, err = parseSecurity(rec.HostConfig.SecurityOpt, s.d.Settings.NoNewPrivs); err != nil {
		return 0, err
	}
	s.d.Runtime.Ready(ctx, rec.ID)
	var hub *stdio.Hub
	var g errgroup.Group
	g.Go(func() error {
		layer, err := s.d.Rootfs.Mount(ctx, rec.ID)
		in.root = layer.Merged
		return err
	})
	mounted := make(chan struct{})
	g.Go(func() error { return s.joinNetwork(ctx, c, in, mounted) })
	g.Go(func() (err error) {
		defer close(mounted)
		if in.mounts, err = s.mountAll(ctx, &rec); err == nil {
			_, err = s.suits(ctx, &rec, in.mounts) // it has told of what it found
		}
		return err
	})
	g.Go(func() (err error) {
		hub, err = s.openLog(c, true)
		return err
	})
	g.Go(func() error { return s.shareNamespaces(&rec, in) })
	g.Go(func() (err error) {
		if in.devices, in.deviceRules, err = findDevices(rec.HostConfig, s.d.Host); err != nil {
			return err
		}
		if in.blockIO, err = blockIO(&rec.HostConfig.Resources); err != nil {
			return err
		}
		in.seccompProfile, err = s.daemonSeccomp()
		return err
	})
	err = g.Wait()
	defer func() { letGo(in.mounts) }()
	if err != nil {
		return 0, err
	}
	rec = c.record() // joinNetwork wrote the sandbox
	in.rec = rec
	if in.user, err = lookupUser(in.root, rec.Config.User, rec.HostConfig.GroupAdd); err != nil {
		return 0, err
	}
	if err := makeWorkdir(in.root, rec.Config.WorkingDir); err != nil {
		return 0, err
	}
	spec, err := buildSpec(in)
	if err != nil {
		return 0, err
	}
	if err := s.injectDevices(spec, rec.HostConfig); err != nil {
		return 0, err
	}

	// The record says Starting and all that a new daemon needs to adopt the
	// task. It is written beside the runtime's work: a crash before it is on
	// disk leaves a task that is not expected, which Restore removes.
	prepared := s.d.Clock.Now()
	var streams stdio.Streams
	g = errgroup.Group{}
	g.Go(func() error { return s.d.Records.Put(rec.ID, &rec) })
	g.Go(func() (err error) {
		pid, streams, err = s.d.Runtime.Create(ctx, TaskConfig{
			ID: rec.ID, Spec: spec, OpenStdin: rec.Config.OpenStdin, Terminal: rec.Config.Tty,
		})
		if err != nil {
			return &runtimeError{fmt.Errorf("failed to create task for container: %w", err)}
		}
		return nil
	})
	err = g.Wait()
	hub.Start(streams) //nolint:contextcheck // takes them over for the whole run
	if err != nil {
		return 0, err
	}
	created := s.d.Clock.Now()
	if err := s.d.Runtime.Start(ctx, rec.ID); err != nil {
		return 0, &runtimeError{err}
	}
	s.d.Log.Debug("container brought up", logkey.Container, rec.ID, keyPrepare, prepared.Sub(begin),
		keyCreate, created.Sub(prepared), keyStart, s.d.Clock.Now().Sub(created))
	return pid, nil
}

// daemonSeccomp reads the profile that the daemon's configuration names.
func (s *Service) daemonSeccomp() (string, error) {
	p := s.d.Settings.SeccompPath
	if p == "" || p == unconfined || p == builtinPolicy {
		return "", nil
	}
	b, err := os.ReadFile(p)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile failed: %w", err)
	}
	return string(b), nil
}

// mountAll makes every mount of the container reachable on the host.
func (s *Service) mountAll(ctx context.Context, rec *Record) ([]bindSource, error) {
	var out []bindSource
	for i, m := range rec.Mounts {
		b := bindSource{Mount: m}
		var err error
		switch m.Type {
		case mount.TypeVolume:
			b.Path, err = s.d.Volumes.MountAt(ctx, m.Name, rec.ID, m.Target, !m.ReadOnly)
			if err == nil && m.Subpath != "" {
				b.Path, b.release, err = s.holdSubpath(rec.ID, i, b.Path, m.Subpath)
			}
		case mount.TypeImage:
			b.Path, b.release, err = s.mountImage(ctx, rec, i)
		case mount.TypeBind:
			b.Path, err = m.Source, s.readyBind(&b.Mount)
		default: // a tmpfs is nowhere on the host
		}
		if err != nil {
			letGo(out)
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// readyBind makes the source of -v where it is missing, and checks what
// propagation needs of the host's mount.
func (s *Service) readyBind(m *Mount) error {
	o := m.Options
	create := o == nil || (o.BindOptions != nil && o.BindOptions.CreateMountpoint)
	if !s.d.Host.Exists(m.Source) {
		if !create {
			return invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return fmt.Errorf("error while creating mount source path '%s': %w", m.Source, err)
		}
	}
	err := checkPropagation(m.Source, m.Propagation)
	if err != nil && m.Propagation == mount.PropagationRSlave && m.askedPropagation() == "" {
		// Our own wish (guardRoot), where the host's mount can't be followed.
		m.Propagation = mount.PropagationRPrivate
		return nil
	}
	return err
}

// tearDown takes away all that a run has besides its record and layer. Every
// step is tried; what fails is logged, and repaired by the next Restore.
func (s *Service) tearDown(ctx context.Context, c *Container, removing bool) {
	rec := c.record()
	warn := func(what string, err error) {
		if err != nil && !errdefs.IsNotFound(err) {
			s.d.Log.Warn("run not cleared away whole", logkey.Container, rec.ID, logkey.Why, what, logkey.Err, err)
		}
	}
	var g errgroup.Group
	left := make(chan struct{}) // the network: events come in Docker's order
	g.Go(func() error {
		warn("task", s.d.Runtime.Delete(ctx, rec.ID, true))
		// Volumes and layer are let go once no process can be in them.
		var after errgroup.Group
		after.Go(func() error {
			<-left
			for _, m := range rec.Mounts {
				if m.Type == mount.TypeVolume && m.Name != "" {
					warn("volume", s.d.Volumes.Unmount(ctx, m.Name, rec.ID))
				}
			}
			return nil
		})
		if !removing { // else the layer goes as a whole
			after.Go(func() error {
				for _, id := range append(imageLayers(&rec), rec.ID) {
					warn("layer", s.d.Rootfs.Unmount(ctx, id))
				}
				return nil
			})
		}
		warn("shm", s.dropShm(rec.ID))
		return after.Wait()
	})
	g.Go(func() error {
		defer close(left)
		if rec.HostConfig.NetworkMode.IsPrivate() {
			warn("network", s.d.Networks.Leave(ctx, rec.ID))
		}
		return nil
	})
	_ = g.Wait() // its functions return no errors: they are logged above
}

func (s *Service) goingDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
