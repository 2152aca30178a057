package client

import (
	"context"
	"net/http"
	"net/url"

	"holdfast.dev/holdfast/api"
)

// Usage tells the sizes of containers' writable layers and of volumes. With
// fresh they are measured first.
func (c *Client) Usage(ctx context.Context, fresh bool) (api.UsageReport, error) {
	path := api.PathUsage
	if fresh {
		path += "?fresh=true"
	}
	var out api.UsageReport
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// VolumeUsage tells the sizes of volumes, those first measured that may have
// changed.
func (c *Client) VolumeUsage(ctx context.Context) (api.UsageReport, error) {
	var out api.UsageReport
	err := c.call(ctx, http.MethodGet, api.PathUsage+"?fresh=true&kind="+api.UsageVolume, nil, &out)
	return out, err
}

// Prune removes what nobody uses, or says what it would remove.
func (c *Client) Prune(ctx context.Context, r api.PruneRequest) (api.PruneReport, error) {
	var out api.PruneReport
	err := c.call(ctx, http.MethodPost, api.PathPrune, r, &out)
	return out, err
}

// StoragePolicy tells the storage policy and what it says of everything unused.
func (c *Client) StoragePolicy(ctx context.Context) (api.StoragePolicy, error) {
	var out api.StoragePolicy
	err := c.call(ctx, http.MethodGet, api.PathStoragePolicy, nil, &out)
	return out, err
}

// RunStoragePolicy runs the storage policy now.
func (c *Client) RunStoragePolicy(ctx context.Context) (api.StorageRun, error) {
	var out api.StorageRun
	err := c.call(ctx, http.MethodPost, api.PathStorageRun, nil, &out)
	return out, err
}

// StorageLog tells the last runs of the storage policy, newest first.
func (c *Client) StorageLog(ctx context.Context) ([]api.StorageRun, error) {
	var out []api.StorageRun
	err := c.call(ctx, http.MethodGet, api.PathStorageLog, nil, &out)
	return out, err
}

// StorageTop tells who grew over an "hour", a "day" or a "week", most first.
func (c *Client) StorageTop(ctx context.Context, by string) ([]api.StorageGrowth, error) {
	var out []api.StorageGrowth
	err := c.call(ctx, http.MethodGet, api.PathStorageTop+"?by="+url.QueryEscape(by), nil, &out)
	return out, err
}

// StorageExplain tells what a path, container, volume or image takes, why, and
// what would free it.
func (c *Client) StorageExplain(ctx context.Context, what string) (api.StorageExplanation, error) {
	var out api.StorageExplanation
	err := c.call(ctx, http.MethodGet, api.PathStorageExplain+"?what="+url.QueryEscape(what), nil, &out)
	return out, err
}

// StorageHost compares what the daemon tells with what is on its disk. It walks.
func (c *Client) StorageHost(ctx context.Context) (api.HostReport, error) {
	var out api.HostReport
	err := c.call(ctx, http.MethodGet, api.PathStorageHost, nil, &out)
	return out, err
}

// StorageRepair removes what belongs to nobody, or says what it would.
func (c *Client) StorageRepair(ctx context.Context, dryRun bool) ([]api.HostOrphan, error) {
	var out []api.HostOrphan
	err := c.call(ctx, http.MethodPost, api.PathStorageRepair, api.RepairRequest{DryRun: dryRun}, &out)
	return out, err
}
