package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/network"
)

// Networks makes networks on this node.
type Networks interface {
	EnsureOverlay(ctx context.Context, o network.Overlay) error
	// DropOverlay does nothing while a container is in the network.
	DropOverlay(ctx context.Context, id string) error
	SetOverlay(ctx context.Context, id string, v network.OverlayView) error
	// Overlays are the IDs of those that there are.
	Overlays() []string
}

// Deps are the parts a Mesh works with; all are required.
type Deps struct {
	Clock    clock.Clock
	Log      *slog.Logger
	Networks Networks
}

// Self is this node.
type Self struct {
	Addr  netip.Addr          // where other nodes reach it
	Data  netip.Addr          // its end of tunnels
	Peers func() []netip.Addr // other nodes that it may know
}

// DefaultDataPort is where tunnels end, if the swarm doesn't say another port.
const DefaultDataPort = 4789

const (
	gather    = 20 * time.Millisecond // changes come in numbers
	againIn   = time.Second           // after something failed
	settledBy = 10 * time.Second      // with whom should have been met by then
	leaveIn   = 2 * time.Second
)

// Mesh is this node's part. It does nothing before Begin.
type Mesh struct {
	d    Deps
	wake chan struct{}

	making sync.Mutex // serialises what makes and drops networks; held across I/O, taken before mu

	mu      sync.Mutex // guards what follows; never held across I/O
	self    *Self      // nil: in no swarm
	node    string
	port    uint16
	keys    []*api.EncryptionKey
	ingress string
	held    map[string]map[string]bool // by network: the tasks that need it
	shown   map[string][]directory.Entry
	fronts  map[string]map[string][]directory.Front // by task and network
	dir     *directory.Directory
	begun   time.Time // when dir was opened
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// New returns a Mesh.
func New(d Deps) *Mesh {
	return &Mesh{d: d, wake: make(chan struct{}, 1), held: map[string]map[string]bool{}, shown: map[string][]directory.Entry{}, fronts: map[string]map[string][]directory.Front{}}
}

func (m *Mesh) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Begin starts the part of a node that is in a swarm.
func (m *Mesh) Begin(s Self) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self = &s
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.done.Go(func() { m.run(ctx) })
}

// End stops it. What is in the kernel stays, and others see a node that is away.
// forGood tells them that it has left.
func (m *Mesh) End(forGood bool) {
	m.mu.Lock()
	cancel, dir := m.cancel, m.dir
	m.self, m.cancel, m.dir, m.keys, m.node = nil, nil, nil, nil, ""
	m.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	if dir != nil {
		var err error
		if forGood {
			err = dir.Leave(leaveIn)
		} else {
			err = dir.Close()
		}
		if err != nil {
			m.d.Log.Warn("directory of the swarm not closed", logkey.Err, err)
		}
	}
	m.done.Wait()
}

// Purge takes all networks of the swarm from this node, which has left.
func (m *Mesh) Purge(ctx context.Context) error {
	m.mu.Lock()
	m.held, m.shown, m.ingress = map[string]map[string]bool{}, map[string][]directory.Entry{}, ""
	m.mu.Unlock()
	var errs []error
	for _, id := range m.d.Networks.Overlays() {
		errs = append(errs, m.d.Networks.DropOverlay(ctx, id))
	}
	return errors.Join(errs...)
}

// Configure takes what the swarm says of this node.
func (m *Mesh) Configure(ctx context.Context, n *api.Node) error {
	m.mu.Lock()
	m.node, m.port = n.ID, uint16(n.VXLANUDPPort)
	m.mu.Unlock()
	m.open()
	was, is := "", ""
	var errs []error
	for _, a := range n.Attachments {
		if a.Network == nil || !a.Network.Spec.Ingress || len(a.Addresses) == 0 {
			continue
		}
		own, err := netip.ParsePrefix(a.Addresses[0])
		if err != nil {
			return fmt.Errorf("address of this node on network %s: %w", a.Network.ID, err)
		}
		is = a.Network.ID
		errs = append(errs, m.ensure(ctx, a.Network, own.Addr()))
		// Answers to what comes from outside find this node by it.
		m.put(selfTask, directory.Entry{ID: n.ID + "." + is, Network: is, Addr: own.Addr(), MAC: network.OverlayMAC(own.Addr())})
	}
	m.mu.Lock()
	was, m.ingress = m.ingress, is
	m.mu.Unlock()
	if is == "" {
		m.Hide(selfTask)
	}
	if was != "" && was != is {
		errs = append(errs, m.dropUnused(ctx, was))
	}
	m.poke()
	return errors.Join(errs...)
}

// SetKeys takes the keys of the swarm.
func (m *Mesh) SetKeys(all []*api.EncryptionKey) error {
	m.mu.Lock()
	m.keys = all
	dir := m.dir
	m.mu.Unlock()
	k, err := keysOf(all)
	if err != nil {
		return err
	}
	if dir != nil {
		return dir.SetKeys(k)
	}
	m.open()
	return nil
}

const gossip = "networking:gossip" // the keys' name in SwarmKit

// keysOf picks the keys for the directory. The newest is not sealed with before
// the next change of keys: not every node has it yet.
func keysOf(all []*api.EncryptionKey) (directory.Keys, error) {
	var own []*api.EncryptionKey
	for _, k := range all {
		if k.Subsystem == gossip {
			own = append(own, k)
		}
	}
	if len(own) == 0 {
		return directory.Keys{}, errors.New("the swarm has no keys for its directory")
	}
	slices.SortFunc(own, func(a, b *api.EncryptionKey) int {
		switch {
		case a.LamportTime < b.LamportTime:
			return -1
		case a.LamportTime > b.LamportTime:
			return 1
		}
		return 0
	})
	var out directory.Keys
	for _, k := range own {
		out.All = append(out.All, k.Key)
	}
	out.Seal = out.All[max(len(own)-2, 0)]
	return out, nil
}

// open opens the directory once all that it takes is known.
func (m *Mesh) open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dir != nil || m.self == nil || m.node == "" || len(m.keys) == 0 {
		return
	}
	m.poke() // run opens it
}

// opened opens it, or says why not.
func (m *Mesh) opened(ctx context.Context) error {
	m.mu.Lock()
	self, node, keys, dir := m.self, m.node, m.keys, m.dir
	m.mu.Unlock()
	if dir != nil || self == nil || node == "" || len(keys) == 0 {
		return nil
	}
	k, err := keysOf(keys)
	if err != nil {
		return err
	}
	dir, err = directory.New(directory.Config{
		Clock: m.d.Clock, Log: m.d.Log, Node: node, Addr: self.Addr, Via: self.Data, Keys: k, Peers: self.Peers,
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	if m.self == nil { // ended meanwhile
		m.mu.Unlock()
		return dir.Close()
	}
	m.dir, m.begun = dir, m.d.Clock.Now()
	var es []directory.Entry
	for _, task := range slices.Sorted(maps.Keys(m.shown)) {
		es = append(es, m.shown[task]...)
	}
	m.mu.Unlock()
	for _, e := range es {
		dir.Put(e)
	}
	m.done.Go(func() { dir.Run(ctx) })
	return nil
}

// run brings what the directory says into the kernel until ctx ends.
func (m *Mesh) run(ctx context.Context) {
	t := m.d.Clock.NewTimer(againIn)
	defer t.Stop()
	for {
		err := m.opened(ctx)
		wait := time.Duration(0)
		if err == nil {
			wait, err = m.apply(ctx)
		}
		if err != nil && ctx.Err() == nil {
			m.d.Log.Warn("networks of the swarm not brought up to date", logkey.Err, err)
			wait = againIn
		}
		if wait > 0 {
			t.Reset(wait)
		}
		var changed <-chan struct{}
		m.mu.Lock()
		if m.dir != nil {
			changed = m.dir.Changed()
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-t.C():
		case <-m.wake:
		case <-changed:
			if clock.Sleep(ctx, m.d.Clock, gather) != nil {
				return
			}
		}
	}
}

// apply does it once; it tells when to look again, if not before a change.
func (m *Mesh) apply(ctx context.Context) (time.Duration, error) {
	m.mu.Lock()
	dir, node, self, begun := m.dir, m.node, m.self, m.begun
	m.mu.Unlock()
	if dir == nil || self == nil {
		return 0, nil
	}
	alone := !slices.ContainsFunc(self.Peers(), func(a netip.Addr) bool { return a != self.Addr })
	if left := settledBy - m.d.Clock.Now().Sub(begun); !dir.Joined() && !alone && left > 0 {
		return min(left, againIn), nil
	}
	all := dir.All()
	var errs []error
	for _, id := range m.d.Networks.Overlays() {
		if err := m.d.Networks.SetOverlay(ctx, id, viewOf(node, id, all)); err != nil {
			errs = append(errs, err)
		}
	}
	return 0, errors.Join(errs...)
}
