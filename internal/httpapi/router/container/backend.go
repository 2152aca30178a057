package container

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/container"

	domain "holdfast.dev/holdfast/internal/container"
)

// Backend is the container service as this router needs it. Names are names,
// IDs or unambiguous ID prefixes. Errors carry errdefs classes; "already so"
// is errdefs.ErrNotModified (304).
type Backend interface {
	Create(ctx context.Context, in domain.CreateOptions) (container.CreateResponse, error)
	Start(ctx context.Context, name string) error
	// Stop: timeout nil means the container's own, negative means wait for ever.
	Stop(ctx context.Context, name, signal string, timeout *int) error
	Restart(ctx context.Context, name, signal string, timeout *int) error
	Kill(ctx context.Context, name, signal string) error
	Pause(ctx context.Context, name string) error
	Unpause(ctx context.Context, name string) error
	Rename(ctx context.Context, name, to string) error
	Update(ctx context.Context, name string, u container.UpdateConfig) (warnings []string, err error)
	// Wait registers for the condition before it returns; the channel gives one response.
	Wait(ctx context.Context, name string, cond container.WaitCondition) (<-chan container.WaitResponse, error)
	Remove(ctx context.Context, name string, o domain.RemoveOptions) error
	Prune(ctx context.Context, filters map[string][]string) (container.PruneReport, error)
	Inspect(ctx context.Context, name string, size bool) (container.InspectResponse, error)
	List(ctx context.Context, o domain.ListOptions) ([]container.Summary, error)
	Resize(ctx context.Context, name string, height, width uint32) error
	Top(ctx context.Context, name, psArgs string) (container.TopResponse, error)
	Changes(ctx context.Context, name string) ([]container.FilesystemChange, error)
	Export(ctx context.Context, name string, w io.Writer) error

	// IsTTY tells which framing attach and logs use.
	IsTTY(ctx context.Context, name string) (bool, error)
	// Logs writes to the two writers until the log ends or, following, the container does.
	Logs(ctx context.Context, name string, o domain.LogsOptions, stdout, stderr io.Writer) error
	// Attach copies until the streams end, the client goes, or the detach keys come.
	Attach(ctx context.Context, name string, o domain.AttachOptions) error
	// Stats calls emit with one sample, or with one a second until ctx ends or the container does.
	Stats(ctx context.Context, name string, stream, oneShot bool, emit func(container.StatsResponse) error) error

	StatPath(ctx context.Context, name, path string) (container.PathStat, error)
	ArchivePath(ctx context.Context, name, path string) (io.ReadCloser, container.PathStat, error)
	ExtractToDir(ctx context.Context, name, path string, noOverwriteDirNonDir, copyUIDGID bool, content io.Reader) error

	ExecCreate(ctx context.Context, name string, c container.ExecCreateRequest) (id string, err error)
	ExecStart(ctx context.Context, id string, o domain.ExecStartOptions) error
	ExecInspect(ctx context.Context, id string) (container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, height, width uint32) error
}

// Committer makes an image of a container.
type Committer interface {
	Commit(ctx context.Context, o domain.CommitOptions) (imageID string, err error)
}
