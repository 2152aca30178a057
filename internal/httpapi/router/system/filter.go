package system

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"holdfast.dev/holdfast/internal/base/filter"
)

// matcher returns the filter of an events request; keys it doesn't know match
// everything, as in Docker.
func matcher(filters map[string][]string) func(events.Message) bool {
	f := filter.Args(filters)
	return func(m events.Message) bool {
		return matchAction(f, string(m.Action)) &&
			f.Exact("type", string(m.Type)) &&
			f.Exact("scope", m.Scope) &&
			matchActor(f, m) &&
			matchImage(f, m) &&
			f.Labels("label", m.Actor.Attributes)
	}
}

// matchAction compares exactly, except where the action goes on after a colon
// ("exec_create: sh") and the filter doesn't.
func matchAction(f filter.Args, action string) bool {
	for _, open := range []string{string(events.ActionHealthStatus), string(events.ActionExecCreate), string(events.ActionExecStart)} {
		if slices.Contains(f["event"], open) {
			return f.Prefix("event", action)
		}
	}
	return f.Exact("event", action)
}

// matchActor holds the filters that name an object by its ID or name, or the
// beginning of either.
func matchActor(f filter.Args, m events.Message) bool {
	for _, t := range []events.Type{
		events.DaemonEventType, events.ContainerEventType, events.PluginEventType, events.VolumeEventType,
		events.NetworkEventType, events.ServiceEventType, events.NodeEventType, events.SecretEventType, events.ConfigEventType,
	} {
		if !f.Prefix(string(t), m.Actor.ID) && !f.Prefix(string(t), m.Actor.Attributes["name"]) {
			return false
		}
	}
	return true
}

// matchImage finds an image's events and those of containers made from it, with
// or without the tag.
func matchImage(f filter.Args, m events.Message) bool {
	key := "image"
	if m.Type == events.ImageEventType {
		key = "name"
	}
	id, name := m.Actor.ID, m.Actor.Attributes[key]
	return slices.ContainsFunc([]string{id, name, withoutTag(id), withoutTag(name)}, func(s string) bool {
		return f.Exact("image", s)
	})
}

func withoutTag(name string) string {
	if strings.Contains(name, " ") || name == "" {
		return name
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarName(ref)
}
