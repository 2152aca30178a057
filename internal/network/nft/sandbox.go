package nft

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"

	"holdfast.dev/holdfast/internal/network"
)

// resolver is where containers ask for names.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

const dnsPort = 53

// PrepareSandbox makes the table of RedirectDNS in a namespace, still empty.
// That takes the kernel some 10 ms, so it is worth doing ahead of use.
func PrepareSandbox(nsPath string) error {
	return inSandbox(nsPath, "prepare DNS redirection", func(c *nftables.Conn) error {
		return addDNSTable(c, nil)
	})
}

// RedirectDNS implements network.Firewall.
func (f *Firewall) RedirectDNS(_ context.Context, nsPath string, udp, tcp uint16) error {
	ports := []network.PortRule{
		{Proto: "udp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), dnsPort), Target: netip.AddrPortFrom(resolver, udp)},
		{Proto: "tcp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), dnsPort), Target: netip.AddrPortFrom(resolver, tcp)},
	}
	err := inSandbox(nsPath, "redirect DNS", func(c *nftables.Conn) error {
		m := dnsMap(dnsTable())
		c.FlushSet(m.set)
		return c.SetAddElements(m.set, m.elements(ports))
	})
	if err == nil || !gone(err) {
		return err
	}
	// Not prepared, or flushed by the container.
	return inSandbox(nsPath, "redirect DNS", func(c *nftables.Conn) error { return addDNSTable(c, ports) })
}

func dnsTable() *nftables.Table {
	return &nftables.Table{Name: "holdfast-dns", Family: nftables.TableFamilyIPv4}
}

func dnsMap(t *nftables.Table) portMap { return portMaps(t)[1] }

func addDNSTable(c *nftables.Conn, ports []network.PortRule) error {
	t := dnsTable()
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	m := dnsMap(t)
	m.set.ID = setID(0)
	if err := c.AddSet(m.set, m.elements(ports)); err != nil {
		return err
	}
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(daddr4(netip.PrefixFrom(resolver, 32)), m.translate())})
	return nil
}

func inSandbox(nsPath, what string, batch func(*nftables.Conn) error) error {
	box, err := os.Open(nsPath)
	if err != nil {
		return fmt.Errorf("%s: open namespace: %w", what, err)
	}
	defer box.Close()
	c, err := nftables.New(nftables.WithNetNSFd(int(box.Fd())))
	if err != nil {
		return fmt.Errorf("%s: open nftables: %w", what, err)
	}
	if err := batch(c); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
