package swarm

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Backend is the swarm as this router needs it. References are names, IDs or
// unambiguous beginnings of IDs. Errors carry errdefs classes and Docker's texts.
type Backend interface {
	Init(ctx context.Context, req swarm.InitRequest) (nodeID string, err error)
	Join(ctx context.Context, req swarm.JoinRequest) error
	Leave(ctx context.Context, force bool) error
	Inspect(ctx context.Context) (swarm.Swarm, error)
	Update(ctx context.Context, version uint64, spec swarm.Spec, r Rotation) error
	UnlockKey(ctx context.Context) (string, error)
	Unlock(ctx context.Context, key string) error

	Nodes(ctx context.Context, filters map[string][]string) ([]swarm.Node, error)
	Node(ctx context.Context, ref string) (swarm.Node, error)
	UpdateNode(ctx context.Context, ref string, version uint64, spec swarm.NodeSpec) error
	RemoveNode(ctx context.Context, ref string, force bool) error

	Services(ctx context.Context, filters map[string][]string, counts bool) ([]swarm.Service, error)
	Service(ctx context.Context, ref string, defaults bool) (swarm.Service, error)
	CreateService(ctx context.Context, spec swarm.ServiceSpec, auth string) (swarm.ServiceCreateResponse, error)
	UpdateService(ctx context.Context, ref string, u ServiceUpdate) (swarm.ServiceUpdateResponse, error)
	RemoveService(ctx context.Context, ref string) error

	Tasks(ctx context.Context, filters map[string][]string) ([]swarm.Task, error)
	Task(ctx context.Context, ref string) (swarm.Task, error)

	Secrets(ctx context.Context, filters map[string][]string) ([]swarm.Secret, error)
	Secret(ctx context.Context, ref string) (swarm.Secret, error)
	CreateSecret(ctx context.Context, spec swarm.SecretSpec) (id string, err error)
	UpdateSecret(ctx context.Context, ref string, version uint64, spec swarm.SecretSpec) error
	RemoveSecret(ctx context.Context, ref string) error

	Configs(ctx context.Context, filters map[string][]string) ([]swarm.Config, error)
	Config(ctx context.Context, ref string) (swarm.Config, error)
	CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (id string, err error)
	UpdateConfig(ctx context.Context, ref string, version uint64, spec swarm.ConfigSpec) error
	RemoveConfig(ctx context.Context, ref string) error

	// Logs calls started once it is known that there is something to read, and emit
	// for each line.
	Logs(ctx context.Context, o LogsOptions, started func(tty bool) error, emit func(LogLine) error) error
}

// Rotation says which keys of a swarm change.
type Rotation struct {
	RotateWorkerToken, RotateManagerToken, RotateManagerUnlockKey bool
}

// ServiceUpdate is a change of a service.
type ServiceUpdate struct {
	Version  uint64
	Spec     swarm.ServiceSpec
	Auth     string // for the registry, as the client encoded it
	AuthFrom string // where Auth is empty: "spec" or "previous-spec"
	Rollback string // "previous": take the spec before the last change instead
}

// LogsOptions selects lines of a service or, where Task is set, of a task.
type LogsOptions struct {
	Service, Task  string
	Stdout, Stderr bool
	Follow         bool
	Since          time.Time // zero: from the beginning
	Tail           int       // lines of each task from the end; negative: all
}

// LogLine is one message of one task.
type LogLine struct {
	NodeID, ServiceID, TaskID string
	Time                      time.Time
	Stderr                    bool
	Data                      []byte
}
