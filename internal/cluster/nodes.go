package cluster

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

func findNode(ctx context.Context, c api.ControlClient, ref string) (*api.Node, error) {
	return find(ctx, "node", ref,
		func(ctx context.Context, id string) (*api.Node, error) {
			r, err := c.GetNode(ctx, &api.GetNodeRequest{NodeID: id})
			if err != nil {
				return nil, err
			}
			return r.Node, nil
		},
		func(ctx context.Context, s selection) ([]*api.Node, error) {
			r, err := c.ListNodes(ctx, &api.ListNodesRequest{Filters: &api.ListNodesRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
			if err != nil {
				return nil, err
			}
			return r.Nodes, nil
		})
}

// Nodes lists the members of the swarm.
func (s *Service) Nodes(ctx context.Context, filters map[string][]string) ([]swarm.Node, error) {
	f := filter.Args(filters)
	if err := f.Check("id", "name", "label", "role", "membership", "node.label"); err != nil {
		return nil, err
	}
	q := &api.ListNodesRequest_Filters{
		IDPrefixes: f["id"], NamePrefixes: f["name"], Labels: labelFilter(f["label"]), NodeLabels: labelFilter(f["node.label"]),
	}
	for _, r := range f["role"] {
		role, err := convert.Role(r)
		if err != nil {
			return nil, invalid("invalid role filter: '%s'", r)
		}
		q.Roles = append(q.Roles, role)
	}
	for _, m := range f["membership"] {
		switch m {
		case "accepted":
			q.Memberships = append(q.Memberships, api.NodeMembershipAccepted)
		case "pending":
			q.Memberships = append(q.Memberships, api.NodeMembershipPending)
		default:
			return nil, invalid("invalid membership filter: '%s'", m)
		}
	}
	out := []swarm.Node{}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.ListNodes(ctx, &api.ListNodesRequest{Filters: q})
		if err != nil {
			return err
		}
		for _, n := range r.Nodes {
			out = append(out, convert.NodeFrom(*n))
		}
		return nil
	})
	return out, err
}

// Node shows one member.
func (s *Service) Node(ctx context.Context, ref string) (swarm.Node, error) {
	var out swarm.Node
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		n, err := findNode(ctx, c, ref)
		if err == nil {
			out = convert.NodeFrom(*n)
		}
		return err
	})
	return out, err
}

// UpdateNode changes what a member shall be.
func (s *Service) UpdateNode(ctx context.Context, ref string, version uint64, spec swarm.NodeSpec) error {
	want, err := convert.NodeSpecTo(spec)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		n, err := findNode(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.UpdateNode(ctx, &api.UpdateNodeRequest{NodeID: n.ID, NodeVersion: &api.Version{Index: version}, Spec: &want})
		return err
	})
}

// RemoveNode forgets a member.
func (s *Service) RemoveNode(ctx context.Context, ref string, force bool) error {
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		n, err := findNode(ctx, c, ref)
		if err != nil {
			return err
		}
		_, err = c.RemoveNode(ctx, &api.RemoveNodeRequest{NodeID: n.ID, Force: force})
		return err
	})
}
