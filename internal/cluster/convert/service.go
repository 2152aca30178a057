package convert

import (
	"maps"
	"slices"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
)

var failureActions = table[swarm.FailureAction, api.UpdateConfig_FailureAction]{
	{swarm.UpdateFailureActionPause, api.UpdateConfig_PAUSE},
	{swarm.UpdateFailureActionContinue, api.UpdateConfig_CONTINUE},
	{swarm.UpdateFailureActionRollback, api.UpdateConfig_ROLLBACK},
}

var updateOrders = table[swarm.UpdateOrder, api.UpdateConfig_UpdateOrder]{
	{swarm.UpdateOrderStopFirst, api.UpdateConfig_STOP_FIRST},
	{swarm.UpdateOrderStartFirst, api.UpdateConfig_START_FIRST},
}

var updateStates = table[swarm.UpdateState, api.UpdateStatus_UpdateState]{
	{"", api.UpdateStatus_UNKNOWN},
	{swarm.UpdateStateUpdating, api.UpdateStatus_UPDATING},
	{swarm.UpdateStatePaused, api.UpdateStatus_PAUSED},
	{swarm.UpdateStateCompleted, api.UpdateStatus_COMPLETED},
	{swarm.UpdateStateRollbackStarted, api.UpdateStatus_ROLLBACK_STARTED},
	{swarm.UpdateStateRollbackPaused, api.UpdateStatus_ROLLBACK_PAUSED},
	{swarm.UpdateStateRollbackCompleted, api.UpdateStatus_ROLLBACK_COMPLETED},
}

var restartConditions = table[swarm.RestartPolicyCondition, api.RestartPolicy_RestartCondition]{
	{swarm.RestartPolicyConditionAny, api.RestartOnAny},
	{swarm.RestartPolicyConditionNone, api.RestartOnNone},
	{swarm.RestartPolicyConditionOnFailure, api.RestartOnFailure},
}

var resolutionModes = table[swarm.ResolutionMode, api.EndpointSpec_ResolutionMode]{
	{swarm.ResolutionModeVIP, api.ResolutionModeVirtualIP},
	{swarm.ResolutionModeDNSRR, api.ResolutionModeDNSRoundRobin},
}

var protocols = table[network.IPProtocol, api.PortConfig_Protocol]{
	{network.TCP, api.ProtocolTCP},
	{network.UDP, api.ProtocolUDP},
	{network.SCTP, api.ProtocolSCTP},
}

var publishModes = table[swarm.PortConfigPublishMode, api.PortConfig_PublishMode]{
	{swarm.PortConfigPublishModeIngress, api.PublishModeIngress},
	{swarm.PortConfigPublishModeHost, api.PublishModeHost},
}

// ServiceFrom is a service as the API shows it.
func ServiceFrom(s api.Service) swarm.Service {
	out := swarm.Service{ID: s.ID, Meta: metaFrom(s.Meta), Spec: ServiceSpecFrom(s.Spec)}
	if s.PreviousSpec != nil {
		p := ServiceSpecFrom(*s.PreviousSpec)
		out.PreviousSpec = &p
	}
	if e := s.Endpoint; e != nil {
		if spec := endpointSpecFrom(e.Spec); spec != nil {
			out.Endpoint.Spec = *spec
		}
		out.Endpoint.Ports = each(e.Ports, PortFrom)
		for _, v := range e.VirtualIPs {
			ip := swarm.EndpointVirtualIP{NetworkID: v.NetworkID}
			if ps := prefixesFrom([]string{v.Addr}); len(ps) == 1 {
				ip.Addr = ps[0]
			}
			out.Endpoint.VirtualIPs = append(out.Endpoint.VirtualIPs, ip)
		}
	}
	if u := s.UpdateStatus; u != nil {
		out.UpdateStatus = &swarm.UpdateStatus{
			State: updateStates.toDocker(u.State), StartedAt: timePtrFrom(u.StartedAt), CompletedAt: timePtrFrom(u.CompletedAt), Message: u.Message,
		}
	}
	if j := s.JobStatus; j != nil {
		out.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: j.JobIteration.Index}, LastExecution: timeFrom(j.LastExecution)}
	}
	return out
}

// ServiceSpecFrom is what a service shall be.
func ServiceSpecFrom(s api.ServiceSpec) swarm.ServiceSpec {
	out := swarm.ServiceSpec{
		Annotations:    annotationsFrom(s.Annotations),
		TaskTemplate:   TaskSpecFrom(s.Task),
		UpdateConfig:   updateFrom(s.Update),
		RollbackConfig: updateFrom(s.Rollback),
		EndpointSpec:   endpointSpecFrom(s.Endpoint),
	}
	switch m := s.Mode.(type) {
	case *api.ServiceSpec_Global:
		out.Mode.Global = &swarm.GlobalService{}
	case *api.ServiceSpec_Replicated:
		n := m.Replicated.Replicas
		out.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	case *api.ServiceSpec_ReplicatedJob:
		most, total := m.ReplicatedJob.MaxConcurrent, m.ReplicatedJob.TotalCompletions
		out.Mode.ReplicatedJob = &swarm.ReplicatedJob{MaxConcurrent: &most, TotalCompletions: &total}
	case *api.ServiceSpec_GlobalJob:
		out.Mode.GlobalJob = &swarm.GlobalJob{}
	}
	return out
}

// ServiceSpecTo reads what a service shall be.
func ServiceSpecTo(s swarm.ServiceSpec) (api.ServiceSpec, error) {
	out := api.ServiceSpec{Annotations: annotationsTo(s.Annotations)}
	var err error
	if out.Task, err = taskSpecTo(s.TaskTemplate); err != nil {
		return out, err
	}
	if out.Update, err = updateTo(s.UpdateConfig); err != nil {
		return out, err
	}
	if out.Rollback, err = updateTo(s.RollbackConfig); err != nil {
		return out, err
	}
	if out.Endpoint, err = endpointSpecTo(s.EndpointSpec); err != nil {
		return out, err
	}
	return out, modeTo(s.Mode, &out)
}

func modeTo(m swarm.ServiceMode, out *api.ServiceSpec) error {
	set := 0
	if m.Global != nil {
		set++
		out.Mode = &api.ServiceSpec_Global{Global: &api.GlobalService{}}
	}
	if m.GlobalJob != nil {
		set++
		out.Mode = &api.ServiceSpec_GlobalJob{GlobalJob: &api.GlobalJob{}}
	}
	if j := m.ReplicatedJob; j != nil {
		set++
		job := &api.ReplicatedJob{MaxConcurrent: 1}
		if j.MaxConcurrent != nil {
			job.MaxConcurrent = *j.MaxConcurrent
		}
		job.TotalCompletions = job.MaxConcurrent
		if j.TotalCompletions != nil {
			job.TotalCompletions = *j.TotalCompletions
		}
		out.Mode = &api.ServiceSpec_ReplicatedJob{ReplicatedJob: job}
	}
	if r := m.Replicated; r != nil {
		set++
	}
	if set > 1 {
		return invalid("must specify only one service mode")
	}
	if out.Mode == nil {
		r := &api.ReplicatedService{Replicas: 1}
		if m.Replicated != nil && m.Replicated.Replicas != nil {
			r.Replicas = *m.Replicated.Replicas
		}
		out.Mode = &api.ServiceSpec_Replicated{Replicated: r}
	}
	return nil
}

func updateFrom(u *api.UpdateConfig) *swarm.UpdateConfig {
	if u == nil {
		return nil
	}
	return &swarm.UpdateConfig{
		Parallelism: u.Parallelism, Delay: u.Delay, FailureAction: failureActions.toDocker(u.FailureAction),
		Monitor: durationFrom(u.Monitor), MaxFailureRatio: u.MaxFailureRatio, Order: updateOrders.toDocker(u.Order),
	}
}

func updateTo(u *swarm.UpdateConfig) (*api.UpdateConfig, error) {
	if u == nil {
		return nil, nil
	}
	out := &api.UpdateConfig{Parallelism: u.Parallelism, Delay: u.Delay, Monitor: durationOrNil(u.Monitor), MaxFailureRatio: u.MaxFailureRatio}
	var err error
	if out.FailureAction, err = failureActions.toSwarmkit(u.FailureAction, "UpdateConfig failure action"); err != nil {
		return nil, err
	}
	out.Order, err = updateOrders.toSwarmkit(u.Order, "UpdateConfig order")
	return out, err
}

func endpointSpecFrom(e *api.EndpointSpec) *swarm.EndpointSpec {
	if e == nil {
		return nil
	}
	return &swarm.EndpointSpec{Mode: resolutionModes.toDocker(e.Mode), Ports: each(e.Ports, PortFrom)}
}

func endpointSpecTo(e *swarm.EndpointSpec) (*api.EndpointSpec, error) {
	if e == nil {
		return nil, nil
	}
	out := &api.EndpointSpec{}
	var err error
	if out.Mode, err = resolutionModes.toSwarmkit(e.Mode, "ResolutionMode"); err != nil {
		return nil, err
	}
	out.Ports, err = eachErr(e.Ports, portTo)
	return out, err
}

// PortFrom is a published port.
func PortFrom(p *api.PortConfig) swarm.PortConfig {
	return swarm.PortConfig{
		Name: p.Name, Protocol: protocols.toDocker(p.Protocol), TargetPort: p.TargetPort,
		PublishedPort: p.PublishedPort, PublishMode: publishModes.toDocker(p.PublishMode),
	}
}

func portTo(p swarm.PortConfig) (*api.PortConfig, error) {
	out := &api.PortConfig{Name: p.Name, TargetPort: p.TargetPort, PublishedPort: p.PublishedPort}
	var err error
	if out.Protocol, err = protocols.toSwarmkit(p.Protocol, "PortConfig protocol"); err != nil {
		return nil, err
	}
	out.PublishMode, err = publishModes.toSwarmkit(p.PublishMode, "PortConfig publish mode")
	return out, err
}

// TaskSpecFrom is what a task shall be.
func TaskSpecFrom(t api.TaskSpec) swarm.TaskSpec {
	out := swarm.TaskSpec{
		ContainerSpec: ContainerFrom(t.GetContainer()),
		RestartPolicy: restartFrom(t.Restart),
		Placement:     placementFrom(t.Placement),
		LogDriver:     driverFrom(t.LogDriver),
		ForceUpdate:   t.ForceUpdate,
		Runtime:       swarm.RuntimeContainer,
		Networks: each(t.Networks, func(n *api.NetworkAttachmentConfig) swarm.NetworkAttachmentConfig {
			return swarm.NetworkAttachmentConfig{Target: n.Target, Aliases: slices.Clone(n.Aliases), DriverOpts: maps.Clone(n.DriverAttachmentOpts)}
		}),
	}
	if a := t.GetAttachment(); a != nil {
		out.Runtime, out.NetworkAttachmentSpec = swarm.RuntimeNetworkAttachment, &swarm.NetworkAttachmentSpec{ContainerID: a.ContainerID}
	}
	if r := t.Resources; r != nil {
		out.Resources = &swarm.ResourceRequirements{Reservations: resourcesFrom(r.Reservations)}
		if r.Limits != nil {
			out.Resources.Limits = &swarm.Limit{NanoCPUs: r.Limits.NanoCPUs, MemoryBytes: r.Limits.MemoryBytes}
		}
		if v := r.SwapBytes; v != nil {
			out.Resources.SwapBytes = &v.Value
		}
		if v := r.MemorySwappiness; v != nil {
			out.Resources.MemorySwappiness = &v.Value
		}
	}
	if c := t.GetContainer(); c != nil && c.PidsLimit != 0 { // the one limit that SwarmKit keeps elsewhere
		if out.Resources == nil {
			out.Resources = &swarm.ResourceRequirements{}
		}
		if out.Resources.Limits == nil {
			out.Resources.Limits = &swarm.Limit{}
		}
		out.Resources.Limits.Pids = c.PidsLimit
	}
	return out
}

func taskSpecTo(t swarm.TaskSpec) (api.TaskSpec, error) {
	out := api.TaskSpec{
		LogDriver:   driverTo(t.LogDriver),
		ForceUpdate: t.ForceUpdate,
		Networks: each(t.Networks, func(n swarm.NetworkAttachmentConfig) *api.NetworkAttachmentConfig {
			return &api.NetworkAttachmentConfig{Target: n.Target, Aliases: slices.Clone(n.Aliases), DriverAttachmentOpts: maps.Clone(n.DriverOpts)}
		}),
	}
	switch {
	case t.PluginSpec != nil || t.Runtime == swarm.RuntimePlugin:
		return out, invalid("services that install plugins are not supported by this release of Holdfast")
	case t.NetworkAttachmentSpec != nil || t.Runtime == swarm.RuntimeNetworkAttachment:
		return out, invalid("a service cannot have the runtime %q", swarm.RuntimeNetworkAttachment)
	case t.Runtime != "" && t.Runtime != swarm.RuntimeContainer:
		return out, invalid("invalid Runtime: %q", t.Runtime)
	case t.ContainerSpec == nil:
		return out, invalid("invalid task template: no ContainerSpec")
	}
	c, err := containerTo(t.ContainerSpec)
	if err != nil {
		return out, err
	}
	out.Runtime = &api.TaskSpec_Container{Container: c}
	if r := t.Resources; r != nil {
		out.Resources = &api.ResourceRequirements{Reservations: resourcesTo(r.Reservations)}
		if r.Limits != nil {
			out.Resources.Limits = &api.Resources{NanoCPUs: r.Limits.NanoCPUs, MemoryBytes: r.Limits.MemoryBytes}
			c.PidsLimit = r.Limits.Pids
		}
		if r.SwapBytes != nil {
			out.Resources.SwapBytes = &gogotypes.Int64Value{Value: *r.SwapBytes}
		}
		if r.MemorySwappiness != nil {
			out.Resources.MemorySwappiness = &gogotypes.Int64Value{Value: *r.MemorySwappiness}
		}
	}
	if r := t.RestartPolicy; r != nil {
		out.Restart = &api.RestartPolicy{Delay: durationPtrTo(r.Delay), Window: durationPtrTo(r.Window)}
		if r.MaxAttempts != nil {
			out.Restart.MaxAttempts = *r.MaxAttempts
		}
		if out.Restart.Condition, err = restartConditions.toSwarmkit(r.Condition, "RestartCondition"); err != nil {
			return out, err
		}
	}
	if p := t.Placement; p != nil {
		out.Placement = &api.Placement{
			Constraints: slices.Clone(p.Constraints), MaxReplicas: p.MaxReplicas,
			Platforms: each(p.Platforms, func(p swarm.Platform) *api.Platform {
				return &api.Platform{Architecture: p.Architecture, OS: p.OS}
			}),
		}
		out.Placement.Preferences, err = eachErr(p.Preferences, func(p swarm.PlacementPreference) (*api.PlacementPreference, error) {
			if p.Spread == nil {
				return nil, invalid("invalid placement preference: only spread is known")
			}
			return &api.PlacementPreference{Preference: &api.PlacementPreference_Spread{
				Spread: &api.SpreadOver{SpreadDescriptor: p.Spread.SpreadDescriptor},
			}}, nil
		})
	}
	return out, err
}

func restartFrom(r *api.RestartPolicy) *swarm.RestartPolicy {
	if r == nil {
		return nil
	}
	attempts := r.MaxAttempts
	return &swarm.RestartPolicy{
		Condition: restartConditions.toDocker(r.Condition), Delay: durationPtrFrom(r.Delay), MaxAttempts: &attempts, Window: durationPtrFrom(r.Window),
	}
}

func placementFrom(p *api.Placement) *swarm.Placement {
	if p == nil {
		return nil
	}
	out := &swarm.Placement{
		Constraints: slices.Clone(p.Constraints), MaxReplicas: p.MaxReplicas,
		Platforms: each(p.Platforms, func(p *api.Platform) swarm.Platform {
			return swarm.Platform{Architecture: p.Architecture, OS: p.OS}
		}),
	}
	for _, pref := range p.Preferences {
		if s := pref.GetSpread(); s != nil {
			out.Preferences = append(out.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: s.SpreadDescriptor}})
		}
	}
	return out
}

func resourcesFrom(r *api.Resources) *swarm.Resources {
	if r == nil {
		return nil
	}
	return &swarm.Resources{NanoCPUs: r.NanoCPUs, MemoryBytes: r.MemoryBytes, GenericResources: each(r.Generic, genericFrom)}
}

func genericFrom(g *api.GenericResource) swarm.GenericResource {
	switch r := g.Resource.(type) {
	case *api.GenericResource_NamedResourceSpec:
		return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: r.NamedResourceSpec.Kind, Value: r.NamedResourceSpec.Value}}
	case *api.GenericResource_DiscreteResourceSpec:
		return swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: r.DiscreteResourceSpec.Kind, Value: r.DiscreteResourceSpec.Value}}
	}
	return swarm.GenericResource{}
}

func resourcesTo(r *swarm.Resources) *api.Resources {
	if r == nil {
		return nil
	}
	out := &api.Resources{NanoCPUs: r.NanoCPUs, MemoryBytes: r.MemoryBytes}
	for _, g := range r.GenericResources {
		switch {
		case g.NamedResourceSpec != nil:
			out.Generic = append(out.Generic, &api.GenericResource{Resource: &api.GenericResource_NamedResourceSpec{
				NamedResourceSpec: &api.NamedGenericResource{Kind: g.NamedResourceSpec.Kind, Value: g.NamedResourceSpec.Value},
			}})
		case g.DiscreteResourceSpec != nil:
			out.Generic = append(out.Generic, &api.GenericResource{Resource: &api.GenericResource_DiscreteResourceSpec{
				DiscreteResourceSpec: &api.DiscreteGenericResource{Kind: g.DiscreteResourceSpec.Kind, Value: g.DiscreteResourceSpec.Value},
			}})
		}
	}
	return out
}
