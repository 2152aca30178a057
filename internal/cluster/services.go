package cluster

import (
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/filter"
	"holdfast.dev/holdfast/internal/cluster/convert"
	"holdfast.dev/holdfast/internal/cluster/sets"
)

func findService(ctx context.Context, c api.ControlClient, ref string, defaults bool) (*api.Service, error) {
	get := func(ctx context.Context, id string) (*api.Service, error) {
		r, err := c.GetService(ctx, &api.GetServiceRequest{ServiceID: id, InsertDefaults: defaults})
		if err != nil {
			return nil, err
		}
		return r.Service, nil
	}
	sv, err := find(ctx, "service", ref, get, func(ctx context.Context, s selection) ([]*api.Service, error) {
		r, err := c.ListServices(ctx, &api.ListServicesRequest{Filters: &api.ListServicesRequest_Filters{Names: s.names, IDPrefixes: s.prefixes}})
		if err != nil {
			return nil, err
		}
		return r.Services, nil
	})
	if err != nil || !defaults {
		return sv, err
	}
	return get(ctx, sv.ID) // a list fills no defaults in
}

// Services lists the services, with the numbers of their tasks if those are wanted.
func (s *Service) Services(ctx context.Context, filters map[string][]string, counts bool) ([]swarm.Service, error) {
	f := filter.Args(filters)
	if err := f.Check("id", "name", "label", "mode", "runtime"); err != nil {
		return nil, err
	}
	for _, m := range f["mode"] {
		if !slices.Contains([]string{"replicated", "global", "replicated-job", "global-job"}, m) {
			return nil, invalid("invalid filter 'mode=%s'", m)
		}
	}
	q := &api.ListServicesRequest_Filters{IDPrefixes: f["id"], NamePrefixes: f["name"], Labels: labelFilter(f["label"])}
	out := []swarm.Service{}
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		r, err := c.ListServices(ctx, &api.ListServicesRequest{Filters: q})
		if err != nil {
			return err
		}
		var ids []string
		for _, sv := range r.Services {
			if hiddenMember(sv) && !slices.ContainsFunc(f["label"], func(l string) bool { return strings.HasPrefix(l, sets.LabelOf) }) {
				continue
			}
			one := serviceFrom(sv)
			if len(f["mode"]) > 0 && !slices.Contains(f["mode"], mode(one.Spec.Mode)) {
				continue
			}
			ids = append(ids, one.ID)
			out = append(out, one)
		}
		if !counts || len(out) == 0 {
			return nil
		}
		if err := countMembers(ctx, c, r.Services, out); err != nil {
			return err
		}
		st, err := c.ListServiceStatuses(ctx, &api.ListServiceStatusesRequest{Services: ids})
		if err != nil {
			return err
		}
		for _, n := range st.Statuses {
			if i := slices.Index(ids, n.ServiceID); i >= 0 && out[i].ServiceStatus == nil {
				out[i].ServiceStatus = &swarm.ServiceStatus{RunningTasks: n.RunningTasks, DesiredTasks: n.DesiredTasks, CompletedTasks: n.CompletedTasks}
			}
		}
		return nil
	})
	return out, err
}

func mode(m swarm.ServiceMode) string {
	switch {
	case m.Global != nil:
		return "global"
	case m.ReplicatedJob != nil:
		return "replicated-job"
	case m.GlobalJob != nil:
		return "global-job"
	}
	return "replicated"
}

// Service shows one service.
func (s *Service) Service(ctx context.Context, ref string, defaults bool) (swarm.Service, error) {
	var out swarm.Service
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		sv, err := findService(ctx, c, ref, defaults)
		if err == nil {
			out = serviceFrom(sv)
		}
		return err
	})
	return out, err
}

// CreateService makes a service. auth is what the registry asks for, as clients
// encode it; each node that pulls gets it.
func (s *Service) CreateService(ctx context.Context, spec swarm.ServiceSpec, auth string) (swarm.ServiceCreateResponse, error) {
	var out swarm.ServiceCreateResponse
	if _, err := s.conn(); err != nil {
		return out, err
	}
	if spec.Name == "" {
		name, err := s.d.NewName()
		if err != nil {
			return out, err
		}
		spec.Name = name
	}
	want, err := s.wanted(spec)
	if err != nil {
		return out, err
	}
	setAuth(&want, auth)
	err = s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		if err := resolveNetworks(ctx, c, &want); err != nil {
			return err
		}
		if err := onNetwork(ctx, c, &want); err != nil {
			return err
		}
		r, err := c.CreateService(ctx, &api.CreateServiceRequest{Spec: &want})
		if err == nil {
			out.ID = r.Service.ID
		}
		return err
	})
	return out, err
}

func (s *Service) wanted(spec swarm.ServiceSpec) (api.ServiceSpec, error) {
	if err := refuse(spec); err != nil {
		return api.ServiceSpec{}, err
	}
	set, err := setFor(&spec)
	if err != nil {
		return api.ServiceSpec{}, err
	}
	out, err := convert.ServiceSpecTo(spec)
	if err == nil && set > 0 {
		storeSet(&out, set)
	}
	return out, err
}

func setAuth(spec *api.ServiceSpec, auth string) {
	if c := spec.Task.GetContainer(); c != nil && auth != "" {
		c.PullOptions = &api.ContainerSpec_PullOptions{RegistryAuth: auth}
	}
}

// ServiceUpdate is a change of a service.
type ServiceUpdate struct {
	Version  uint64
	Spec     swarm.ServiceSpec
	Auth     string
	AuthFrom string // where Auth is empty: "spec" or "previous-spec"
	Rollback string // "previous": take the spec before the last change instead
}

// UpdateService changes a service.
func (s *Service) UpdateService(ctx context.Context, ref string, u ServiceUpdate) (swarm.ServiceUpdateResponse, error) {
	var out swarm.ServiceUpdateResponse
	if _, err := s.conn(); err != nil {
		return out, err
	}
	req := &api.UpdateServiceRequest{ServiceVersion: &api.Version{Index: u.Version}}
	switch u.Rollback {
	case "", "none":
	case "previous":
		req.Rollback = api.UpdateServiceRequest_PREVIOUS
	default:
		return out, invalid("unrecognized rollback option %s", u.Rollback)
	}
	want, err := s.wanted(u.Spec)
	if err != nil {
		return out, err
	}
	req.Spec = &want
	err = s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		now, err := findService(ctx, c, ref, false)
		if err != nil {
			return err
		}
		req.ServiceID = now.ID
		if err := mayUpdateSet(now, &want, req.Rollback != api.UpdateServiceRequest_NONE); err != nil {
			return err
		}
		if err := resolveNetworks(ctx, c, &want); err != nil {
			return err
		}
		if err := onNetwork(ctx, c, &want); err != nil {
			return err
		}
		if err := keepAuth(&want, now, u); err != nil {
			return err
		}
		_, err = c.UpdateService(ctx, req)
		return err
	})
	return out, err
}

// keepAuth takes over what the registry asks for: clients send it only when
// they have it.
func keepAuth(want *api.ServiceSpec, now *api.Service, u ServiceUpdate) error {
	if u.Auth != "" {
		setAuth(want, u.Auth)
		return nil
	}
	from := &now.Spec
	switch swarm.RegistryAuthSource(u.AuthFrom) {
	case "", swarm.RegistryAuthFromSpec:
	case swarm.RegistryAuthFromPreviousSpec:
		if now.PreviousSpec == nil {
			return invalid("service has no previous spec")
		}
		from = now.PreviousSpec
	default:
		return invalid("unsupported registryAuthFrom value: %s", u.AuthFrom)
	}
	if c := from.Task.GetContainer(); c != nil && c.PullOptions != nil {
		setAuth(want, c.PullOptions.RegistryAuth)
	}
	return nil
}

// RemoveService removes a service; its tasks end after it.
func (s *Service) RemoveService(ctx context.Context, ref string) error {
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		sv, err := findService(ctx, c, ref, false)
		if err != nil {
			return err
		}
		if err := notAMember(sv); err != nil {
			return err
		}
		_, err = c.RemoveService(ctx, &api.RemoveServiceRequest{ServiceID: sv.ID})
		return err
	})
}
