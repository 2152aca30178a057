package network

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
)

// zone holds the names of one network. Readers take no lock; writers are
// serialised by the Service's mutex and replace the whole table.
type zone struct {
	network string
	data    atomic.Pointer[zoneData]
}

type zoneData struct {
	names   map[string][]netip.Addr // lower-case
	reverse map[netip.Addr]string   // fully qualified, with the final dot
	far     map[string][]netip.Addr // lower-case: names of the whole swarm; never changed
}

// find looks a name up, on this node and on others: they may share an alias.
func (d *zoneData) find(name string) ([]netip.Addr, bool) {
	near, ok := d.names[name]
	far, also := d.far[name]
	if !ok || !also {
		return slices.Concat(near, far), ok || also
	}
	out := slices.Clone(near)
	for _, a := range far {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, true
}

func newZone(network string) *zone {
	z := &zone{network: network}
	z.data.Store(&zoneData{})
	return z
}

// add lets every name lead to the addresses; the first also answers reverse queries.
func (z *zone) add(names []string, addrs []netip.Addr) {
	old := z.data.Load()
	next := &zoneData{names: maps.Clone(old.names), reverse: maps.Clone(old.reverse), far: old.far}
	if next.names == nil {
		next.names, next.reverse = map[string][]netip.Addr{}, map[netip.Addr]string{}
	}
	for _, n := range names {
		key := strings.ToLower(n)
		have := slices.Clone(next.names[key])
		for _, a := range addrs {
			if !slices.Contains(have, a) {
				have = append(have, a)
			}
		}
		next.names[key] = have
	}
	for _, a := range addrs {
		if len(names) > 0 {
			next.reverse[a] = names[0] + "." + z.network + "."
		}
	}
	z.data.Store(next)
}

// remove takes the addresses away wherever they are; a name with none left is unknown.
func (z *zone) remove(addrs []netip.Addr) {
	old := z.data.Load()
	next := &zoneData{names: make(map[string][]netip.Addr, len(old.names)), reverse: maps.Clone(old.reverse), far: old.far}
	gone := func(a netip.Addr) bool { return slices.Contains(addrs, a) }
	for n, have := range old.names {
		if !slices.ContainsFunc(have, gone) {
			next.names[n] = have
			continue
		}
		if left := slices.DeleteFunc(slices.Clone(have), gone); len(left) > 0 {
			next.names[n] = left
		}
	}
	for _, a := range addrs {
		delete(next.reverse, a)
	}
	z.data.Store(next)
}

// view is what one container may look up: the zones it is in, in the order of
// its endpoints.
type view struct {
	zones     atomic.Pointer[[]*zone]
	links     atomic.Pointer[[]links]
	upstreams atomic.Pointer[[]Upstream]
}

// links are a container's own names for others of one network.
type links struct {
	zone *zone
	to   map[string]string // lower-case, to a name of the zone
}

// linksOf reads --link values: name or ID of the other container, and the own
// name for it where that differs.
func linksOf(e *endpoint) links {
	out := links{zone: e.net.zone, to: map[string]string{}}
	for _, l := range e.set.Links {
		name, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = name
		}
		name = strings.ToLower(strings.TrimPrefix(name, "/"))
		if len(name) == 64 {
			name = short(name) // an ID in full; the zone has the short one
		}
		out.to[strings.ToLower(alias)] = name
	}
	return out
}

func (v *view) linked(name string) ([]netip.Addr, bool) {
	all := v.links.Load()
	if all == nil {
		return nil, false
	}
	for _, l := range *all {
		own := strings.TrimSuffix(name, "."+strings.ToLower(l.zone.network))
		if to, ok := l.to[own]; ok {
			if addrs, ok := l.zone.data.Load().names[to]; ok {
				return addrs, true
			}
		}
	}
	return nil, false
}

// Lookup implements View. A name may carry the name of the network behind a dot.
func (v *view) Lookup(name string) ([]netip.Addr, bool) {
	zones := v.zones.Load()
	if zones == nil {
		return nil, false
	}
	if addrs, ok := v.linked(name); ok {
		return addrs, true
	}
	for _, z := range *zones {
		if addrs, ok := z.data.Load().find(name); ok {
			return addrs, true
		}
	}
	for _, z := range *zones {
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(z.network)); ok {
			if addrs, ok := z.data.Load().find(short); ok {
				return addrs, true
			}
		}
	}
	return nil, false
}

// Reverse implements View.
func (v *view) Reverse(addr netip.Addr) (string, bool) {
	zones := v.zones.Load()
	if zones == nil {
		return "", false
	}
	for _, z := range *zones {
		if n, ok := z.data.Load().reverse[addr]; ok {
			return n, true
		}
	}
	return "", false
}

// Upstreams implements View.
func (v *view) Upstreams() []Upstream {
	u := v.upstreams.Load()
	if u == nil {
		return nil
	}
	return *u
}
