package system

import (
	"context"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
)

// Backend is the engine as this router needs it.
type Backend interface {
	Info(ctx context.Context) (system.Info, error)
	Version(ctx context.Context) (system.VersionResponse, error)
	// SwarmStatus is this node's part in a swarm: inactive, pending, error, locked,
	// active/worker or active/manager. It asks nobody.
	SwarmStatus() string
	// DiskUsage measures what is asked for; the rest stays nil. Items are always
	// filled in.
	DiskUsage(ctx context.Context, o DiskUsageOptions) (system.DiskUsage, error)
	// Auth tries the credentials at their registry and returns the identity token,
	// empty where the registry gives none. errdefs.ErrUnauthenticated.
	Auth(ctx context.Context, c registry.AuthConfig) (token string, err error)
}

// DiskUsageOptions selects what to measure.
type DiskUsageOptions struct {
	Containers, Images, Volumes, BuildCache bool
}

// Events is the daemon's event stream; see event.Subscriber.
type Events interface {
	Subscribe(ctx context.Context, sinceNano int64, keep func(events.Message) bool) ([]events.Message, <-chan events.Message)
}
