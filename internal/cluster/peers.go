package cluster

import (
	"context"
	"net"
	"path/filepath"

	"github.com/distribution/reference"
	"github.com/moby/swarmkit/v2/api"
	"github.com/opencontainers/go-digest"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/peers"
)

// newPeers are the other nodes, as this one reaches them.
func (m *member) newPeers() *peers.Peers {
	return peers.New(peers.Deps{
		Log: m.s.d.Log, Clock: m.s.d.Clock, Images: m.s.d.Images, Sets: m.sets,
		Identity: peers.NewIdentity(filepath.Join(m.s.nodeDir(), "certificates"), m.unlockKey),
		Take:     m.s.d.TakeImage,
		Self:     m.nodeID,
		Known:    m.members,
		Managers: m.managers,
	})
}

// servePeers lets other nodes read this one's images until ctx ends.
func (m *member) servePeers(ctx context.Context) {
	host, _, err := net.SplitHostPort(m.set.ListenAddr)
	if err == nil {
		err = m.peers.Serve(ctx, host)
	}
	if err != nil {
		m.s.d.Log.Error("other nodes cannot get images of this one", logkey.Err, err)
	}
}

// unlockKey is what an autolocked manager's key on disk is locked with.
func (m *member) unlockKey(ctx context.Context) ([]byte, error) {
	m.mu.Lock()
	conn := m.conn
	m.mu.Unlock()
	if conn == nil {
		return nil, errPreparing
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	r, err := api.NewCAClient(conn).GetUnlockKey(ctx, &api.GetUnlockKeyRequest{})
	if err != nil {
		return nil, remote(err)
	}
	return r.UnlockKey, nil
}

// members lists the nodes of the swarm, on a manager.
func (m *member) members(ctx context.Context) ([]peers.Member, error) {
	m.mu.Lock()
	conn := m.conn
	m.mu.Unlock()
	if conn == nil {
		return nil, errWorker
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	r, err := api.NewControlClient(conn).ListNodes(ctx, &api.ListNodesRequest{})
	if err != nil {
		return nil, remote(err)
	}
	var out []peers.Member
	for _, n := range r.Nodes {
		if n.Spec.Membership == api.NodeMembershipAccepted {
			one := peers.Member{ID: n.ID, Addr: nodeAddr(n)}
			if n.Description != nil {
				one.Name = n.Description.Hostname
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// nodeAddr is where a node is reached. A manager says it itself; of a worker it
// is where it came from.
func nodeAddr(n *api.Node) string {
	if n.ManagerStatus != nil {
		if host, _, err := net.SplitHostPort(n.ManagerStatus.Addr); err == nil {
			return host
		}
	}
	return n.Status.Addr
}

// managers are those that this node reports to.
func (m *member) managers() []peers.Member {
	n := m.current()
	if n == nil {
		return nil
	}
	var out []peers.Member
	for _, r := range n.Remotes() {
		if host, _, err := net.SplitHostPort(r.Addr); err == nil {
			out = append(out, peers.Member{ID: r.NodeID, Addr: host})
		}
	}
	return out
}

// Active tells whether this node is in a swarm.
func (s *Service) Active() bool {
	m := s.member()
	return m != nil && m.wasReady()
}

// PushImage has all other nodes get an image that this manager has, and keep it
// under the name. told is called as each of them ends.
func (s *Service) PushImage(ctx context.Context, name string, d digest.Digest, told func(node string, err error)) error {
	if _, err := s.conn(); err != nil {
		return err
	}
	return s.member().peers.Push(ctx, name, d, func(m peers.Member, err error) {
		node := m.Name
		if node == "" {
			node = m.ID
		}
		told(node, err)
	})
}

// FindImage looks for an image on the swarm's other nodes. It is
// errdefs.ErrNotFound where nobody has it, and an error in no swarm.
func (s *Service) FindImage(ctx context.Context, ref reference.Named) (*peers.Image, error) {
	m := s.member()
	if m == nil || !m.wasReady() {
		return nil, errInactive
	}
	return m.peers.Find(ctx, ref)
}
