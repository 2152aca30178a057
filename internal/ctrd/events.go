package ctrd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	eventtypes "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/emptypb"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// eventServer is the socket to which shims report out-of-memory kills. The ends
// of processes they are asked for.
type eventServer struct {
	srv  *ttrpc.Server
	done chan error
}

func serveEvents(ctx context.Context, path string, oom func(id string), log *slog.Logger) (*eventServer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale event socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for shim events: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict event socket: %w", err), l.Close())
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make event server: %w", err), l.Close())
	}
	eventsapi.RegisterTTRPCEventsService(srv, forwarder{oom})
	e := &eventServer{srv: srv, done: make(chan error, 1)}
	go func() {
		err := srv.Serve(context.WithoutCancel(ctx), l)
		if errors.Is(err, ttrpc.ErrServerClosed) {
			err = nil
		} else if err != nil {
			log.Error("shim events are no longer received", logkey.Err, err)
		}
		e.done <- err
	}()
	return e, nil
}

func (e *eventServer) close() error {
	err := e.srv.Close()
	return errors.Join(err, <-e.done)
}

type forwarder struct{ oom func(id string) }

// Forward implements the shims' event service.
func (f forwarder) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	v, err := typeurl.UnmarshalAny(r.GetEnvelope().GetEvent())
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("event not understood: %w: %w", err, errdefs.ErrInvalidArgument))
	}
	if e, ok := v.(*eventtypes.TaskOOM); ok {
		f.oom(e.GetContainerID())
	}
	return &emptypb.Empty{}, nil
}

// bridgeLogs sends what containerd's packages log (through logrus' standard
// logger, which is the process's) to ours: their information is our detail.
func bridgeLogs(ctx context.Context, l *slog.Logger) {
	logrus.SetOutput(discard{})
	logrus.SetLevel(logrus.InfoLevel)
	if l.Enabled(ctx, slog.LevelDebug) {
		logrus.SetLevel(logrus.DebugLevel)
	}
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(slogHook{l})
	log.L = &log.Entry{Logger: logrus.StandardLogger(), Data: make(log.Fields, 6)}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

type slogHook struct{ l *slog.Logger }

// Levels implements logrus.Hook.
func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (h slogHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch e.Level {
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel, logrus.DebugLevel, logrus.TraceLevel:
	}
	attrs := make([]any, 0, 2*len(e.Data)+2)
	attrs = append(attrs, logkey.Text, e.Message)
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	h.l.Log(ctx, level, "message of containerd", attrs...)
	return nil
}
