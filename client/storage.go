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
