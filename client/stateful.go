package client

import (
	"context"
	"net/http"

	"holdfast.dev/holdfast/api"
)

// StatefulSets lists the sets by name.
func (c *Client) StatefulSets(ctx context.Context) ([]api.StatefulSet, error) {
	var out []api.StatefulSet
	err := c.call(ctx, http.MethodGet, api.PathSets, nil, &out)
	return out, err
}

// StatefulSet shows a set and its history.
func (c *Client) StatefulSet(ctx context.Context, name string) (api.StatefulSet, error) {
	var out api.StatefulSet
	err := c.call(ctx, http.MethodGet, path(api.PathSet, name, ""), nil, &out)
	return out, err
}

// SwitchStatefulSet asks for another leader; StatefulSet tells when there is one.
func (c *Client) SwitchStatefulSet(ctx context.Context, name string, r api.StatefulSwitchover) error {
	return c.call(ctx, http.MethodPost, path(api.PathSetSwitch, name, ""), r, nil)
}

// RebuildStatefulMember has a member throw its data away and clone the leader's.
func (c *Client) RebuildStatefulMember(ctx context.Context, name string, r api.StatefulRebuild) error {
	return c.call(ctx, http.MethodPost, path(api.PathSetRebuild, name, ""), r, nil)
}

// PauseStatefulSet has nobody replace the set's leader.
func (c *Client) PauseStatefulSet(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, path(api.PathSetPause, name, ""), nil, nil)
}

// ResumeStatefulSet ends a pause.
func (c *Client) ResumeStatefulSet(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, path(api.PathSetResume, name, ""), nil, nil)
}
