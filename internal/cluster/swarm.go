package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/encryption"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/convert"
)

// Init makes this node the first of a new swarm.
func (s *Service) Init(ctx context.Context, req swarm.InitRequest) (string, error) {
	s.op.Lock()
	defer s.op.Unlock()
	old := s.member()
	if old != nil && !req.ForceNewCluster {
		return "", errExists
	}
	set := settings{DefaultAddrPool: req.DefaultAddrPool, SubnetSize: req.SubnetSize, DataPathPort: req.DataPathPort, DataPathAddr: req.DataPathAddr}
	if old != nil {
		set = old.set
	}
	if err := s.address(&set, req.ListenAddr, req.AdvertiseAddr, netip.Addr{}, old != nil); err != nil {
		return "", err
	}
	if req.DataPathPort != 0 && (req.DataPathPort < 1024 || req.DataPathPort > 49151) {
		return "", invalid("port number out of range: the data path port must be between 1024 and 49151")
	}
	a := attempt{asked: true, forceNew: req.ForceNewCluster, autolock: req.AutoLockManagers}
	var err error
	if a.availability, err = convert.Availability(req.Availability); err != nil {
		return "", err
	}
	if _, err := convert.ClusterSpecTo(req.Spec, api.ClusterSpec{}); err != nil {
		return "", err
	}
	spec := req.Spec
	spec.EncryptionConfig.AutoLockManagers = spec.EncryptionConfig.AutoLockManagers || req.AutoLockManagers
	configure := func(ctx context.Context, m *member) error { return s.configure(ctx, m, spec) }
	if old != nil {
		return s.rebuild(ctx, old, set, a, configure)
	}
	id, err := s.enter(ctx, set, a, initLimit, configure)
	if err != nil {
		return "", why(err, "start")
	}
	s.d.Log.Info("swarm initialized", logkey.Name, id)
	return id, nil
}

// rebuild starts a new swarm out of what this manager knows. What it knows is
// kept when that fails.
func (s *Service) rebuild(ctx context.Context, old *member, set settings, a attempt, then func(context.Context, *member) error) (string, error) {
	if err := old.end(ctx); err != nil {
		return "", err
	}
	m := s.newMember(set)
	s.setMember(m)
	m.begin(a) //nolint:contextcheck // the node outlives the request
	ctx, cancel := context.WithTimeout(ctx, initLimit)
	defer cancel()
	err := m.wait(ctx)
	if err == nil {
		err = then(ctx, m)
	}
	if err == nil {
		err = s.save(set)
	}
	return m.nodeID(), why(err, "rebuild")
}

// configure gives a new swarm its settings. Its object appears a moment after
// the manager does.
func (s *Service) configure(ctx context.Context, m *member, spec swarm.Spec) error {
	conn, err := m.waitControl(ctx)
	if err != nil {
		return err
	}
	c := api.NewControlClient(conn)
	for {
		err := func() error {
			now, err := theCluster(ctx, c)
			if err != nil {
				return err
			}
			want, err := convert.ClusterSpecTo(spec, now.Spec)
			if err != nil {
				return err
			}
			if spec.Name == "" {
				want.Annotations.Name = now.Spec.Annotations.Name
			}
			_, err = c.UpdateCluster(ctx, &api.UpdateClusterRequest{ClusterID: now.ID, ClusterVersion: &now.Meta.Version, Spec: &want})
			return err
		}()
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNoSwarm) && !strings.Contains(err.Error(), "update out of sequence") {
			return err
		}
		if err := clock.Sleep(ctx, s.d.Clock, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// address fills in where this node listens and what it advertises.
func (s *Service) address(set *settings, listen, advertise string, fallback netip.Addr, keep bool) error {
	all, err := nics(s.d.OwnLink)
	if err != nil {
		return err
	}
	l, err := listenAddr(listen, all)
	if err != nil {
		return err
	}
	if keep && advertise == "" {
		return nil // the swarm goes on where it was
	}
	set.ListenAddr = l
	set.AdvertiseAddr, err = advertiseAddr(advertise, l, fallback, all)
	return err
}

// Join makes this node a member of a swarm that is there.
func (s *Service) Join(ctx context.Context, req swarm.JoinRequest) error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.member() != nil {
		return errExists
	}
	if len(req.RemoteAddrs) == 0 {
		return invalid("at least 1 RemoteAddr is required to join")
	}
	if !strings.HasPrefix(req.JoinToken, "SWMTKN-") {
		return invalid("invalid join token")
	}
	a := attempt{asked: true, joinToken: req.JoinToken}
	var err error
	if a.availability, err = convert.Availability(req.Availability); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	local, err := s.reach(ctx, req.RemoteAddrs, &a.joinAddr)
	if err != nil {
		return err
	}
	set := settings{DataPathAddr: req.DataPathAddr}
	if err := s.address(&set, req.ListenAddr, req.AdvertiseAddr, local, false); err != nil {
		return err
	}
	id, err := s.enter(ctx, set, a, joinLimit, nil)
	if err != nil {
		return why(err, "join")
	}
	s.d.Log.Info("joined a swarm", logkey.Name, id, logkey.Address, a.joinAddr)
	return nil
}

// reach finds the first manager that answers and the address that this machine
// has towards it. Without it SwarmKit would try for ever and say nothing.
func (s *Service) reach(ctx context.Context, addrs []string, found *string) (netip.Addr, error) {
	var errs []error
	for _, raw := range addrs {
		host, port, err := splitAddr(raw, "remote address")
		if err != nil {
			return netip.Addr{}, err
		}
		addr := net.JoinHostPort(host, port)
		try, cancel := context.WithTimeout(ctx, joinLimit/4)
		conn, err := (&net.Dialer{}).DialContext(try, "tcp", addr)
		cancel()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*found = addr
		var local netip.Addr
		if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
			local = a.AddrPort().Addr().Unmap()
		}
		return local, conn.Close()
	}
	return netip.Addr{}, fault.Wrap(errdefs.ErrUnavailable, errors.Join(errs...), "no manager of the swarm can be reached")
}

// Leave takes this node out of its swarm.
func (s *Service) Leave(ctx context.Context, force bool) error {
	s.op.Lock()
	defer s.op.Unlock()
	m := s.member()
	if m == nil {
		return errNoSwarm
	}
	if m.isLocked() && !force {
		return errLocked
	}
	if !force {
		if err := s.mayLeave(ctx); err != nil {
			return err
		}
	}
	// From here on it is gone through with, by the next daemon if need be.
	ctx = context.WithoutCancel(ctx)
	set := m.set
	set.Leaving = true
	if err := s.save(set); err != nil {
		return err
	}
	if err := s.d.Attached.Evict(ctx); err != nil { // what is left is taken out below
		s.d.Log.Warn("containers not taken out of networks of the swarm", logkey.Err, err)
	}
	err := m.leave(ctx)
	s.setMember(nil)
	if perr := s.d.Executor.Purge(ctx); perr != nil {
		return errors.Join(err, perr) // the mark stays: the next start goes on
	}
	if err := errors.Join(err, s.wipe()); err != nil {
		return err
	}
	s.d.Log.Info("left the swarm")
	return nil
}

// leave has the node give up its tasks and ends it.
func (m *member) leave(ctx context.Context) error {
	m.leaves()
	if n := m.current(); n != nil {
		stop, cancel := context.WithTimeout(ctx, leaveLimit)
		defer cancel()
		if err := n.Stop(stop); err != nil && stop.Err() == nil {
			m.s.d.Log.Warn("node of the swarm not stopped cleanly", logkey.Err, err)
		}
	}
	return m.end(ctx)
}

// mayLeave refuses what loses the swarm's state.
func (s *Service) mayLeave(ctx context.Context) error {
	if _, err := s.conn(); err != nil {
		return nil // a worker, or one that is cut off
	}
	nodes, err := s.Nodes(ctx, nil)
	if err != nil {
		return fault.New(errdefs.ErrUnavailable, "%s", leavingManager+" Its state cannot be read now ("+err.Error()+"). Use `--force` to suppress this message.")
	}
	reachable, self := 0, s.member().nodeID()
	managers := slices.DeleteFunc(nodes, func(n swarm.Node) bool { return n.ManagerStatus == nil })
	selfReachable := false
	for _, n := range managers {
		if n.ManagerStatus.Reachability != swarm.ReachabilityReachable {
			continue
		}
		reachable++
		selfReachable = selfReachable || n.ID == self
	}
	return decideLeave(reachable, len(managers), selfReachable)
}

const leavingManager = "You are attempting to leave the swarm on a node that is participating as a manager."

// decideLeave tells a manager that goes what the swarm loses.
func decideLeave(reachable, managers int, selfReachable bool) error {
	if managers <= 1 {
		return fault.New(errdefs.ErrUnavailable, "%s", leavingManager+" Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ")
	}
	left := reachable
	if selfReachable {
		left--
	}
	text := leavingManager + fmt.Sprintf(" Removing this node leaves %v managers out of %v.", left, managers)
	if left < managers/2+1 {
		text += " Without a Raft quorum your swarm will be inaccessible. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`."
	}
	return fault.New(errdefs.ErrUnavailable, "%s", text+" Use `--force` to suppress this message.")
}

// Inspect shows the swarm.
func (s *Service) Inspect(ctx context.Context) (swarm.Swarm, error) {
	var out swarm.Swarm
	err := s.read(ctx, func(ctx context.Context, c api.ControlClient) error {
		cl, err := theCluster(ctx, c)
		if err == nil {
			out = convert.ClusterFrom(*cl)
		}
		return err
	})
	return out, err
}

// Update changes the swarm's settings and keys.
func (s *Service) Update(ctx context.Context, version uint64, spec swarm.Spec, r Rotation) error {
	return s.write(ctx, func(ctx context.Context, c api.ControlClient) error {
		now, err := theCluster(ctx, c)
		if err != nil {
			return err
		}
		want, err := convert.ClusterSpecTo(spec, now.Spec)
		if err != nil {
			return err
		}
		if bytes.Equal(want.CAConfig.SigningCACert, now.Spec.CAConfig.SigningCACert) && spec.CAConfig.SigningCAKey == "" {
			want.CAConfig.SigningCAKey = now.Spec.CAConfig.SigningCAKey
		}
		_, err = c.UpdateCluster(ctx, &api.UpdateClusterRequest{
			ClusterID: now.ID, ClusterVersion: &api.Version{Index: version}, Spec: &want,
			Rotation: api.KeyRotation{WorkerJoinToken: r.RotateWorkerToken, ManagerJoinToken: r.RotateManagerToken, ManagerUnlockKey: r.RotateManagerUnlockKey},
		})
		return err
	})
}

// UnlockKey is the key that a locked manager asks for.
func (s *Service) UnlockKey(ctx context.Context) (string, error) {
	conn, err := s.conn()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	r, err := api.NewCAClient(conn).GetUnlockKey(ctx, &api.GetUnlockKeyRequest{})
	if err != nil {
		return "", remote(err)
	}
	if len(r.UnlockKey) == 0 {
		return "", nil // not set to lock
	}
	return encryption.HumanReadableKey(r.UnlockKey), nil
}

// Unlock starts a locked manager.
func (s *Service) Unlock(ctx context.Context, key string) error {
	s.op.Lock()
	defer s.op.Unlock()
	old := s.member()
	switch {
	case old == nil:
		return errInactive
	case !old.isLocked():
		return errNotLocked
	}
	raw, err := encryption.ParseHumanReadableKey(key)
	if err != nil {
		return fault.Wrap(errdefs.ErrInvalidArgument, err, "invalid unlock key")
	}
	if err := old.end(ctx); err != nil {
		return err
	}
	m := s.newMember(old.set)
	s.setMember(m)
	m.begin(attempt{asked: true, unlockKey: raw}) //nolint:contextcheck // the node outlives the request
	ctx, cancel := context.WithTimeout(ctx, initLimit)
	defer cancel()
	err = m.wait(ctx)
	switch {
	case m.isLocked():
		return errBadKey
	case errors.Is(err, context.DeadlineExceeded):
		return nil // it is open; what it waits for is the other managers
	}
	return err
}

// state is where the node stands, and whether it is a manager. Called with mu held.
func (m *member) state() (swarm.LocalNodeState, bool) {
	switch {
	case m.locked:
		return swarm.LocalNodeStateLocked, false
	case m.err != nil:
		return swarm.LocalNodeStateError, false
	case m.ready:
		return swarm.LocalNodeStateActive, m.conn != nil
	}
	return swarm.LocalNodeStatePending, m.conn != nil
}

// Status is where the node stands, in the words of the API's header.
func (s *Service) Status() string {
	m := s.member()
	if m == nil {
		return string(swarm.LocalNodeStateInactive)
	}
	m.mu.Lock()
	state, manager := m.state()
	m.mu.Unlock()
	switch {
	case state != swarm.LocalNodeStateActive:
		return string(state)
	case manager:
		return "active/manager"
	}
	return "active/worker"
}

// Info is the swarm's part of `docker info`.
func (s *Service) Info(ctx context.Context) swarm.Info {
	m := s.member()
	if m == nil {
		return swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}
	}
	m.mu.Lock()
	node, err := m.node, m.err
	state, manager := m.state()
	m.mu.Unlock()
	out := swarm.Info{ControlAvailable: manager, LocalNodeState: state}
	out.NodeAddr, _, _ = net.SplitHostPort(m.set.AdvertiseAddr) // "" if there is none
	if err != nil {
		out.Error = err.Error()
	}
	if node != nil {
		out.NodeID = node.NodeID()
		for _, p := range node.Remotes() {
			out.RemoteManagers = append(out.RemoteManagers, swarm.Peer{NodeID: p.NodeID, Addr: p.Addr})
		}
		slices.SortFunc(out.RemoteManagers, func(a, b swarm.Peer) int { return strings.Compare(a.NodeID+a.Addr, b.NodeID+b.Addr) })
	}
	if !manager {
		return out
	}
	cl, ierr := s.Inspect(ctx)
	if ierr != nil {
		out.Error = ierr.Error()
		return out
	}
	out.Cluster = &cl.ClusterInfo
	nodes, nerr := s.Nodes(ctx, nil)
	if nerr != nil {
		out.Error = nerr.Error()
		return out
	}
	out.Nodes = len(nodes)
	for _, n := range nodes {
		if n.ManagerStatus != nil {
			out.Managers++
		}
	}
	return out
}

// Rotation says which keys of a swarm change.
type Rotation struct {
	RotateWorkerToken, RotateManagerToken, RotateManagerUnlockKey bool
}
