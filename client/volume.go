package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"holdfast.dev/holdfast/api"
)

// path fills the {name} and {snapshot} of a path.
func path(pattern, name, snapshot string) string {
	return strings.NewReplacer("{name}", url.PathEscape(name), "{snapshot}", url.PathEscape(snapshot)).Replace(pattern)
}

// Volume shows what Docker's inspect does not.
func (c *Client) Volume(ctx context.Context, name string) (api.Volume, error) {
	var out api.Volume
	err := c.call(ctx, http.MethodGet, path(api.PathVolume, name, ""), nil, &out)
	return out, err
}

// CreateSnapshot keeps the present state of a volume. errdefs.ErrConflict where
// containers write to it and a copy would be of no one moment.
func (c *Client) CreateSnapshot(ctx context.Context, volume string, r api.SnapshotCreate) (api.VolumeCopied, error) {
	var out api.VolumeCopied
	err := c.call(ctx, http.MethodPost, path(api.PathVolumeSnapshots, volume, ""), r, &out)
	return out, err
}

// CreateSnapshots keeps the states of several volumes as of one moment.
func (c *Client) CreateSnapshots(ctx context.Context, r api.SnapshotGroup) ([]api.SnapshotTaken, error) {
	var out []api.SnapshotTaken
	err := c.call(ctx, http.MethodPost, api.PathSnapshotGroup, r, &out)
	return out, err
}

// Snapshots lists the snapshots of a volume, of all where it is empty.
func (c *Client) Snapshots(ctx context.Context, volume string) ([]api.Snapshot, error) {
	p := api.PathSnapshots
	if volume != "" {
		p = path(api.PathVolumeSnapshots, volume, "")
	}
	var out []api.Snapshot
	err := c.call(ctx, http.MethodGet, p, nil, &out)
	return out, err
}

// Snapshot shows a snapshot with its size.
func (c *Client) Snapshot(ctx context.Context, volume, name string) (api.Snapshot, error) {
	var out api.Snapshot
	err := c.call(ctx, http.MethodGet, path(api.PathSnapshot, volume, name), nil, &out)
	return out, err
}

// RemoveSnapshot deletes a snapshot.
func (c *Client) RemoveSnapshot(ctx context.Context, volume, name string) error {
	return c.call(ctx, http.MethodDelete, path(api.PathSnapshot, volume, name), nil, nil)
}

// PruneSnapshots removes snapshots and returns those that went, or would go.
func (c *Client) PruneSnapshots(ctx context.Context, r api.SnapshotPrune) ([]api.Snapshot, error) {
	var out []api.Snapshot
	err := c.call(ctx, http.MethodPost, api.PathSnapshotPrune, r, &out)
	return out, err
}

// Rollback puts a snapshot's state in place of the volume's, which is kept.
func (c *Client) Rollback(ctx context.Context, volume, name string, r api.Rollback) (api.VolumeCopied, error) {
	var out api.VolumeCopied
	err := c.call(ctx, http.MethodPost, path(api.PathRollback, volume, name), r, &out)
	return out, err
}

// CloneVolume makes a volume of another or of its snapshot.
func (c *Client) CloneVolume(ctx context.Context, volume string, r api.VolumeClone) (api.VolumeCopied, error) {
	var out api.VolumeCopied
	err := c.call(ctx, http.MethodPost, path(api.PathVolumeClone, volume, ""), r, &out)
	return out, err
}

// RenameVolume gives a volume another name.
func (c *Client) RenameVolume(ctx context.Context, volume, to string) error {
	return c.call(ctx, http.MethodPost, path(api.PathVolumeRename, volume, ""), api.VolumeRename{To: to}, nil)
}

// MoveVolume gives a volume another driver or pool. errdefs.ErrConflict while a
// container runs with it.
func (c *Client) MoveVolume(ctx context.Context, volume string, r api.VolumeMove) (api.VolumeCopied, error) {
	var out api.VolumeCopied
	err := c.call(ctx, http.MethodPost, path(api.PathVolumeMove, volume, ""), r, &out)
	return out, err
}

// ResizeVolume sets what a volume may hold; 0 is no limit.
func (c *Client) ResizeVolume(ctx context.Context, volume string, bytes int64) error {
	return c.call(ctx, http.MethodPost, path(api.PathVolumeResize, volume, ""), api.VolumeResize{Bytes: bytes}, nil)
}

// ProtectVolume forbids, or allows again, that a volume or a snapshot is removed.
func (c *Client) ProtectVolume(ctx context.Context, volume string, r api.VolumeProtect) error {
	return c.call(ctx, http.MethodPost, path(api.PathVolumeProtect, volume, ""), r, nil)
}

// ExportOptions say what of a volume is exported and how.
type ExportOptions struct {
	Snapshot string // empty: the present state
	Live     bool   // although containers write to it
	Compress string // "zstd", or empty
}

// ExportVolume writes a volume, or a snapshot of it, as a tar. A tar that was
// cut off, whatever the reason, is an error.
func (c *Client) ExportVolume(ctx context.Context, volume string, o ExportOptions, to io.Writer) error {
	q := url.Values{}
	if o.Snapshot != "" {
		q.Set("snapshot", o.Snapshot)
	}
	if o.Live {
		q.Set("live", "true")
	}
	if o.Compress != "" {
		q.Set("compress", o.Compress)
	}
	at := path(api.PathVolumeExport, volume, "") + "?" + q.Encode()
	return c.send(ctx, http.MethodGet, at, "", nil, func(reply io.Reader) error {
		if _, err := io.Copy(to, reply); err != nil {
			return fmt.Errorf("read the export of volume %s: %w", volume, err)
		}
		return nil
	})
}

// ImportOptions describe the volume that an import makes.
type ImportOptions struct {
	Driver  string
	Labels  map[string]string
	Options map[string]string
}

func (o ImportOptions) query() url.Values {
	q := url.Values{}
	if o.Driver != "" {
		q.Set("driver", o.Driver)
	}
	for key, m := range map[string]map[string]string{"label": o.Labels, "opt": o.Options} {
		for k, v := range m {
			q.Add(key, k+"="+v)
		}
	}
	return q
}

// ImportVolume makes a volume of a tar, which may be compressed (zstd, gzip).
func (c *Client) ImportVolume(ctx context.Context, volume string, o ImportOptions, from io.Reader) (api.VolumeImported, error) {
	q := o.query()
	var out api.VolumeImported
	at := path(api.PathVolumeImport, volume, "") + "?" + q.Encode()
	// It is the caller's to close.
	err := c.send(ctx, http.MethodPost, at, "application/x-tar", io.NopCloser(from), func(reply io.Reader) error {
		if err := json.NewDecoder(reply).Decode(&out); err != nil {
			return fmt.Errorf("decode reply: %w", err)
		}
		return nil
	})
	return out, err
}

// PushVolume sends a volume, or a snapshot of it, to an image registry as ref. auth
// is what Docker's X-Registry-Auth holds. show gets the daemon's JSON messages, the
// last of them an error if it failed in the middle.
func (c *Client) PushVolume(ctx context.Context, volume, ref, auth string, o ExportOptions, show func(io.Reader) error) error {
	q := url.Values{"ref": {ref}}
	if o.Snapshot != "" {
		q.Set("snapshot", o.Snapshot)
	}
	if o.Live {
		q.Set("live", "true")
	}
	return c.sendAuth(ctx, http.MethodPost, path(api.PathVolumePush, volume, "")+"?"+q.Encode(), auth, show)
}

// PullVolume makes a volume of one that PushVolume sent.
func (c *Client) PullVolume(ctx context.Context, volume, ref, auth string, o ImportOptions, show func(io.Reader) error) error {
	q := o.query()
	q.Set("ref", ref)
	return c.sendAuth(ctx, http.MethodPost, path(api.PathVolumePull, volume, "")+"?"+q.Encode(), auth, show)
}

// Trash lists the removed volumes that can be had back, oldest first.
func (c *Client) Trash(ctx context.Context) ([]api.TrashedVolume, error) {
	var out []api.TrashedVolume
	err := c.call(ctx, http.MethodGet, api.PathTrash, nil, &out)
	return out, err
}

// Undelete takes a volume out of the trash, by ID or name, under its name or
// another, and returns that.
func (c *Client) Undelete(ctx context.Context, idOrName, as string) (string, error) {
	var out api.VolumeCopied
	err := c.call(ctx, http.MethodPost, path(api.PathUndelete, idOrName, ""), api.VolumeRename{To: as}, &out)
	return out.Name, err
}

// Purge removes a volume from the trash for good.
func (c *Client) Purge(ctx context.Context, idOrName string) error {
	return c.call(ctx, http.MethodDelete, path(api.PathTrashed, idOrName, ""), nil, nil)
}

// EmptyTrash removes all that is in the trash and returns what went.
func (c *Client) EmptyTrash(ctx context.Context) ([]api.TrashedVolume, error) {
	var out []api.TrashedVolume
	err := c.call(ctx, http.MethodDelete, api.PathTrash, nil, &out)
	return out, err
}
