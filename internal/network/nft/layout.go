package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"holdfast.dev/holdfast/internal/network"
)

// layout is the whole table as it must be.
type layout struct {
	sets   []filledSet
	chains []filledChain
}

type filledSet struct {
	set   *nftables.Set
	elems []nftables.SetElement
}

type filledChain struct {
	chain *nftables.Chain
	rules [][]expr.Any
}

func lay(t *nftables.Table, r network.Rules) layout {
	var l layout
	bridges := &nftables.Set{Table: t, Name: "bridges", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var names []nftables.SetElement
	for _, n := range r.Networks {
		names = append(names, nftables.SetElement{Key: ifname(n.Bridge)})
	}
	l.sets = append(l.sets, filledSet{bridges, names})
	for _, m := range portMaps(t) {
		l.sets = append(l.sets, filledSet{m.set, m.elements(r.Ports)})
	}
	swarm := swarmMap(t)
	l.sets = append(l.sets, filledSet{swarm, swarmElements(r.Swarm)})
	links := linkSets(t)
	for _, s := range links {
		l.sets = append(l.sets, filledSet{s.set, s.elements(r.Links)})
	}
	for i := range l.sets {
		l.sets[i].set.ID = setID(i)
	}
	base := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) filledChain {
		return filledChain{&nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: prio}, rules}
	}
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "ports"}}
	l.chains = []filledChain{
		{&nftables.Chain{Name: "ports", Table: t}, append(portRules(t), toSwarm(swarm))},
		base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, guardRules(bridges)...),
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, jump),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, jump),
		base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, sourceRules(bridges, r.Networks)...),
		base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, forwardRules(r.Networks, links)...),
	}
	return l
}

// setID numbers the sets of a batch. Left to the library, the numbers come from
// one counter for all connections, which nothing guards: two sets of a batch
// could get the same.
func setID(i int) uint32 { return uint32(i) + 1 }

// portRules look a packet's destination up in the maps of published ports. A
// port on one address goes before one on all addresses of the host. ::1 is left
// to the forwarder: IPv6 doesn't route what comes from loopback.
func portRules(t *nftables.Table) [][]expr.Any {
	var out [][]expr.Any
	for _, m := range portMaps(t) {
		rule := nfproto(m.v6)
		if m.anyAddr {
			rule = append(rule, toLocal()...)
			if m.v6 {
				rule = append(rule, notLoopback6()...)
			}
		}
		out = append(out, append(rule, m.translate()...))
	}
	return out
}

// guardRules drop what a container sends to the host's loopback addresses,
// which the kernel lets pass on our bridges for the sake of replies.
func guardRules(bridges *nftables.Set) [][]expr.Any {
	return [][]expr.Any{slices.Concat(nfproto(false), ifnameIn(expr.MetaKeyIIFNAME, bridges), daddr4(loopback4), drop())}
}

// sourceRules hide addresses that nobody could answer to.
func sourceRules(bridges *nftables.Set, nets []network.NetworkRules) [][]expr.Any {
	var out [][]expr.Any
	for _, n := range nets {
		if n.Source.IsValid() {
			// The answer comes back to this node, whoever asked.
			out = append(out, slices.Concat(nfproto(false), ifnameIs(expr.MetaKeyOIFNAME, n.Bridge), translated(), snat(n.Source)))
		}
	}
	out = append(out,
		// The host itself, through 127.0.0.1.
		slices.Concat(nfproto(false), saddr(loopback4), ifnameIn(expr.MetaKeyOIFNAME, bridges), masquerade()))
	for _, n := range nets {
		for _, sn := range n.Subnets {
			from := append(nfproto(sn.Addr().Is6()), saddr(sn)...)
			// A neighbour, through the host's published port: it must see the host, or
			// the answer would take the short way.
			out = append(out, slices.Concat(from, ifnameIs(expr.MetaKeyOIFNAME, n.Bridge), translated(), masquerade()))
			if n.Masquerade && !n.Internal {
				out = append(out, slices.Concat(from, ifnameIsNot(expr.MetaKeyOIFNAME, n.Bridge), masquerade()))
			}
		}
	}
	return out
}

// forwardRules keep networks apart: only published ports lead from one
// network, or from outside, into another.
func forwardRules(nets []network.NetworkRules, links []linkSet) [][]expr.Any {
	out := [][]expr.Any{append(established(), accept()...)}
	for _, n := range nets {
		in, inside := ifnameIs(expr.MetaKeyOIFNAME, n.Bridge), ifnameIs(expr.MetaKeyIIFNAME, n.Bridge)
		outside := ifnameIsNot(expr.MetaKeyIIFNAME, n.Bridge)
		if n.ICC {
			out = append(out, slices.Concat(inside, in, accept()))
		} else {
			out = append(out, slices.Concat(inside, in, translated(), accept()))
			for _, l := range links {
				out = append(out, slices.Concat(inside, in, l.contains(), accept()))
			}
			if slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
				out = append(out, slices.Concat(inside, in, neighbours(), accept()))
			}
			out = append(out, slices.Concat(inside, in, drop()))
		}
		if n.Internal {
			out = append(out,
				slices.Concat(in, outside, drop()),
				slices.Concat(inside, ifnameIsNot(expr.MetaKeyOIFNAME, n.Bridge), drop()))
			continue
		}
		out = append(out, slices.Concat(in, outside, translated(), accept()), slices.Concat(in, outside, drop()))
	}
	return out
}
