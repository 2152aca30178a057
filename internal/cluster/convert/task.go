package convert

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
)

// TaskFrom is a task as the API shows it.
func TaskFrom(t api.Task) swarm.Task {
	out := swarm.Task{
		ID:           t.ID,
		Meta:         metaFrom(t.Meta),
		Annotations:  annotationsFrom(t.Annotations),
		Spec:         TaskSpecFrom(t.Spec),
		ServiceID:    t.ServiceID,
		Slot:         int(t.Slot),
		NodeID:       t.NodeID,
		DesiredState: TaskState(t.DesiredState),
		Status: swarm.TaskStatus{
			Timestamp: timeFrom(t.Status.Timestamp), State: TaskState(t.Status.State), Message: t.Status.Message, Err: t.Status.Err,
		},
		GenericResources: each(t.AssignedGenericResources, genericFrom),
		Volumes: each(t.Volumes, func(v *api.VolumeAttachment) swarm.VolumeAttachment {
			return swarm.VolumeAttachment{ID: v.ID, Source: v.Source, Target: v.Target}
		}),
	}
	if c := t.Status.GetContainer(); c != nil {
		out.Status.ContainerStatus = &swarm.ContainerStatus{ContainerID: c.ContainerID, PID: int(c.PID), ExitCode: int(c.ExitCode)}
	}
	if p := t.Status.PortStatus; p != nil {
		out.Status.PortStatus.Ports = each(p.Ports, PortFrom)
	}
	if t.JobIteration != nil {
		out.JobIteration = &swarm.Version{Index: t.JobIteration.Index}
	}
	return out
}

// TaskState is a state's word.
func TaskState(s api.TaskState) swarm.TaskState {
	return swarm.TaskState(strings.ToLower(s.String()))
}

// DesiredState reads a state as filters name it.
func DesiredState(s string) (api.TaskState, bool) {
	v, ok := api.TaskState_value[strings.ToUpper(s)]
	return api.TaskState(v), ok && s == strings.ToLower(s)
}

// SecretFrom is a secret; its data stays inside.
func SecretFrom(s *api.Secret) swarm.Secret {
	return swarm.Secret{ID: s.ID, Meta: metaFrom(s.Meta), Spec: swarm.SecretSpec{
		Annotations: annotationsFrom(s.Spec.Annotations), Data: slices.Clone(s.Spec.Data),
		Driver: driverFrom(s.Spec.Driver), Templating: driverFrom(s.Spec.Templating),
	}}
}

// SecretSpecTo reads a secret.
func SecretSpecTo(s swarm.SecretSpec) api.SecretSpec {
	return api.SecretSpec{
		Annotations: api.Annotations{Name: s.Name, Labels: maps.Clone(s.Labels)}, Data: s.Data,
		Driver: driverTo(s.Driver), Templating: driverTo(s.Templating),
	}
}

// ConfigFrom is a config with its data.
func ConfigFrom(c *api.Config) swarm.Config {
	return swarm.Config{ID: c.ID, Meta: metaFrom(c.Meta), Spec: swarm.ConfigSpec{
		Annotations: annotationsFrom(c.Spec.Annotations), Data: c.Spec.Data, Templating: driverFrom(c.Spec.Templating),
	}}
}

// ConfigSpecTo reads a config.
func ConfigSpecTo(c swarm.ConfigSpec) api.ConfigSpec {
	return api.ConfigSpec{Annotations: annotationsTo(c.Annotations), Data: c.Data, Templating: driverTo(c.Templating)}
}
