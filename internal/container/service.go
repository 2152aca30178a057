package container

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/container/logs"
	"holdfast.dev/holdfast/internal/container/stdio"
)

// Deps are the parts a Service works with; all are required except Random, Host and Devices.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Records  Records
	Events   Publisher
	Images   Images
	Rootfs   Rootfs
	Runtime  Runtime
	Volumes  Volumes
	Networks Networks
	Devices  Devices // nil: there are none
	// Preflight looks at places of data; nil: nobody does.
	Preflight Preflight
	Settings  Settings
	Random    io.Reader // source of IDs and names; nil: crypto/rand
	Host      *Host     // the machine as specs need it; nil: read from this one
}

// Settings are the daemon's own choices that containers inherit.
type Settings struct {
	Dir           string // <root>/containers: one folder per container (logs, hosts, resolv.conf)
	RunDir        string // <exec-root>/containers: run-time files, gone after a reboot
	InitPath      string // the init program bind-mounted by --init
	DefaultLog    container.LogConfig
	ShmSize       int64 // bytes
	CgroupParent  string
	CgroupVersion int // 1 or 2
	SystemdCgroup bool
	Ulimits       map[string]*container.Ulimit
	// Capabilities is the daemon's own bounding set ("CAP_CHOWN", …): privileged
	// containers get these and no more.
	Capabilities  []string
	NoNewPrivs    bool
	SeccompPath   string // "" built-in profile, "unconfined", or a file
	InitByDefault bool
	IpcMode       container.IpcMode      // of containers that ask for none; "" is private
	CgroupnsMode  container.CgroupnsMode // of containers that ask for none; "" is host on cgroup v1, private on v2
	PruneGrace    time.Duration          // how long a new container may take to be started before it may be pruned
	StopTimeout   *int                   // seconds, of containers that ask for none; nil is 10
}

// Service is the container domain: one verb per file group (create, start,
// exit, stop, remove, …).
type Service struct {
	// serving is closed by Run. Until then nothing is started: others still clear
	// away what an earlier daemon left, and would take a new start for that.
	serving chan struct{}

	d Deps

	mu     sync.Mutex            // guards byID, byName, closing; never held across I/O
	byID   map[string]*Container // full ID
	byName map[string]string     // name without slash to ID, reserved names included
	// closing is set once Shutdown began: exits seen from then on restart nothing.
	closing bool

	background sync.WaitGroup     // exits, restarts and health monitors; Shutdown waits for them
	life       context.Context    // ends background work; outlives requests
	endLife    context.CancelFunc // called by Shutdown

	subscribe sync.Once        // guards the making of events
	events    <-chan TaskEvent // see openEvents

	pruning sync.Mutex // held by a running Prune
}

// Container is one container: its record and what lives only in memory.
//
// Lock order: op, then Service.mu, then mu.
type Container struct {
	op sync.Mutex // serialises lifecycle verbs; held across I/O, never while waiting for an exit

	mu      sync.Mutex // guards the fields below; never held across I/O
	rec     Record
	removed bool // the record is gone
	waiters []waiter
	hub     *stdio.Hub         // streams of this or the next run; made on first need
	log     logs.Logger        // behind hub
	health  context.CancelFunc // ends the health monitor; nil when none runs
	exited  chan struct{}      // closed when the current run's exit has been handled; nil when not running

	// Restart policy state.
	backoff   time.Duration
	noRestart bool          // a stop or kill was asked for in this run
	byRestart bool          // the exit belongs to a restart verb: no automatic removal
	stopTimer chan struct{} // closed to give up a pending restart; nil when none is pending

	execs map[string]*execState // additional processes by ID; see exec.go
}

// New returns a Service that knows no containers yet: call Restore, then Run.
func New(d Deps) *Service {
	if d.Random == nil {
		d.Random = rand.Reader //nolint:forbidigo // what the parameter is when it is left out
	}
	if d.Host == nil {
		d.Host = ReadHost()
	}
	life, end := context.WithCancel(context.Background())
	return &Service{
		d:       d,
		byID:    map[string]*Container{},
		byName:  map[string]string{},
		serving: make(chan struct{}),
		life:    life,
		endLife: end,
	}
}

// record returns a copy of the record. Pointers in it are shared and must be
// treated as read-only: whoever changes a record replaces what they point to.
func (c *Container) record() Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

// emit publishes a container event with Docker's attributes.
func (s *Service) emit(r Record, action events.Action, attrs map[string]string) {
	all := map[string]string{}
	maps.Copy(all, attrs)
	if r.Config != nil {
		maps.Copy(all, r.Config.Labels)
		if r.Config.Image != "" {
			all["image"] = r.Config.Image
		}
	}
	all["name"] = r.Name
	s.d.Events.Publish(events.Message{
		Type:   events.ContainerEventType,
		Action: action,
		Actor:  events.Actor{ID: r.ID, Attributes: all},
		Scope:  "local",
	})
}

// all returns the containers known now, in no order.
func (s *Service) all() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Container, 0, len(s.byID))
	for _, c := range s.byID {
		out = append(out, c)
	}
	return out
}
