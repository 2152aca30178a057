package nettest

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The network's part of `run --rm`, by what the container asks for.
func BenchmarkJoinLeave(b *testing.B) {
	for name, c := range map[string]struct{ net, port string }{
		"bridge": {"bridge", ""}, "published": {"bridge", "80/tcp"}, "named": {"shop", ""},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			w.create("shop")
			var join, leave time.Duration
			for b.Loop() {
				r := w.request("a", c.net)
				if c.port != "" {
					r.Ports = publish(c.port)
				}
				t0 := time.Now()
				x := w.join(r)
				t1 := time.Now()
				must(b, w.svc.Leave(b.Context(), x.id))
				join += t1.Sub(t0)
				leave += time.Since(t1)
			}
			b.ReportMetric(float64(join.Microseconds())/1000/float64(b.N), "join-ms")
			b.ReportMetric(float64(leave.Microseconds())/1000/float64(b.N), "leave-ms")
		})
	}
}

// Queries for names of containers, from several clients at once.
func BenchmarkDNS(b *testing.B) {
	w := newWorld(b)
	w.create("shop")
	w.join(w.request("db", "shop"))
	c := w.join(w.request("client", "shop"))
	const clients = 16
	m := new(dns.Msg)
	m.SetQuestion("db.", dns.TypeA)
	q, err := m.Pack()
	must(b, err)
	var wg sync.WaitGroup
	per := b.N/clients + 1
	b.ResetTimer()
	for range clients {
		var conn net.Conn
		must(b, inNS(c.info.NetNS, func() (err error) {
			conn, err = net.Dial("udp", netip.MustParseAddrPort("127.0.0.11:53").String())
			return err
		}))
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer conn.Close()
			buf := make([]byte, 512)
			for range per {
				if _, err := conn.Write(q); err != nil {
					b.Error(err)
					return
				}
				if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
					b.Error(err)
					return
				}
				if _, err := conn.Read(buf); err != nil {
					b.Error("lost a query: ", err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.ReportMetric(float64(per*clients)/b.Elapsed().Seconds(), "queries/s")
}
