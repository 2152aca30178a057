// Package nft holds the engine's firewall rules in nftables, by netlink. It
// fills network.Firewall.
//
// All rules live in one table of family inet that carries the instance's
// name. It is always written as a whole in one transaction, so that there is
// no moment without rules; only the published ports, elements of four maps,
// come and go one by one. Other tables are read, never written.
package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
)

// Firewall is the table of one instance in the namespace New was called in.
type Firewall struct {
	name string
	port uint32 // of conn: what the kernel signs its news of our own changes with

	mu   sync.Mutex // guards conn and intact; held across netlink calls
	conn *nftables.Conn
	// intact is the generation of the kernel's rule set at which the table was
	// last found whole; while it stands nothing can have changed.
	intact uint32
}

var _ network.Firewall = (*Firewall)(nil)

// New opens the netlink socket. Close gives it back.
func New(instance string) (*Firewall, error) {
	var port uint32
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) (err error) {
		port, err = portOf(c)
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	name := "holdfast"
	if instance != "" {
		name += "-" + instance
	}
	return &Firewall{name: name, port: port, conn: conn}, nil
}

// Close gives the socket back; the rules stay.
func (f *Firewall) Close() error { return f.conn.CloseLasting() }

func (f *Firewall) table() *nftables.Table {
	return &nftables.Table{Name: f.name, Family: nftables.TableFamilyINet}
}

// flush sends a batch. A failed one leaves nothing in the kernel nor in the connection.
func (f *Firewall) flush(what string) error {
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("%s in table %s: %w", what, f.name, err)
	}
	return nil
}

// Sync implements network.Firewall.
func (f *Firewall) Sync(_ context.Context, r network.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intact = 0
	t := f.table()
	f.conn.AddTable(t) // so that there is one to delete
	f.conn.DelTable(t)
	f.conn.AddTable(t)
	l := lay(t, r)
	for _, s := range l.sets {
		elems := s.elems
		if s.set.Interval { // may be many
			elems = nil
		}
		if err := f.conn.AddSet(s.set, elems); err != nil {
			return fmt.Errorf("set %s: %w", s.set.Name, err)
		}
		if s.set.Interval {
			if err := inChunks(s.set, s.elems, f.conn.SetAddElements); err != nil {
				return err
			}
		}
	}
	for _, c := range l.chains {
		f.conn.AddChain(c.chain)
	}
	for _, c := range l.chains {
		for _, e := range c.rules {
			f.conn.AddRule(&nftables.Rule{Table: t, Chain: c.chain, Exprs: e})
		}
	}
	if err := f.flush("write rules"); err != nil {
		return err
	}
	return f.forgetUDP(r.Ports)
}

// AddPorts implements network.Firewall.
func (f *Firewall) AddPorts(_ context.Context, p []network.PortRule) error {
	return f.editPorts(p, f.conn.SetAddElements, "add ports")
}

// RemovePorts implements network.Firewall.
func (f *Firewall) RemovePorts(_ context.Context, p []network.PortRule) error {
	return f.editPorts(p, f.conn.SetDeleteElements, "remove ports")
}

func (f *Firewall) editPorts(ports []network.PortRule, edit edit, what string) error {
	if len(ports) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var sets []filledSet
	for _, m := range portMaps(f.table()) {
		sets = append(sets, filledSet{m.set, m.elements(ports)})
	}
	if err := f.edit(sets, edit, what); err != nil {
		return err
	}
	return f.forgetUDP(ports)
}

// edit is one of the library's calls that add or remove elements.
type edit func(*nftables.Set, []nftables.SetElement) error

// edit changes single elements of sets. mu is held.
func (f *Firewall) edit(sets []filledSet, edit edit, what string) error {
	for _, s := range sets {
		if len(s.elems) == 0 {
			continue
		}
		if err := edit(s.set, s.elems); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return f.flush(what)
}

// AddLinks implements network.Firewall.
func (f *Firewall) AddLinks(_ context.Context, l []network.LinkRule) error {
	return f.editLinks(l, f.conn.SetAddElements, "open links")
}

// RemoveLinks implements network.Firewall.
func (f *Firewall) RemoveLinks(_ context.Context, l []network.LinkRule) error {
	return f.editLinks(l, f.conn.SetDeleteElements, "close links")
}

func (f *Firewall) editLinks(links []network.LinkRule, edit edit, what string) error {
	if len(links) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var sets []filledSet
	for _, s := range linkSets(f.table()) {
		sets = append(sets, filledSet{s.set, s.elements(links)})
	}
	return f.edit(sets, edit, what)
}

// Present implements network.Firewall.
func (f *Firewall) Present(context.Context) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.present()
}

func (f *Firewall) present() (bool, error) {
	tables, err := f.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == f.name }), nil
}

// Intact implements network.Firewall. It costs one message while nobody
// changed any rule of the machine.
func (f *Firewall) Intact(_ context.Context, r network.Rules) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gen, err := generation()
	if err != nil {
		return false, err
	}
	if f.intact != 0 && f.intact == gen {
		return true, nil
	}
	ok, err := f.present()
	if err != nil || !ok {
		return false, err
	}
	ok, err = f.whole(lay(f.table(), r))
	if err != nil {
		return false, err
	}
	if ok {
		f.intact = gen
	}
	return ok, nil
}

// whole compares the numbers of rules and elements.
func (f *Firewall) whole(l layout) (bool, error) {
	for _, c := range l.chains {
		rules, err := f.conn.GetRules(c.chain.Table, c.chain)
		if gone(err) || (err == nil && len(rules) != len(c.rules)) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("list rules of %s: %w", c.chain.Name, err)
		}
	}
	for _, s := range l.sets {
		elems, err := f.conn.GetSetElements(s.set)
		if gone(err) || (err == nil && len(elems) != len(s.elems)) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("list elements of %s: %w", s.set.Name, err)
		}
	}
	return true, nil
}

func gone(err error) bool { return errors.Is(err, unix.ENOENT) }

// generation asks for the number that the kernel raises with every change of
// any rule in the namespace.
func generation() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("open nftables: %w", err)
	}
	defer c.Close()
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("read generation of rules: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read generation of rules: %w", err)
		}
		for d.Next() {
			if b := d.Bytes(); d.Type() == unix.NFTA_GEN_ID && len(b) == 4 {
				return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), nil
			}
		}
	}
	return 0, nil
}

// Strangers implements network.Firewall.
func (f *Firewall) Strangers(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := f.conn.ListChainsOfTableFamily(fam)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter &&
				c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop && c.Table.Name != f.name {
				out = append(out, fmt.Sprintf("%s %s %s", familyName(fam), c.Table.Name, c.Name))
			}
		}
	}
	return out, nil
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	default:
		return "inet"
	}
}

// Clear implements network.Firewall.
func (f *Firewall) Clear(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intact = 0
	f.conn.AddTable(f.table())
	f.conn.DelTable(f.table())
	return f.flush("clear")
}
