package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/swarmkit/v2/agent"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/cluster/sets"
	"holdfast.dev/holdfast/internal/container"
)

// Containers is the container service as tasks need it.
type Containers interface {
	Create(ctx context.Context, in container.CreateOptions) (dockercontainer.CreateResponse, error)
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name, signal string, timeout *int) error
	Kill(ctx context.Context, name, signal string) error
	Wait(ctx context.Context, name string, cond dockercontainer.WaitCondition) (<-chan dockercontainer.WaitResponse, error)
	Remove(ctx context.Context, name string, o container.RemoveOptions) error
	Inspect(ctx context.Context, name string, size bool) (dockercontainer.InspectResponse, error)
	List(ctx context.Context, o container.ListOptions) ([]dockercontainer.Summary, error)
	Logs(ctx context.Context, name string, o container.LogsOptions, stdout, stderr io.Writer) error
}

// Images brings images to this node.
type Images interface {
	// Has tells whether a container can be made of the image as it is.
	Has(ctx context.Context, ref string) (bool, error)
	// Pull fetches it; auth is what a client sent for the registry, still encoded.
	Pull(ctx context.Context, ref, auth string) error
}

// Events tells what happens to containers.
type Events interface {
	Subscribe(ctx context.Context, sinceNano int64, keep func(events.Message) bool) ([]events.Message, <-chan events.Message)
}

// Mesh keeps the networks of the swarm on this node.
type Mesh interface {
	// Hold brings a task's networks here and keeps them until Release. It may be repeated.
	Hold(ctx context.Context, t *api.Task) error
	// Show tells other nodes of a task's container, by names of its own; it is found
	// by its service's names once it is healthy. Hide takes that back.
	Show(t *api.Task, own []string, healthy bool) error
	Hide(task string)
	// Stand gives a task's container its part in other services, by network.
	Stand(task string, fronts map[string][]directory.Front)
	Release(ctx context.Context, task string) error
	// Configure and SetKeys take what the swarm says of this node.
	Configure(ctx context.Context, n *api.Node) error
	SetKeys(keys []*api.EncryptionKey) error
	// Settle drops networks that no task holds, Purge all.
	Settle(ctx context.Context) error
	Purge(ctx context.Context) error
}

// Attachments are the places in networks of the swarm of containers that are no task's.
type Attachments interface {
	// Controller drives one, which is a task to SwarmKit.
	Controller(t *api.Task) exec.Controller
	// Purge takes all such containers out of their networks.
	Purge(ctx context.Context) error
}

// Facts are what the scheduler knows of this node.
type Facts struct {
	Hostname, Arch, OS string
	EngineVersion      string
	CPUs               int
	Memory             int64
	Labels             []string // key=value
	Volume, Network    []string // drivers
	Log                []string
}

// Deps are the parts an Executor works with; all are required.
type Deps struct {
	Log        *slog.Logger
	Containers Containers
	Images     Images
	Events     Events
	Mesh       Mesh
	Attached   Attachments
	Facts      func() Facts
	SecretsDir string // below the exec root; becomes a file system in memory
	Members    MemberPaths
}

// Labels of a task's container, as Docker names them.
const (
	labelTask        = "com.docker.swarm.task"
	labelTaskID      = "com.docker.swarm.task.id"
	labelTaskName    = "com.docker.swarm.task.name"
	labelNodeID      = "com.docker.swarm.node.id"
	labelServiceID   = "com.docker.swarm.service.id"
	labelServiceName = "com.docker.swarm.service.name"
)

// Executor makes controllers for tasks.
type Executor struct {
	d Deps
	// deps keeps what tasks depend on. It is made when a node first asks: it has a
	// goroutine of its own.
	deps func() exec.DependencyManager

	mounting sync.Mutex // held across the mount and unmount of SecretsDir

	mu    sync.Mutex // guards the fields below; never held across I/O
	held  bool
	tasks map[string]struct{} // IDs that SwarmKit knows of on this node
	// members are the tasks among them that are members of sets.
	members map[string]localMember
}

var (
	_ exec.Executor        = (*Executor)(nil)
	_ exec.SecretsProvider = (*Executor)(nil)
	_ exec.ConfigsProvider = (*Executor)(nil)
	_ exec.VolumesProvider = (*Executor)(nil)
)

// New returns an executor. It does nothing until a node uses it.
func New(d Deps) *Executor {
	deps := sync.OnceValue(func() exec.DependencyManager { return agent.NewDependencyManager(noPlugins{}) })
	return &Executor{d: d, deps: deps, tasks: map[string]struct{}{}, members: map[string]localMember{}}
}

// Describe implements exec.Executor. Any difference between two answers makes
// the agent open its session anew, so everything is in order.
func (e *Executor) Describe(context.Context) (*api.NodeDescription, error) {
	return describe(e.d.Facts()), nil
}

func describe(f Facts) *api.NodeDescription {
	labels := map[string]string{}
	for _, l := range f.Labels {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	var plugins []api.PluginDescription
	for kind, names := range map[string][]string{"Volume": f.Volume, "Network": f.Network, "Log": f.Log} {
		for _, n := range names {
			plugins = append(plugins, api.PluginDescription{Type: kind, Name: n})
		}
	}
	slices.SortFunc(plugins, func(a, b api.PluginDescription) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	return &api.NodeDescription{
		Hostname:  f.Hostname,
		Platform:  &api.Platform{Architecture: f.Arch, OS: f.OS},
		Engine:    &api.EngineDescription{EngineVersion: f.EngineVersion, Labels: labels, Plugins: plugins},
		Resources: &api.Resources{NanoCPUs: int64(f.CPUs) * 1e9, MemoryBytes: f.Memory},
	}
}

// Configure implements exec.Executor. Of what a node is asked to be only its
// networks matter here; the scheduler acts on the rest.
func (e *Executor) Configure(ctx context.Context, n *api.Node) error {
	return e.d.Mesh.Configure(ctx, n)
}

// SetNetworkBootstrapKeys implements exec.Executor.
func (e *Executor) SetNetworkBootstrapKeys(keys []*api.EncryptionKey) error {
	return e.d.Mesh.SetKeys(keys)
}

// Secrets implements exec.SecretsProvider.
func (e *Executor) Secrets() exec.SecretsManager { return e.deps().Secrets() }

// Configs implements exec.ConfigsProvider.
func (e *Executor) Configs() exec.ConfigsManager { return e.deps().Configs() }

// Volumes implements exec.VolumesProvider.
func (e *Executor) Volumes() exec.VolumesManager { return e.deps().Volumes() }

// Controller implements exec.Executor.
func (e *Executor) Controller(t *api.Task) (exec.Controller, error) {
	if t.Spec.GetAttachment() != nil {
		return e.d.Attached.Controller(t), nil
	}
	if t.Spec.GetContainer() == nil {
		return nil, fmt.Errorf("%w: only containers are run", exec.ErrRuntimeUnsupported)
	}
	e.mu.Lock()
	e.tasks[t.ID] = struct{}{}
	if set, name := memberOf(t); set != "" {
		e.members[t.ID] = localMember{set: set, name: name, vips: sets.ReadVIPs(t.ServiceAnnotations.Labels[sets.LabelVIPs])}
	}
	e.mu.Unlock()
	return newController(e, t), nil
}

// Hold implements cluster.Executor.
func (e *Executor) Hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = true
}

func (e *Executor) isHeld() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held
}

// restrict gives a task the secrets and configs that its spec names, and no others.
func (e *Executor) restrict(t *api.Task) exec.DependencyGetter { return agent.Restrict(e.deps(), t) }

// forget is called when nothing of a task is left.
func (e *Executor) forget(task string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tasks, task)
	delete(e.members, task)
}

// Sweep removes containers of tasks that SwarmKit does not know: a daemon that
// died between two steps of a removal leaves them. It may be called once the
// agent has read its tasks.
func (e *Executor) Sweep(ctx context.Context) error {
	e.mu.Lock()
	known := maps.Clone(e.tasks)
	e.mu.Unlock()
	err := e.remove(ctx, func(task string) bool { _, ok := known[task]; return !ok })
	return errors.Join(err, e.d.Mesh.Settle(ctx))
}

// Purge implements cluster.Executor.
func (e *Executor) Purge(ctx context.Context) error {
	err := e.remove(ctx, func(string) bool { return true })
	e.mu.Lock()
	e.tasks, e.members, e.held = map[string]struct{}{}, map[string]localMember{}, false
	e.mu.Unlock()
	e.deps().Secrets().Reset()
	e.deps().Configs().Reset()
	return errors.Join(err, e.dropSecretsDir(), e.d.Attached.Purge(ctx), e.d.Mesh.Purge(ctx))
}

func (e *Executor) remove(ctx context.Context, match func(task string) bool) error {
	all, err := e.d.Containers.List(ctx, container.ListOptions{All: true, Filters: map[string][]string{"label": {labelTaskID}}})
	if err != nil {
		return fmt.Errorf("list containers of tasks: %w", err)
	}
	var errs []error
	for _, c := range all {
		task := c.Labels[labelTaskID]
		if !match(task) {
			continue
		}
		e.d.Log.Info("container of a task that is gone removed", logkey.Container, c.ID, logkey.Name, task)
		if err := e.removeContainer(ctx, c.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, e.dropSecrets(task), e.dropMember(task))
	}
	return errors.Join(errs...)
}

// removeLimit bounds the wait for a removal that somebody else began.
const removeLimit = 30 * time.Second

// removeContainer returns when the container is gone, whoever removes it: a task
// may be at it while the node leaves.
func (e *Executor) removeContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	gone, err := e.d.Containers.Wait(ctx, id, dockercontainer.WaitConditionRemoved)
	if err == nil {
		err = e.d.Containers.Remove(ctx, id, container.RemoveOptions{Force: true, Volumes: true})
	}
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case !errdefs.IsConflict(err):
		return err
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return err
	}
}
