package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ClusterOptions changes what NewCluster makes.
type ClusterOptions struct {
	Nodes  int     // 0: three
	Daemon Options // of every node
}

// Cluster is several daemons on this machine, as nodes on one network: each has
// its own network, mount and UTS namespace, and a link to a bridge in between.
// Nodes are counted from 1; node N is called nodeN and has the address 10.99.0.N.
type Cluster struct {
	t     TB
	nodes []*Daemon
	wire  *holder // holds the bridge
	dir   string
	off   map[int]bool // nodes cut off
}

const clusterNet = "10.99.0."

// NewCluster makes the nodes and starts their daemons. They are in no swarm yet.
func NewCluster(t TB, o ClusterOptions) *Cluster {
	t.Helper()
	RequireRoot(t)
	for _, p := range []string{"nsenter", "ip", "hostname"} {
		RequireProgram(t, p)
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	sweep(t)
	c := &Cluster{t: t, off: map[int]bool{}}
	if err := c.makeWire(); err != nil {
		t.Fatalf("make the cluster's network: %v", err)
	}
	t.Cleanup(c.dropWire)
	for i := 1; i <= o.Nodes; i++ {
		n := o.Daemon
		n.Hostname = "node" + strconv.Itoa(i)
		n.prepare = func(h *holder) error { return c.plug(h, i) }
		c.nodes = append(c.nodes, New(t, n))
	}
	t.Cleanup(c.disband) // before the nodes look for leftovers
	return c
}

func (c *Cluster) makeWire() error {
	var r [2]byte
	_, _ = rand.Read(r[:]) // never fails
	// Named as a daemon's folder is, so that what a killed test leaves is swept.
	c.dir = filepath.Join(os.TempDir(), dirPrefix+strconv.Itoa(os.Getpid())+"-"+hex.EncodeToString(r[:]))
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	h, err := newHolder("")
	if err != nil {
		return err
	}
	c.wire = h
	if err := os.WriteFile(filepath.Join(c.dir, holderFile), []byte(strconv.Itoa(h.pid)), 0o644); err != nil {
		return errors.Join(err, h.close())
	}
	if err := c.ip(h, "link", "add", "wire", "type", "bridge"); err != nil {
		return errors.Join(err, h.close())
	}
	return c.ip(h, "link", "set", "wire", "up")
}

func (c *Cluster) dropWire() {
	if err := errors.Join(c.wire.close(), os.RemoveAll(c.dir)); err != nil {
		c.t.Errorf("remove the cluster's network: %v", err)
	}
}

func (c *Cluster) ip(h *holder, args ...string) error {
	if out, err := h.command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// plug gives a node its link. It goes with the node's namespace.
func (c *Cluster) plug(h *holder, i int) error {
	port := "p" + strconv.Itoa(i)
	// After a power loss the kernel takes the old link down when it gets to it.
	if err := c.ip(c.wire, "link", "del", port); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
		return err
	}
	return errors.Join(
		c.ip(c.wire, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.pid)),
		c.ip(c.wire, "link", "set", port, "master", "wire", "up"),
		c.ip(h, "address", "add", c.Addr(i)+"/24", "dev", "eth0"),
		c.ip(h, "link", "set", "eth0", "up"),
	)
}

// disband takes every node out of its swarm, so that what is left afterwards
// was left by mistake.
func (c *Cluster) disband() {
	for i := range c.off {
		c.Heal(i)
	}
	for _, n := range c.nodes {
		if !n.Running() {
			n.Start()
		}
		if r := n.DockerResult("swarm", "leave", "--force"); r.Code != 0 && !strings.Contains(r.Err, "not part of a swarm") {
			c.t.Errorf("%s", r)
		}
	}
}

// Size is the number of nodes.
func (c *Cluster) Size() int { return len(c.nodes) }

// Node is one node's daemon.
func (c *Cluster) Node(i int) *Daemon { return c.nodes[i-1] }

// Addr is one node's address.
func (c *Cluster) Addr(i int) string { return clusterNet + strconv.Itoa(i) }

// Swarm makes one swarm of all nodes, the first ones managers.
func (c *Cluster) Swarm(managers int) {
	c.t.Helper()
	first := c.Node(1)
	first.Docker("swarm", "init")
	for i := 2; i <= len(c.nodes); i++ {
		role := "worker"
		if i <= managers {
			role = "manager"
		}
		token := first.Docker("swarm", "join-token", "-q", role)
		c.Node(i).Docker("swarm", "join", "--token", token, c.Addr(1)+":2377")
	}
}

// Reboot is a node that loses power and comes back.
func (c *Cluster) Reboot(i int) {
	c.t.Helper()
	c.Node(i).PowerLoss()
	c.Node(i).Start()
}

// Partition cuts a node off: what it sends and is sent vanishes.
func (c *Cluster) Partition(i int) {
	c.t.Helper()
	c.off[i] = true
	if err := c.ip(c.wire, "link", "set", "p"+strconv.Itoa(i), "nomaster"); err != nil {
		c.t.Fatalf("cut node %d off: %v", i, err)
	}
}

// Heal undoes Partition.
func (c *Cluster) Heal(i int) {
	c.t.Helper()
	delete(c.off, i)
	if err := c.ip(c.wire, "link", "set", "p"+strconv.Itoa(i), "master", "wire"); err != nil {
		c.t.Fatalf("join node %d again: %v", i, err)
	}
}

// Cut tells whether a node is cut off.
func (c *Cluster) Cut(i int) bool { return c.off[i] }
