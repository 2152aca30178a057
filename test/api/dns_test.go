package api

import (
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"holdfast.dev/holdfast/internal/testkit"
)

// upstreamDNS serves one name in the daemon's namespace and returns the
// server's address.
func upstreamDNS(t *testing.T, d *testkit.Daemon, addr, name, ip string) string {
	t.Helper()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	d.Exec("ip", "addr", "add", host+"/32", "dev", "lo")
	t.Cleanup(func() { d.Exec("ip", "addr", "del", host+"/32", "dev", "lo") })
	var pc net.PacketConn
	d.Do(func() { pc, err = net.ListenPacket("udp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if len(q.Question) == 1 && strings.EqualFold(q.Question[0].Name, name) {
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(ip)})
			}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // the asker asks again
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe() // ends with Shutdown
	}()
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	return host
}

// A link on a user-defined network is a name that one container alone has for another.
func TestLinksAreNamesOfOneContainer(t *testing.T) {
	d := daemon(t)
	d.Docker("network", "create", "linked")
	web(d, "first-with-a-long-name", "--network", "linked")
	probe(d, "plain", "--network", "linked")
	probe(d, "one", "--network", "linked", "--link", "first-with-a-long-name:uno", "--link", "later:due")
	addr := format(d, "first-with-a-long-name", "{{.NetworkSettings.Networks.linked.IPAddress}}")
	contains(t, "by alias", d.Docker("exec", "one", "nettool", "lookup", "uno"), addr)
	contains(t, "with the network", d.Docker("exec", "one", "nettool", "lookup", "uno.linked"), addr)
	contains(t, "inspect", format(d, "one", "{{json .NetworkSettings.Networks.linked.Links}}"), "first-with-a-long-name:uno")
	if r := lookup(d, "plain", "uno"); r.Code == 0 {
		t.Errorf("another container has the link too: %s", r)
	}
	if r := lookup(d, "one", "due"); r.Code == 0 {
		t.Errorf("nobody is there yet: %s", r)
	}
	probe(d, "later", "--network", "linked")
	get(d, "one", "http://uno/", "first-with-a-long-name")
	contains(t, "started later", d.Docker("exec", "one", "nettool", "lookup", "due"), format(d, "later", "{{.NetworkSettings.Networks.linked.IPAddress}}"))
	// connect has links too, with us to an ID as well
	target := "first-with-a-long-name"
	if engine != testkit.Dockerd {
		target = format(d, target, "{{.Id}}")
	}
	d.Docker("network", "create", "linked2")
	d.Docker("network", "connect", "linked2", "first-with-a-long-name")
	d.Docker("network", "connect", "--link", target+":tre", "linked2", "plain")
	contains(t, "by ID", d.Docker("exec", "plain", "nettool", "lookup", "tre"), format(d, "first-with-a-long-name", "{{.NetworkSettings.Networks.linked2.IPAddress}}"))
}
