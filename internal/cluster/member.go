package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
	swarmnode "github.com/moby/swarmkit/v2/node"
	"google.golang.org/grpc"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/cluster/peers"
	"holdfast.dev/holdfast/internal/cluster/sets"
)

// attempt says how a node starts; the zero value goes on with what is on disk.
type attempt struct {
	asked               bool // somebody waits for it: its failure is theirs
	joinAddr, joinToken string
	forceNew            bool
	autolock            bool
	unlockKey           []byte
	availability        api.NodeSpec_Availability
}

// member is this node in one swarm, over the restarts of SwarmKit's node.
type member struct {
	s   *Service
	set settings

	life   context.Context // ends with the membership
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of it runs any more
	peers  *peers.Peers
	sets   *sets.Sets

	mu      sync.Mutex // guards the fields below; never held across I/O
	node    *swarmnode.Node
	conn    *grpc.ClientConn // of a manager's control socket; nil on workers
	ready   bool             // the node came up at least once
	err     error            // why it does not run
	locked  bool
	leaving bool          // it goes for good
	change  chan struct{} // closed and replaced when one of these changes
}

func (s *Service) newMember(set settings) *member {
	life, cancel := context.WithCancel(context.Background())
	m := &member{s: s, set: set, life: life, cancel: cancel, done: make(chan struct{}), change: make(chan struct{})}
	m.sets = m.newSets()
	m.peers = m.newPeers()
	return m
}

// update changes fields and wakes who waits for one.
func (m *member) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.change)
	m.change = make(chan struct{})
}

// Waits between restarts of a node that ended by itself.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 30 * time.Second
)

// begin runs the node until the membership ends, and again when it falls.
func (m *member) begin(a attempt) {
	go func() {
		defer close(m.done)
		delay := retryFirst
		for {
			started := m.s.d.Clock.Now()
			err := m.run(a)
			if m.life.Err() != nil {
				return
			}
			m.s.d.Log.Error("node of the swarm ended", logkey.Err, err)
			m.update(func() {
				m.err, m.node, m.conn = err, nil, nil
				m.locked = errors.Is(err, swarmnode.ErrInvalidUnlockKey)
			})
			if first := !m.wasReady(); m.isLocked() || first && a.asked || expired(err) {
				return // who asked for it is told, or a person must act
			}
			a = attempt{} // from here on what is on disk counts
			if m.s.d.Clock.Now().Sub(started) > retryMost {
				delay = retryFirst
			}
			if clock.Sleep(m.life, m.s.d.Clock, delay) != nil {
				return
			}
			delay = min(delay*2, retryMost)
		}
	}()
}

// expired tells the one failure that no retry heals.
func expired(err error) bool {
	return err != nil && strings.Contains(err.Error(), "certificate") && strings.Contains(err.Error(), "expired")
}

// run is one life of SwarmKit's node.
func (m *member) run(a attempt) error {
	d := m.s.d
	if err := m.s.prepareDirs(); err != nil {
		return err
	}
	cfg := &swarmnode.Config{
		Hostname:           d.Hostname,
		StateDir:           m.s.nodeDir(),
		JoinAddr:           a.joinAddr,
		JoinToken:          a.joinToken,
		ForceNewCluster:    a.forceNew,
		ListenControlAPI:   m.s.socket(),
		ListenRemoteAPI:    m.set.ListenAddr,
		AdvertiseRemoteAPI: m.set.AdvertiseAddr,
		Executor:           d.Executor,
		ElectionTick:       electionTick,
		HeartbeatTick:      heartbeatTick,
		AutoLockManagers:   a.autolock,
		UnlockKey:          a.unlockKey,
		Availability:       a.availability,
		NetworkProvider:    provider{},
		NetworkConfig: &networkallocator.Config{
			SubnetSize: m.set.SubnetSize, VXLANUDPPort: m.set.DataPathPort,
		},
		// Without one SwarmKit's leader panics on the first cluster volume, and so
		// does the next leader.
		PluginGetter: noPlugins{},
	}
	for _, p := range m.set.DefaultAddrPool {
		cfg.NetworkConfig.DefaultAddrPool = append(cfg.NetworkConfig.DefaultAddrPool, p.String())
	}
	n, err := swarmnode.New(cfg)
	if err != nil {
		return fmt.Errorf("make the swarm's node: %w", err)
	}
	ctx, cancel := context.WithCancel(m.life)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		return fmt.Errorf("start the swarm's node: %w", err)
	}
	m.update(func() { m.node, m.err, m.locked = n, nil, false })
	d.Mesh.Begin(m.meshSelf(n))
	var wg sync.WaitGroup
	wg.Go(func() {
		conns := n.ListenControlSocket(ctx)
		for {
			select {
			case conn := <-conns:
				m.update(func() { m.conn = conn })
			case <-ctx.Done(): // not only the channel's end: that may never come
				return
			}
		}
	})
	wg.Go(func() {
		select {
		case <-n.Ready():
			m.update(func() { m.ready = true })
			d.Log.Info("node of the swarm is ready", logkey.Name, n.NodeID())
			if err := d.Executor.Sweep(ctx); err != nil {
				d.Log.Warn("containers of tasks that are gone not removed", logkey.Err, err)
			}
			m.servePeers(ctx)
		case <-ctx.Done():
		}
	})
	wg.Go(func() { m.tellEvents(ctx) })
	wg.Go(func() { m.runSets(ctx) })
	err = n.Err(context.WithoutCancel(m.life)) // it ends with m.life
	cancel()
	d.Mesh.End(m.isLeaving())
	wg.Wait()
	if err == nil {
		err = errors.New("the node stopped")
	}
	return err
}

// meshSelf is this node as others reach it.
func (m *member) meshSelf(n *swarmnode.Node) mesh.Self {
	self := mesh.Self{Addr: hostOf(m.set.AdvertiseAddr)}
	self.Data = self.Addr
	if a, err := netip.ParseAddr(m.set.DataPathAddr); err == nil {
		self.Data = a
	}
	self.Peers = func() []netip.Addr {
		var out []netip.Addr
		for _, p := range n.Remotes() {
			if a := hostOf(p.Addr); a.IsValid() {
				out = append(out, a)
			}
		}
		return out
	}
	return self
}

// hostOf is the address of host and port; invalid if it is none.
func hostOf(s string) netip.Addr {
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// leaves notes that the node goes for good.
func (m *member) leaves() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = true
}

func (m *member) isLeaving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaving
}

// wait returns when the node is ready, or why it will not be. On a manager the
// control socket belongs to it.
func (m *member) wait(ctx context.Context) error {
	for {
		m.mu.Lock()
		ready, err, change := m.ready, m.err, m.change
		m.mu.Unlock()
		switch {
		case err != nil:
			return err
		case ready:
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitControl returns when the control socket is there.
func (m *member) waitControl(ctx context.Context) (*grpc.ClientConn, error) {
	for {
		m.mu.Lock()
		conn, err, change := m.conn, m.err, m.change
		m.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case conn != nil:
			return conn, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// end stops the node and waits for it. Tasks stay as the executor holds them.
func (m *member) end(ctx context.Context) error {
	m.cancel()
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the swarm's node: %w", ctx.Err())
	}
}

func (m *member) current() *swarmnode.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

func (m *member) nodeID() string {
	if n := m.current(); n != nil {
		return n.NodeID()
	}
	return ""
}

func (m *member) wasReady() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

func (m *member) isLocked() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.locked
}
