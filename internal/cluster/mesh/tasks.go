package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/cluster/netalloc"
	"holdfast.dev/holdfast/internal/network"
)

// Attachment is a task's place in a network.
type Attachment struct {
	Network string // name
	ID      string
	Ingress bool
	Addr    netip.Addr
}

// Attachments are a task's places in networks of the swarm.
func Attachments(t *api.Task) ([]Attachment, error) {
	var out []Attachment
	for _, n := range t.Networks {
		if n.Network == nil || netalloc.Local(n.Network) {
			continue
		}
		if len(n.Addresses) == 0 {
			return nil, fmt.Errorf("task %s has no address on network %s", t.ID, n.Network.Spec.Annotations.Name)
		}
		p, err := netip.ParsePrefix(n.Addresses[0])
		if err != nil {
			return nil, fmt.Errorf("address of task %s: %w", t.ID, err)
		}
		out = append(out, Attachment{Network: n.Network.Spec.Annotations.Name, ID: n.Network.ID, Ingress: n.Network.Spec.Ingress, Addr: p.Addr()})
	}
	return out, nil
}

// overlayOf is a network of the swarm as this node makes it.
func overlayOf(n *api.Network, data netip.Addr, port uint16, own netip.Addr) (network.Overlay, error) {
	vni, err := netalloc.VNI(n)
	if err != nil {
		return network.Overlay{}, err
	}
	if port == 0 {
		port = DefaultDataPort
	}
	o := network.Overlay{
		ID: n.ID, Name: n.Spec.Annotations.Name, Internal: n.Spec.Internal, Attachable: n.Spec.Attachable, Ingress: n.Spec.Ingress,
		Options: n.DriverState.Options, Labels: n.Spec.Annotations.Labels,
		Tunnel: network.TunnelInfo{VNI: vni, Port: port, Local: data, Own: own},
	}
	if n.Meta.CreatedAt != nil {
		if at, err := gogotypes.TimestampFromProto(n.Meta.CreatedAt); err == nil {
			o.Created = at
		}
	}
	if n.IPAM != nil {
		for _, c := range n.IPAM.Configs {
			p, err := netip.ParsePrefix(c.Subnet)
			if err != nil {
				return o, fmt.Errorf("subnet of network %s: %w", o.Name, err)
			}
			gw, err := netip.ParseAddr(c.Gateway)
			if err != nil {
				return o, fmt.Errorf("gateway of network %s: %w", o.Name, err)
			}
			o.Subnets = append(o.Subnets, mobynet.IPAMConfig{Subnet: p, Gateway: gw})
		}
	}
	return o, nil
}

// ensure makes a network on this node.
func (m *Mesh) ensure(ctx context.Context, n *api.Network, own netip.Addr) error {
	m.mu.Lock()
	self, port, known := m.self, m.port, m.node != ""
	m.mu.Unlock()
	if self == nil {
		return errors.New("this node is in no swarm")
	}
	if !known && slices.Contains(m.d.Networks.Overlays(), n.ID) {
		return nil // until a manager told us how, it stays as it was
	}
	o, err := overlayOf(n, self.Data, port, own)
	if err != nil {
		return err
	}
	m.making.Lock()
	defer m.making.Unlock()
	return m.d.Networks.EnsureOverlay(ctx, o)
}

// Hold brings a task's networks to this node and keeps them until Release.
func (m *Mesh) Hold(ctx context.Context, t *api.Task) error {
	for _, n := range t.Networks {
		if n.Network == nil || netalloc.Local(n.Network) {
			continue
		}
		m.mu.Lock()
		if m.held[n.Network.ID] == nil {
			m.held[n.Network.ID] = map[string]bool{}
		}
		m.held[n.Network.ID][t.ID] = true
		ingress := m.ingress == n.Network.ID
		m.mu.Unlock()
		if ingress {
			continue // it is there already, with this node's address
		}
		if err := m.ensure(ctx, n.Network, netip.Addr{}); err != nil {
			return err
		}
	}
	m.poke()
	return nil
}

// Show tells the other nodes of a task's container. Before it is healthy they can
// reach it, and do not find it.
func (m *Mesh) Show(t *api.Task, own []string, healthy bool) error {
	at, err := Attachments(t)
	if err != nil {
		return err
	}
	var es []directory.Entry
	for _, a := range at {
		e := directory.Entry{
			ID: t.ID + "." + a.ID, Network: a.ID, Task: t.ID, Service: t.ServiceID, Addr: a.Addr, MAC: network.OverlayMAC(a.Addr), Healthy: healthy,
		}
		if a.Ingress {
			e.Ports = swarmPorts(t)
		} else {
			e.Name, e.Own = t.ServiceAnnotations.Name, own
			e.Aliases = aliases(t, a.ID)
			e.VIP = vipOf(t, a.ID)
		}
		es = append(es, e)
	}
	if len(es) == 0 {
		return nil
	}
	m.put(t.ID, es...)
	return nil
}

// selfTask stands for the node itself among tasks.
const selfTask = ""

// put tells what is true of a task from now on.
func (m *Mesh) put(task string, es ...directory.Entry) {
	m.mu.Lock()
	for i := range es {
		es[i].Fronts = m.fronts[task][es[i].Network]
	}
	m.shown[task] = es
	dir := m.dir
	m.mu.Unlock()
	if dir != nil {
		dir.Put(es...)
	}
	m.poke()
}

// Stand gives a task's container its part in other services, by network. It keeps it
// until the next Stand or Release.
func (m *Mesh) Stand(task string, fronts map[string][]directory.Front) {
	m.mu.Lock()
	m.fronts[task] = fronts
	es := slices.Clone(m.shown[task])
	m.mu.Unlock()
	if len(es) > 0 {
		m.put(task, es...)
	}
}

func aliases(t *api.Task, network string) []string {
	for _, n := range t.Networks {
		if n.Network != nil && n.Network.ID == network {
			return n.Aliases
		}
	}
	return nil
}

// vipOf is the address of a task's service on a network; none with DNSRR.
func vipOf(t *api.Task, network string) netip.Addr {
	if t.Endpoint == nil {
		return netip.Addr{}
	}
	for _, v := range t.Endpoint.VirtualIPs {
		if p, err := netip.ParsePrefix(v.Addr); err == nil && v.NetworkID == network {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// swarmPorts are the ports of every node that lead to a task.
func swarmPorts(t *api.Task) []directory.Port {
	if t.Endpoint == nil {
		return nil
	}
	var out []directory.Port
	for _, p := range t.Endpoint.Ports {
		if p.PublishMode != api.PublishModeIngress || p.PublishedPort == 0 || p.PublishedPort > 65535 || p.TargetPort > 65535 {
			continue
		}
		out = append(out, directory.Port{Proto: strings.ToLower(p.Protocol.String()), Published: uint16(p.PublishedPort), Target: uint16(p.TargetPort)})
	}
	return out
}

// Hide takes back what Show told.
func (m *Mesh) Hide(task string) {
	m.mu.Lock()
	es, dir := m.shown[task], m.dir
	delete(m.shown, task)
	m.mu.Unlock()
	if dir == nil {
		return
	}
	var ids []string
	for _, e := range es {
		ids = append(ids, e.ID)
	}
	dir.Remove(ids...)
}

// releaseIn bounds the taking down of networks that nobody needs any more.
const releaseIn = 10 * time.Second

// Release gives a task's networks back: those that no other task needs go.
func (m *Mesh) Release(ctx context.Context, task string) error {
	m.Hide(task)
	var unused []string
	m.mu.Lock()
	delete(m.fronts, task)
	for id, tasks := range m.held {
		if !tasks[task] {
			continue
		}
		delete(tasks, task)
		if len(tasks) == 0 {
			unused = append(unused, id)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, id := range unused {
		errs = append(errs, m.dropUnused(ctx, id))
	}
	return errors.Join(errs...)
}

// Settle drops the networks that an earlier daemon left and nobody needs. It is
// called once the node has read its tasks.
func (m *Mesh) Settle(ctx context.Context) error {
	var errs []error
	for _, id := range m.d.Networks.Overlays() {
		errs = append(errs, m.dropUnused(ctx, id))
	}
	return errors.Join(errs...)
}

func (m *Mesh) dropUnused(ctx context.Context, id string) error {
	m.making.Lock()
	defer m.making.Unlock()
	m.mu.Lock()
	needed := len(m.held[id]) > 0 || m.ingress == id
	if !needed {
		delete(m.held, id)
	}
	m.mu.Unlock()
	if needed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseIn)
	defer cancel()
	return m.d.Networks.DropOverlay(ctx, id)
}
