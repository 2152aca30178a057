package buildkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"github.com/opencontainers/runtime-spec/specs-go"

	"holdfast.dev/holdfast/internal/base/logkey"
)

// lentNamespaces are the network namespaces of running steps.
type lentNamespaces struct {
	networks Networks

	mu   sync.Mutex // guards lent
	lent map[string]bool
}

func newLentNamespaces(n Networks) *lentNamespaces {
	return &lentNamespaces{networks: n, lent: map[string]bool{}}
}

func (l *lentNamespaces) providers() map[pb.NetMode]network.Provider {
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: l,
		pb.NetMode_HOST:  network.NewHostProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
}

// New implements network.Provider: a step on the default bridge.
func (l *lentNamespaces) New(ctx context.Context, hostname string, _ network.NamespaceOptions) (network.Namespace, error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	id := hex.EncodeToString(raw[:])
	path, err := l.networks.Join(ctx, id, hostname)
	if err != nil {
		return nil, fmt.Errorf("make a build step's network: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lent[id] = true
	return &namespace{of: l, id: id, path: path}, nil
}

// Close implements network.Provider.
func (*lentNamespaces) Close() error { return nil }

func (l *lentNamespaces) giveBack(id string) error {
	l.mu.Lock()
	had := l.lent[id]
	delete(l.lent, id)
	l.mu.Unlock()
	if !had {
		return nil
	}
	return l.networks.Leave(context.Background(), id)
}

// close gives back what steps that were cut off still have.
func (l *lentNamespaces) close(log *slog.Logger) {
	l.mu.Lock()
	var left []string
	for id := range l.lent {
		left = append(left, id)
	}
	l.mu.Unlock()
	for _, id := range left {
		if err := l.giveBack(id); err != nil {
			log.Warn("network of a build step not removed, the next start will", logkey.Container, id, logkey.Err, err)
		}
	}
}

type namespace struct {
	of   *lentNamespaces
	id   string
	path string
}

// Set implements network.Namespace.
func (n *namespace) Set(s *specs.Spec) error {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: n.path})(nil, nil, nil, s)
}

// Close implements network.Namespace.
func (n *namespace) Close() error { return n.of.giveBack(n.id) }

// Sample implements network.Namespace: traffic of steps is not recorded.
func (*namespace) Sample() (*types.NetworkSample, error) { return nil, nil }
