package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"holdfast.dev/holdfast/internal/base/logkey"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/ns"
)

const (
	// ttl is short, because a container's address is soon another's.
	ttl = 5
	// ednsSize is the size of UDP answer that we say we can take.
	ednsSize = 1232
	// askTimeout is how long one server has to answer.
	askTimeout = 4 * time.Second
	// maxAsked bounds the servers asked for one query.
	maxAsked = 3
)

// query is one that another server must answer.
type query struct {
	raw []byte
	msg *dns.Msg
	udp bool
}

// fail is the answer when nobody could be asked.
func (q *query) fail() []byte { return q.refuse(dns.RcodeServerFailure) }

func (q *query) refuse(code int) []byte {
	m := new(dns.Msg)
	m.SetRcode(q.msg, code)
	m.RecursionAvailable = true
	b, err := m.Pack()
	if err != nil { // a question that was unpacked can be packed
		return nil
	}
	return b
}

// answer returns the reply to what we know, or else the query to pass on.
// Neither for what is no query at all.
func (s *server) answer(raw []byte, udp bool) ([]byte, *query) {
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil || m.Response {
		return nil, nil
	}
	q := &query{msg: m, udp: udp}
	if m.Opcode != dns.OpcodeQuery {
		return q.refuse(dns.RcodeNotImplemented), nil
	}
	if len(m.Question) != 1 {
		return q.refuse(dns.RcodeFormatError), nil
	}
	rrs, known := s.local(m.Question[0])
	if !known {
		if len(s.view.Upstreams()) == 0 {
			return q.fail(), nil
		}
		q.raw = append([]byte(nil), raw...)
		return nil, q
	}
	r := new(dns.Msg)
	r.SetReply(m)
	r.RecursionAvailable = true
	r.Answer = rrs
	size := dns.MinMsgSize
	if o := m.IsEdns0(); o != nil {
		r.SetEdns0(ednsSize, o.Do())
		size = max(size, int(o.UDPSize()))
	}
	if udp {
		r.Truncate(size)
	}
	b, err := r.Pack()
	if err != nil {
		s.log.Error("pack DNS answer", logkey.Name, m.Question[0].Name, logkey.Err, err)
		return q.fail(), nil
	}
	return b, nil
}

// local answers from the view. A name that is known has an answer for every
// type, if an empty one: asking others would find another thing of that name.
func (s *server) local(q dns.Question) ([]dns.RR, bool) {
	if q.Qclass != dns.ClassINET {
		return nil, false
	}
	if q.Qtype == dns.TypePTR {
		a, ok := reverseAddr(q.Name)
		if !ok {
			return nil, false
		}
		name, ok := s.view.Reverse(a)
		if !ok {
			return nil, false
		}
		return []dns.RR{&dns.PTR{Hdr: header(q, dns.TypePTR), Ptr: name}}, true
	}
	addrs, known := s.view.Lookup(strings.ToLower(strings.TrimSuffix(q.Name, ".")))
	if !known {
		return nil, false
	}
	var rrs []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Qtype == dns.TypeA:
			rrs = append(rrs, &dns.A{Hdr: header(q, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && q.Qtype == dns.TypeAAAA:
			rrs = append(rrs, &dns.AAAA{Hdr: header(q, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	if n := len(rrs); n > 1 { // clients take the first: let it be another each time
		k := int(s.turn.Add(1)) % n
		rrs = append(rrs[k:n:n], rrs[:k]...)
	}
	return rrs, true
}

func header(q dns.Question, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// reverseAddr reads the address of a name below in-addr.arpa or ip6.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(rest[i])
		if n := 31 - i/2; n%4 == 3 && n != 31 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// ask passes a query on, to one server after another until one answers.
func (s *server) ask(ctx context.Context, q *query) []byte {
	var lastReply []byte
	for i, up := range s.view.Upstreams() {
		if i == maxAsked {
			break
		}
		reply, err := s.exchange(ctx, up, q)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Debug("ask DNS server", logkey.Address, up.Addr.String(), logkey.Err, err)
			continue
		}
		lastReply = reply
		switch int(reply[3] & 0xf) {
		case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
			continue // the next one may know better
		}
		return reply
	}
	if lastReply != nil {
		return lastReply
	}
	return q.fail()
}

// exchange asks one server by the transport the client used, so that what the
// answer says of its own size is true for the client too.
func (s *server) exchange(ctx context.Context, up network.Upstream, q *query) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := "tcp"
	if q.udp {
		transport = "udp"
	}
	conn, err := s.dial(ctx, transport, up)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	out := q.raw
	if !q.udp {
		out = append(binary.BigEndian.AppendUint16(nil, uint16(len(q.raw))), q.raw...)
	}
	if _, err := conn.Write(out); err != nil {
		return nil, fmt.Errorf("send query: %w", err)
	}
	for {
		reply, err := readReply(conn, q)
		if err != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if q.answeredBy(reply) {
			return reply, nil
		}
	}
}

func (s *server) dial(ctx context.Context, transport string, up network.Upstream) (conn net.Conn, err error) {
	var d net.Dialer
	if !up.InSandbox {
		return d.DialContext(ctx, transport, up.Addr.String())
	}
	err = ns.Do(s.path, func() error {
		conn, err = d.DialContext(ctx, transport, up.Addr.String())
		return err
	})
	return conn, err
}

// minRoom is more than an honest server sends by UDP to who did not ask for more.
const minRoom = 4096

// room is how long an answer by UDP may be: the other server was told so by the
// client's own query. A thousand of them may be under way for each container.
func (q *query) room() int {
	if o := q.msg.IsEdns0(); o != nil {
		return max(minRoom, int(o.UDPSize()))
	}
	return minRoom
}

func readReply(conn net.Conn, q *query) ([]byte, error) {
	if q.udp {
		buf := make([]byte, q.room())
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		return buf[:n], nil
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return buf, nil
}

// answeredBy tells whether a message is the answer to this query and not to
// an older one, or somebody's forgery.
func (q *query) answeredBy(reply []byte) bool {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil && len(m.Question) == 0 {
		return false
	}
	if !m.Response || m.Id != q.msg.Id || len(m.Question) != 1 {
		return false
	}
	a, b := m.Question[0], q.msg.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
