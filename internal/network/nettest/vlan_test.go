package nettest

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"holdfast.dev/holdfast/internal/network/ns"
)

// onWire makes a network whose containers are neighbours of the outside.
func onWire(w *world, name, driver string, o outside, edit ...func(*mobynet.CreateRequest)) {
	w.t.Helper()
	w.create(name, append([]func(*mobynet.CreateRequest){func(r *mobynet.CreateRequest) {
		r.Driver = driver
		r.Options = map[string]string{"parent": "out-host"}
		r.IPAM = &mobynet.IPAM{Config: []mobynet.IPAMConfig{{
			Subnet: netip.MustParsePrefix("203.0.113.0/24"), IPRange: netip.MustParsePrefix("203.0.113.64/26"),
			Gateway: o.addr, AuxAddress: map[string]netip.Addr{"printer": netip.MustParseAddr("203.0.113.65")},
		}}}
	}}, edit...)...)
}

func links(t *testing.T) []string {
	t.Helper()
	list, err := netlink.LinkList()
	must(t, err)
	var out []string
	for _, l := range list {
		out = append(out, l.Attrs().Name)
	}
	return out
}

func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	must(t, w.svc.Sweep(t.Context(), nil))
	o := newOutside(t, w)
	listen(t, o.path, ":9", "outside")
	onWire(w, "wire", "macvlan", o)
	r := w.request("a", "wire")
	r.Endpoints["wire"].Aliases = []string{"alpha"}
	r.Ports = publish("8080:80/tcp") // no rule can serve that: it is not published
	a := w.join(r)
	b := w.join(w.request("b", "wire"))
	listen(t, a.info.NetNS, ":80", "a")
	listen(t, b.info.NetNS, ":80", "b")
	if got := []string{a.addr("wire").String(), b.addr("wire").String()}; !slices.Equal(got, []string{"203.0.113.64", "203.0.113.66"}) {
		t.Errorf("addresses %v", got)
	}
	if len(a.info.Ports[mobynet.MustParsePort("80/tcp")]) != 0 {
		t.Errorf("published: %v", a.info.Ports)
	}
	both := func() {
		t.Helper()
		reaches(t, b.info.NetNS, a.addr("wire").String()+":80", "a")
		if seen := reaches(t, o.path, a.addr("wire").String()+":80", "a"); seen != o.addr.String() {
			t.Errorf("the outside is seen as %s", seen)
		}
		if seen := reaches(t, a.info.NetNS, o.addr.String()+":9", "outside"); seen != "" && seen != a.addr("wire").String() {
			t.Errorf("a container is seen as %s", seen)
		}
	}
	both()
	if got := answers(lookup(t, b.info.NetNS, "alpha", dns.TypeA, "udp")); !slices.Equal(got, []string{a.addr("wire").String()}) {
		t.Errorf("alias: %v", got)
	}
	must(t, ns.Do(a.info.NetNS, func() error {
		routes, err := netlink.RouteGet(netip.MustParseAddr("198.51.100.1").AsSlice())
		if err == nil && routes[0].Gw.String() != o.addr.String() {
			t.Errorf("default route by %s", routes[0].Gw)
		}
		return err
	}))
	stats, err := w.svc.Stats(t.Context(), a.id)
	must(t, err)
	if stats["eth0"].RxPackets == 0 {
		t.Errorf("stats: %v", stats)
	}
	// Again and again with the same address, and so with the same hardware address.
	for range 5 {
		must(t, w.svc.Leave(t.Context(), a.id))
		a = w.join(a.req)
	}
	listen(t, a.info.NetNS, ":80", "a")
	both()
	// A daemon that was killed finds all again.
	w.kill()
	w.start()
	must(t, w.svc.Restore(t.Context(), a.req, a.info))
	must(t, w.svc.Restore(t.Context(), b.req, b.info))
	must(t, w.svc.Sweep(t.Context(), []string{a.id, b.id}))
	both()
	if got := answers(lookup(t, b.info.NetNS, "a", dns.TypeA, "udp")); !slices.Equal(got, []string{a.addr("wire").String()}) {
		t.Errorf("name after restore: %v", got)
	}
	// Out of the network and in again, beside another one.
	must(t, w.svc.Disconnect(t.Context(), a.id, "wire"))
	notReached(t, o.path, a.addr("wire").String()+":80")
	w.create("red")
	if _, err := w.svc.Connect(t.Context(), a.id, "red", nil); err != nil {
		t.Fatal(err)
	}
	ep, err := w.svc.Connect(t.Context(), a.id, "wire", nil)
	must(t, err)
	reaches(t, o.path, ep.IPAddress.String()+":80", "a")
	must(t, w.svc.Leave(t.Context(), a.id))
	must(t, w.svc.Leave(t.Context(), b.id))
	must(t, w.svc.Remove(t.Context(), "wire"))
	if !slices.Contains(links(t), "out-host") {
		t.Error("the user's interface went with the network")
	}
}

// The container's way out is the network's with the highest priority, and only a
// bridge publishes.
func TestMacvlanBesideABridge(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	listen(t, o.path, ":9", "outside")
	onWire(w, "wire", "macvlan", o)
	w.create("shop")
	r := w.request("a", "shop", "wire")
	r.Endpoints["shop"].GwPriority = 1
	r.Ports = publish("8080:80/tcp")
	a := w.join(r)
	listen(t, a.info.NetNS, ":80", "a")
	reaches(t, "", "127.0.0.1:8080", "a")
	reaches(t, o.path, a.addr("wire").String()+":80", "a")
}

func TestMacvlanModesAndParents(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	listen(t, o.path, ":9", "outside")
	set := func(k, v string) func(*mobynet.CreateRequest) {
		return func(r *mobynet.CreateRequest) { r.Options[k] = v }
	}
	fails := func(want string, edit ...func(*mobynet.CreateRequest)) {
		t.Helper()
		req := mobynet.CreateRequest{Name: "bad", Driver: "macvlan", Options: map[string]string{"parent": "out-host"}}
		for _, e := range edit {
			e(&req)
		}
		if _, err := w.svc.Create(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("create: %v, want %q", err, want)
			_ = w.svc.Remove(t.Context(), "bad")
		}
	}
	fails("requested macvlan mode 'loud' is not valid, 'bridge' mode is the macvlan driver default", set("macvlan_mode", "loud"))
	fails("loopback interface is not a valid macvlan parent link", set("parent", "lo"))
	fails("there is no such interface on the host", set("parent", "nowhere0"))
	fails("-o parent interface was not found on the host: nowhere0", set("parent", "nowhere0.10"))
	fails("vlan id must be between 1-4094, received: 4095", set("parent", "out-host.4095"))
	fails("option ipvlan_mode of driver macvlan is not supported", set("ipvlan_mode", "l2"))
	fails("requested ipvlan mode 'l4' is not valid", set("ipvlan_mode", "l4"), func(r *mobynet.CreateRequest) { r.Driver = "ipvlan" })
	fails("requested ipvlan flag 'x' is not valid", set("ipvlan_flag", "x"), func(r *mobynet.CreateRequest) { r.Driver = "ipvlan" })
	fails("ipv4 pool is empty", func(r *mobynet.CreateRequest) { r.IPAM = &mobynet.IPAM{Driver: "null"} })
	fails("IPAM driver mine is not supported by this engine", func(r *mobynet.CreateRequest) { r.IPAM = &mobynet.IPAM{Driver: "mine"} })

	// Neighbours that don't speak to each other.
	onWire(w, "private", "macvlan", o, set("macvlan_mode", "private"))
	a, b := w.join(w.request("a", "private")), w.join(w.request("b", "private"))
	listen(t, a.info.NetNS, ":80", "a")
	reaches(t, o.path, a.addr("private").String()+":80", "a")
	notReached(t, b.info.NetNS, a.addr("private").String()+":80")
	fails("cannot use mode passthru, macvlan network private is already using parent interface out-host", set("macvlan_mode", "passthru"))
	fails("network private is already using parent interface out-host", func(r *mobynet.CreateRequest) { r.Driver = "ipvlan" })
	// Another network on the same wire, of the same addresses: nobody's is given twice.
	onWire(w, "twin", "macvlan", o)
	twin := w.join(w.request("twin", "twin"))
	if got := twin.addr("twin").String(); got != "203.0.113.67" {
		t.Errorf("the twin's address is %s", got)
	}
	r := w.request("thief", "twin")
	r.Endpoints["twin"].IPAMConfig = &mobynet.EndpointIPAMConfig{IPv4Address: a.addr("private")}
	if _, err := w.svc.Join(t.Context(), r); err == nil || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("an address of the other network: %v", err)
	}
	must(t, w.svc.Leave(t.Context(), twin.id))
	must(t, w.svc.Remove(t.Context(), "twin"))
	// And one of others.
	w.create("second", func(r *mobynet.CreateRequest) {
		r.Driver, r.Options = "macvlan", map[string]string{"parent": "out-host"}
		r.IPAM = &mobynet.IPAM{Config: []mobynet.IPAMConfig{{Subnet: netip.MustParsePrefix("198.51.100.0/24")}}}
	})
	c := w.join(w.request("c", "second"))
	if e := c.info.Endpoints["second"]; e.Gateway.IsValid() || e.IPAddress.String() != "198.51.100.1" {
		t.Errorf("nobody named a gateway: %+v", e)
	}
	for _, x := range []*box{a, b, c} {
		must(t, w.svc.Leave(t.Context(), x.id))
	}
	must(t, w.svc.Remove(t.Context(), "private"))
	must(t, w.svc.Remove(t.Context(), "second"))

	// Internal: the wire, and no way on from it.
	onWire(w, "inner", "macvlan", o, func(r *mobynet.CreateRequest) { r.Internal = true })
	a = w.join(w.request("a", "inner"))
	must(t, ns.Do(a.info.NetNS, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		if len(routes) != 0 {
			t.Errorf("an internal network has a default route: %v", routes)
		}
		return err
	}))
	must(t, w.svc.Leave(t.Context(), a.id))
	must(t, w.svc.Remove(t.Context(), "inner"))
}

// Without a parent containers have each other and nobody else. The link that is
// made for them goes with the network, also after a kill.
func TestMacvlanWithoutParent(t *testing.T) {
	w := newWorld(t)
	six := true
	w.create("alone", func(r *mobynet.CreateRequest) {
		r.Driver, r.EnableIPv6 = "macvlan", &six
		r.IPAM = &mobynet.IPAM{Config: []mobynet.IPAMConfig{
			{Subnet: netip.MustParsePrefix("172.28.100.0/24")},
			{Subnet: netip.MustParsePrefix("172.28.102.0/24"), Gateway: netip.MustParseAddr("172.28.102.254")},
			{Subnet: netip.MustParsePrefix("2001:db8:abc2::/64")},
			{Subnet: netip.MustParsePrefix("2001:db8:abc4::/64"), Gateway: netip.MustParseAddr("2001:db8:abc4::254")},
		}}
	})
	n, err := w.svc.Inspect(t.Context(), "alone")
	must(t, err)
	parent := "dm-" + n.ID[:12]
	if !slices.Contains(links(t), parent) {
		t.Fatalf("links %v have no %s", links(t), parent)
	}
	join := func(name, v4, v6 string) *box {
		r := w.request(name, "alone")
		r.Endpoints["alone"].IPAMConfig = &mobynet.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(v4), IPv6Address: netip.MustParseAddr(v6)}
		return w.join(r)
	}
	a := join("a", "172.28.100.20", "2001:db8:abc2::20")
	b := join("b", "172.28.100.21", "2001:db8:abc2::21")
	c := join("c", "172.28.102.20", "2001:db8:abc4::20")
	d := join("d", "172.28.102.21", "2001:db8:abc4::21")
	listen(t, a.info.NetNS, ":80", "a")
	listen(t, c.info.NetNS, ":80", "c")
	all := func() {
		t.Helper()
		reaches(t, b.info.NetNS, "172.28.100.20:80", "a")
		reaches(t, b.info.NetNS, "[2001:db8:abc2::20]:80", "a")
		reaches(t, d.info.NetNS, "172.28.102.20:80", "c")
		reaches(t, d.info.NetNS, "[2001:db8:abc4::20]:80", "c")
		notReached(t, "", "172.28.100.20:80")
	}
	all()
	if e := c.info.Endpoints["alone"]; e.Gateway.IsValid() || e.IPv6Gateway.IsValid() {
		t.Errorf("nothing leads out, but: %+v", e)
	}
	w.kill()
	w.start()
	for _, x := range []*box{a, b, c, d} {
		must(t, w.svc.Restore(t.Context(), x.req, x.info))
	}
	must(t, w.svc.Sweep(t.Context(), []string{a.id, b.id, c.id, d.id}))
	all()
	for _, x := range []*box{a, b, c, d} {
		must(t, w.svc.Leave(t.Context(), x.id))
	}
	must(t, w.svc.Remove(t.Context(), "alone"))
	if slices.ContainsFunc(links(t), func(n string) bool { return strings.HasSuffix(n, parent[1:]) }) {
		t.Errorf("left: %v", links(t))
	}
	// A daemon that was killed, and whose network is gone from the records, sweeps.
	w.create("lost", func(r *mobynet.CreateRequest) { r.Driver = "macvlan" })
	n, err = w.svc.Inspect(t.Context(), "lost")
	must(t, err)
	w.kill()
	must(t, w.records.Delete(n.ID))
	w.start()
	must(t, w.svc.Sweep(t.Context(), nil))
	if slices.Contains(links(t), "dm-"+n.ID[:12]) {
		t.Error("the parent of a forgotten network is left")
	}
}

// A network without addresses: interfaces and names are there, and who is in it
// sees to the rest.
func TestMacvlanWithoutAddresses(t *testing.T) {
	w := newWorld(t)
	off := false
	w.create("bare", func(r *mobynet.CreateRequest) {
		r.Driver, r.EnableIPv4, r.IPAM = "macvlan", &off, &mobynet.IPAM{Driver: "null"}
	})
	a := w.join(w.request("a", "bare"))
	must(t, ns.Do(a.info.NetNS, func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(eth, netlink.FAMILY_ALL)
		if len(addrs) != 0 {
			t.Errorf("addresses: %v", addrs)
		}
		return err
	}))
}

// VLANs of a parent are made and removed by us; those that were there stay.
func TestVLANParent(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	req := func(name string) mobynet.CreateRequest {
		return mobynet.CreateRequest{Name: name, Driver: "macvlan", Options: map[string]string{"parent": "out-host.10"}}
	}
	_, err := w.svc.Create(t.Context(), req("tagged"))
	if errdefs.IsNotImplemented(err) {
		if !strings.Contains(err.Error(), "the kernel has no VLANs (802.1Q)") {
			t.Errorf("the error does not name what is missing: %v", err)
		}
		if _, err := w.svc.Inspect(t.Context(), "tagged"); !errdefs.IsNotFound(err) {
			t.Errorf("a failed create left the network: %v", err)
		}
		t.Skip("needs a kernel with 802.1Q VLANs")
	}
	must(t, err)
	_, err = w.svc.Create(t.Context(), req("tagged2"))
	must(t, err)
	must(t, ns.Do(o.path, func() error {
		peer, err := netlink.LinkByName("out-peer")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "tag10", peer.Attrs().Index
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 10, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			return err
		}
		tag, err := netlink.LinkByName("tag10")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("198.51.100.200/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(tag, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(tag)
	}))
	must(t, w.svc.Remove(t.Context(), "tagged"))
	if !slices.Contains(links(t), "out-host.10") {
		t.Fatal("the VLAN went while another network uses it")
	}
	must(t, w.svc.Remove(t.Context(), "tagged2"))
	if slices.Contains(links(t), "out-host.10") {
		t.Error("the VLAN is left")
	}
	onWire(w, "tagged", "macvlan", o, func(r *mobynet.CreateRequest) {
		r.Options["parent"] = "out-host.10"
		r.IPAM.Config = []mobynet.IPAMConfig{{Subnet: netip.MustParsePrefix("198.51.100.0/24")}}
	})
	a := w.join(w.request("a", "tagged"))
	listen(t, a.info.NetNS, ":80", "a")
	reaches(t, o.path, a.addr("tagged").String()+":80", "a")
}

func TestIPvlan(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	listen(t, o.path, ":9", "outside")
	onWire(w, "wire", "ipvlan", o)
	r := w.request("a", "wire")
	info, err := w.svc.Join(t.Context(), r)
	if errdefs.IsNotImplemented(err) {
		if !strings.Contains(err.Error(), "the kernel has no ipvlan") {
			t.Errorf("the error does not name what is missing: %v", err)
		}
		t.Skip("needs a kernel with ipvlan")
	}
	must(t, err)
	a := &box{w: w, id: r.Container, req: r, info: info}
	b := w.join(w.request("b", "wire"))
	listen(t, a.info.NetNS, ":80", "a")
	reaches(t, b.info.NetNS, a.addr("wire").String()+":80", "a")
	reaches(t, o.path, a.addr("wire").String()+":80", "a")
	reaches(t, b.info.NetNS, o.addr.String()+":9", "outside")
	must(t, w.svc.Leave(t.Context(), a.id))
	must(t, w.svc.Leave(t.Context(), b.id))
	must(t, w.svc.Remove(t.Context(), "wire"))
	onWire(w, "l3", "ipvlan", o, func(r *mobynet.CreateRequest) { r.Options["ipvlan_mode"] = "l3" })
	c := w.join(w.request("c", "l3"))
	must(t, ns.Do(c.info.NetNS, func() error {
		routes, err := netlink.RouteGet(netip.MustParseAddr("198.51.100.1").AsSlice())
		if err == nil && routes[0].Gw != nil {
			t.Errorf("default route by %s, not by the interface", routes[0].Gw)
		}
		return err
	}))
}
