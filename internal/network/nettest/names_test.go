package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	mobynet "github.com/moby/moby/api/types/network"
)

// lookup asks the resolver of a sandbox.
func lookup(t testing.TB, nsPath, name string, qtype uint16, transport string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	var c *dns.Conn
	must(t, inNS(nsPath, func() error {
		conn, err := net.DialTimeout(transport, "127.0.0.11:53", time.Second)
		c = &dns.Conn{Conn: conn}
		return err
	}))
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(6*time.Second)))
	must(t, c.WriteMsg(m))
	r, err := c.ReadMsg()
	if err != nil {
		t.Fatalf("query %s %s by %s: %v", name, dns.TypeToString[qtype], transport, err)
	}
	return r
}

func answers(m *dns.Msg) []string {
	out := []string{}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.PTR:
			out = append(out, rr.Ptr)
		case *dns.TXT:
			out = append(out, rr.Txt...)
		}
	}
	return out
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	w.create("shop")
	r := w.request("db", "shop")
	r.Endpoints["shop"].Aliases = []string{"database", "Pg"}
	db := w.join(r)
	api := w.join(w.request("api", "shop"))
	listen(t, db.info.NetNS, ":5432", "db")
	dbAddr := db.addr("shop").String()

	for _, transport := range []string{"udp", "tcp"} {
		for _, name := range []string{"db", "DB", "database", "pg", db.id[:12], "db.shop"} {
			if got := answers(lookup(t, api.info.NetNS, name, dns.TypeA, transport)); len(got) != 1 || got[0] != dbAddr {
				t.Errorf("%s by %s: %v, want %s", name, transport, got, dbAddr)
			}
		}
	}
	if m := lookup(t, api.info.NetNS, "db", dns.TypeAAAA, "udp"); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
		t.Errorf("AAAA of a name without one: %v", m)
	}
	rev, err := dns.ReverseAddr(dbAddr)
	must(t, err)
	if got := answers(lookup(t, api.info.NetNS, rev, dns.TypePTR, "udp")); len(got) != 1 || got[0] != "db.shop." {
		t.Errorf("reverse: %v", got)
	}
	resolv, err := os.ReadFile(api.info.ResolvConfPath)
	must(t, err)
	for _, want := range []string{"nameserver 127.0.0.11\n", "search example.test\n", "options ndots:0\n"} {
		if !strings.Contains(string(resolv), want) {
			t.Errorf("resolv.conf lacks %q:\n%s", want, resolv)
		}
	}
	// The container may have port 53 itself.
	listen(t, api.info.NetNS, ":53", "own")
	if got := answers(lookup(t, api.info.NetNS, "db", dns.TypeA, "tcp")); len(got) != 1 {
		t.Errorf("with a server of the container's own on port 53: %v", got)
	}
	must(t, w.svc.Rename(t.Context(), db.id, "database1"))
	if got := answers(lookup(t, api.info.NetNS, "database1", dns.TypeA, "udp")); len(got) != 1 {
		t.Errorf("new name: %v", got)
	}
	must(t, w.svc.Leave(t.Context(), db.id))
	for _, name := range []string{"database1", "database", db.id[:12]} {
		if m := lookup(t, api.info.NetNS, name, dns.TypeA, "udp"); m.Rcode == dns.RcodeSuccess {
			t.Errorf("%s of a container that left: %v", name, m)
		}
	}
}

func TestRoundRobin(t *testing.T) {
	w := newWorld(t)
	w.create("shop")
	client := w.join(w.request("client", "shop"))
	for i := range 3 {
		r := w.request(fmt.Sprint("web", i), "shop")
		r.Endpoints["shop"].Aliases = []string{"web"}
		w.join(r)
	}
	first := map[string]int{}
	for range 12 {
		got := answers(lookup(t, client.info.NetNS, "web", dns.TypeA, "udp"))
		if len(got) != 3 {
			t.Fatalf("answers: %v", got)
		}
		first[got[0]]++
	}
	for a, n := range first {
		if n != 4 {
			t.Errorf("%s came first %d times of 12: %v", a, n, first)
		}
	}
}

// fakeDNS is a server "on the internet" that knows one name.
func fakeDNS(t *testing.T, nsPath, addr string) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(q)
		switch q.Question[0].Name {
		case "example.org.":
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 80)})
		case "big.example.org.":
			for i := range 100 {
				r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{fmt.Sprintf("%060d", i)}})
			}
			if w.RemoteAddr().Network() == "udp" {
				r.Truncate(dns.MinMsgSize)
			}
		default:
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	var pc net.PacketConn
	var l net.Listener
	must(t, inNS(nsPath, func() (err error) {
		if pc, err = net.ListenPacket("udp", addr); err != nil {
			return err
		}
		l, err = net.Listen("tcp", addr)
		return err
	}))
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- s.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-ended:
			t.Fatal(err)
		}
		t.Cleanup(func() { must(t, s.Shutdown()) })
	}
}

func TestUpstream(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	fakeDNS(t, o.path, o.addr.String()+":53")
	must(t, os.WriteFile(w.set.ResolvConf, []byte("nameserver "+o.addr.String()+"\n"), 0o644))
	w.create("shop")
	w.create("closed", func(r *mobynet.CreateRequest) { r.Internal = true })
	open := w.join(w.request("open", "shop"))
	closed := w.join(w.request("closed", "closed"))

	for _, transport := range []string{"udp", "tcp"} {
		if got := answers(lookup(t, open.info.NetNS, "example.org", dns.TypeA, transport)); len(got) != 1 || got[0] != "192.0.2.80" {
			t.Errorf("by %s: %v", transport, got)
		}
		if m := lookup(t, open.info.NetNS, "nope.example.org", dns.TypeA, transport); m.Rcode != dns.RcodeNameError {
			t.Errorf("unknown name by %s: %v", transport, m)
		}
		if m := lookup(t, closed.info.NetNS, "example.org", dns.TypeA, transport); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("a container with no way out got an answer from outside by %s: %v", transport, m)
		}
	}
	if m := lookup(t, open.info.NetNS, "big.example.org", dns.TypeTXT, "udp"); !m.Truncated {
		t.Error("a big answer by udp is not marked truncated")
	}
	if got := answers(lookup(t, open.info.NetNS, "big.example.org", dns.TypeTXT, "tcp")); len(got) != 100 {
		t.Errorf("a big answer by tcp has %d records", len(got))
	}

	// --dns on the container's own loopback is asked from inside.
	r := w.request("own", "shop")
	r.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	own := w.join(r)
	fakeDNS(t, own.info.NetNS, "127.0.0.1:53")
	if got := answers(lookup(t, own.info.NetNS, "example.org", dns.TypeA, "udp")); len(got) != 1 {
		t.Errorf("--dns 127.0.0.1: %v", got)
	}
}
