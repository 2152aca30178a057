package cluster

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

func findSecret(ctx context.Context, c api.ControlClient, ref string) (*api.Secret, error) {
	return find(ctx, "secret", ref,
		func(ctx context.Context, id string) (*api.Secret, error) {
			r, err := c.GetSecret(ctx, &api.GetSecretRequest{SecretID: id})
			if err != nil {
				return nil, err
			}
			return r.Secret, nil
		},
		func(ctx context.Context, s selection) ([]*api.Secret, error) {
			r, err := c.ListSecrets(ctx, &api.ListSecretsRequest{Filters: &api.ListSecretsRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
			if err != nil {
				return nil, err
			}
			return r.Secrets, nil
		})
}

// Secrets lists the secrets, without their data.
func (s *Service) Secrets(ctx context.Context, filters map[string][]string) ([]swarm.Secret, error) {
	f := filter.Args(filters)
	if err := f.Check("id", "name", "names", "label"); err != nil {
		return nil, err
	}
	q := &api.ListSecretsRequest_Filters{IDPrefixes: f["id"], Names: f["names"], NamePrefixes: f["name"], Labels: labelFilter(f["label"])}
	out := []swarm.Secret{}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.ListSecrets(ctx, &api.ListSecretsRequest{Filters: q})
		if err != nil {
			return err
		}
		for _, x := range r.Secrets {
			out = append(out, convert.SecretFrom(x))
		}
		return nil
	})
	return out, err
}

// Secret shows one secret, without its data.
func (s *Service) Secret(ctx context.Context, ref string) (swarm.Secret, error) {
	var out swarm.Secret
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findSecret(ctx, c, ref)
		if err == nil {
			out = convert.SecretFrom(x)
		}
		return err
	})
	return out, err
}

// CreateSecret keeps a secret in the swarm's store.
func (s *Service) CreateSecret(ctx context.Context, spec swarm.SecretSpec) (string, error) {
	if spec.Driver != nil {
		return "", unserved("secret driver %q", spec.Driver.Name)
	}
	want := convert.SecretSpecTo(spec)
	var id string
	err := s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.CreateSecret(ctx, &api.CreateSecretRequest{Spec: &want})
		if err == nil {
			id = r.Secret.ID
		}
		return err
	})
	return id, err
}

// UpdateSecret changes a secret's labels; its data cannot change.
func (s *Service) UpdateSecret(ctx context.Context, ref string, version uint64, spec swarm.SecretSpec) error {
	want := convert.SecretSpecTo(spec)
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findSecret(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.UpdateSecret(ctx, &api.UpdateSecretRequest{SecretID: x.ID, SecretVersion: &api.Version{Index: version}, Spec: &want})
		return err
	})
}

// RemoveSecret removes a secret that no service uses.
func (s *Service) RemoveSecret(ctx context.Context, ref string) error {
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		x, err := findSecret(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.RemoveSecret(ctx, &api.RemoveSecretRequest{SecretID: x.ID})
		return err
	})
}
