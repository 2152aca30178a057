package container

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/container/stdio"
)

// Records keeps container records durably. Put and Delete are atomic and are
// on disk when they return; All is called once, at start.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	All() ([]*Record, error)
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// Images answers what a container needs of an image.
type Images interface {
	// Resolve finds an image by name, ID or unambiguous ID prefix, unpacked for
	// the platform wanted, or else for this machine's. errdefs.ErrNotFound with Docker's text
	// ("No such image: busybox:latest") where there is none.
	Resolve(ctx context.Context, ref string, want *ocispec.Platform) (ImageInfo, error)
	// Claim keeps the image that ref means from being removed until release is
	// called, while a container is made of it. errdefs.ErrNotFound as Resolve.
	Claim(ctx context.Context, ref string) (release func(), err error)
	// Family lists the IDs of an image and of those made from it. errdefs.ErrNotFound.
	Family(ctx context.Context, ref string) ([]string, error)
}

// ImageInfo is an image as a container sees it.
type ImageInfo struct {
	ID       string // "sha256:…", as `docker image inspect` shows it
	Name     string // normalised reference; empty when resolved by ID
	ChainID  string // chain ID of the top layer: key of the committed snapshot; empty for an image with no layer
	Config   dockerspec.DockerOCIImageConfig
	Manifest *ocispec.Descriptor // platform manifest, nil where unknown
	Foreign  string              // its platform ("linux/arm64/v8") where this machine doesn't run that by itself
}

// Devices are what vendors describe by files of the Container Device Interface.
type Devices interface {
	// Names lists the devices there are now, "vendor.com/class=name", sorted.
	Names() []string
	// Inject puts what the devices need into a spec.
	Inject(s *specs.Spec, names []string) error
}

// Rootfs makes, mounts and removes the writable layer of a container.
// All methods are idempotent and keyed by container ID.
type Rootfs interface {
	// Prepare makes the writable layer over the committed snapshot parent
	// (a chain ID, or "" for none).
	Prepare(ctx context.Context, id, parent string) error
	// Mount mounts the layer at its merged directory, if it isn't yet, and says
	// where everything is.
	Mount(ctx context.Context, id string) (Layer, error)
	// Unmount takes the merged directory away; the layer stays.
	Unmount(ctx context.Context, id string) error
	// Layer tells the directories without mounting. errdefs.ErrNotFound.
	Layer(ctx context.Context, id string) (Layer, error)
	// Remove unmounts and deletes the layer.
	Remove(ctx context.Context, id string) error
	// Changes lists what the layer changed over its parent, as `docker diff`, sorted by path.
	Changes(ctx context.Context, id string) ([]container.FilesystemChange, error)
	// Usage returns the bytes of the writable layer and of the whole root file
	// system (layer included). It may walk the layer.
	Usage(ctx context.Context, id string) (rw, rootfs int64, err error)
	// List names every writable layer there is, for the start-up sweep.
	List(ctx context.Context) ([]string, error)
	// Driver is the storage driver's name ("overlayfs").
	Driver() string
}

// Layer tells the overlay directories of a container. Lower is nearest-first.
type Layer struct {
	Lower  []string
	Upper  string
	Work   string
	Merged string
}

// Streams are the daemon's ends of a process's standard streams.
type Streams = stdio.Streams

// TaskConfig describes the main process of a container.
type TaskConfig struct {
	ID        string
	Spec      *specs.Spec // Root.Path is a mounted directory
	Runtime   string      // empty: the default, runc
	OpenStdin bool
	Terminal  bool
}

// ExecConfig describes an additional process.
type ExecConfig struct {
	Container string
	ID        string
	Process   *specs.Process
	OpenStdin bool
	Terminal  bool
}

// Exit is how a process ended.
type Exit struct {
	Code int
	At   time.Time
}

// TaskStatus is the runtime's view of a process.
type TaskStatus string

// Statuses of a task.
const (
	TaskCreated TaskStatus = "created"
	TaskRunning TaskStatus = "running"
	TaskPaused  TaskStatus = "paused"
	TaskStopped TaskStatus = "stopped"
)

// TaskState is the runtime's view of one process.
type TaskState struct {
	Status TaskStatus
	Pid    int
	Exit   Exit // valid when Status is TaskStopped
}

// TaskEvent is something that happened to a process without being asked.
type TaskEvent struct {
	Container string
	Exec      string // empty: the main process
	Kind      TaskEventKind
	Pid       int
	Exit      Exit // for TaskExited
}

// TaskEventKind names a kind of TaskEvent.
type TaskEventKind string

// Kinds of TaskEvent.
const (
	TaskExited TaskEventKind = "exit"
	TaskOOM    TaskEventKind = "oom"
)

// Runtime runs processes in containers. Its shims outlive the daemon: after a
// restart, List and Reattach find the tasks again. Not-found is errdefs.ErrNotFound.
type Runtime interface {
	// Ready begins what Create needs that takes a while, beside other work. It is
	// a hint; Create or Delete must follow.
	Ready(ctx context.Context, id string)
	// Create makes the task with its process waiting to start. Streams are open
	// when it returns. A failing Create leaves nothing behind.
	Create(ctx context.Context, c TaskConfig) (pid int, s Streams, err error)
	// Start lets the created process run.
	Start(ctx context.Context, id string) error
	// Exec starts an additional process; its exit comes as an event and through Wait.
	Exec(ctx context.Context, c ExecConfig) (pid int, s Streams, err error)
	// Reattach opens the streams of a task (or exec) that an earlier daemon left running.
	Reattach(ctx context.Context, id, exec string, openStdin, terminal bool) (Streams, error)
	// List returns the state of every task, keyed by container ID.
	List(ctx context.Context) (map[string]TaskState, error)
	State(ctx context.Context, id, exec string) (TaskState, error)
	// Wait returns when the process has exited; it works for one that already has.
	Wait(ctx context.Context, id, exec string) (Exit, error)
	Kill(ctx context.Context, id, exec string, sig syscall.Signal) error
	// Delete removes a stopped task (killing it first where force is set), its
	// shim and its fifos. Idempotent.
	Delete(ctx context.Context, id string, force bool) error
	// DeleteExec forgets a finished exec.
	DeleteExec(ctx context.Context, id, exec string) error
	CloseStdin(ctx context.Context, id, exec string) error
	Resize(ctx context.Context, id, exec string, width, height uint32) error
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Pids lists the processes in the container, host PIDs.
	Pids(ctx context.Context, id string) ([]int, error)
	// Stats reads the cgroup once. Networks is left nil.
	Stats(ctx context.Context, id string) (container.StatsResponse, error)
	// Events delivers every TaskEvent from now on, in order, until ctx ends;
	// it must be called before tasks are started. One consumer.
	Events(ctx context.Context) <-chan TaskEvent
}

// VolumeRequest asks for a volume for a container.
type VolumeRequest struct {
	Name      string // empty: anonymous, the name is made
	Driver    string // empty: the default driver
	Options   map[string]string
	Labels    map[string]string
	Container string // who refers to it
}

// VolumeInfo is a volume as a container sees it.
type VolumeInfo struct {
	Name      string
	Driver    string
	Source    string // the directory inspect shows as the mount's source, known before it is mounted
	Anonymous bool
	ReadOnly  bool // a snapshot: it must be mounted read-only, and nothing is copied into it
}

// Volumes gives containers their volumes. A reference (Acquire … Release)
// keeps a volume from being removed; Mount … Unmount brackets a run.
type Volumes interface {
	// Acquire finds or creates the volume and refers to it.
	Acquire(ctx context.Context, r VolumeRequest) (VolumeInfo, error)
	// Reattach refers again after a daemon restart, mounted or not.
	Reattach(ctx context.Context, name, container string, mounted bool) error
	// MountAt returns the host directory, to be mounted at a place in the
	// container. Idempotent per (name, container).
	MountAt(ctx context.Context, name, container, at string, writable bool) (path string, err error)
	Unmount(ctx context.Context, name, container string) error
	// Where tells, without I/O, the driver and the directory that a volume has now;
	// false where that is as Acquire told.
	Where(name string) (driver, source string, ok bool)
	// Populate copies src (a directory of the image) into the volume, or into the
	// directory sub of it, if that is there and empty: modes, owners, xattrs, links and device nodes kept. It does nothing
	// for a volume with content.
	Populate(ctx context.Context, name, container, src, sub string) error
	Release(ctx context.Context, name, container string) error
	// RemoveAnonymous deletes the volume if it is anonymous and nobody refers to
	// it any more; else it does nothing.
	RemoveAnonymous(ctx context.Context, name string) error
}

// SandboxRequest asks for a container's network.
type SandboxRequest struct {
	Container  string // ID
	Name       string // without slash
	Hostname   string
	Domainname string
	// Endpoints by network name or ID as the user gave it, with their wishes.
	// Nil or empty with Mode "none" gives a sandbox with loopback only.
	Endpoints  map[string]*network.EndpointSettings
	Ports      network.PortMap // wanted; HostPort "" or "0" is any free one; ranges as "8000-8010"
	Exposed    network.PortSet
	PublishAll bool
	DNS        []netip.Addr // servers the embedded resolver forwards to; empty: the host's
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string          // "name:ip", "name:host-gateway" or "name=ip"
	Sysctls    map[string]string // net.* ones, set inside the namespace
	Dir        string            // where to write hosts, resolv.conf (exists)
	Links      []string          // IDs of the containers linked to on the default network
	Task       bool              // of the swarm, which gave it its addresses
	// After, if not nil, is closed when the events of Join may be told.
	After <-chan struct{}
}

// SandboxInfo is a joined network.
type SandboxInfo struct {
	NetNS          string                               // path of the namespace; empty for host mode
	Endpoints      map[string]*network.EndpointSettings // by network name, filled in
	Ports          network.PortMap                      // as bound; exposed but unpublished ports map to nil
	HostsPath      string                               // bind into the container as /etc/hosts
	ResolvConfPath string                               // bind into the container as /etc/resolv.conf
}

// Networks gives containers their network.
type Networks interface {
	// Lookup checks a network by name, ID or ID prefix. errdefs.ErrNotFound
	// "network foo not found".
	Lookup(ctx context.Context, nameOrID string) (NetworkRef, error)
	// Validate checks at create time what Join would be asked (fixed addresses
	// inside a configured subnet, aliases only on user networks, …).
	Validate(ctx context.Context, r SandboxRequest) error
	// Join makes the namespace, endpoints, addresses, DNS names and published
	// ports. All or nothing. Not called for host and container:X modes.
	Join(ctx context.Context, r SandboxRequest) (SandboxInfo, error)
	// HostFiles writes hosts and resolv.conf for a container that shares the host's network.
	HostFiles(ctx context.Context, r SandboxRequest) (SandboxInfo, error)
	// Restore adopts the sandbox of a container that ran while the daemon was
	// away: namespace, addresses and ports stay; resolver and forwarders are reopened.
	Restore(ctx context.Context, r SandboxRequest, info SandboxInfo) error
	// Leave undoes Join. Idempotent.
	Leave(ctx context.Context, container string) error
	// Connect adds an endpoint to a joined sandbox and returns it filled in.
	Connect(ctx context.Context, container, network string, ep *network.EndpointSettings) (*network.EndpointSettings, error)
	Disconnect(ctx context.Context, container, network string) error
	// Rename changes the container's DNS name.
	Rename(ctx context.Context, container, name string) error
	// Relink gives a joined container other links, by the IDs of those linked to.
	Relink(ctx context.Context, container string, links []string) error
	// Stats returns interface counters by name inside the sandbox.
	Stats(ctx context.Context, container string) (map[string]container.NetworkStats, error)
}

// NetworkRef names a network.
type NetworkRef struct {
	ID     string
	Name   string
	Driver string // "bridge", "host", "null"
}
