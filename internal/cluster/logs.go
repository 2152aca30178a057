package cluster

import (
	"context"
	"errors"
	"io"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/api"
)

// LogsOptions selects lines of a service's or a task's log.
type LogsOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Since          time.Time // zero: from the beginning
	Tail           int       // lines of each task from the end; negative: all
}

// LogLine is one message of one task.
type LogLine struct {
	NodeID, ServiceID, TaskID string
	Time                      time.Time
	Stderr                    bool
	Data                      []byte
}

// LogSource is what logs are read of.
type LogSource struct {
	id  string
	sel *api.LogSelector
	TTY bool
}

// ServiceLogs finds a service's tasks.
func (s *Service) ServiceLogs(ctx context.Context, ref string) (LogSource, error) {
	var out LogSource
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		sv, err := findService(ctx, c, ref, false)
		if err == nil {
			out = LogSource{id: sv.ID, sel: &api.LogSelector{ServiceIDs: []string{sv.ID}}, TTY: tty(sv.Spec.Task)}
		}
		return err
	})
	return out, err
}

// TaskLogs finds one task.
func (s *Service) TaskLogs(ctx context.Context, ref string) (LogSource, error) {
	var out LogSource
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		t, err := findTask(ctx, c, ref)
		if err == nil {
			out = LogSource{id: t.ID, sel: &api.LogSelector{TaskIDs: []string{t.ID}}, TTY: tty(t.Spec)}
		}
		return err
	})
	return out, err
}

func tty(t api.TaskSpec) bool {
	c := t.GetContainer()
	return c != nil && c.TTY
}

// Logs hands the lines over as the nodes send them, until they end or, when
// following, the context does.
func (s *Service) Logs(ctx context.Context, src LogSource, o LogsOptions, emit func(LogLine) error) error {
	conn, err := s.conn()
	if err != nil {
		return err
	}
	q := &api.LogSubscriptionOptions{Follow: o.Follow}
	if o.Stdout {
		q.Streams = append(q.Streams, api.LogStreamStdout)
	}
	if o.Stderr {
		q.Streams = append(q.Streams, api.LogStreamStderr)
	}
	if !o.Since.IsZero() {
		if q.Since, err = gogotypes.TimestampProto(o.Since); err != nil {
			return invalid("invalid value for since: %v", err)
		}
	}
	if o.Tail >= 0 {
		q.Tail = int64(-o.Tail - 1) // SwarmKit: 0 is all, -(n+1) the last n
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.NewLogsClient(conn).SubscribeLogs(ctx, &api.SubscribeLogsRequest{Selector: src.sel, Options: q})
	if err != nil {
		return remote(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return remote(err)
		}
		for _, l := range m.Messages {
			line := LogLine{
				NodeID: l.Context.NodeID, ServiceID: l.Context.ServiceID, TaskID: l.Context.TaskID,
				Stderr: l.Stream == api.LogStreamStderr, Data: l.Data,
			}
			if t, err := gogotypes.TimestampFromProto(l.Timestamp); err == nil {
				line.Time = t
			}
			if err := emit(line); err != nil {
				return err
			}
		}
	}
}
