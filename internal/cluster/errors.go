package cluster

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/holdfast/internal/base/fault"
)

// What clients read; the texts are Docker's.
var (
	errNoSwarm     = fault.New(errdefs.ErrUnavailable, "This node is not part of a swarm")
	errExists      = fault.New(errdefs.ErrUnavailable, `This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`)
	errLocked      = fault.New(errdefs.ErrUnavailable, `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`)
	errNotLocked   = fault.New(errdefs.ErrConflict, "swarm is not locked")
	errBadKey      = fault.New(errdefs.ErrInvalidArgument, "swarm could not be unlocked: invalid key provided")
	errInactive    = fault.New(errdefs.ErrUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	errWorker      = fault.New(errdefs.ErrUnavailable, "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.")
	errCertExpired = fault.New(errdefs.ErrUnavailable, "Swarm certificates have expired. To replace them, leave the swarm and join again.")
	errNoLeader    = fault.New(errdefs.ErrUnavailable, "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online. If they are lost for good, run \"docker swarm init --force-new-cluster\" on one that is left.")
	errPreparing   = fault.New(errdefs.ErrUnavailable, "This node is still connecting to the swarm. Please try again in a moment.")
)

func invalid(format string, args ...any) error {
	return fault.New(errdefs.ErrInvalidArgument, format, args...)
}

// remote gives what a manager answered its class. The text stays the one that
// Docker passes on.
func remote(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errNoLeader
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	var class error = errdefs.ErrUnknown
	switch s.Code() {
	case codes.NotFound:
		class = errdefs.ErrNotFound
	case codes.InvalidArgument:
		class = errdefs.ErrInvalidArgument
	case codes.AlreadyExists:
		class = errdefs.ErrAlreadyExists
	case codes.FailedPrecondition:
		class = errdefs.ErrFailedPrecondition
	case codes.PermissionDenied:
		class = errdefs.ErrPermissionDenied
	case codes.Unavailable:
		class = errdefs.ErrUnavailable
	case codes.Unimplemented:
		class = errdefs.ErrNotImplemented
	case codes.DeadlineExceeded:
		return errNoLeader
	case codes.Canceled:
		return context.Canceled
	case codes.OK, codes.Unknown, codes.ResourceExhausted, codes.Aborted, codes.OutOfRange, codes.Internal, codes.DataLoss, codes.Unauthenticated:
	}
	return fault.New(class, "%s", err.Error())
}

func errTimeout(doing string) error {
	return fault.New(errdefs.ErrUnavailable, "Timeout was reached before the node could %s the swarm. Nothing of it was kept; the daemon's log says how far it came.", doing)
}
