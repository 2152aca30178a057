package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
)

// linkSet is one of the two sets of open links, by family: from, to, protocol, port.
type linkSet struct {
	set *nftables.Set
	v6  bool
}

func linkSets(t *nftables.Table) []linkSet {
	make1 := func(name string, v6 bool) linkSet {
		addr := nftables.TypeIPAddr
		if v6 {
			addr = nftables.TypeIP6Addr
		}
		return linkSet{v6: v6, set: &nftables.Set{
			Table: t, Name: name, Concatenation: true,
			KeyType: nftables.MustConcatSetType(addr, addr, nftables.TypeInetProto, nftables.TypeInetService),
		}}
	}
	return []linkSet{make1("links4", false), make1("links6", true)}
}

func (s linkSet) elements(links []network.LinkRule) []nftables.SetElement {
	var out []nftables.SetElement
	for _, l := range links {
		if l.From.Is6() != s.v6 {
			continue
		}
		key := append(l.From.AsSlice(), l.To.Addr().AsSlice()...)
		key = append(key, word(protoNumber(l.Proto))...)
		key = append(key, word(be16(l.To.Port())...)...)
		out = append(out, nftables.SetElement{Key: key})
	}
	return out
}

// contains matches packets that a link lets pass.
func (s linkSet) contains() []expr.Any {
	from, size := uint32(12), uint32(4) // source and destination lie side by side
	to, proto, port := uint32(reg1), uint32(reg2), uint32(reg3)
	if s.v6 {
		from, size, to, proto, port = 8, 16, reg4, reg8, reg9
	}
	return append(nfproto(s.v6),
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: from, Len: size},
		&expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: from + size, Len: size},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		loadPort(port),
		&expr.Lookup{SourceRegister: reg0, SetName: s.set.Name, SetID: s.set.ID},
	)
}

// neighbours matches what IPv6 hosts find each other by, as IPv4 ones do by ARP,
// which doesn't pass the firewall.
func neighbours() []expr.Any {
	const solicit, advert = 135, 136
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, cmp(expr.CmpOpEq, []byte{unix.IPPROTO_ICMPV6}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{solicit}, ToData: []byte{advert}},
	}
}
