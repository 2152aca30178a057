package cluster

import (
	"maps"
	"testing"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/swarmkit/v2/api"
)

func TestEvents(t *testing.T) {
	service := func(n uint64, image string, s *api.UpdateStatus) *api.Object {
		return &api.Object{Object: &api.Object_Service{Service: &api.Service{ID: "s", UpdateStatus: s, Spec: api.ServiceSpec{
			Annotations: api.Annotations{Name: "web"}, Mode: &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{Replicas: n}},
			Task: api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{Image: image}}},
		}}}}
	}
	node := func(s api.NodeStatus_State, a api.NodeSpec_Availability, leader bool) *api.Object {
		return &api.Object{Object: &api.Object_Node{Node: &api.Node{
			ID: "n", Description: &api.NodeDescription{Hostname: "node1"}, Status: api.NodeStatus{State: s},
			Spec: api.NodeSpec{Availability: a}, ManagerStatus: &api.ManagerStatus{Leader: leader},
		}}}
	}
	for name, c := range map[string]struct {
		e     api.WatchMessage_Event
		kind  events.Type
		do    events.Action
		attrs map[string]string
	}{
		"created": {api.WatchMessage_Event{Action: api.WatchActionKindCreate, Object: service(1, "a", nil)}, events.ServiceEventType, events.ActionCreate, map[string]string{"name": "web"}},
		"scaled and updated": {
			api.WatchMessage_Event{Action: api.WatchActionKindUpdate, OldObject: service(1, "a", nil), Object: service(3, "b", &api.UpdateStatus{State: api.UpdateStatus_UPDATING})},
			events.ServiceEventType, events.ActionUpdate,
			map[string]string{"name": "web", "replicas.old": "1", "replicas.new": "3", "image.old": "a", "image.new": "b", "updatestate.old": "", "updatestate.new": "updating"},
		},
		"a node goes down": {
			api.WatchMessage_Event{Action: api.WatchActionKindUpdate, OldObject: node(api.NodeStatus_READY, api.NodeAvailabilityActive, true), Object: node(api.NodeStatus_DOWN, api.NodeAvailabilityDrain, false)},
			events.NodeEventType, events.ActionUpdate,
			map[string]string{"name": "node1", "state.old": "ready", "state.new": "down", "availability.old": "active", "availability.new": "drain", "leader.old": "true", "leader.new": "false"},
		},
		"a secret goes": {
			api.WatchMessage_Event{Action: api.WatchActionKindRemove, Object: &api.Object{Object: &api.Object_Secret{Secret: &api.Secret{ID: "x", Spec: api.SecretSpec{Annotations: api.Annotations{Name: "pw"}, Data: []byte("hush")}}}}},
			events.SecretEventType, events.ActionRemove,
			map[string]string{"name": "pw"},
		},
	} {
		got, ok := eventOf(&c.e)
		if !ok || got.Type != c.kind || got.Action != c.do || got.Scope != "swarm" || !maps.Equal(got.Actor.Attributes, c.attrs) {
			t.Errorf("%s: %v %+v", name, ok, got)
		}
	}
	if _, ok := eventOf(&api.WatchMessage_Event{}); ok {
		t.Error("the first message of a watch became an event")
	}
}
