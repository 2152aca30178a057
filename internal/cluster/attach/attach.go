package attach

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
)

// Allocator is a manager, as this node's agent reaches it.
type Allocator interface {
	AttachNetwork(ctx context.Context, container, network string, addresses []string) (string, error)
	DetachNetwork(ctx context.Context, attachment string) error
}

// Mesh keeps the networks of the swarm on this node.
type Mesh interface {
	Hold(ctx context.Context, t *api.Task) error
	Show(t *api.Task, own []string, healthy bool) error
	Release(ctx context.Context, task string) error
}

// Networks are this node's networks.
type Networks interface {
	// EndpointIn tells of a container's place in a network, by the network's ID.
	EndpointIn(network, container string) (addr netip.Addr, names []string, ok bool)
	// InOverlays are the containers in networks of the swarm, by the network's ID.
	InOverlays() map[string][]string
}

// Containers are this node's containers.
type Containers interface {
	DisconnectNetwork(ctx context.Context, network, container string, force bool) error
}

// Deps are the parts an Attacher works with; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Mesh     Mesh
	Networks Networks
}

// ErrNoSwarm is what who leads to a manager says where there is none to lead to.
var ErrNoSwarm = fault.New(errdefs.ErrUnavailable, "this node is in no swarm")

const (
	attachIn    = 20 * time.Second // Docker's
	evictIn     = 5 * time.Second
	detachFirst = 200 * time.Millisecond
	detachMost  = 30 * time.Second
)

// Place is where a container is in a network.
type Place struct {
	ID, Name string // of the network
	Addr     netip.Addr
}

// Attacher is this node's attachments.
type Attacher struct {
	d      Deps
	opened chan struct{}                            // closed by Open
	way    func(context.Context) (Allocator, error) // set before opened is closed
	// containers is set by Serve, before there is any.
	containers Containers

	life context.Context // ends with the daemon
	end  context.CancelFunc
	jobs sync.WaitGroup

	op sync.Mutex // serialises what settles attachments; held across I/O, taken before mu

	mu     sync.Mutex             // guards what follows; never held across I/O
	all    map[string]*attachment // assigned to this node, by the task's ID
	busy   map[string]int         // verbs under way, by container
	change chan struct{}          // closed and replaced when all changes
	epoch  context.Context        // ends when the node begins to leave its swarm
	leave  context.CancelFunc
}

type attachment struct {
	task  *api.Task
	place Place
	err   error // why it cannot be used
	given bool  // it is being given back
}

// New returns an Attacher. What needs a manager waits for Open.
func New(d Deps) *Attacher {
	a := &Attacher{
		d: d, opened: make(chan struct{}),
		all: map[string]*attachment{}, busy: map[string]int{}, change: make(chan struct{}),
	}
	a.life, a.end = context.WithCancel(context.Background())
	a.epoch, a.leave = context.WithCancel(a.life)
	return a
}

// Serve tells of the containers that attachments are for. It is called first.
func (a *Attacher) Serve(c Containers) { a.containers = c }

// Open tells how to reach a manager, once it is known whether this node is in a swarm.
// way gives ErrNoSwarm if not.
func (a *Attacher) Open(way func(context.Context) (Allocator, error)) {
	a.way = way
	close(a.opened)
}

// Close ends what is under way. The next start takes it up.
func (a *Attacher) Close(context.Context) error {
	a.end()
	a.jobs.Wait()
	return nil
}

func (a *Attacher) manager(ctx context.Context) (Allocator, error) {
	select {
	case <-a.opened:
		return a.way(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Begin opens a verb that changes a container's networks. What it returns ends
// the verb: from then on what the container has counts.
func (a *Attacher) Begin(container string) (done func(context.Context)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy[container]++
	return func(ctx context.Context) {
		a.mu.Lock()
		if a.busy[container]--; a.busy[container] == 0 {
			delete(a.busy, container)
		}
		a.mu.Unlock()
		a.settle(context.WithoutCancel(ctx), container)
	}
}

// Attach gets a container an address in a network of the swarm, that one or any,
// and brings the network here. It is called between Begin and its end. The error
// is ErrNoSwarm where this node is in none.
func (a *Attacher) Attach(ctx context.Context, container, network string, want netip.Addr) (Place, error) {
	ctx, cancel := context.WithTimeout(ctx, attachIn)
	defer cancel()
	a.mu.Lock()
	epoch := a.epoch
	a.mu.Unlock()
	defer context.AfterFunc(epoch, cancel)() //nolint:contextcheck // the node's membership ends the wait, too
	m, err := a.manager(ctx)
	if err != nil {
		if errors.Is(err, ErrNoSwarm) {
			return Place{}, err
		}
		return Place{}, notAttached(network, err)
	}
	var addrs []string
	if want.IsValid() {
		addrs = []string{want.String()}
	}
	id, err := m.AttachNetwork(ctx, container, network, addrs)
	if err != nil {
		return Place{}, notAttached(network, err)
	}
	for {
		a.mu.Lock()
		at, change := a.all[id], a.change
		a.mu.Unlock()
		if at != nil && at.err != nil {
			return Place{}, notAttached(network, at.err)
		}
		if at != nil {
			return at.place, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			a.giveBack(id) //nolint:contextcheck // it outlives the request
			return Place{}, fault.New(errdefs.ErrUnavailable, "attaching to network failed, make sure your network options are correct and check manager logs: %v", ctx.Err())
		}
	}
}

// notAttached is Docker's text, which passes on what the manager said.
func notAttached(network string, err error) error {
	var class error = errdefs.ErrUnavailable
	switch status.Code(err) { //nolint:exhaustive // the others are a manager that cannot be asked
	case codes.NotFound:
		class = errdefs.ErrNotFound
	case codes.PermissionDenied:
		class = errdefs.ErrPermissionDenied
	case codes.InvalidArgument:
		class = errdefs.ErrInvalidArgument
	}
	return fault.New(class, "Could not attach to network %s: %v", network, err)
}
