package cluster

import (
	"context"

	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/cluster/peers"
	"holdfast.dev/holdfast/internal/cluster/sets"
)

// newSets is this node's part in stateful sets.
func (m *member) newSets() *sets.Sets {
	return sets.New(sets.Deps{
		Clock: m.s.d.Clock, Log: m.s.d.Log, Dir: m.s.d.Dir, Self: m.nodeID, Now: m.s.d.MachineTime,
		Conn: func() *grpc.ClientConn {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.conn
		},
		Peers:    func() *peers.Peers { return m.peers },
		Managers: m.managers,
		Locals:   m.s.d.Executor.Locals,
		Stand:    m.s.d.Executor.Stand,
	})
}

// runSets takes part until ctx ends. It begins at once and not when the node is
// ready: what leads here goes on only while its lease is renewed.
func (m *member) runSets(ctx context.Context) { m.sets.Run(ctx) }
