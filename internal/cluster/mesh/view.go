package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/network"
)

// viewOf is what a node makes of what the directory says of one network. all is
// sorted as the directory does it. Where an address is told twice the first counts.
func viewOf(self, id string, all []directory.Located) network.OverlayView {
	v := network.OverlayView{Names: map[string][]netip.Addr{}}
	vips := map[netip.Addr][]netip.Addr{}
	type door struct {
		proto string
		port  uint16
	}
	doors := map[door][]netip.AddrPort{}
	var last netip.Addr
	for _, e := range all {
		if e.Network != id || e.Addr == last {
			continue
		}
		last = e.Addr
		if e.Node != self && e.Via.IsValid() {
			v.Peers = append(v.Peers, network.Peer{Addr: e.Addr, MAC: e.MAC, Via: e.Via})
		}
		answers := e.Live && e.Healthy
		if e.VIP.IsValid() {
			if _, ok := vips[e.VIP]; !ok {
				vips[e.VIP] = nil // with nobody behind it, it refuses
			}
			if answers {
				vips[e.VIP] = append(vips[e.VIP], e.Addr)
			}
		}
		for _, f := range e.Fronts {
			frontIn(v.Names, vips, f, e.Addr, answers)
		}
		for _, p := range e.Ports {
			d := door{p.Proto, p.Published}
			if _, ok := doors[d]; !ok {
				doors[d] = nil
			}
			if answers {
				doors[d] = append(doors[d], netip.AddrPortFrom(e.Addr, p.Target))
			}
		}
		if !answers {
			continue
		}
		for _, n := range e.Own {
			nameIn(v.Names, n, e.Addr)
		}
		services := slices.Clone(e.Aliases)
		if e.Name != "" {
			services = append(services, e.Name)
		}
		for _, n := range services {
			to := e.Addr
			if e.VIP.IsValid() {
				to = e.VIP
			}
			nameIn(v.Names, n, to)
			nameIn(v.Names, "tasks."+n, e.Addr)
		}
	}
	for a, b := range vips {
		slices.SortFunc(b, netip.Addr.Compare)
		v.VIPs = append(v.VIPs, network.VIP{Addr: a, Backends: b})
	}
	slices.SortFunc(v.VIPs, func(a, b network.VIP) int { return a.Addr.Compare(b.Addr) })
	for d, t := range doors {
		slices.SortFunc(t, netip.AddrPort.Compare)
		v.Ports = append(v.Ports, network.SwarmPort{Proto: d.proto, Port: d.port, Targets: t})
	}
	slices.SortFunc(v.Ports, func(a, b network.SwarmPort) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return v
}

// frontIn puts a container behind a service that it has a part in. The service's name
// leads to its address also while nobody answers there.
func frontIn(names map[string][]netip.Addr, vips map[netip.Addr][]netip.Addr, f directory.Front, a netip.Addr, answers bool) {
	answersFor := answers && f.Behind
	switch {
	case f.VIP.IsValid():
		if _, ok := vips[f.VIP]; !ok {
			vips[f.VIP] = nil
		}
		if answersFor {
			vips[f.VIP] = append(vips[f.VIP], a)
		}
		if answers {
			nameIn(names, f.Name, f.VIP)
		}
	case answersFor:
		nameIn(names, f.Name, a)
	}
}

// nameIn lets a name lead to one more address.
func nameIn(names map[string][]netip.Addr, name string, a netip.Addr) {
	name = strings.ToLower(name)
	if !slices.Contains(names[name], a) {
		names[name] = append(names[name], a)
	}
}
