package cluster

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

func findTask(ctx context.Context, c api.ControlClient, ref string) (*api.Task, error) {
	return find(ctx, "task", ref,
		func(ctx context.Context, id string) (*api.Task, error) {
			r, err := c.GetTask(ctx, &api.GetTaskRequest{TaskID: id})
			if err != nil {
				return nil, err
			}
			return r.Task, nil
		},
		func(ctx context.Context, s selection) ([]*api.Task, error) {
			r, err := c.ListTasks(ctx, &api.ListTasksRequest{Filters: &api.ListTasksRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
			if err != nil {
				return nil, err
			}
			return r.Tasks, nil
		})
}

// Tasks lists the tasks of services.
func (s *Service) Tasks(ctx context.Context, filters map[string][]string) ([]swarm.Task, error) {
	f := filter.Args(filters)
	if err := f.Check("id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime"); err != nil {
		return nil, err
	}
	q := &api.ListTasksRequest_Filters{
		IDPrefixes: f["id"], NamePrefixes: f["name"], Labels: labelFilter(f["label"]), UpToDate: len(f["_up-to-date"]) > 0,
	}
	for _, state := range f["desired-state"] {
		v, ok := convert.DesiredState(state)
		if !ok {
			return nil, invalid("invalid desired-state filter: '%s'", state)
		}
		q.DesiredStates = append(q.DesiredStates, v)
	}
	out := []swarm.Task{}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		for _, ref := range f["service"] {
			sv, err := findService(ctx, c, ref, false)
			if err != nil {
				return err
			}
			q.ServiceIDs = append(q.ServiceIDs, sv.ID)
			members, err := membersOf(ctx, c, sv)
			if err != nil {
				return err
			}
			for _, m := range members {
				q.ServiceIDs = append(q.ServiceIDs, m.ID)
			}
		}
		for _, ref := range f["node"] {
			if ref == "self" {
				q.NodeIDs = append(q.NodeIDs, s.member().nodeID())
				continue
			}
			n, err := findNode(ctx, c, ref)
			if err != nil {
				return err
			}
			q.NodeIDs = append(q.NodeIDs, n.ID)
		}
		r, err := c.ListTasks(ctx, &api.ListTasksRequest{Filters: q})
		if err != nil {
			return err
		}
		for _, t := range r.Tasks {
			if t.Spec.GetContainer() != nil {
				out = append(out, convert.TaskFrom(*t))
			}
		}
		return nil
	})
	return out, err
}

// Task shows one task.
func (s *Service) Task(ctx context.Context, ref string) (swarm.Task, error) {
	var out swarm.Task
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		t, err := findTask(ctx, c, ref)
		if err == nil {
			out = convert.TaskFrom(*t)
		}
		return err
	})
	return out, err
}
