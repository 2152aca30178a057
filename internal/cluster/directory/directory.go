package directory

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/logkey"
)

// DefaultPort is where nodes gossip, by TCP and UDP: Docker's.
const DefaultPort = 7946

// Config says who this node is.
type Config struct {
	Clock clock.Clock
	Log   *slog.Logger
	Node  string     // ID in the swarm
	Addr  netip.Addr // where the others reach it
	Port  int        // 0: DefaultPort
	Via   netip.Addr // its end of tunnels
	Keys  Keys
	// Peers are addresses of nodes to join, asked for again and again.
	Peers func() []netip.Addr
	// Transport, if set, is used in place of sockets.
	Transport memberlist.Transport
}

// Keys seal what nodes say. All of them open; Seal is the one that this node uses.
type Keys struct {
	Seal []byte
	All  [][]byte
}

// Times. A node that falls silent is probed within a probe's turn, suspected
// after a probe fails and gone after the suspicion: together less than 3 s.
const (
	gossipEach   = 100 * time.Millisecond
	probeEach    = 400 * time.Millisecond
	probeTimeout = 250 * time.Millisecond
	suspicion    = 3 // times probeEach
	digestEach   = 5 * time.Second
	tcpTimeout   = 2 * time.Second
	joinEach     = time.Second
)

// room is how long a change may be to go into one packet with others' words.
const room = 1100

// Directory is this node's copy.
type Directory struct {
	c    Config
	list *memberlist.Memberlist
	ring *memberlist.Keyring
	out  *memberlist.TransmitLimitedQueue

	alive atomic.Int32 // other nodes that are there; not under mu, which the queue must not wait for

	mu      sync.Mutex // guards what follows; never held across I/O
	book    *book
	joined  bool
	met     map[string]memberlist.Node // others that are there: those of Members change under memberlist's own lock
	changed chan struct{}              // holds one note
	wake    chan struct{}              // for Run
	asks    []ask                      // to send, by Run
}

// ask is something to send to one node.
type ask struct {
	to  string
	msg []byte
}

// New opens the sockets. Run must be called.
func New(c Config) (*Directory, error) {
	ring, err := memberlist.NewKeyring(c.Keys.All, c.Keys.Seal)
	if err != nil {
		return nil, fmt.Errorf("keys of the swarm: %w", err)
	}
	d := &Directory{c: c, ring: ring, book: newBook(c.Node), met: map[string]memberlist.Node{}, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	own := newShelf(stamp{Epoch: uint64(c.Clock.Now().UnixNano())})
	own.alive, own.via = true, c.Via
	d.book.nodes[c.Node] = own
	d.out = &memberlist.TransmitLimitedQueue{RetransmitMult: 3, NumNodes: func() int { return int(d.alive.Load()) + 1 }}
	m := memberlist.DefaultLANConfig()
	m.Name = c.Node
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	m.BindAddr, m.BindPort = c.Addr.String(), c.Port
	m.AdvertiseAddr, m.AdvertisePort = c.Addr.String(), c.Port
	m.Transport = c.Transport
	m.Keyring = ring
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	m.EnableCompression = false
	m.GossipInterval, m.GossipNodes = gossipEach, 4
	m.ProbeInterval, m.ProbeTimeout = probeEach, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicion, 2
	m.PushPullInterval = digestEach
	m.TCPTimeout = tcpTimeout
	m.DeadNodeReclaimTime = joinEach // it may come back with another address
	m.Delegate, m.Events = (*delegate)(d), (*eventDelegate)(d)
	m.Logger = log.New(logWriter{c.Log}, "", 0)
	if d.list, err = memberlist.Create(m); err != nil {
		return nil, fmt.Errorf("open the directory of the swarm on %s:%d: %w", c.Addr, c.Port, err)
	}
	return d, nil
}

// Changed tells by a note that All says something else than before.
func (d *Directory) Changed() <-chan struct{} { return d.changed }

func note(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one already
	}
}

// Put says what is true of containers of this node.
func (d *Directory) Put(es ...Entry) {
	d.mu.Lock()
	own := d.book.nodes[d.c.Node]
	es = slices.DeleteFunc(slices.Clone(es), func(e Entry) bool {
		have, ok := own.entries[e.ID]
		return ok && have.equal(e)
	})
	if len(es) == 0 {
		d.mu.Unlock()
		return
	}
	own.Seq++
	for _, e := range es {
		own.entries[e.ID] = numbered{e, own.Seq}
	}
	msg := d.tell(delta{Put: es})
	d.mu.Unlock()
	d.out.QueueBroadcast(msg)
	note(d.changed)
}

// Remove takes entries of this node back.
func (d *Directory) Remove(ids ...string) {
	d.mu.Lock()
	own := d.book.nodes[d.c.Node]
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, ok := own.entries[id]; return !ok })
	if len(ids) == 0 {
		d.mu.Unlock()
		return
	}
	own.Seq++
	for _, id := range ids {
		delete(own.entries, id)
	}
	msg := d.tell(delta{Del: ids})
	d.mu.Unlock()
	d.out.QueueBroadcast(msg)
	note(d.changed)
}

// tell makes a change of this node's a message. mu is held.
func (d *Directory) tell(c delta) broadcast {
	own := d.book.nodes[d.c.Node]
	c.Node, c.stamp, c.Via = d.c.Node, own.stamp, own.via
	b := encode(kindDelta, c)
	if len(b) > room {
		b = encode(kindDelta, delta{Node: c.Node, stamp: c.stamp, Large: true})
	}
	return broadcast(b)
}

// broadcast is a message in the queue. Each counts: numbers must not be missing.
type broadcast []byte

// Invalidates implements memberlist.Broadcast.
func (broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// UniqueBroadcast implements memberlist.UniqueBroadcast.
func (broadcast) UniqueBroadcast() {}

// Message implements memberlist.Broadcast.
func (b broadcast) Message() []byte { return b }

// Finished implements memberlist.Broadcast.
func (broadcast) Finished() {}

// All is what is known.
func (d *Directory) All() []Located {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.book.all()
}

// Joined tells whether this node has met another, since it started.
func (d *Directory) Joined() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.joined
}

// SetKeys changes the keys. Nodes get a new key before one of them seals with it.
func (d *Directory) SetKeys(k Keys) error {
	for _, key := range k.All {
		if err := d.ring.AddKey(key); err != nil {
			return fmt.Errorf("new key of the swarm: %w", err)
		}
	}
	if err := d.ring.UseKey(k.Seal); err != nil {
		return fmt.Errorf("new key of the swarm: %w", err)
	}
	for _, have := range d.ring.GetKeys() {
		if !slices.ContainsFunc(k.All, func(key []byte) bool { return string(key) == string(have) }) {
			if err := d.ring.RemoveKey(have); err != nil {
				return fmt.Errorf("old key of the swarm: %w", err)
			}
		}
	}
	return nil
}

// Run meets the others and sends what is asked for, until ctx ends.
func (d *Directory) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.meet(ctx) })
	wg.Go(func() { d.answer(ctx) })
	wg.Wait()
}

// meet joins peers that are not members, again and again: after a partition
// nobody else would.
func (d *Directory) meet(ctx context.Context) {
	for {
		there := map[string]bool{}
		d.mu.Lock()
		for _, n := range d.met {
			there[n.Addr.String()] = true
		}
		d.mu.Unlock()
		for _, p := range d.c.Peers() {
			if p == d.c.Addr || there[p.String()] {
				continue
			}
			port := d.c.Port
			if port == 0 {
				port = DefaultPort
			}
			_, err := d.list.Join([]string{netip.AddrPortFrom(p, uint16(port)).String()})
			if err != nil {
				d.c.Log.Debug("meet a node of the swarm", logkey.Address, p.String(), logkey.Err, err)
			}
			if ctx.Err() != nil {
				return
			}
		}
		if clock.Sleep(ctx, d.c.Clock, joinEach) != nil {
			return
		}
	}
}

// answer sends what is waiting, and looks after time.
func (d *Directory) answer(ctx context.Context) {
	t := d.c.Clock.NewTimer(keepWay)
	defer t.Stop()
	for {
		now := d.c.Clock.Now()
		d.mu.Lock()
		missing, next := d.book.wanting(now)
		for _, node := range missing {
			d.asks = append(d.asks, ask{node, encode(kindWant, want{From: d.c.Node, Nodes: []string{node}})})
		}
		forgotten, due := d.book.expire(now)
		if next.IsZero() || (!due.IsZero() && due.Before(next)) {
			next = due
		}
		asks := d.asks
		d.asks = nil
		d.mu.Unlock()
		if forgotten {
			note(d.changed)
		}
		for _, a := range asks {
			if err := d.send(a); err != nil {
				d.c.Log.Debug("tell a node of the swarm", logkey.Name, a.to, logkey.Err, err)
			}
		}
		if !next.IsZero() {
			t.Reset(max(next.Sub(now), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-t.C():
		}
	}
}

func (d *Directory) send(a ask) error {
	d.mu.Lock()
	n, there := d.met[a.to]
	d.mu.Unlock()
	if !there {
		return errors.New("it is not there")
	}
	return d.list.SendReliable(&n, a.msg)
}

// later leaves something to send to Run. mu is held.
func (d *Directory) later(to string, msg []byte) {
	if len(d.asks) < 1024 { // it is asked for again
		d.asks = append(d.asks, ask{to, msg})
	}
	note(d.wake)
}

// Leave tells the others that this node goes for good, and closes.
func (d *Directory) Leave(limit time.Duration) error {
	return errors.Join(d.list.Leave(limit), d.list.Shutdown())
}

// Close falls silent. The others see a node that died, until it is back.
func (d *Directory) Close() error { return d.list.Shutdown() }

// receive acts on a message of another node.
func (d *Directory) receive(b []byte) {
	m, err := decode(b)
	if err != nil {
		d.c.Log.Warn("message of another node not understood", logkey.Err, err)
		return
	}
	now := d.c.Clock.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := false
	switch {
	case m.delta != nil:
		changed = d.book.apply(*m.delta, now)
		note(d.wake) // one may be missing
	case m.digest != nil:
		if nodes := d.book.heard(m.digest.Nodes); len(nodes) > 0 {
			d.later(m.digest.From, encode(kindWant, want{From: d.c.Node, Nodes: nodes}))
		}
		d.restamp(m.digest.Nodes[d.c.Node])
	case m.want != nil:
		ls := d.book.lists(func(node string) bool { return slices.Contains(m.want.Nodes, node) })
		if len(ls) > 0 {
			d.later(m.want.From, encode(kindLists, ls))
		}
	default:
		for _, l := range m.lists {
			changed = d.book.replace(l, now) || changed
			if l.Node == d.c.Node {
				d.restamp(l.stamp)
			}
		}
	}
	if changed {
		note(d.changed)
	}
}

// restamp puts this node's word above what others have of an earlier daemon of
// it, should the clock have gone back since. mu is held.
func (d *Directory) restamp(others stamp) {
	own := d.book.nodes[d.c.Node]
	if own.compare(others) < 0 {
		own.stamp = stamp{Epoch: others.Epoch + 1, Seq: own.Seq + 1}
		for id, e := range own.entries {
			own.entries[id] = numbered{e.Entry, own.Seq}
		}
		d.out.QueueBroadcast(broadcast(encode(kindDelta, delta{Node: d.c.Node, stamp: own.stamp, Large: true})))
	}
}

// delegate is the Directory as memberlist sees it.
type delegate Directory

var _ memberlist.Delegate = (*delegate)(nil)

// NodeMeta implements memberlist.Delegate.
func (*delegate) NodeMeta(int) []byte { return nil }

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(b []byte) { (*Directory)(d).receive(b) }

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.out.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate: all to one who joins, else a digest.
func (d *delegate) LocalState(join bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if join {
		return encode(kindLists, d.book.lists(func(string) bool { return true }))
	}
	return encode(kindDigest, digest{From: d.c.Node, Nodes: d.book.digest()})
}

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState(b []byte, _ bool) { (*Directory)(d).receive(b) }

// eventDelegate hears of nodes that come and go.
type eventDelegate Directory

var _ memberlist.EventDelegate = (*eventDelegate)(nil)

func (d *eventDelegate) mark(n *memberlist.Node, alive bool) {
	if n.Name == d.c.Node {
		return
	}
	d.mu.Lock()
	changed := d.book.mark(n.Name, alive, d.c.Clock.Now())
	d.joined = d.joined || alive
	if alive {
		d.met[n.Name] = *n
	} else {
		delete(d.met, n.Name)
	}
	if changed && alive {
		d.alive.Add(1)
	} else if changed {
		d.alive.Add(-1)
	}
	d.mu.Unlock()
	note(d.wake)
	if changed {
		d.c.Log.Info("node of the swarm seen", logkey.Name, n.Name, logkey.Address, n.Addr.String(), logkey.Status, alive)
		note(d.changed)
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (d *eventDelegate) NotifyJoin(n *memberlist.Node) { d.mark(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d *eventDelegate) NotifyLeave(n *memberlist.Node) { d.mark(n, false) }

// NotifyUpdate implements memberlist.EventDelegate.
func (*eventDelegate) NotifyUpdate(*memberlist.Node) {}

// logWriter takes memberlist's lines: what matters of them is told by us.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug("gossip", logkey.Text, strings.TrimSpace(string(b)))
	return len(b), nil
}
