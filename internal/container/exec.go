package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/container/stdio"
)

const (
	// execKeep is how long a finished exec can still be inspected.
	execKeep = 5 * time.Minute
	// execStartWait is how long a resize waits for the process to be there.
	execStartWait = 10 * time.Second
	// execCleanLimit bounds the runtime's clearing away of a finished exec.
	execCleanLimit = 30 * time.Second
)

// execState is an additional process, from its creation until it is forgotten.
type execState struct {
	id      string
	c       *Container
	req     container.ExecCreateRequest // not changed after creation
	keys    []byte                      // detach keys, where some were asked for
	hub     *stdio.Hub
	started chan struct{} // closed when the process runs or cannot
	done    chan struct{} // closed when its end has been handled

	mu       sync.Mutex // guards the fields below; never held across I/O
	claimed  bool       // somebody starts it, or did
	running  bool
	pid      int
	exitCode *int
	ended    time.Time
}

func errNoExec(id string) error {
	return fault.New(errdefs.ErrNotFound, "No such exec instance: %s", id)
}

// findExec looks an exec up by its full ID.
func (s *Service) findExec(id string) (*execState, error) {
	for _, c := range s.all() {
		c.mu.Lock()
		e := c.execs[id]
		c.mu.Unlock()
		if e != nil {
			return e, nil
		}
	}
	return nil, errNoExec(id)
}

// execIDs lists the execs that have not ended, as inspect shows them; nil where
// there are none.
func (s *Service) execIDs(c *Container) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id, e := range c.execs {
		if !e.finished() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func (e *execState) finished() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.exitCode != nil
}

// fitForExec says why a container cannot have an additional process now. ref is
// what the client calls it.
func fitForExec(r *Record, ref string) error {
	switch r.Phase {
	case Running, Stopping:
		return nil
	case Paused:
		return conflict("Container %s is paused, unpause the container before exec", ref)
	case Restarting:
		return errRestarting(r.ID)
	default:
		return errNotRunning(r.ID)
	}
}

// ExecCreate prepares an additional process of a running container.
func (s *Service) ExecCreate(_ context.Context, name string, req container.ExecCreateRequest) (string, error) {
	c, err := s.lookup(name)
	if err != nil {
		return "", err
	}
	r := c.settled()
	if err := fitForExec(&r, name); err != nil {
		return "", err
	}
	if len(req.Cmd) == 0 {
		return "", invalid("No exec command specified")
	}
	if req.User != "" {
		if _, err := s.execUser(&r, req.User); err != nil {
			return "", err
		}
	}
	e, err := s.addExec(c, req)
	if err != nil {
		return "", err
	}
	return e.id, nil
}

// addExec registers an exec and forgets those that ended long ago.
func (s *Service) addExec(c *Container, req container.ExecCreateRequest) (*execState, error) {
	id, err := randomID(s.d.Random)
	if err != nil {
		return nil, err
	}
	e := &execState{id: id, c: c, req: req, keys: []byte{}, started: make(chan struct{}), done: make(chan struct{})}
	if req.DetachKeys != "" {
		if e.keys, err = stdio.ParseDetachKeys(req.DetachKeys); err != nil {
			return nil, invalid("Invalid escape keys (%s) provided", req.DetachKeys)
		}
	}
	r := c.record()
	e.hub = stdio.New(stdio.Config{
		TTY:        req.Tty,
		OpenStdin:  req.AttachStdin,
		StdinOnce:  true,
		CloseStdin: func(ctx context.Context) error { return s.d.Runtime.CloseStdin(ctx, r.ID, id) },
		Clock:      s.d.Clock,
		Logger:     s.d.Log.With(logkey.Container, r.ID, logkey.Exec, id),
	})
	now := s.d.Clock.Now()
	c.mu.Lock()
	if c.execs == nil {
		c.execs = map[string]*execState{}
	}
	for old, x := range c.execs {
		x.mu.Lock()
		if x.exitCode != nil && now.Sub(x.ended) > execKeep {
			delete(c.execs, old)
		}
		x.mu.Unlock()
	}
	c.execs[id] = e
	c.mu.Unlock()
	s.emitExec(e, events.ActionExecCreate)
	return e, nil
}

// emitExec publishes an event that names the command.
func (s *Service) emitExec(e *execState, action events.Action) {
	s.emit(e.c.record(), action+": "+events.Action(e.req.Cmd[0]+" "+strings.Join(e.req.Cmd[1:], " ")), map[string]string{"execID": e.id})
}

// ExecStart runs a created exec and, unless it is detached, serves its client
// until the process ends or the client goes; the process then goes on.
func (s *Service) ExecStart(ctx context.Context, id string, o ExecStartOptions) error {
	e, err := s.findExec(id)
	if err != nil {
		return err
	}
	r := e.c.settled()
	if err := fitForExec(&r, r.ID); err != nil {
		return err
	}
	if err := e.claim(); err != nil {
		return err
	}
	if o.ConsoleSize != nil {
		e.req.ConsoleSize = o.ConsoleSize
	}
	streams, err := s.startExec(context.WithoutCancel(ctx), e)
	if err != nil {
		return err
	}
	if o.Detach {
		e.hub.Start(streams) //nolint:contextcheck // the streams outlive the request
		return nil
	}
	if !e.req.AttachStdout {
		o.Stdout = nil
	}
	if !e.req.AttachStderr {
		o.Stderr = nil
	}
	attach := stdio.AttachConfig{
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, DetachKeys: e.req.DetachKeys,
		Started: func() error { //nolint:contextcheck // the streams outlive the request
			err := o.Started()
			e.hub.Start(streams) // whoever is there to listen: the process must not block
			return err
		},
	}
	err = e.hub.Attach(ctx, attach)
	switch {
	case errors.Is(err, stdio.ErrDetached):
		s.emit(r, events.ActionExecDetach, map[string]string{"execID": e.id})
		return nil
	case err != nil:
		return err
	}
	if e.hub.Ended() { // and not the client's stdin, which ends a session too
		s.awaitExec(ctx, e)
	}
	return nil
}

// awaitExec waits until the process whose output has ended has ended as well,
// however long that takes: the client asks for the exit code as soon as its
// streams end.
func (s *Service) awaitExec(ctx context.Context, e *execState) {
	select {
	case <-e.done:
	case <-s.life.Done():
	case <-ctx.Done():
	}
}

// claim makes the caller the one who starts the exec.
func (e *execState) claim() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.exitCode != nil:
		return conflict("exec command %s has already run", e.id)
	case e.claimed:
		return conflict("exec command %s is already running", e.id)
	}
	e.claimed = true
	return nil
}

// startExec lets the process run and watches for its end. The caller gives the
// streams to the hub.
func (s *Service) startExec(ctx context.Context, e *execState) (stdio.Streams, error) {
	s.emitExec(e, events.ActionExecStart)
	r := e.c.record()
	p, err := s.execProcess(&r, &e.req)
	code := exitCannotRun
	var pid int
	var streams stdio.Streams
	if err == nil {
		pid, streams, err = s.d.Runtime.Exec(ctx, ExecConfig{
			Container: r.ID, ID: e.id, Process: p,
			OpenStdin: e.req.AttachStdin, Terminal: e.req.Tty,
		})
		if err != nil {
			code, err = e.explain(err)
		}
	}
	if err != nil {
		e.end(code, s.d.Clock.Now())
		e.hub.Close()
		close(e.started)
		close(e.done)
		return stdio.Streams{}, err
	}
	e.mu.Lock()
	e.running, e.pid = true, pid
	e.mu.Unlock()
	close(e.started)
	s.spawn(func() { s.watchExec(e, r.ID) }) //nolint:contextcheck // the process outlives the request
	return streams, nil
}

// explain says why the runtime did not start the process. A container that ended
// or was paused since it was looked at is answered as one that had before.
func (e *execState) explain(err error) (code int, explained error) {
	if !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
		return explainStart(&runtimeError{err})
	}
	r := e.c.record()
	if unfit := fitForExec(&r, r.ID); unfit != nil {
		return exitCannotRun, unfit
	}
	return exitCannotRun, errNotRunning(r.ID)
}

func (e *execState) end(code int, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running, e.exitCode, e.ended = false, &code, at
}

// watchExec handles the end of an exec's process.
func (s *Service) watchExec(e *execState, containerID string) {
	defer close(e.done)
	exit, err := s.d.Runtime.Wait(s.life, containerID, e.id)
	if s.life.Err() != nil {
		return // the daemon goes, the process stays
	}
	if err != nil {
		// Without a task there is no process either.
		s.d.Log.Warn("end of exec not seen", logkey.Container, containerID, logkey.Exec, e.id, logkey.Err, err)
		exit.Code = exitUnknown
	}
	t := s.d.Clock.NewTimer(drainLimit)
	select {
	case <-e.hub.Drained():
	case <-t.C():
	}
	t.Stop()
	e.end(exit.Code, s.d.Clock.Now())
	e.hub.Close()
	s.emit(e.c.record(), events.ActionExecDie, map[string]string{"execID": e.id, "exitCode": strconv.Itoa(exit.Code)})
	ctx, cancel := context.WithTimeout(s.life, execCleanLimit)
	defer cancel()
	if err := s.d.Runtime.DeleteExec(ctx, containerID, e.id); err != nil && !errdefs.IsNotFound(err) {
		s.d.Log.Warn("exec not cleared away", logkey.Container, containerID, logkey.Exec, e.id, logkey.Err, err)
	}
}

// execUser finds a user in the container's own files.
func (s *Service) execUser(r *Record, name string) (specs.User, error) {
	root := fmt.Sprintf("/proc/%d/root", r.Pid)
	u, err := lookupUser(root, name, r.HostConfig.GroupAdd)
	if err != nil {
		return u, invalid("%v", err)
	}
	return u, nil
}

// execProcess is the container's process with what the request changes.
func (s *Service) execProcess(r *Record, req *container.ExecCreateRequest) (*specs.Process, error) {
	in := &specInput{rec: *r, settings: s.d.Settings, host: s.d.Host}
	var err error
	if in.security, err = parseSecurity(r.HostConfig.SecurityOpt, s.d.Settings.NoNewPrivs); err != nil {
		return nil, err
	}
	h := r.HostConfig
	caps, err := capabilities(h.Privileged || req.Privileged, h.CapAdd, h.CapDrop, s.d.Settings.Capabilities)
	if err != nil {
		return nil, err
	}
	user, err := s.execUser(r, first(req.User, r.Config.User))
	if err != nil {
		return nil, err
	}
	user.Umask = h.Umask
	_, linkEnv, err := s.linked(r, false)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:        req.Tty,
		User:            user,
		Args:            req.Cmd,
		Env:             environment(r, req.Tty, linkEnv, req.Env),
		Cwd:             first(req.WorkingDir, r.Config.WorkingDir, "/"),
		Capabilities:    linuxCaps(caps),
		Rlimits:         limits(in),
		NoNewPrivileges: in.security.noNewPrivs,
		OOMScoreAdj:     oomScore(in),
	}
	if in.host.AppArmor && in.security.apparmor != "" && in.security.apparmor != unconfined {
		p.ApparmorProfile = in.security.apparmor
	}
	if req.Tty && req.ConsoleSize != nil {
		p.ConsoleSize = &specs.Box{Height: req.ConsoleSize[0], Width: req.ConsoleSize[1]}
	}
	return p, nil
}

// ExecInspect shows an exec.
func (s *Service) ExecInspect(_ context.Context, id string) (container.ExecInspectResponse, error) {
	e, err := s.findExec(id)
	if err != nil {
		return container.ExecInspectResponse{}, err
	}
	r := e.c.record()
	e.mu.Lock()
	defer e.mu.Unlock()
	out := container.ExecInspectResponse{
		ID:          e.id,
		Running:     e.running,
		OpenStdin:   e.req.AttachStdin,
		OpenStdout:  e.req.AttachStdout,
		OpenStderr:  e.req.AttachStderr,
		ContainerID: r.ID,
		DetachKeys:  e.keys,
		Pid:         e.pid,
		ProcessConfig: &container.ExecProcessConfig{
			Tty:        e.req.Tty,
			Entrypoint: e.req.Cmd[0],
			Arguments:  e.req.Cmd[1:],
			Privileged: &e.req.Privileged,
			User:       first(e.req.User, r.Config.User),
		},
	}
	if e.exitCode != nil {
		code := *e.exitCode
		out.ExitCode = &code
	}
	return out, nil
}

// ExecResize sets the size of an exec's terminal.
func (s *Service) ExecResize(ctx context.Context, id string, height, width uint32) error {
	e, err := s.findExec(id)
	if err != nil {
		return err
	}
	r := e.c.record()
	if err := fitForExec(&r, r.ID); err != nil {
		return err
	}
	t := s.d.Clock.NewTimer(execStartWait)
	defer t.Stop()
	select {
	case <-e.started:
	case <-t.C():
		return errors.New("timeout waiting for exec session ready")
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.finished() {
		return conflict("exec process is not running")
	}
	return s.d.Runtime.Resize(ctx, r.ID, e.id, width, height)
}

// runExec runs a process to its end and gives its output to out; when ctx ends
// the process is killed, and ctx's error returned. started is called once the
// process runs. Health checks use it.
func (s *Service) runExec(ctx context.Context, c *Container, req container.ExecCreateRequest, in io.Reader, out io.Writer, started func()) (int, error) {
	r := c.record()
	if err := fitForExec(&r, r.ID); err != nil {
		return -1, err
	}
	req.AttachStdin, req.AttachStdout, req.AttachStderr = in != nil, true, true
	e, err := s.addExec(c, req)
	if err != nil {
		return -1, err
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.execs, e.id)
	}()
	if err := e.claim(); err != nil {
		return -1, err
	}
	streams, err := s.startExec(context.WithoutCancel(ctx), e)
	if err != nil {
		return -1, err
	}
	started()
	err = e.hub.Attach(ctx, stdio.AttachConfig{
		Stdin: in, Stdout: out, Stderr: out,
		Started: func() error { //nolint:contextcheck // the streams outlive the request
			e.hub.Start(streams)
			return nil
		},
	})
	if err == nil {
		select {
		case <-e.done:
			return e.code(), nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.life.Done():
			return -1, errGoingDown()
		}
	}
	if kerr := s.d.Runtime.Kill(context.WithoutCancel(ctx), r.ID, e.id, syscall.SIGKILL); kerr != nil && !errdefs.IsNotFound(kerr) {
		return -1, errors.Join(err, kerr)
	}
	select {
	case <-e.done:
	case <-s.life.Done(): // nobody watches it any more
	}
	return -1, err
}

func errGoingDown() error {
	return fault.New(errdefs.ErrUnavailable, "the daemon is shutting down")
}

// code is the exit code of an exec that has ended.
func (e *execState) code() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.exitCode == nil {
		return -1
	}
	return *e.exitCode
}
