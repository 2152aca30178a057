package nettest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/network"
)

func TestPortConflicts(t *testing.T) {
	w := newWorld(t)
	r := w.request("one", "bridge")
	r.Ports = publish("8080:80/tcp", "8080:80/udp")
	one := w.join(r)
	r = w.request("two", "bridge")
	r.Ports = publish("8080:80/tcp")
	_, err := w.svc.Join(t.Context(), r)
	if err == nil || !strings.HasPrefix(err.Error(), "driver failed programming external connectivity on endpoint two (") ||
		!strings.HasSuffix(err.Error(), "): Bind for 0.0.0.0:8080 failed: port is already allocated") {
		t.Errorf("port of another container: %v", err)
	}
	if n, err := w.svc.Inspect(t.Context(), "bridge"); err != nil || len(n.Containers) != 1 {
		t.Errorf("a failed join left an endpoint: %v, %v", n.Containers, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:8090")
	must(t, err)
	defer l.Close()
	r.Ports = publish("8090:80/tcp")
	if _, err := w.svc.Join(t.Context(), r); err == nil || !strings.Contains(err.Error(), "failed to bind host port 0.0.0.0:8090/tcp: address already in use") {
		t.Errorf("port of another program: %v", err)
	}
	r.Ports = publish("8090-8092:80/tcp")
	two := w.join(r)
	if got := two.hostPort("80/tcp"); got != "8091" {
		t.Errorf("range gave %s", got)
	}
	listen(t, two.info.NetNS, ":80", "two")
	reaches(t, "", "127.0.0.1:8091", "two")
	if c, err := net.Listen("tcp", ":8080"); err == nil {
		c.Close()
		t.Error("a published port can be bound by others")
	}
	must(t, w.svc.Leave(t.Context(), one.id))
	c, err := net.Listen("tcp", ":8080")
	must(t, err)
	c.Close()
}

func TestHostAddress(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	r := w.request("lo", "bridge")
	p := mobynet.MustParsePort("80/tcp")
	r.Ports = mobynet.PortMap{p: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "8080"}}}
	lo := w.join(r)
	r = w.request("ext", "bridge")
	r.Ports = mobynet.PortMap{p: {{HostIP: o.host, HostPort: "8080"}}}
	ext := w.join(r)
	listen(t, lo.info.NetNS, ":80", "lo")
	listen(t, ext.info.NetNS, ":80", "ext")
	reaches(t, "", "127.0.0.1:8080", "lo")
	reaches(t, "", o.host.String()+":8080", "ext")
	reaches(t, o.path, o.host.String()+":8080", "ext")
	must(t, w.svc.Leave(t.Context(), ext.id))
	notReached(t, o.path, o.host.String()+":8080")
}

func TestUDP(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	r := w.request("a", "bridge")
	r.Ports = publish("5353:53/udp")
	a := w.join(r)
	listenUDP(t, a.info.NetNS, ":53", "a")
	for _, c := range [][2]string{{"", "127.0.0.1:5353"}, {"", "[::1]:5353"}, {"", o.host.String() + ":5353"}, {o.path, o.host.String() + ":5353"}} {
		if got, err := dialUDP(c[0], c[1]); err != nil || got != "a" {
			t.Errorf("%s: %q, %v", c[1], got, err)
		}
	}
	// A client that keeps its port must not go on to the old container.
	var c net.Conn
	must(t, inNS(o.path, func() (err error) {
		c, err = net.Dial("udp", o.host.String()+":5353")
		return err
	}))
	defer c.Close()
	say := func() string {
		buf := make([]byte, 10)
		_, _ = c.Write([]byte("x"))
		n, _ := c.Read(buf)
		return string(buf[:n])
	}
	if got := say(); got != "a" {
		t.Fatalf("first answer %q", got)
	}
	must(t, w.svc.Leave(t.Context(), a.id))
	blocker := w.join(w.request("blocker", "bridge")) // takes a's address
	r = w.request("b", "bridge")
	r.Ports = publish("5353:53/udp")
	b := w.join(r)
	_ = blocker
	listenUDP(t, b.info.NetNS, ":53", "b")
	if got := say(); got != "b" {
		t.Errorf("after the port changed hands the same client got %q", got)
	}
}

// Who answers a published UDP port sees who asked, and one that asks for another
// family than the container has is served too.
func TestUDPKeepsTheSourceAddress(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	r := w.request("a", "bridge")
	r.Ports = publish("5353:53/udp")
	a := w.join(r)
	neighbour := w.join(w.request("neighbour", "bridge"))
	w.create("red")
	stranger := w.join(w.request("stranger", "red"))
	var c *net.UDPConn
	must(t, inNS(a.info.NetNS, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: 53})
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
		}
	}()
	gw := a.info.Endpoints["bridge"].Gateway.String()
	for who, c := range map[string]struct{ from, addr, seen string }{
		"another machine":        {o.path, o.host.String() + ":5353", o.addr.String()},
		"the host":               {"", o.host.String() + ":5353", o.host.String()},
		"the host's loopback":    {"", "127.0.0.1:5353", gw},
		"a neighbour":            {neighbour.info.NetNS, o.host.String() + ":5353", gw},
		"the neighbour directly": {neighbour.info.NetNS, a.addr("bridge").String() + ":53", neighbour.addr("bridge").String()},
		"another network":        {stranger.info.NetNS, o.host.String() + ":5353", ""},
		"IPv6":                   {"", "[::1]:5353", gw},
	} {
		got, err := dialUDP(c.from, c.addr)
		if err != nil || (c.seen != "" && got != c.seen) {
			t.Errorf("%s is seen as %q (%v), want %s", who, got, err, c.seen)
		}
	}
}

// Many starts at once: addresses, ports and rules don't get mixed up.
func TestParallelJoins(t *testing.T) {
	w := newWorld(t)
	w.create("shop")
	const n = 20
	boxes := make([]*box, n)
	var wg sync.WaitGroup
	for i := range n {
		r := w.request("c"+string(rune('a'+i)), "shop")
		r.Ports = publish("80/tcp")
		wg.Add(1)
		go func() {
			defer wg.Done()
			info, err := w.svc.Join(context.Background(), r)
			if err != nil {
				t.Error(err)
				return
			}
			boxes[i] = &box{w: w, id: r.Container, req: r, info: info}
		}()
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	seen := map[netip.Addr]bool{}
	for _, b := range boxes {
		if seen[b.addr("shop")] {
			t.Errorf("two containers have %s", b.addr("shop"))
		}
		seen[b.addr("shop")] = true
		listen(t, b.info.NetNS, ":80", b.req.Name)
		reaches(t, "", "127.0.0.1:"+b.hostPort("80/tcp"), b.req.Name)
	}
	for _, b := range boxes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := w.svc.Leave(context.Background(), b.id); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func TestForwarderOff(t *testing.T) {
	w := newWorld(t, func(s *network.Settings) { s.UserlandProxy = false })
	r := w.request("a", "bridge")
	r.Ports = publish("8080:80/tcp", "8080:80/udp")
	a := w.join(r)
	listen(t, a.info.NetNS, ":80", "a")
	reaches(t, "", "127.0.0.1:8080", "a")
	notReached(t, "", "[::1]:8080")
	if l, err := net.Listen("tcp4", ":8080"); err == nil {
		l.Close()
		t.Error("a published port can be bound by others")
	}
}
