package cluster

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

func findConfig(ctx context.Context, c api.ControlClient, ref string) (*api.Config, error) {
	return find(ctx, "config", ref,
		func(ctx context.Context, id string) (*api.Config, error) {
			r, err := c.GetConfig(ctx, &api.GetConfigRequest{ConfigID: id})
			if err != nil {
				return nil, err
			}
			return r.Config, nil
		},
		func(ctx context.Context, s selection) ([]*api.Config, error) {
			r, err := c.ListConfigs(ctx, &api.ListConfigsRequest{Filters: &api.ListConfigsRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
			if err != nil {
				return nil, err
			}
			return r.Configs, nil
		})
}

// Configs lists the configs.
func (s *Service) Configs(ctx context.Context, filters map[string][]string) ([]swarm.Config, error) {
	f := filter.Args(filters)
	if err := f.Check("id", "name", "names", "label"); err != nil {
		return nil, err
	}
	q := &api.ListConfigsRequest_Filters{IDPrefixes: f["id"], Names: f["names"], NamePrefixes: f["name"], Labels: labelFilter(f["label"])}
	out := []swarm.Config{}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.ListConfigs(ctx, &api.ListConfigsRequest{Filters: q})
		if err != nil {
			return err
		}
		for _, x := range r.Configs {
			out = append(out, convert.ConfigFrom(x))
		}
		return nil
	})
	return out, err
}

// Config shows one config.
func (s *Service) Config(ctx context.Context, ref string) (swarm.Config, error) {
	var out swarm.Config
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findConfig(ctx, c, ref)
		if err == nil {
			out = convert.ConfigFrom(x)
		}
		return err
	})
	return out, err
}

// CreateConfig keeps a config in the swarm's store.
func (s *Service) CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (string, error) {
	want := convert.ConfigSpecTo(spec)
	var id string
	err := s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.CreateConfig(ctx, &api.CreateConfigRequest{Spec: &want})
		if err == nil {
			id = r.Config.ID
		}
		return err
	})
	return id, err
}

// UpdateConfig changes a config's labels; its data cannot change.
func (s *Service) UpdateConfig(ctx context.Context, ref string, version uint64, spec swarm.ConfigSpec) error {
	want := convert.ConfigSpecTo(spec)
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findConfig(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.UpdateConfig(ctx, &api.UpdateConfigRequest{ConfigID: x.ID, ConfigVersion: &api.Version{Index: version}, Spec: &want})
		return err
	})
}

// RemoveConfig removes a config that no service uses.
func (s *Service) RemoveConfig(ctx context.Context, ref string) error {
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findConfig(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.RemoveConfig(ctx, &api.RemoveConfigRequest{ConfigID: x.ID})
		return err
	})
}
