package nettest

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/ns"
)

func TestConnectAndDisconnect(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	listen(t, o.path, ":9", "outside")
	must(t, os.WriteFile(w.set.ResolvConf, []byte("nameserver 127.0.0.1\n"), 0o644)) // nobody there: fails at once
	w.create("red")
	w.create("blue")
	r := w.request("a", "red")
	r.Ports = publish("8080:80/tcp")
	a := w.join(r)
	b := w.join(w.request("b", "blue"))
	listen(t, a.info.NetNS, ":80", "a")
	ep, err := w.svc.Connect(t.Context(), a.id, "blue", &mobynet.EndpointSettings{Aliases: []string{"alpha"}})
	must(t, err)
	reaches(t, b.info.NetNS, ep.IPAddress.String()+":80", "a")
	if got := answers(lookup(t, b.info.NetNS, "alpha", dns.TypeA, "udp")); !slices.Equal(got, []string{ep.IPAddress.String()}) {
		t.Errorf("alias on the new network: %v", got)
	}
	hosts, err := os.ReadFile(a.info.HostsPath)
	must(t, err)
	if !strings.Contains(string(hosts), ep.IPAddress.String()+"\t") {
		t.Errorf("hosts lacks the new address:\n%s", hosts)
	}
	// The published port and the way out follow.
	must(t, w.svc.Disconnect(t.Context(), a.id, "red"))
	reaches(t, "", "127.0.0.1:8080", "a")
	reaches(t, "", "[::1]:8080", "a")
	reaches(t, a.info.NetNS, o.addr.String()+":9", "outside")
	hosts, err = os.ReadFile(a.info.HostsPath)
	must(t, err)
	if strings.Contains(string(hosts), a.addr("red").String()) {
		t.Errorf("hosts keeps the old address:\n%s", hosts)
	}
	must(t, w.svc.Disconnect(t.Context(), a.id, "blue"))
	notReached(t, "", "127.0.0.1:8080")
	if m := lookup(t, b.info.NetNS, "alpha", dns.TypeA, "udp"); m.Rcode == dns.RcodeSuccess {
		t.Errorf("name of a disconnected container: %v", m)
	}
	stats, err := w.svc.Stats(t.Context(), b.id)
	must(t, err)
	if stats["eth0"].RxPackets == 0 {
		t.Errorf("stats: %v", stats)
	}
	if err := w.svc.Disconnect(t.Context(), a.id, "blue"); err == nil {
		t.Error("disconnected twice")
	}
	var actions []string
	for _, e := range w.events.all() {
		actions = append(actions, string(e.Action)+" "+e.Actor.Attributes["name"])
	}
	want := []string{"create red", "create blue", "connect red", "connect blue", "connect blue", "disconnect red", "disconnect blue"}
	if !slices.Equal(actions, want) {
		t.Errorf("events %v, want %v", actions, want)
	}
}

// A container's root may make of its hosts file what it likes, on the host's disk.
func TestHugeHostsFile(t *testing.T) {
	w := newWorld(t)
	w.create("red")
	w.create("blue")
	a := w.join(w.request("a", "red"))
	must(t, os.Truncate(a.info.HostsPath, 1<<42)) // sparse: it costs the container nothing
	must(t, os.Truncate(a.info.ResolvConfPath, 1<<42))
	ep, err := w.svc.Connect(t.Context(), a.id, "blue", nil)
	must(t, err)
	hosts, err := os.ReadFile(a.info.HostsPath)
	must(t, err)
	for _, want := range []string{"127.0.0.1\tlocalhost", ep.IPAddress.String() + "\t", a.addr("red").String() + "\t"} {
		if !strings.Contains(string(hosts), want) {
			t.Errorf("hosts lacks %q:\n%s", want, hosts)
		}
	}
}

func TestGatewayPriority(t *testing.T) {
	w := newWorld(t)
	w.create("aaa")
	w.create("bbb")
	r := w.request("a", "aaa", "bbb")
	r.Endpoints["bbb"].GwPriority = 5
	a := w.join(r)
	must(t, ns.Do(a.info.NetNS, func() error {
		routes, err := netlink.RouteGet(netip.MustParseAddr("198.51.100.1").AsSlice())
		if err == nil && routes[0].Gw.String() != a.info.Endpoints["bbb"].Gateway.String() {
			t.Errorf("default route by %s", routes[0].Gw)
		}
		return err
	}))
}

func TestFixedAddresses(t *testing.T) {
	w := newWorld(t)
	w.create("fix", func(r *mobynet.CreateRequest) {
		r.IPAM = &mobynet.IPAM{Config: []mobynet.IPAMConfig{{
			Subnet: netip.MustParsePrefix("10.77.0.0/16"), IPRange: netip.MustParsePrefix("10.77.5.0/24"), Gateway: netip.MustParseAddr("10.77.0.9"),
			AuxAddress: map[string]netip.Addr{"router": netip.MustParseAddr("10.77.5.0")},
		}}}
	})
	w.create("auto")
	r := w.request("a", "fix")
	r.Endpoints["fix"].IPAMConfig = &mobynet.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.77.1.1")}
	must(t, r.Endpoints["fix"].MacAddress.UnmarshalText([]byte("02:11:22:33:44:55")))
	a := w.join(r)
	if got := a.info.Endpoints["fix"]; got.IPAddress.String() != "10.77.1.1" || got.IPPrefixLen != 16 || got.Gateway.String() != "10.77.0.9" || got.MacAddress.String() != "02:11:22:33:44:55" {
		t.Errorf("endpoint: %+v", got)
	}
	if b := w.join(w.request("b", "fix")); b.addr("fix").String() != "10.77.5.1" {
		t.Errorf("first free address of the range: %s", b.addr("fix"))
	}
	for _, c := range []struct{ net, addr, want string }{
		{"fix", "10.77.1.1", "Address already in use"},
		{"fix", "10.77.5.0", "Address already in use"},
		{"fix", "10.78.1.1", "no configured subnet contains IP address 10.78.1.1"},
		{"auto", "10.77.1.1", "no configured subnet contains IP address 10.77.1.1"},
		{"bridge", "172.17.0.9", "user-specified IP address is supported on user-defined networks only"},
	} {
		r := w.request("c", c.net)
		r.Endpoints[c.net].IPAMConfig = &mobynet.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(c.addr)}
		if _, err := w.svc.Join(t.Context(), r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %s: %v", c.addr, c.net, err)
		}
	}
}

// A daemon that was killed finds everything again.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	w.create("shop")
	r := w.request("web", "shop")
	r.Ports = publish("8080:80/tcp")
	web := w.join(r)
	listen(t, web.info.NetNS, ":80", "web")
	client := w.join(w.request("client", "shop", "bridge"))
	orphan := w.join(w.request("orphan", "shop"))
	w.kill()
	reaches(t, "", "127.0.0.1:8080", "web") // the rules serve on
	w.start()
	reaches(t, "", "127.0.0.1:8080", "web") // and no start takes them away
	must(t, w.svc.Restore(t.Context(), web.req, web.info))
	must(t, w.svc.Restore(t.Context(), client.req, client.info))
	must(t, w.svc.Sweep(t.Context(), []string{web.id, client.id}))
	reaches(t, "", "127.0.0.1:8080", "web")
	reaches(t, "", "[::1]:8080", "web")
	if got := answers(lookup(t, client.info.NetNS, "web", dns.TypeA, "udp")); !slices.Equal(got, []string{web.addr("shop").String()}) {
		t.Errorf("name after restore: %v", got)
	}
	if _, err := os.Stat(orphan.info.NetNS); err == nil {
		t.Error("the orphan's namespace is still there")
	}
	next := w.join(w.request("next", "shop"))
	if next.addr("shop") == web.addr("shop") || next.addr("shop") == client.addr("shop") {
		t.Errorf("an address was given twice: %s", next.addr("shop"))
	}
	if n, err := w.svc.Inspect(t.Context(), "shop"); err != nil || len(n.Containers) != 3 {
		t.Errorf("containers on the network: %v, %v", n.Containers, err)
	}
	must(t, w.svc.Leave(t.Context(), web.id))
	notReached(t, "", "127.0.0.1:8080")
	missing := w.request("missing", "shop")
	if err := w.svc.Restore(t.Context(), missing, web.info); !errdefs.IsNotFound(err) {
		t.Errorf("restore without a namespace: %v", err)
	}
}

// Two daemons in one host namespace leave each other alone.
func TestTwoDaemons(t *testing.T) {
	w1 := newWorld(t)
	r := w1.request("a", "bridge")
	r.Ports = publish("8080:80/tcp")
	a := w1.join(r)
	listen(t, a.info.NetNS, ":80", "a")
	t.Run("sweeps", func(t *testing.T) {
		w := newWorld(t, func(s *network.Settings) { s.BridgeName = "hft9" })
		must(t, w.svc.Sweep(t.Context(), nil))
		n1, err := w1.svc.Inspect(t.Context(), "bridge")
		must(t, err)
		n2, err := w.svc.Inspect(t.Context(), "bridge")
		must(t, err)
		if n1.IPAM.Config[0].Subnet.Overlaps(n2.IPAM.Config[0].Subnet) {
			t.Errorf("subnets overlap: %v and %v", n1.IPAM, n2.IPAM)
		}
		r := w.request("b", "bridge")
		r.Ports = publish("8080:80/tcp")
		if _, err := w.svc.Join(t.Context(), r); err == nil {
			t.Error("both daemons gave out port 8080")
		}
	})
	reaches(t, "", "127.0.0.1:8080", "a")
}

// The rules as people read them, where the program to print them is there.
func TestRulesGolden(t *testing.T) {
	w := newWorld(t)
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft to print rules")
	}
	w.create("inner", func(r *mobynet.CreateRequest) {
		r.Internal = true
		r.Options = map[string]string{"com.docker.network.bridge.name": "hfinner"}
	})
	six := true
	w.create("quiet", func(r *mobynet.CreateRequest) {
		r.EnableIPv6 = &six
		r.IPAM = &mobynet.IPAM{Config: []mobynet.IPAMConfig{{Subnet: netip.MustParsePrefix("10.99.0.0/24")}, {Subnet: netip.MustParsePrefix("fd00:99::/64")}}}
		r.Options = map[string]string{"com.docker.network.bridge.name": "hfquiet", "com.docker.network.bridge.enable_icc": "false"}
	})
	r := w.request("a", "bridge")
	r.Ports = publish("8080:80/tcp", "53:53/udp")
	w.join(r)
	out, err := exec.Command(nft, "list", "table", "inet", "holdfast-"+w.set.Instance).CombinedOutput()
	must(t, err)
	got := strings.ReplaceAll(string(out), w.set.Instance, "INSTANCE")
	// The kernel keeps elements in no order.
	got = regexp.MustCompile(`elements = \{[^}]*\}`).ReplaceAllStringFunc(got, func(e string) string {
		list := strings.Split(strings.TrimSuffix(strings.TrimPrefix(e, "elements = {"), "}"), ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		slices.Sort(list)
		return "elements = { " + strings.Join(list, ", ") + " }"
	})
	const golden = "testdata/rules.nft"
	if os.Getenv("HF_UPDATE_GOLDEN") != "" {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if got != string(want) {
		t.Errorf("rules differ from %s:\n%s", golden, got)
	}
}

// TestBridgeWithoutItsMark: a daemon that is killed between making a bridge and
// marking it leaves one that the next daemon knows for its own.
func TestBridgeWithoutItsMark(t *testing.T) {
	w := newWorld(t)
	w.create("red")
	find := func() netlink.Link {
		t.Helper()
		links, err := netlink.LinkList()
		must(t, err)
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "br-") {
				return l
			}
		}
		return nil
	}
	w.kill()
	br := find()
	must(t, netlink.LinkSetDown(br))
	must(t, netlink.LinkSetAlias(br, ""))
	w.start()
	must(t, w.svc.Remove(t.Context(), "red"))
	if br := find(); br != nil {
		t.Errorf("%s is left", br.Attrs().Name)
	}
}
