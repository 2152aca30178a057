package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/stateful"
)

// Config is what a Server needs to know.
type Config struct {
	Log       *slog.Logger
	Now       func() time.Time // the machine's clock, see package member
	Set       string           // of which swarm and time: what was promised to another set is void
	Member    string
	Data      string // PGDATA
	StateDir  string // beside the volume
	SocketDir string
	BinDir    string
	Port      int
	Owner     string // the user that the server runs as
	UID, GID  int
	Include   []string // configuration files of the image and the data
	Args      []string // options of the server
	Superuser string
	Password  string
	Trust     bool
	Database  string // made with the set; empty: none
	// StallLimit is how long a leader may do nothing before it is ended; 0: ten seconds.
	StallLimit time.Duration
	Scripts    string // folder of *.sql and *.sh that are run once, on the first leader
}

// Server is one member.
type Server struct {
	c       Config
	session session

	// do serialises what changes the member; held for long. A promise takes it from
	// a clone or a promotion by cancelling it.
	do  sync.Mutex
	job struct {
		sync.Mutex
		cancel context.CancelFunc
	}

	kept      kept // belongs to who holds do
	set       settings
	holdUntil time.Time

	mu    sync.Mutex // guards what follows; never held across I/O
	st    stateful.State
	lease lease
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	mark  uint64        // LSN that followers must have to be caught up; 0: not known yet
	wake  chan struct{}
}

// lease is what the server leads under.
type lease struct {
	epoch       uint64 // 0: none
	until, stop time.Time
}

var _ stateful.Helper = (*Server)(nil)

// New returns a server that does not run yet: call Run.
func New(c Config) (*Server, error) {
	s := &Server{c: c, wake: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, err
	}
	if s.kept.Held > 0 && s.kept.Held == s.kept.Promised {
		s.holdUntil = c.Now().Add(holdMost)
	}
	s.st = stateful.State{Member: c.Member, Phase: stateful.Empty}
	s.publish()
	if err := s.writeAccess(); err != nil {
		return nil, err
	}
	return s, s.writeConf(s.set)
}

func (s *Server) identity() string { return stateful.Identity(s.c.Member, s.kept.Mark) }

// publish shows what is kept in the state. Called with do held, or before Run.
func (s *Server) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept
	s.st.Identity, s.st.Empty, s.st.Promised, s.st.Chain = s.identity(), !k.Whole, k.Promised, k.Chain
	s.st.Lost = 0
	if s.lease.epoch != k.Led {
		s.st.Lost = k.Led
	}
	if !k.Whole && s.st.Phase != stateful.Cloning {
		s.st.Phase = stateful.Empty
	}
}

func (s *Server) phase(p stateful.Phase, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p != s.st.Phase || epoch != s.st.Epoch {
		s.c.Log.Info("phase changed", logkey.From, string(s.st.Phase), logkey.To, string(p), logkey.Epoch, epoch)
	}
	s.st.Phase, s.st.Epoch = p, epoch
}

// State implements stateful.Helper.
func (s *Server) State(context.Context) (stateful.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st, nil
}

// Run holds the server until ctx ends, and stops it then.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.watch(ctx) })
	wg.Go(func() { s.observe(ctx) })
	wg.Go(func() { s.probe(ctx) })
	s.keepRunning(ctx)
	s.interrupt()
	s.do.Lock() // what is under way ends first
	s.stop(syscall.SIGINT, stopLimit)
	s.do.Unlock()
	wg.Wait()
	return nil
}

// Timing of a server.
const (
	observeEvery = 200 * time.Millisecond
	restartEvery = 200 * time.Millisecond
	restartMost  = 5 * time.Second
	stopLimit    = 60 * time.Second
	killLimit    = 5 * time.Second
)

// keepRunning starts the server as a standby whenever it does not run and may.
func (s *Server) keepRunning(ctx context.Context) {
	wait, next := restartEvery, time.Now()
	for {
		s.do.Lock()
		if ctx.Err() == nil && s.kept.Whole && !s.running() && !time.Now().Before(next) {
			// One that ends over and over is given time to be looked at.
			if time.Since(next) > restartMost {
				wait = restartEvery
			}
			next, wait = time.Now().Add(wait), min(2*wait, restartMost)
			if err := s.start(); err != nil {
				s.problem(err)
			}
		}
		s.do.Unlock()
		if sleep(ctx, restartEvery) != nil {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *Server) problem(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text != "" && text != s.st.Problem {
		s.c.Log.Warn("server is not well", logkey.Err, text)
	}
	s.st.Problem = text
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil
}

// start starts the server as a standby. Called with do held.
func (s *Server) start() error {
	// Only one container has the volume: what the last one left behind is nobody's.
	if err := os.Remove(filepath.Join(s.c.Data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	signal := filepath.Join(s.c.Data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil { //nolint:forbidigo // empty: it is there or not
		return err
	}
	if err := s.own(signal); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.c.Data, "promote")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(s.c.SocketDir, 0o775); err != nil {
		return err
	}
	if err := s.own(s.c.SocketDir); err != nil {
		return err
	}
	if err := s.writeConf(s.set); err != nil {
		return err
	}
	args := append([]string{"-D", s.c.Data, "-c", "config_file=" + s.confPath()}, s.c.Args...)
	//nolint:noctx // it outlives the request that starts it
	cmd := exec.Command(s.bin("postgres"), args...)
	s.asOwner(cmd)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	ended := make(chan struct{})
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	s.phase(stateful.Starting, s.followEpoch())
	go s.await(cmd, ended)
	return nil
}

func (s *Server) followEpoch() uint64 {
	if s.set.upstream != nil {
		return s.set.upstream.Epoch
	}
	return 0
}

// await notes the end of the server.
func (s *Server) await(cmd *exec.Cmd, ended chan struct{}) {
	err := cmd.Wait()
	s.c.Log.Info("server ended", logkey.Status, cmd.ProcessState.String(), logkey.Err, err)
	s.killAll() // what it left running
	s.session.end()
	s.mu.Lock()
	s.cmd = nil
	led := s.lease.epoch
	s.lease = lease{}
	if led > 0 {
		s.st.Lost = led
	}
	s.st.Phase, s.st.Streams, s.st.InForce, s.st.CaughtUp = stateful.Stopped, nil, false, false
	s.mu.Unlock()
	close(ended)
}

// stop ends the server; it is killed when it takes too long. Called with do held.
func (s *Server) stop(sig syscall.Signal, limit time.Duration) {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig) // it may have ended
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ended:
		return
	case <-t.C:
	}
	s.kill()
	<-ended
}

// kill ends the server at once, and everything that belongs to it.
func (s *Server) kill() {
	s.mu.Lock()
	cmd := s.cmd
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill() // first, so that it starts nothing more; it may have ended
	}
	s.killAll()
}

// killAll kills every process of the server, known by its name and by where it
// works: what serves a client would go on for a while after the server is gone.
func (s *Server) killAll() {
	for range 100 {
		left := 0
		all, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			return
		}
		for _, p := range all {
			name, err := os.ReadFile(p)
			if err != nil || strings.TrimSpace(string(name)) != "postgres" {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			if err != nil || zombie(pid) {
				continue
			}
			if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != s.c.Data {
				continue
			}
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				left++
			}
		}
		if left == 0 {
			return
		}
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

// asOwner has a command run as the server's user.
func (s *Server) asOwner(cmd *exec.Cmd) {
	cmd.Env = append(os.Environ(), "HOME=/", "LC_MESSAGES=C")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool {
		return strings.HasPrefix(e, "POSTGRES_PASSWORD=") || strings.HasPrefix(e, "PGPASSWORD=")
	})
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.c.UID), Gid: uint32(s.c.GID)}
	}
}

// watch kills a leader when its lease is about to end. It takes no lock that
// anything slow holds.
func (s *Server) watch(ctx context.Context) {
	for {
		s.mu.Lock()
		l := s.lease
		s.mu.Unlock()
		wait := time.Second
		if l.epoch > 0 {
			wait = l.stop.Sub(s.c.Now())
			if wait <= 0 {
				s.c.Log.Warn("lease not renewed: the server is killed", logkey.Epoch, l.epoch)
				s.kill()
				s.drop(l.epoch)
				continue
			}
			wait = min(wait, 100*time.Millisecond) // the machine may have slept
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-s.wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// drop takes the lease of an epoch away.
func (s *Server) drop(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease.epoch == epoch {
		s.lease = lease{}
		s.st.Lost = epoch
	}
}
