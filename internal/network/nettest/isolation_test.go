package nettest

import (
	"testing"

	mobynet "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"holdfast.dev/holdfast/internal/network/ns"
)

func TestIsolation(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	w.create("red")
	w.create("blue")
	w.create("closed", func(r *mobynet.CreateRequest) { r.Internal = true })
	w.create("quiet", func(r *mobynet.CreateRequest) {
		r.Options = map[string]string{"com.docker.network.bridge.enable_icc": "false"}
	})
	req := w.request("red1", "red")
	req.Ports = publish("80/tcp")
	red1 := w.join(req)
	red2 := w.join(w.request("red2", "red"))
	blue := w.join(w.request("blue", "blue"))
	closed1 := w.join(w.request("closed1", "closed"))
	closed2 := w.join(w.request("closed2", "closed"))
	req = w.request("quiet1", "quiet")
	req.Ports = publish("80/tcp")
	quiet1 := w.join(req)
	quiet2 := w.join(w.request("quiet2", "quiet"))
	both := w.join(w.request("both", "red", "blue"))
	for _, b := range []*box{red1, red2, blue, closed1, closed2, quiet1, quiet2, both} {
		listen(t, b.info.NetNS, ":80", b.req.Name)
		listen(t, b.info.NetNS, ":81", b.req.Name)
	}
	listen(t, o.path, ":80", "outside")

	reaches(t, red2.info.NetNS, red1.addr("red").String()+":80", "red1")
	notReached(t, blue.info.NetNS, red1.addr("red").String()+":80")
	reaches(t, blue.info.NetNS, o.host.String()+":"+red1.hostPort("80/tcp"), "red1") // what is published is for all
	reaches(t, both.info.NetNS, red1.addr("red").String()+":80", "red1")
	reaches(t, both.info.NetNS, blue.addr("blue").String()+":80", "blue")
	reaches(t, both.info.NetNS, o.addr.String()+":80", "outside")

	reaches(t, closed2.info.NetNS, closed1.addr("closed").String()+":80", "closed1")
	reaches(t, "", closed1.addr("closed").String()+":80", "closed1")
	notReached(t, closed1.info.NetNS, o.addr.String()+":80")
	// Root in the container makes itself a route; it is still no way out.
	gw, err := w.svc.Inspect(t.Context(), "closed")
	must(t, err)
	must(t, ns.Do(closed1.info.NetNS, func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: gw.IPAM.Config[0].Gateway.AsSlice()})
	}))
	notReached(t, closed1.info.NetNS, o.addr.String()+":80")
	notReached(t, closed1.info.NetNS, red1.addr("red").String()+":80")

	notReached(t, quiet2.info.NetNS, quiet1.addr("quiet").String()+":81")
	reaches(t, quiet2.info.NetNS, o.host.String()+":"+quiet1.hostPort("80/tcp"), "quiet1")
	reaches(t, quiet2.info.NetNS, o.addr.String()+":80", "outside")

	// Another machine that routes to containers by itself gets nowhere.
	must(t, ns.Do(o.path, func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: o.host.AsSlice()})
	}))
	notReached(t, o.path, red2.addr("red").String()+":80")
	reaches(t, o.path, o.host.String()+":"+red1.hostPort("80/tcp"), "red1")
}

// What the host serves on loopback is not for containers, though our bridges
// let packets for such addresses through for the sake of replies.
func TestLoopbackIsGuarded(t *testing.T) {
	w := newWorld(t)
	listen(t, "", "127.0.0.1:7777", "host")
	b := w.join(w.request("evil", "bridge"))
	net, err := w.svc.Inspect(t.Context(), "bridge")
	must(t, err)
	must(t, ns.Do(b.info.NetNS, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetDown(lo); err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPAM.Config[0].Gateway.AsSlice(), Dst: netlink.NewIPNet([]byte{127, 0, 0, 1})}); err != nil {
			t.Log("route to 127.0.0.1:", err)
		}
		return nil
	}))
	notReached(t, b.info.NetNS, "127.0.0.1:7777")
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	on := true
	w.create("six", func(r *mobynet.CreateRequest) { r.EnableIPv6 = &on })
	off := false
	w.create("only6", func(r *mobynet.CreateRequest) { r.EnableIPv6, r.EnableIPv4 = &on, &off })
	r := w.request("a", "six")
	r.Ports = publish("8080:80/tcp", "8053:53/udp")
	a := w.join(r)
	b := w.join(w.request("b", "six"))
	listen(t, a.info.NetNS, ":80", "a")
	listenUDP(t, a.info.NetNS, ":53", "a")
	a6 := a.info.Endpoints["six"].GlobalIPv6Address.String()
	reaches(t, b.info.NetNS, "["+a6+"]:80", "a")
	reaches(t, "", "["+a6+"]:80", "a")
	reaches(t, "", "[::1]:8080", "a")
	reaches(t, "", "127.0.0.1:8080", "a")
	gw := b.info.Endpoints["six"].IPv6Gateway.String()
	reaches(t, b.info.NetNS, "["+gw+"]:8080", "a")
	for _, addr := range []string{"127.0.0.1:8053", "[::1]:8053", "[" + gw + "]:8053"} {
		if got, err := dialUDP("", addr); err != nil || got != "a" {
			t.Errorf("udp %s: %q, %v", addr, got, err)
		}
	}

	r = w.request("c", "only6")
	r.Ports = publish("8081:80/tcp")
	c := w.join(r)
	listen(t, c.info.NetNS, ":80", "c")
	reaches(t, "", "127.0.0.1:8081", "c") // by the forwarder
	reaches(t, "", "[::1]:8081", "c")
	if c.info.Endpoints["only6"].IPAddress.IsValid() {
		t.Error("a container on an IPv6-only network has an IPv4 address")
	}
}
