package client

import (
	"context"
	"net/http"

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

// Prune removes what nobody uses, or says what it would remove.
func (c *Client) Prune(ctx context.Context, r api.PruneRequest) (api.PruneReport, error) {
	var out api.PruneReport
	err := c.call(ctx, http.MethodPost, api.PathPrune, r, &out)
	return out, err
}
