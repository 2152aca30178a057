package container

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Phase is where a container is in its life.
type Phase string

// Phases of a container. Paused and restarting are phases too, so that a
// record read after a crash tells what was going on.
const (
	Created    Phase = "created"
	Starting   Phase = "starting"
	Running    Phase = "running"
	Paused     Phase = "paused"
	Stopping   Phase = "stopping"
	Exited     Phase = "exited"
	Restarting Phase = "restarting" // exited, the policy will start it again
	Removing   Phase = "removing"
	Dead       Phase = "dead"
)

// Record is everything about a container that outlives the daemon. It is
// written by one transaction per phase change.
type Record struct {
	ID      string
	Name    string // without the leading slash
	Created time.Time

	ImageID       string // "sha256:…"
	ImageParent   string // chain ID of the image's top layer
	ImageManifest *ocispec.Descriptor
	Config        *container.Config     // image's and user's settings merged
	HostConfig    *container.HostConfig // as the user gave it, defaults filled in
	Path          string
	Args          []string
	Mounts        []Mount
	// Endpoints by network name: what the user asked for. What was given is in Sandbox.
	Endpoints map[string]*network.EndpointSettings
	Links     []Link       // on the default network
	Sandbox   *SandboxInfo // while running; without NetNS for host mode, nil for container:X

	Phase         Phase
	Pid           int
	ExitCode      int
	Error         string
	OOMKilled     bool
	StartedAt     time.Time
	FinishedAt    time.Time
	RestartCount  int
	StoppedByUser bool // a stop or kill was asked for: restart policies "always" and "unless-stopped" differ here
	Health        *container.Health
	RemoveVolumes bool // with Phase Removing: anonymous volumes go too
	Task          bool `json:",omitempty"` // of the swarm, which gave it its addresses
}

// Mount is one mount of a container beyond its root file system.
type Mount struct {
	Type        mount.Type
	Name        string // volume
	Driver      string // volume
	Source      string // bind: host path; volume: as VolumeInfo.Source
	Target      string
	Subpath     string // volume
	ReadOnly    bool
	NoCopy      bool
	Anonymous   bool   // volume made for this container without a name
	Mode        string // the part after the second colon of -v
	Propagation mount.Propagation
	Image       string       // image: its ID; Source is the name it was asked for by
	ImageParent string       // image: chain ID of its top layer
	Options     *mount.Mount // the request, where it came through HostConfig.Mounts
}
