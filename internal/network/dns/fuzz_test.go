package dns

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"holdfast.dev/holdfast/internal/network"
)

type fuzzView struct{}

func (fuzzView) Lookup(name string) ([]netip.Addr, bool) {
	if name != "web" {
		return nil, false
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::2")}, true
}

func (fuzzView) Reverse(a netip.Addr) (string, bool) {
	return "web.net.", a == netip.MustParseAddr("10.0.0.2") || a == netip.MustParseAddr("fd00::2")
}

func (fuzzView) Upstreams() []network.Upstream {
	return []network.Upstream{{Addr: netip.MustParseAddrPort("10.0.0.1:53")}}
}

func packed(f *testing.F, name string, kind uint16, edns bool) []byte {
	f.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	if edns {
		m.SetEdns0(4096, true)
	}
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// What a container sends to 127.0.0.11, and what outside servers answer.
func FuzzMessage(f *testing.F) {
	for _, b := range [][]byte{
		nil, packed(f, "web.", dns.TypeA, true), packed(f, "WEB.", dns.TypeAAAA, false), packed(f, "other.", dns.TypeMX, true),
		packed(f, "2.0.0.10.in-addr.arpa.", dns.TypePTR, false), packed(f, ".", dns.TypeANY, false),
		packed(f, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, false),
	} {
		f.Add(b, b, true)
		f.Add(b, append([]byte(nil), b...), false)
	}
	f.Fuzz(func(t *testing.T, raw, reply []byte, udp bool) {
		s := &server{log: slog.New(slog.DiscardHandler), view: fuzzView{}}
		out, q := s.answer(raw, udp)
		if out != nil {
			var m dns.Msg
			if err := m.Unpack(out); err != nil || !m.Response || m.Id != uint16(raw[0])<<8|uint16(raw[1]) {
				t.Errorf("answer %q: %v", out, err)
			}
		}
		if q == nil {
			return
		}
		if fail := q.fail(); fail == nil {
			t.Errorf("no failure for %q", raw)
		}
		if n := q.room(); n < minRoom || n > 1<<16 {
			t.Errorf("room for %d", n)
		}
		if q.answeredBy(reply) && len(reply) < 12 {
			t.Errorf("answered by %q", reply)
		}
	})
}
