package sets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/base/atomicfile"
	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/peers"
	"holdfast.dev/holdfast/internal/stateful"
)

// Deps are the parts a Sets works with; all are required.
type Deps struct {
	Clock clock.Clock
	Log   *slog.Logger
	Dir   string        // of this node's membership: the lease's term is kept there
	Self  func() string // this node's ID
	// Conn is the way to the store, on a manager; nil on a worker.
	Conn     func() *grpc.ClientConn
	Peers    func() *peers.Peers
	Managers func() []peers.Member
	// Locals are the members whose containers run here.
	Locals func(ctx context.Context) ([]stateful.Local, error)
	// Stand tells of the part of one of them.
	Stand func(set, member string, p stateful.Part)
	// Now is the machine's clock that runs on while it sleeps.
	Now func() time.Time
}

// Terms of the nodes' leases.
var terms = stateful.Terms{TTL: 5 * time.Second, Margin: time.Second, Drift: 1000}

// Timing.
const (
	askLimit     = 700 * time.Millisecond
	promiseLimit = 10 * time.Second
	leadEvery    = 250 * time.Millisecond // how often a manager looks whether it is the raft leader
	leadLimit    = 500 * time.Millisecond
	orderEvery   = time.Second // how often members are brought in order
)

// Sets is this node's part in all sets.
type Sets struct {
	d     Deps
	agent *stateful.Agent
	obs   *stateful.Observer

	mu         sync.Mutex // guards what follows; never held across I/O
	controller *stateful.Controller
	problems   map[string]string // of sets whose members cannot be placed
}

// New returns a Sets: call Run.
func New(d Deps) *Sets {
	s := &Sets{d: d, obs: stateful.NewObserver(terms), problems: map[string]string{}}
	s.agent = stateful.NewAgent(stateful.AgentDeps{
		Clock: d.Clock, Log: d.Log, Managers: managers{s}, Terms: terms, Now: d.Now, Locals: d.Locals, Stand: d.Stand, Go: func(f func()) { go f() },
		LoadTerm: s.loadTerm, SaveTerm: s.saveTerm,
	})
	return s
}

// Run works until ctx ends.
func (s *Sets) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.agent.Run(ctx) })
	for {
		if err := s.control(ctx); err != nil && ctx.Err() == nil {
			s.d.Log.Debug("sets not controlled", logkey.Err, err)
		}
		if clock.Sleep(ctx, s.d.Clock, leadEvery) != nil {
			return
		}
	}
}

var errNoManager = errors.New("this node is not a manager")

func (s *Sets) store() (store, error) {
	conn := s.d.Conn()
	if conn == nil {
		return store{}, errNoManager
	}
	return store{api.NewControlClient(conn)}, nil
}

// control is the controller's life, while this node is the raft leader.
func (s *Sets) control(ctx context.Context) error {
	st, err := s.store()
	if errors.Is(err, errNoManager) {
		return nil
	}
	if err != nil {
		return err
	}
	if leads, err := s.raftLeader(ctx, st); err != nil {
		return err
	} else if !leads {
		// It looks on: should it become the raft leader because the last one is lost, with
		// what led there, the time that has passed counts.
		return stateful.Watch(ctx, st, s.obs, s.d.Now)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := stateful.NewController(stateful.ControllerDeps{Clock: s.d.Clock, Log: s.d.Log, Store: st, Nodes: s, Terms: terms, Observer: s.obs, Now: s.d.Now})
	s.setController(c)
	defer s.setController(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.Run(ctx) })
	failing := false
	for {
		err := s.reconcile(ctx, st)
		if err != nil && !failing && ctx.Err() == nil {
			s.d.Log.Warn("members of sets not brought in order", logkey.Err, err)
		}
		failing = err != nil
		if clock.Sleep(ctx, s.d.Clock, orderEvery) != nil {
			return nil
		}
		if leads, err := s.raftLeader(ctx, st); err != nil || !leads {
			return err
		}
	}
}

func (s *Sets) setController(c *stateful.Controller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.controller = c
}

// pokeController has the controller look at once, where it runs here. Elsewhere it
// looks twice a second.
func (s *Sets) pokeController(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.controller != nil {
		s.controller.Poke()
	}
}

func (s *Sets) raftLeader(ctx context.Context, st store) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, leadLimit)
	defer cancel()
	r, err := st.c.GetNode(ctx, &api.GetNodeRequest{NodeID: s.d.Self()})
	if err != nil {
		return false, err
	}
	return r.Node.ManagerStatus != nil && r.Node.ManagerStatus.Leader, nil
}

type keptTerm struct{ Term uint64 }

func (s *Sets) termPath() string { return filepath.Join(s.d.Dir, "lease.json") }

func (s *Sets) loadTerm() (uint64, error) {
	b, err := os.ReadFile(s.termPath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var k keptTerm
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return 0, fmt.Errorf("read the term of this node's lease: %w", err)
	}
	return k.Term, nil
}

func (s *Sets) saveTerm(term uint64) error {
	b, err := json.Marshal(keptTerm{term})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.termPath(), b, 0o600); err != nil {
		return fmt.Errorf("keep the term of this node's lease: %w", err)
	}
	return nil
}
