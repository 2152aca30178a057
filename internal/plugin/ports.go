package plugin

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/plugin"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Phase is how far a plugin's existence has come.
type Phase string

// Phases. Only what is Ready exists for users.
const (
	Installing Phase = "installing"
	Ready      Phase = "ready"
	Removing   Phase = "removing"
)

// Record is a plugin as it is kept.
type Record struct {
	ID        string // 64 hex digits
	Name      string // familiar reference with a tag: "cloudstor:azure"
	Reference string // what it was pulled from, or its name where it was made here
	Phase     Phase
	Enabled   bool
	Config    plugin.Config
	Settings  plugin.Settings
	Target    ocispec.Descriptor // manifest, for a push
	Root      string             // folder with its root file system
	Claim     string             // under which Content keeps what Target refers to
}

// Records keep plugins, by ID.
type Records interface {
	Put(id string, r *Record) error
	Delete(id string) error
	// All returns all. Callers own them.
	All() ([]*Record, error)
}

// Publisher takes events for the daemon's event stream. It never blocks.
type Publisher interface {
	Publish(m events.Message)
}

// Remote describes an access to a registry.
type Remote struct {
	Auth    registry.AuthConfig
	Headers map[string][]string
}

// Progress is told how a transfer goes.
type Progress interface {
	Message(id, text string)
	Update(id, action string, current, total int64)
	Aux(v any)
}

// Artifact is a plugin's content.
type Artifact struct {
	Target ocispec.Descriptor // its manifest
	Config []byte             // JSON
	Layers []ocispec.Descriptor
}

// Content is what plugins are made of. What a claim names is kept until it is
// dropped.
type Content interface {
	// Look reads the config of a plugin in a registry, and keeps nothing. An image
	// that is no plugin is errdefs.ErrInvalidArgument.
	Look(ctx context.Context, ref string, r Remote) (config []byte, err error)
	// Pull fetches a plugin for a claim.
	Pull(ctx context.Context, claim, ref string, r Remote, p Progress) (Artifact, error)
	// Pack stores a root file system, a tar stream, and the config that goes with it.
	Pack(ctx context.Context, claim string, rootfs io.Reader, config func(diffID string) ([]byte, error)) (Artifact, error)
	// Extract unpacks layers, bottom first, into a directory that is there.
	Extract(ctx context.Context, layers []ocispec.Descriptor, dir string) error
	Push(ctx context.Context, ref string, target ocispec.Descriptor, r Remote, p Progress) error
	// Drop gives a claim up; an unknown one is no error.
	Drop(ctx context.Context, claim string) error
	Claims(ctx context.Context) ([]string, error)
}

// Tasks run plugins' processes, apart from containers.
type Tasks interface {
	// Base is what a spec starts from: the usual namespaces, mounts and masks.
	Base(ctx context.Context) (*specs.Spec, error)
	// Start makes a process and starts it. Each line it writes goes to log.
	Start(ctx context.Context, id string, spec *specs.Spec, log func(line string)) error
	// Adopt follows a process that an earlier daemon started; false: there is none.
	Adopt(ctx context.Context, id string, log func(line string)) (bool, error)
	// Wait returns the exit code of a process that ended.
	Wait(ctx context.Context, id string) (int, error)
	// Terminate asks a process to end. An unknown one is errdefs.ErrNotFound.
	Terminate(ctx context.Context, id string) error
	// Delete removes what is left of a process, and ends it if it has not ended.
	// An unknown one is no error.
	Delete(ctx context.Context, id string) error
	List(ctx context.Context) ([]string, error)
}

// Machine is the kernel's part.
type Machine interface {
	// Share makes a directory a mount that its copies in other mount namespaces
	// pass their mounts on to. Idempotent.
	Share(dir string) error
	// Unshare unmounts it with all below it. Idempotent.
	Unshare(dir string) error
	// Listening waits until somebody accepts connections on a socket, or ctx ends.
	Listening(ctx context.Context, socket string) error
	// Device reads a device node.
	Device(path string) (specs.LinuxDevice, error)
}

// Users tells which volumes a plugin has.
type Users interface {
	Volumes(driver string) []string
}
