package network

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/containerd/errdefs"
	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/base/clock"
)

func FuzzHostPorts(f *testing.F) {
	for _, s := range []string{"", "0", "80", "80-90", "90-80", "0-5", "-1", "65536", "1-65535", "80-", "08", "+8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := hostPorts(s)
		switch {
		case err != nil && !errdefs.IsInvalidArgument(err):
			t.Errorf("class of %v", err)
		case err == nil && (to < from || from == 0 && to != 0):
			t.Errorf("%q is %d to %d", s, from, to)
		}
	})
}

func FuzzPorts(f *testing.F) {
	f.Add(`{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080-8090"},{}],"53/udp":null,"0/tcp":[{}],"1/sctp":[{}]}`, `{"9000/tcp":{}}`)
	f.Fuzz(func(t *testing.T, bindings, exposed string) {
		r := SandboxRequest{PublishAll: true}
		if json.Unmarshal([]byte(bindings), &r.Ports) != nil || json.Unmarshal([]byte(exposed), &r.Exposed) != nil {
			return
		}
		ws, err := wantedPorts(r)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		if !slices.IsSortedFunc(ws, func(a, b wantedPort) int { return a.choice() - b.choice() }) {
			t.Errorf("those with a choice do not come last: %+v", ws)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a b\noptions ndots:2 edns0\n# x\nnameserver fe80::1%eth0\ndomain c\n"))
	f.Add([]byte("nameserver\nsearch\noptions\n\tnameserver\t::1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseResolv(b)
		again := parseResolv(c.render())
		if !slices.Equal(c.servers, again.servers) || !slices.Equal(c.search, again.search) || !slices.Equal(c.options, again.options) {
			t.Errorf("%q is %+v, then %+v", b, c, again)
		}
	})
}

// A container writes to its hosts file what it likes.
func FuzzHostsFile(f *testing.F) {
	f.Add([]byte(hostsHead+"10.0.0.2\tweb web.net\n"), "10.0.0.2")
	f.Add([]byte("10.0.0.2 a\n10.0.0.20 b\n  10.0.0.2\n10.0.0.2"), "10.0.0.2")
	f.Add([]byte("fd00::2 a\nfd00:0::2 b\n\x00"), "fd00::2")
	f.Fuzz(func(t *testing.T, hosts []byte, addr string) {
		a, err := netip.ParseAddr(addr)
		if err != nil {
			return
		}
		got := withoutAddrs(hosts, []netip.Addr{a})
		if !bytes.Equal(got, withoutAddrs(got, []netip.Addr{a})) {
			t.Errorf("%s is still in %q", a, got)
		}
		kept := 0
		for line := range bytes.Lines(hosts) {
			if f := strings.Fields(string(line)); len(f) == 0 || f[0] != a.String() {
				if bytes.Contains(got, line) {
					kept++
				} else if x, err := netip.ParseAddr(f[0]); err != nil || x != a {
					t.Errorf("%q is gone", line)
				}
			}
		}
		if got := bytes.Count(got, []byte("\n")); got > kept {
			t.Errorf("%d lines out of %d", got, kept)
		}
	})
}

func FuzzExtraHosts(f *testing.F) {
	for _, s := range []string{"a:1.2.3.4", "a=::1", "a:[::1]", "a:host-gateway", "a", ":", "a:b:c", "a=[", "a\nb:1.2.3.4"} {
		f.Add(s)
	}
	s := &Service{d: Deps{Settings: Settings{HostGateway: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}}
	f.Fuzz(func(t *testing.T, v string) {
		got, err := s.extraHosts([]string{v})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		for _, h := range got {
			if strings.ContainsFunc(h.name, unicode.IsControl) {
				t.Errorf("%q makes the line %q", v, h.name)
			}
		}
	})
}

func FuzzCreateNetwork(f *testing.F) {
	f.Add(`{"Name":"n","Driver":"bridge","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"10.1.0.0/16","IPRange":"10.1.2.0/24","Gateway":"10.1.0.1","AuxiliaryAddresses":{"a":"10.1.0.5"}},{"Subnet":"fd00::/64"}]},"Options":{"com.docker.network.driver.mtu":"1400","com.docker.network.bridge.name":"br0"},"Labels":{"a":"b"}}`)
	f.Add(`{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/32"},{"Subnet":"::ffff:10.0.0.0/120","Gateway":"10.0.0.3"}]}}`)
	f.Add(`{"Name":"n","EnableIPv4":false,"EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"::/0"},{"Subnet":"fd00::/128","IPRange":"fd00::/128"}]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var req mobynet.CreateRequest
		if json.Unmarshal([]byte(body), &req) != nil {
			return
		}
		s := &Service{d: Deps{Random: rand.Reader, Clock: clock.System{}}}
		r, err := s.checkCreate(req)
		if err != nil {
			if errdefs.IsUnknown(err) || errdefs.IsInternal(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		if r.Bridge == "" || len(r.Bridge) > 15 {
			t.Errorf("bridge %q", r.Bridge)
		}
		if req.IPAM == nil {
			return
		}
		for _, c := range req.IPAM.Config {
			c = unmapConfig(c)
			if !c.Subnet.IsValid() || family(c.Subnet.Addr()) == 6 && !r.EnableIPv6 {
				continue
			}
			if err := addConfig(r, c); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsUnavailable(err) && !errdefs.IsPermissionDenied(err) {
				t.Errorf("class of %v", err)
			}
		}
		for _, c := range r.IPAM.Config {
			if c.Subnet.IsValid() && !c.Subnet.Contains(c.Gateway) {
				t.Errorf("gateway %s of %s", c.Gateway, c.Subnet)
			}
		}
	})
}

func FuzzNetworkFilters(f *testing.F) {
	f.Add(`{"dangling":["true"],"driver":["bridge"],"id":["a"],"label":["a=b"],"name":["("],"scope":["local"],"type":["custom"]}`)
	f.Add(`{"until":["24h"],"label!":["a"]}`)
	s := &Service{d: Deps{Clock: clock.System{}}, nets: map[string]*netw{"a": {rec: &Record{ID: "a", Name: "n", Driver: DriverBridge}}}}
	f.Fuzz(func(t *testing.T, body string) {
		var filters map[string][]string
		if json.Unmarshal([]byte(body), &filters) != nil {
			return
		}
		if _, err := s.List(t.Context(), filters); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
		}
		_, _ = s.filter(filters, "until", "label!")
	})
}
