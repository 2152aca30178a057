package container

import (
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CreateOptions is a request for a container.
type CreateOptions struct {
	Name       string
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *ocispec.Platform
	// Task says that it is a task of the swarm, which gave it its addresses. No client can say so.
	Task bool
}

// RemoveOptions says how to remove a container.
type RemoveOptions struct {
	Force   bool // kill it first
	Volumes bool // and its anonymous volumes
	Link    bool // remove a legacy link instead: refused
}

// ListOptions selects containers.
type ListOptions struct {
	All     bool
	Limit   int
	Size    bool
	Filters map[string][]string // as the API names them
}

// LogsOptions selects log lines.
type LogsOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Timestamps     bool
	Details        bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // lines from the end; negative: all
	// Started is called, where set, once it is sure that the log can be read,
	// before anything is written: the router sends its header there.
	Started func() error
}

// AttachOptions joins a client to a container's streams. Stdin may be nil.
type AttachOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: not wanted
	Logs           bool      // replay the log first
	Stream         bool      // then stay
	DetachKeys     string    // "" is the default ctrl-p,ctrl-q
	// Started is called once the client is joined, before anything is copied: the
	// router answers 101 there.
	Started func() error
}

// ExecStartOptions starts a created exec.
type ExecStartOptions struct {
	Detach         bool
	TTY            bool
	ConsoleSize    *[2]uint // height, width
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Started is called once the process runs, before any output is copied: the
	// router answers 101 there.
	Started func() error
}

// CommitOptions makes an image of a container's layer.
type CommitOptions struct {
	Container string
	Ref       string // empty: untagged
	Comment   string
	Author    string
	Pause     bool
	Config    *container.Config // replaces the container's where set
	Changes   []string          // Dockerfile instructions
}
