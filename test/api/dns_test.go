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
