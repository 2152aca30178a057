package imagestore

import "log/slog"

// HostOptions say how registries are reached.
type HostOptions struct {
}

type hosts struct{}

func newHosts(HostOptions, *slog.Logger) *hosts { return &hosts{} }
