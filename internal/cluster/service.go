package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/stateful"
)

// Executor runs the tasks of this node.
type Executor interface {
	exec.Executor
	// Locals are the members of stateful sets that run here.
	Locals(ctx context.Context) ([]stateful.Local, error)
	// Stand puts a member behind its set's names, by its part.
	Stand(set, member string, p stateful.Part)
	// Hold keeps tasks as they are, whatever SwarmKit says, from now on: the
	// daemon goes, its containers stay.
	Hold()
	// Sweep removes the containers of tasks that this node does not have any more.
	// It is called once the node has read its tasks.
	Sweep(ctx context.Context) error
	// Purge removes the containers of all tasks and what belongs to them. The node
	// has left its swarm.
	Purge(ctx context.Context) error
}

// Mesh is this node's part in the networks of the swarm.
type Mesh interface {
	// Begin starts it, before the node's tasks run; End stops it.
	Begin(s mesh.Self)
	End(forGood bool)
}

// Attachments are places in networks of the swarm of containers that are no task's.
type Attachments interface {
	// Evict gives them back, while a manager can still be asked.
	Evict(ctx context.Context) error
}

// Deps are the parts a Service works with; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Dir      string // <root>/swarm
	RunDir   string // <exec-root>/swarm: the control socket
	Hostname string
	Executor Executor
	Mesh     Mesh
	Attached Attachments
	Events   Publisher
	// NewName makes up a name for a service that is given none.
	NewName func() (string, error)
	// OwnLink tells network interfaces that the engine made.
	OwnLink func(name string) bool
	// Images is what the swarm's other nodes may read of this one.
	Images http.Handler
	// TakeImage gets an image from other nodes and keeps it under the name.
	TakeImage func(ctx context.Context, name string, d digest.Digest) error
	// MachineTime is a clock that runs on while the machine sleeps and is never set.
	MachineTime func() time.Time
}

// Timing of SwarmKit, see docs/design/cluster.md.
const (
	electionTick  = 3
	heartbeatTick = 1

	joinLimit  = 20 * time.Second
	initLimit  = 30 * time.Second
	leaveLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
	readLimit  = 5 * time.Second  // a command tells within it that the swarm has no leader
	writeLimit = 20 * time.Second // a write may wait for slow disks
)

// Service is this engine's membership of a swarm.
type Service struct {
	d Deps

	op sync.Mutex // serialises init, join, leave, unlock; held across I/O

	mu sync.Mutex // guards m; never held across I/O
	m  *member    // nil: in no swarm
}

// New returns a service that is in no swarm yet: call Start.
func New(d Deps) *Service { return &Service{d: d} }

// Start goes on where an earlier daemon was. It waits for nothing: a swarm that
// cannot be reached does not keep the daemon from serving.
func (s *Service) Start(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	set, err := s.load()
	if err != nil {
		return err
	}
	if set == nil {
		if _, err := os.Stat(s.d.Dir); err == nil {
			s.d.Log.Info("a join that did not come through is cleared away", logkey.Path, s.d.Dir)
			return s.wipe()
		}
		return nil
	}
	if set.Leaving {
		if err := s.d.Executor.Purge(ctx); err != nil {
			s.d.Log.Error("tasks of the swarm that was left not removed", logkey.Err, err)
			return nil
		}
		return s.wipe()
	}
	m := s.newMember(*set)
	s.setMember(m)
	m.begin(attempt{}) //nolint:contextcheck // the node outlives the start
	return nil
}

// Close takes the node down and leaves its tasks as they are.
func (s *Service) Close(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	m := s.member()
	if m == nil {
		return nil
	}
	s.d.Executor.Hold()
	return m.end(ctx)
}

func (s *Service) member() *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m
}

func (s *Service) setMember(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m = m
}

func (s *Service) prepareDirs() error {
	for _, dir := range []string{s.d.Dir, s.nodeDir(), s.d.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the swarm's directory: %w", err)
		}
	}
	return nil
}

func (s *Service) socket() string { return filepath.Join(s.d.RunDir, "control.sock") }

// enter makes this node a member: the attempt comes through, and then it is
// written down; else nothing stays.
func (s *Service) enter(ctx context.Context, set settings, a attempt, limit time.Duration, then func(context.Context, *member) error) (string, error) {
	if err := s.prepareDirs(); err != nil {
		return "", err
	}
	m := s.newMember(set)
	s.setMember(m)
	m.begin(a) //nolint:contextcheck // the node outlives the request
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := m.wait(ctx)
	if err == nil && then != nil {
		err = then(ctx, m)
	}
	if err == nil {
		err = s.save(set)
	}
	if err == nil {
		return m.nodeID(), nil
	}
	clean := context.WithoutCancel(ctx)
	s.setMember(nil)
	return "", errors.Join(err, m.end(clean), s.wipe())
}
