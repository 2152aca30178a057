package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/network"
)

var loopback4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

// Registers of 4 bytes, which keys of several parts are put together in.
// The first is also the first of 16 bytes, number 1.
const (
	reg0 = unix.NFT_REG32_00
	reg1 = unix.NFT_REG32_01
	reg2 = unix.NFT_REG32_02
	reg3 = unix.NFT_REG32_00 + 3
	reg4 = unix.NFT_REG32_00 + 4
	reg5 = unix.NFT_REG32_00 + 5
	reg8 = unix.NFT_REG32_00 + 8
	reg9 = unix.NFT_REG32_00 + 9
)

func accept() []expr.Any     { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any       { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func cmp(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func nfproto(v6 bool) []expr.Any {
	p := byte(unix.NFPROTO_IPV4)
	if v6 {
		p = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, cmp(expr.CmpOpEq, []byte{p})}
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func loadPort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// ifname is the form in which the kernel compares interface names.
func ifname(n string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, n)
	return b
}

func ifnameIs(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, cmp(expr.CmpOpEq, ifname(name))}
}

func ifnameIsNot(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, cmp(expr.CmpOpNeq, ifname(name))}
}

func ifnameIn(key expr.MetaKey, s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func saddr(p netip.Prefix) []expr.Any {
	if p.Addr().Is6() {
		return addrIn(8, 16, p)
	}
	return addrIn(12, 4, p)
}

func daddr4(p netip.Prefix) []expr.Any { return addrIn(16, 4, p) }

// addrIn compares the address at an offset of the network header.
func addrIn(offset, size uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		cmp(expr.CmpOpEq, p.Masked().Addr().AsSlice()),
	}
}

// toLocal matches packets for any address of the host.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		cmp(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

func notLoopback6() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		cmp(expr.CmpOpNeq, netip.IPv6Loopback().AsSlice()),
	}
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		cmp(expr.CmpOpNeq, make([]byte, 4)),
	}
}

// translated matches connections whose destination was changed: they came by a
// published port. IPS_DST_NAT of the kernel.
func translated() []expr.Any { return ctBits(expr.CtKeySTATUS, 1<<5) }

func established() []expr.Any {
	return ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// portMap is one of the maps of published ports, by family and by whether the
// host's address is part of the key.
type portMap struct {
	set     *nftables.Set
	v6      bool
	anyAddr bool
}

// portMaps are the four, in the order in which they are asked.
func portMaps(t *nftables.Table) []portMap {
	addr := func(v6 bool) nftables.SetDatatype {
		if v6 {
			return nftables.TypeIP6Addr
		}
		return nftables.TypeIPAddr
	}
	make1 := func(name string, v6, anyAddr bool) portMap {
		key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
		if !anyAddr {
			key = append([]nftables.SetDatatype{addr(v6)}, key...)
		}
		return portMap{v6: v6, anyAddr: anyAddr, set: &nftables.Set{
			Table: t, Name: name, IsMap: true, Concatenation: true,
			KeyType:  nftables.MustConcatSetType(key...),
			DataType: nftables.MustConcatSetType(addr(v6), nftables.TypeInetService),
		}}
	}
	return []portMap{
		make1("ports4addr", false, false), make1("ports4", false, true),
		make1("ports6addr", true, false), make1("ports6", true, true),
	}
}

func protoNumber(name string) byte {
	if name == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func word(b ...byte) []byte { return append(b, make([]byte, 4-len(b))...) }

// elements are those of the ports that belong into this map.
func (m portMap) elements(ports []network.PortRule) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range ports {
		host := p.Host.Addr()
		if host.Is6() != m.v6 || host.IsUnspecified() != m.anyAddr {
			continue
		}
		var key []byte
		if !m.anyAddr {
			key = append(key, host.AsSlice()...)
		}
		key = append(key, word(protoNumber(p.Proto))...)
		key = append(key, word(be16(p.Host.Port())...)...)
		val := append(p.Target.Addr().AsSlice(), word(be16(p.Target.Port())...)...)
		out = append(out, nftables.SetElement{Key: key, Val: val})
	}
	return out
}

// translate sends a packet that the map knows to where it says.
func (m portMap) translate() []expr.Any {
	var load []expr.Any
	proto, port, dataPort := uint32(reg0), uint32(reg1), uint32(reg1)
	family := uint32(unix.NFPROTO_IPV4)
	offset, size := uint32(16), uint32(4)
	if m.v6 {
		family, offset, size, dataPort = unix.NFPROTO_IPV6, 24, 16, reg4
	}
	if !m.anyAddr {
		proto, port = reg1, reg2
		if m.v6 {
			proto, port = reg4, reg5
		}
		load = append(load, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	}
	return append(load,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		loadPort(port),
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: m.set.Name, SetID: m.set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: dataPort, Specified: true},
	)
}
