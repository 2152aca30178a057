package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	mobynet "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
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

// A burst of queries from several programs at once is answered to the last one.
func TestBurstOfQueriesIsAnswered(t *testing.T) {
	w := newWorld(t)
	w.create("shop")
	db := w.join(w.request("db", "shop"))
	c := w.join(w.request("client", "shop"))
	const clients, each = 4, 2000
	var wg sync.WaitGroup
	for range clients {
		var conn *net.UDPConn
		must(t, inNS(c.info.NetNS, func() (err error) {
			conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.11:53")))
			return err
		}))
		roomy(t, conn)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer conn.Close()
			for id := range uint16(each) {
				m := new(dns.Msg)
				m.SetQuestion("db.", dns.TypeA)
				m.Id = id
				q, err := m.Pack()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := conn.Write(q); err != nil {
					t.Error(err)
					return
				}
			}
			seen := map[uint16]bool{}
			buf := make([]byte, 512)
			for len(seen) < each {
				if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Error(err)
					return
				}
				n, err := conn.Read(buf)
				if err != nil {
					t.Errorf("%d of %d queries are answered: %v", len(seen), each, err)
					return
				}
				m := new(dns.Msg)
				if err := m.Unpack(buf[:n]); err != nil || !slices.Equal(answers(m), []string{db.addr("shop").String()}) {
					t.Errorf("answer %v, %v", m, err)
					return
				}
				seen[m.Id] = true
			}
		}()
	}
	wg.Wait()
}

// roomy keeps the test's own socket from losing answers.
func roomy(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }))
	must(t, err)
}

// A name is known from when a connect returns to when a disconnect does, however
// often a container comes and goes, and never with an address of before.
func TestAliasesAreNeverStale(t *testing.T) {
	w := newWorld(t)
	must(t, os.WriteFile(w.set.ResolvConf, []byte("nameserver 127.0.0.1\n"), 0o644)) // nobody there: fails at once
	w.create("red")
	w.create("blue")
	asker := w.join(w.request("asker", "blue"))
	steady := w.request("steady", "blue")
	steady.Endpoints["blue"].Aliases = []string{"pool"}
	other := w.join(steady)
	a := w.join(w.request("a", "red"))
	ask := func(name string) []string {
		t.Helper()
		return answers(lookup(t, asker.info.NetNS, name, dns.TypeA, "udp"))
	}
	var squatters []*box
	for i := range 10 {
		alias := fmt.Sprintf("alias%d", i)
		ep, err := w.svc.Connect(t.Context(), a.id, "blue", &mobynet.EndpointSettings{Aliases: []string{alias, "pool"}})
		must(t, err)
		for _, name := range []string{alias, "a", a.id[:12]} {
			if got := ask(name); !slices.Equal(got, []string{ep.IPAddress.String()}) {
				t.Errorf("round %d: %s is %v, want %s", i, name, got, ep.IPAddress)
			}
		}
		got := ask("pool")
		slices.Sort(got)
		want := []string{ep.IPAddress.String(), other.addr("blue").String()}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("round %d: pool is %v, want %v", i, got, want)
		}
		if i > 0 {
			if got := ask(fmt.Sprintf("alias%d", i-1)); len(got) != 0 {
				t.Errorf("round %d: the last alias is still %v", i, got)
			}
		}
		must(t, w.svc.Disconnect(t.Context(), a.id, "blue"))
		for _, name := range []string{alias, "a"} {
			if got := ask(name); len(got) != 0 {
				t.Errorf("round %d: %s is %v after disconnect", i, name, got)
			}
		}
		if got := ask("pool"); !slices.Equal(got, []string{other.addr("blue").String()}) {
			t.Errorf("round %d: pool is %v after disconnect", i, got)
		}
		// Somebody else takes the address: the next round's is another.
		squatters = append(squatters, w.join(w.request(fmt.Sprintf("squatter%d", i), "blue")))
		if squatters[i].addr("blue") != ep.IPAddress {
			t.Errorf("round %d: the squatter got %s, not %s", i, squatters[i].addr("blue"), ep.IPAddress)
		}
		rev := lookup(t, asker.info.NetNS, reverseName(ep.IPAddress), dns.TypePTR, "udp")
		if got := answers(rev); !slices.Equal(got, []string{fmt.Sprintf("squatter%d.blue.", i)}) {
			t.Errorf("round %d: %s is named %v", i, ep.IPAddress, got)
		}
	}
	// A container that ends takes its names along, and has them again when it starts.
	must(t, w.svc.Leave(t.Context(), other.id))
	if got := ask("pool"); len(got) != 0 {
		t.Errorf("pool is %v when everybody left", got)
	}
	other = w.join(steady)
	if got := ask("pool"); !slices.Equal(got, []string{other.addr("blue").String()}) {
		t.Errorf("pool is %v when one is back", got)
	}
}

func reverseName(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		return err.Error()
	}
	return name
}
