package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
)

// A new connection draws a number below slots. The backends of a service share
// the numbers among them, so that one lookup finds who is to answer; conntrack
// keeps the connection there.
const slots = 1 << 16

// share is what the i-th of n backends has of the numbers.
func share(i, n int) (first, last uint32) {
	return uint32(i * slots / n), uint32((i+1)*slots/n - 1)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// draw puts a number in a register, in the byte order in which ranges compare.
func draw(reg uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: reg, Type: unix.NFT_NG_RANDOM, Modulus: slots},
		&expr.Byteorder{SourceRegister: reg, DestRegister: reg, Op: expr.ByteorderHton, Len: 4, Size: 4},
	}
}

// vipTable is what a container's namespace has of services.
type vipTable struct {
	table          *nftables.Table
	vips, backends *nftables.Set
}

func newVIPTable() vipTable {
	t := &nftables.Table{Name: "holdfast-vip", Family: nftables.TableFamilyIPv4}
	return vipTable{
		table: t,
		vips:  &nftables.Set{Table: t, Name: "vips", KeyType: nftables.TypeIPAddr, ID: setID(0)},
		// The second part of the key is a number; the type only says how it is shown.
		backends: &nftables.Set{
			Table: t, Name: "backends", IsMap: true, Concatenation: true, Interval: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr), DataType: nftables.TypeIPAddr, ID: setID(1),
		},
	}
}

func (v vipTable) elements(services []network.VIP) (vips, backends []nftables.SetElement) {
	for _, s := range services {
		a := s.Addr.AsSlice()
		vips = append(vips, nftables.SetElement{Key: a})
		for i, b := range s.Backends {
			first, last := share(i, len(s.Backends))
			backends = append(backends, nftables.SetElement{
				Key: slices.Concat(a, be32(first)), KeyEnd: slices.Concat(a, be32(last)), Val: b.AsSlice(),
			})
		}
	}
	return vips, backends
}

// make adds the table anew, with empty sets.
func (v vipTable) make(c *nftables.Conn) error {
	c.AddTable(v.table)
	c.DelTable(v.table)
	c.AddTable(v.table)
	for _, s := range []*nftables.Set{v.vips, v.backends} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	daddr := &expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	nat := c.AddChain(&nftables.Chain{
		Name: "output", Table: v.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: v.table, Chain: nat, Exprs: slices.Concat(
		[]expr.Any{daddr, &expr.Lookup{SourceRegister: reg0, SetName: v.vips.Name, SetID: v.vips.ID}},
		draw(reg1),
		[]expr.Any{
			&expr.Lookup{SourceRegister: reg0, DestRegister: 1, IsDestRegSet: true, SetName: v.backends.Name, SetID: v.backends.ID},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		},
	)})
	// Nobody to answer: say so at once.
	filter := c.AddChain(&nftables.Chain{
		Name: "refuse", Table: v.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: v.table, Chain: filter, Exprs: []expr.Any{
		daddr, &expr.Lookup{SourceRegister: reg0, SetName: v.vips.Name, SetID: v.vips.ID},
		&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable},
	}})
	return nil
}

const icmpPortUnreachable = 3

// Balance implements network.Firewall.
func (f *Firewall) Balance(_ context.Context, nsPath string, anew bool, set, del []network.VIP) error {
	v := newVIPTable()
	var gone []netip.Addr
	err := inSandbox(nsPath, "balance services", func(c *nftables.Conn) error {
		if anew {
			if err := v.make(c); err != nil {
				return err
			}
		} else {
			vips, backends := v.elements(del)
			if err := inChunks(v.backends, backends, c.SetDeleteElements); err != nil {
				return err
			}
			if err := inChunks(v.vips, vips, c.SetDeleteElements); err != nil {
				return err
			}
			gone = lost(del, set)
		}
		vips, backends := v.elements(set)
		if err := inChunks(v.vips, vips, c.SetAddElements); err != nil {
			return err
		}
		return inChunks(v.backends, backends, c.SetAddElements)
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	return forgetUDPTo(nsPath, gone)
}

// lost are backends that a service had and has not any more.
func lost(was, is []network.VIP) []netip.Addr {
	now := map[netip.Addr][]netip.Addr{}
	for _, v := range is {
		now[v.Addr] = v.Backends
	}
	var out []netip.Addr
	for _, v := range was {
		for _, b := range v.Backends {
			if !slices.Contains(now[v.Addr], b) {
				out = append(out, b)
			}
		}
	}
	return out
}

// chunk is how many elements go into one message: its length is a 16-bit number.
const chunk = 400

func inChunks(s *nftables.Set, elems []nftables.SetElement, edit edit) error {
	for part := range slices.Chunk(elems, chunk) {
		if err := edit(s, part); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

// swarmMap is the map of ports that lead to services: protocol, port, number.
func swarmMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, Name: "swarm4", IsMap: true, Concatenation: true, Interval: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func swarmElements(ports []network.SwarmPort) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range ports {
		key := slices.Concat(word(protoNumber(p.Proto)), word(be16(p.Port)...))
		for i, t := range p.Targets {
			first, last := share(i, len(p.Targets))
			out = append(out, nftables.SetElement{
				Key: slices.Concat(key, be32(first)), KeyEnd: slices.Concat(key, be32(last)),
				Val: append(t.Addr().AsSlice(), word(be16(t.Port())...)...),
			})
		}
	}
	return out
}

// toSwarm sends what comes for a service's port to one of its tasks.
func toSwarm(m *nftables.Set) []expr.Any {
	return slices.Concat(nfproto(false), toLocal(),
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, loadPort(reg1)},
		draw(reg2),
		[]expr.Any{
			&expr.Lookup{SourceRegister: reg0, DestRegister: 1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: reg1, Specified: true},
		})
}

// snat gives a connection another source.
func snat(a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
}
