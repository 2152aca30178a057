package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/moby/swarmkit/v2/api"
	swarmnode "github.com/moby/swarmkit/v2/node"
	"google.golang.org/grpc"
)

// conn is the way to the swarm's managers, or why there is none.
func (s *Service) conn() (*grpc.ClientConn, error) {
	m := s.member()
	if m == nil {
		return nil, errInactive
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.locked:
		return nil, errLocked
	case expired(m.err):
		return nil, errCertExpired
	case m.conn != nil:
		return m.conn, nil
	case !m.ready:
		return nil, errPreparing
	case m.node == nil:
		return nil, errPreparing
	}
	return nil, errWorker
}

// ask runs one request at a manager within a limit.
func (s *Service) ask(ctx context.Context, limit time.Duration, f func(context.Context, api.ControlClient) error) error {
	conn, err := s.conn()
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = f(within, api.NewControlClient(conn))
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the client went
	}
	return remote(err)
}

func (s *Service) read(ctx context.Context, f func(context.Context, api.ControlClient) error) error {
	return s.ask(ctx, readLimit, f)
}

func (s *Service) write(ctx context.Context, f func(context.Context, api.ControlClient) error) error {
	// A write that was begun finishes, whatever the client does.
	return s.ask(context.WithoutCancel(ctx), writeLimit, f)
}

// cluster is the one object that holds the swarm's settings.
func theCluster(ctx context.Context, c api.ControlClient) (*api.Cluster, error) {
	r, err := c.ListClusters(ctx, &api.ListClustersRequest{})
	if err != nil {
		return nil, err
	}
	if len(r.Clusters) == 0 {
		return nil, errNoSwarm
	}
	return r.Clusters[0], nil
}

// why tells people why a node did not get into a swarm.
func why(err error, doing string) error {
	switch {
	case errors.Is(err, swarmnode.ErrInvalidUnlockKey):
		return errLocked
	case errors.Is(err, context.DeadlineExceeded):
		return errTimeout(doing)
	}
	return remote(err)
}
