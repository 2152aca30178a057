package daemon

import (
	"cmp"
	"context"
	"slices"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/usage"
)

// storageBackend answers about disk space.
type storageBackend struct{ d *Daemon }

// Usage implements the storage router's Backend.
func (b storageBackend) Usage(ctx context.Context, fresh bool, kind string) (api.UsageReport, error) {
	out := api.UsageReport{Items: []api.UsageItem{}}
	kinds := map[string]usage.Kind{
		api.UsageContainer: usage.Layer, api.UsageVolume: usage.Volume, api.UsageSnapshot: usage.Snapshot, api.UsageTrash: usage.Trash,
	}
	var only []usage.Kind
	if kind != "" {
		k, ok := kinds[kind]
		if !ok {
			return out, fault.New(errdefs.ErrInvalidArgument, "unknown kind %q: want container, volume, snapshot or trash", kind)
		}
		only = append(only, k)
	}
	if fresh {
		if err := b.d.ledger.Fresh(ctx, kind == "", only...); err != nil {
			return out, err
		}
	}
	names, trash := b.d.containers.Names(), b.d.trashNames()
	for _, i := range b.d.ledger.Items() {
		if len(only) > 0 && !slices.Contains(only, i.Key.Kind) {
			continue
		}
		u := api.UsageItem{
			Kind: api.UsageVolume, ID: i.Key.ID, Name: i.Key.ID,
			Bytes: i.Bytes, Disk: i.Disk, Files: i.Files, MeasuredAt: i.At, Exact: i.Exact, InUse: i.Open,
		}
		switch i.Key.Kind {
		case usage.Layer:
			u.Kind, u.Name = api.UsageContainer, names[i.Key.ID]
		case usage.Snapshot:
			u.Kind = api.UsageSnapshot
		case usage.Trash:
			u.Kind, u.Name = api.UsageTrash, trash[i.Key.ID]
		case usage.Volume:
		}
		if i.At.IsZero() {
			u.Bytes, u.Disk = -1, -1
		}
		out.Items = append(out.Items, u)
	}
	slices.SortFunc(out.Items, func(a, b api.UsageItem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// trashNames is what the volumes in the trash were called, by their numbers there.
func (d *Daemon) trashNames() map[string]string {
	out := map[string]string{}
	for _, t := range d.volumes.InTrash() {
		out[t.ID] = t.Name
	}
	return out
}
