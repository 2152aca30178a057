package cluster

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// Publisher takes events of the swarm.
type Publisher interface{ Publish(m events.Message) }

// scopeSwarm marks what happens to the swarm as a whole. Each manager tells it.
const scopeSwarm = "swarm"

// watchAgain is the wait after a watch that broke: the manager steps down or
// its log was compacted.
const watchAgain = time.Second

// tellEvents publishes what changes in the swarm, while this node is a manager.
func (m *member) tellEvents(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := m.waitControl(ctx)
		if err == nil {
			err = m.watch(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		m.s.d.Log.Debug("watch of the swarm ended", logkey.Err, err)
		if clock.Sleep(ctx, m.s.d.Clock, watchAgain) != nil {
			return
		}
	}
}

func (m *member) watch(ctx context.Context, conn *grpc.ClientConn) error {
	req := &api.WatchRequest{IncludeOldObject: true}
	for _, kind := range []string{"node", "service", "secret", "config"} {
		req.Entries = append(req.Entries, &api.WatchRequest_WatchEntry{
			Kind: kind, Action: api.WatchActionKindCreate | api.WatchActionKindUpdate | api.WatchActionKindRemove,
		})
	}
	stream, err := api.NewWatchClient(conn).Watch(ctx, req)
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, e := range msg.Events {
			if out, ok := eventOf(e); ok {
				m.s.d.Events.Publish(out)
			}
		}
	}
}

// eventOf is a change as the event stream tells it, with Docker's attributes.
func eventOf(e *api.WatchMessage_Event) (events.Message, bool) {
	out := events.Message{Scope: scopeSwarm, Actor: events.Actor{Attributes: map[string]string{}}}
	switch e.Action {
	case api.WatchActionKindCreate:
		out.Action = events.ActionCreate
	case api.WatchActionKindUpdate:
		out.Action = events.ActionUpdate
	case api.WatchActionKindRemove:
		out.Action = events.ActionRemove
	default:
		return out, false // the first message says only that the watch began
	}
	if e.Object == nil {
		return out, false
	}
	old := e.OldObject
	if old == nil {
		old = &api.Object{}
	}
	switch {
	case e.Object.GetNode() != nil:
		n := e.Object.GetNode()
		out.Type, out.Actor.ID = events.NodeEventType, n.ID
		if n.Description != nil {
			out.Actor.Attributes["name"] = n.Description.Hostname
		}
		if was := old.GetNode(); was != nil {
			nodeChanges(out.Actor.Attributes, was, n)
		}
	case e.Object.GetService() != nil:
		s := e.Object.GetService()
		out.Type, out.Actor.ID = events.ServiceEventType, s.ID
		out.Actor.Attributes["name"] = s.Spec.Annotations.Name
		if was := old.GetService(); was != nil {
			serviceChanges(out.Actor.Attributes, was, s)
		}
	case e.Object.GetSecret() != nil:
		s := e.Object.GetSecret()
		out.Type, out.Actor.ID = events.SecretEventType, s.ID
		out.Actor.Attributes["name"] = s.Spec.Annotations.Name
	case e.Object.GetConfig() != nil:
		c := e.Object.GetConfig()
		out.Type, out.Actor.ID = events.ConfigEventType, c.ID
		out.Actor.Attributes["name"] = c.Spec.Annotations.Name
	default:
		return out, false
	}
	return out, true
}

// changed adds old and new value of what differs.
func changed(attrs map[string]string, key, was, is string) {
	if was != is {
		attrs[key+".old"], attrs[key+".new"] = strings.ToLower(was), strings.ToLower(is)
	}
}

func nodeChanges(attrs map[string]string, was, is *api.Node) {
	changed(attrs, "state", was.Status.State.String(), is.Status.State.String())
	changed(attrs, "availability", was.Spec.Availability.String(), is.Spec.Availability.String())
	changed(attrs, "role", was.Role.String(), is.Role.String())
	if a, b := was.ManagerStatus, is.ManagerStatus; a != nil && b != nil {
		changed(attrs, "leader", strconv.FormatBool(a.Leader), strconv.FormatBool(b.Leader))
		changed(attrs, "reachability", a.Reachability.String(), b.Reachability.String())
	}
}

func serviceChanges(attrs map[string]string, was, is *api.Service) {
	if a, b := was.Spec.GetReplicated(), is.Spec.GetReplicated(); a != nil && b != nil {
		changed(attrs, "replicas", strconv.FormatUint(a.Replicas, 10), strconv.FormatUint(b.Replicas, 10))
	}
	if a, b := was.Spec.Task.GetContainer(), is.Spec.Task.GetContainer(); a != nil && b != nil && a.Image != b.Image {
		attrs["image.old"], attrs["image.new"] = a.Image, b.Image
	}
	a, b := "", ""
	if was.UpdateStatus != nil {
		a = was.UpdateStatus.State.String()
	}
	if is.UpdateStatus != nil {
		b = is.UpdateStatus.State.String()
	}
	changed(attrs, "updatestate", a, b)
}
