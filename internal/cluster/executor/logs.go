package executor

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/cluster/convert"
	"holdfast.dev/holdfast/internal/container"
)

// Logs implements exec.ControllerLogs.
func (c *controller) Logs(ctx context.Context, p exec.LogPublisher, o api.LogSubscriptionOptions) error {
	if o.Follow {
		if err := c.waitStarted(ctx); err != nil {
			return err
		}
	}
	in, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	q := container.LogsOptions{Timestamps: true, Follow: o.Follow, Tail: tail(o.Tail)}
	for _, s := range o.Streams {
		q.Stdout = q.Stdout || s == api.LogStreamStdout
		q.Stderr = q.Stderr || s == api.LogStreamStderr
	}
	if len(o.Streams) == 0 {
		q.Stdout, q.Stderr = true, true
	}
	if o.Since != nil {
		if q.Since, err = gogotypes.TimestampFromProto(o.Since); err != nil {
			return err
		}
	}
	from := api.LogContext{NodeID: c.task.NodeID, ServiceID: c.task.ServiceID, TaskID: c.task.ID}
	var mu sync.Mutex // held across a message: both streams may write
	to := func(s api.LogStream) *publisher {
		return &publisher{ctx: ctx, mu: &mu, to: p, from: from, stream: s}
	}
	return c.e.d.Containers.Logs(ctx, in.ID, q, to(api.LogStreamStdout), to(api.LogStreamStderr))
}

// tail reads SwarmKit's count: 0 is everything, -(n+1) the last n lines.
func tail(n int64) int {
	if n >= 0 {
		return -1
	}
	return int(-n - 1)
}

// waitStarted returns once the container was started: before, there is nothing
// to follow.
func (c *controller) waitStarted(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		_, changes := c.e.d.Events.Subscribe(ctx, 0, func(m events.Message) bool {
			return m.Type == events.ContainerEventType && m.Actor.Attributes["name"] == c.name
		})
		for open := true; open; {
			in, err := c.inspect(ctx)
			if err == nil && in.State.Status != dockercontainer.StateCreated {
				return nil
			}
			select {
			case _, open = <-changes:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// publisher sends each line that the container service writes, one a call, as a
// message.
type publisher struct {
	ctx    context.Context
	mu     *sync.Mutex
	to     exec.LogPublisher
	from   api.LogContext
	stream api.LogStream
}

func (w *publisher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := api.LogMessage{Context: w.from, Stream: w.stream}
	stamp, text, ok := bytes.Cut(p, []byte(" "))
	if at, err := time.Parse(time.RFC3339Nano, string(stamp)); ok && err == nil {
		ts, err := gogotypes.TimestampProto(at)
		if err != nil {
			return 0, err
		}
		m.Timestamp, m.Data = ts, bytes.Clone(text)
	} else {
		m.Data = bytes.Clone(p)
	}
	if err := w.to.Publish(w.ctx, m); err != nil {
		return 0, err
	}
	return len(p), nil
}

// portStatus joins what was asked for with what was given.
func portStatus(wanted []*api.PortConfig, given network.PortMap) *api.PortStatus {
	out := &api.PortStatus{}
	for _, p := range wanted {
		port, ok := network.PortFrom(uint16(p.TargetPort), convert.PortFrom(p).Protocol)
		if !ok {
			continue
		}
		for _, b := range given[port] {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || b.HostIP.Is6() || p.PublishedPort != 0 && uint64(p.PublishedPort) != n {
				continue // the same port again for IPv6, or another of the list
			}
			out.Ports = append(out.Ports, &api.PortConfig{
				Name: p.Name, Protocol: p.Protocol, TargetPort: p.TargetPort, PublishedPort: uint32(n), PublishMode: api.PublishModeHost,
			})
		}
	}
	return out
}
