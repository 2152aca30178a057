package client

import (
	"context"
	"net/http"

	"holdfast.dev/holdfast/api"
)

// CreatePool makes a pool.
func (c *Client) CreatePool(ctx context.Context, r api.PoolCreate) (api.Pool, error) {
	var out api.Pool
	err := c.call(ctx, http.MethodPost, api.PathPools, r, &out)
	return out, err
}

// Pools lists the pools by name.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	var out []api.Pool
	err := c.call(ctx, http.MethodGet, api.PathPools, nil, &out)
	return out, err
}

// Pool shows a pool.
func (c *Client) Pool(ctx context.Context, name string) (api.Pool, error) {
	var out api.Pool
	err := c.call(ctx, http.MethodGet, path(api.PathPool, name, ""), nil, &out)
	return out, err
}

// GrowPool makes a pool larger.
func (c *Client) GrowPool(ctx context.Context, name string, bytes int64) (api.Pool, error) {
	var out api.Pool
	err := c.call(ctx, http.MethodPost, path(api.PathPoolGrow, name, ""), api.PoolGrow{Bytes: bytes}, &out)
	return out, err
}

// CheckPool reads all of a pool and compares it with its checksums.
func (c *Client) CheckPool(ctx context.Context, name string) (api.PoolCheck, error) {
	var out api.PoolCheck
	err := c.call(ctx, http.MethodPost, path(api.PathPoolCheck, name, ""), nil, &out)
	return out, err
}

// RemovePool takes an empty pool away.
func (c *Client) RemovePool(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, path(api.PathPool, name, ""), nil, nil)
}
