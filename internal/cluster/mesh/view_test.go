package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/swarmkit/v2/api"

	"holdfast.dev/holdfast/internal/cluster/directory"
	"holdfast.dev/holdfast/internal/network"
)

func at(s string) netip.Addr { return netip.MustParseAddr(s) }

// one is an entry of network n on a node, healthy and there.
func one(node, addr string, change ...func(*directory.Located)) directory.Located {
	l := directory.Located{
		Entry: directory.Entry{ID: addr, Network: "n", Addr: at(addr), Name: "web", VIP: at("10.0.1.2"), Healthy: true},
		Node:  node, Via: at("192.0.2." + node), Live: true,
	}
	for _, c := range change {
		c(&l)
	}
	return l
}

func sick(l *directory.Located) { l.Healthy = false }
func gone(l *directory.Located) { l.Live = false }
func rr(l *directory.Located)   { l.VIP = netip.Addr{} }

func own(names ...string) func(*directory.Located) {
	return func(l *directory.Located) { l.Own = names }
}

func ports(ps ...directory.Port) func(*directory.Located) {
	return func(l *directory.Located) { l.Ports, l.Name, l.VIP = ps, "", netip.Addr{} }
}

// member is one of a set's.
func member(leads bool) func(*directory.Located) {
	return func(l *directory.Located) {
		l.Fronts = []directory.Front{{Name: "db", VIP: at("10.0.1.9"), Behind: leads}, {Name: "db-ro", Behind: !leads}}
	}
}

// text puts a view in one line.
func text(v network.OverlayView) string {
	var out []string
	for _, p := range v.Peers {
		out = append(out, fmt.Sprint(p.Addr, "@", p.Via))
	}
	for _, n := range slices.Sorted(maps.Keys(v.Names)) {
		out = append(out, fmt.Sprint(n, "=", v.Names[n]))
	}
	for _, s := range v.VIPs {
		out = append(out, fmt.Sprint(s.Addr, "->", s.Backends))
	}
	for _, p := range v.Ports {
		out = append(out, fmt.Sprint(p.Proto, p.Port, "->", p.Targets))
	}
	return strings.Join(out, " ")
}

func TestView(t *testing.T) {
	http := directory.Port{Proto: "tcp", Published: 8080, Target: 80}
	for name, c := range map[string]struct {
		all  []directory.Located
		want string
	}{
		"nobody":             {nil, ""},
		"here and elsewhere": {[]directory.Located{one("1", "10.0.1.3"), one("2", "10.0.1.4")}, "10.0.1.4@192.0.2.2 tasks.web=[10.0.1.3 10.0.1.4] web=[10.0.1.2] 10.0.1.2->[10.0.1.3 10.0.1.4]"},
		"another network":    {[]directory.Located{one("2", "10.0.1.4", func(l *directory.Located) { l.Network = "other" })}, ""},
		"unhealthy: reached, not found": {
			[]directory.Located{one("2", "10.0.1.3", sick), one("2", "10.0.1.4")},
			"10.0.1.3@192.0.2.2 10.0.1.4@192.0.2.2 tasks.web=[10.0.1.4] web=[10.0.1.2] 10.0.1.2->[10.0.1.4]",
		},
		"node gone: the way stays, the name goes": {[]directory.Located{one("2", "10.0.1.3", gone)}, "10.0.1.3@192.0.2.2 10.0.1.2->[]"},
		"nobody healthy: the address refuses":     {[]directory.Located{one("1", "10.0.1.3", sick)}, "10.0.1.2->[]"},
		"DNSRR":                                   {[]directory.Located{one("1", "10.0.1.3", rr), one("2", "10.0.1.4", rr)}, "10.0.1.4@192.0.2.2 tasks.web=[10.0.1.3 10.0.1.4] web=[10.0.1.3 10.0.1.4]"},
		"own names and aliases": {
			[]directory.Located{one("1", "10.0.1.3", own("DB-1"), func(l *directory.Located) { l.Aliases = []string{"www"} })},
			"db-1=[10.0.1.3] tasks.web=[10.0.1.3] tasks.www=[10.0.1.3] web=[10.0.1.2] www=[10.0.1.2] 10.0.1.2->[10.0.1.3]",
		},
		"one address twice: who is first has it": {[]directory.Located{one("3", "10.0.1.4"), one("2", "10.0.1.4", gone)}, "10.0.1.4@192.0.2.3 tasks.web=[10.0.1.4] web=[10.0.1.2] 10.0.1.2->[10.0.1.4]"},
		"a set's names: the address is the leader's, followers have their own": {
			[]directory.Located{one("1", "10.0.1.3", rr, member(false)), one("2", "10.0.1.4", rr, member(true))},
			"10.0.1.4@192.0.2.2 db=[10.0.1.9] db-ro=[10.0.1.3] tasks.web=[10.0.1.3 10.0.1.4] web=[10.0.1.3 10.0.1.4] 10.0.1.9->[10.0.1.4]",
		},
		"a set without a leader: its address refuses": {
			[]directory.Located{one("1", "10.0.1.3", rr, member(false)), one("2", "10.0.1.4", rr, member(true), gone)},
			"10.0.1.4@192.0.2.2 db=[10.0.1.9] db-ro=[10.0.1.3] tasks.web=[10.0.1.3] web=[10.0.1.3] 10.0.1.9->[]",
		},
		"ports of every node": {
			[]directory.Located{one("1", "10.0.0.3", ports(http)), one("2", "10.0.0.4", ports(http)), one("2", "10.0.0.5", ports(http), sick)},
			"10.0.0.4@192.0.2.2 10.0.0.5@192.0.2.2 tcp8080->[10.0.0.3:80 10.0.0.4:80]",
		},
	} {
		if got := text(viewOf("1", "n", c.all)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

// The newest key is only listened for: not every node may have it.
func TestKeys(t *testing.T) {
	key := func(n byte, at uint64, sub string) *api.EncryptionKey {
		return &api.EncryptionKey{Subsystem: sub, LamportTime: at, Key: []byte{n}}
	}
	for _, c := range []struct {
		keys []*api.EncryptionKey
		seal byte
		all  int
	}{
		{[]*api.EncryptionKey{key(1, 5, gossip)}, 1, 1},
		{[]*api.EncryptionKey{key(2, 6, gossip), key(1, 5, gossip)}, 1, 2},
		{[]*api.EncryptionKey{key(3, 7, gossip), key(1, 5, gossip), key(9, 9, "networking:ipsec"), key(2, 6, gossip)}, 2, 3},
	} {
		k, err := keysOf(c.keys)
		if err != nil || k.Seal[0] != c.seal || len(k.All) != c.all {
			t.Errorf("%v: %v %v", c, k, err)
		}
	}
	if _, err := keysOf([]*api.EncryptionKey{key(1, 1, "networking:ipsec")}); err == nil {
		t.Error("a directory without keys")
	}
}
