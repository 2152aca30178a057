package network

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	mobynet "github.com/moby/moby/api/types/network"
)

func hostsPath(dir string) string  { return filepath.Join(dir, "hosts") }
func resolvPath(dir string) string { return filepath.Join(dir, "resolv.conf") }

// resolverAddr is where containers on user-defined networks ask for names.
const resolverAddr = "127.0.0.11"

const hostsHead = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\n" +
	"ff00::\tip6-mcastprefix\n" +
	"ff02::1\tip6-allnodes\n" +
	"ff02::2\tip6-allrouters\n"

// writeFiles writes hosts and resolv.conf of a joined sandbox.
func (s *Service) writeFiles(sb *sandbox) error {
	hosts, err := s.hostsContent(sb)
	if err != nil {
		return err
	}
	resolv, err := s.resolvContent(sb)
	if err != nil {
		return err
	}
	return errors.Join(put(hostsPath(sb.req.Dir), hosts), put(resolvPath(sb.req.Dir), resolv))
}

// updateFiles follows an endpoint that came or went in a running container.
// hosts is edited line by line, for what the container wrote there is its own.
// resolv.conf is left alone once somebody else wrote to it.
func (s *Service) updateFiles(sb *sandbox, e *endpoint, came bool) error {
	if sb.req.Dir == "" {
		return nil
	}
	old, whole, err := readOwn(hostsPath(sb.req.Dir))
	if err != nil {
		return fmt.Errorf("read hosts file: %w", err)
	}
	next := withoutAddrs(old, e.addrs())
	switch {
	case !whole:
		if next, err = s.hostsContent(sb); err != nil {
			return err
		}
	case came:
		next = append(next, ownLines(sb.req, []*endpoint{e})...)
	}
	if err := put(hostsPath(sb.req.Dir), next); err != nil {
		return err
	}
	resolv, err := s.resolvContent(sb)
	if err != nil {
		return err
	}
	have, _, err := readOwn(resolvPath(sb.req.Dir))
	if err != nil {
		return fmt.Errorf("read resolv.conf: %w", err)
	}
	if bytes.Equal(have, resolv) || !bytes.HasPrefix(have, []byte(resolvHead)) {
		return nil
	}
	return put(resolvPath(sb.req.Dir), resolv)
}

// maxOwnFile is more than a hosts file has any use for.
const maxOwnFile = 1 << 20

// readOwn reads a file that the container can write to. whole is false where
// it made more of it than we read.
func readOwn(path string) (b []byte, whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	b, err = io.ReadAll(io.LimitReader(f, maxOwnFile+1))
	return b, len(b) <= maxOwnFile, errors.Join(err, f.Close())
}

func withoutAddrs(hosts []byte, addrs []netip.Addr) []byte {
	var out []byte
	for line := range bytes.Lines(hosts) {
		f := strings.Fields(string(line))
		if len(f) > 0 {
			if a, err := netip.ParseAddr(f[0]); err == nil && slices.Contains(addrs, a) {
				continue
			}
		}
		out = append(out, line...)
	}
	return out
}

// put writes in place: the file may be mounted in a running container, which
// a new file in its stead wouldn't reach.
func put(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

func (s *Service) hostsContent(sb *sandbox) ([]byte, error) {
	extra, err := s.extraHosts(sb.req.ExtraHosts)
	if err != nil {
		return nil, err
	}
	out := []byte(hostsHead)
	for _, h := range extra {
		out = fmt.Appendf(out, "%s\t%s\n", h.addr, h.name)
	}
	return append(out, ownLines(sb.req, sb.eps)...), nil
}

func ownLines(r SandboxRequest, eps []*endpoint) []byte {
	if r.Hostname == "" {
		return nil
	}
	names := r.Hostname
	if r.Domainname != "" {
		names = r.Hostname + "." + r.Domainname + " " + r.Hostname
	} else if short, _, full := strings.Cut(r.Hostname, "."); full {
		names += " " + short
	}
	var out []byte
	for _, e := range eps {
		for _, a := range e.addrs() {
			out = fmt.Appendf(out, "%s\t%s\n", a, names)
		}
	}
	return out
}

type extraHost struct {
	name string
	addr string
}

// extraHosts reads --add-host values: name:ip, name=ip, with or without
// brackets round an IPv6 address, and host-gateway in the address's place.
func (s *Service) extraHosts(list []string) ([]extraHost, error) {
	var out []extraHost
	for _, v := range list {
		name, addr, ok := strings.Cut(v, "=")
		if !ok {
			name, addr, ok = strings.Cut(v, ":")
		}
		// A line end in a name would make lines of its own.
		if !ok || name == "" || addr == "" || strings.ContainsFunc(name, unicode.IsControl) {
			return nil, invalid("bad format for add-host: %q", v)
		}
		if addr == "host-gateway" {
			gws := s.hostGateways()
			if len(gws) == 0 {
				return nil, invalid("unable to derive the IP value for host-gateway")
			}
			for _, a := range gws {
				out = append(out, extraHost{name, a.String()})
			}
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
		if err != nil {
			return nil, invalid("invalid IP address in add-host: %q", addr)
		}
		out = append(out, extraHost{name, a.String()})
	}
	return out, nil
}

func (s *Service) hostGateways() []netip.Addr {
	if len(s.d.Settings.HostGateway) > 0 {
		return s.d.Settings.HostGateway
	}
	r := s.predefined(mobynet.NetworkBridge)
	if r == nil {
		return nil
	}
	var out []netip.Addr
	for _, c := range r.IPAM.Config {
		if c.Gateway.IsValid() {
			out = append(out, c.Gateway)
		}
	}
	return out
}

// resolvConf is what we use of a resolv.conf.
type resolvConf struct {
	servers []netip.Addr
	search  []string
	options []string
}

func parseResolv(b []byte) resolvConf {
	var c resolvConf
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				c.servers = append(c.servers, a)
			}
		case "search", "domain":
			c.search = f[1:] // the last line counts
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	return c
}

// hostResolv reads the host's file. One that only points to systemd's stub is
// replaced by the one with the servers that the stub asks.
func (s *Service) hostResolv() (resolvConf, error) {
	b, err := os.ReadFile(s.d.Settings.ResolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return resolvConf{}, nil
	}
	if err != nil {
		return resolvConf{}, fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	return parseResolv(b), nil
}

const systemdResolv = "/run/systemd/resolve/resolv.conf"

const resolvHead = "# Written by Holdfast. It follows the container's networks until somebody edits this line.\n"

func (s *Service) resolvContent(sb *sandbox) ([]byte, error) {
	c, err := s.hostResolv()
	if err != nil {
		return nil, err
	}
	if usesResolver(sb) {
		c.servers = []netip.Addr{netip.MustParseAddr(resolverAddr)}
		c.options = slices.DeleteFunc(c.options, func(o string) bool { return strings.HasPrefix(o, "ndots:") })
		c.options = append(c.options, "ndots:0")
	} else {
		c.servers = outsideServers(c.servers)
		if servers := s.servers(sb.req); len(servers) > 0 {
			c.servers = servers
		}
	}
	s.override(&c, sb.req)
	return c.render(), nil
}

// outsideServers drops the servers that a container can't reach because they
// are on the host's loopback, and finds others in their place as Docker does.
func outsideServers(in []netip.Addr) []netip.Addr {
	loopback := func(a netip.Addr) bool { return a.IsLoopback() }
	out := slices.DeleteFunc(slices.Clone(in), loopback)
	if len(out) == 0 && len(in) > 0 {
		if b, err := os.ReadFile(systemdResolv); err == nil {
			out = slices.DeleteFunc(parseResolv(b).servers, loopback)
		}
	}
	if len(out) == 0 {
		out = []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.4.4")}
	}
	return out
}

// servers are the DNS servers somebody asked for, the container's before the daemon's.
func (s *Service) servers(r SandboxRequest) []netip.Addr {
	if len(r.DNS) > 0 {
		return r.DNS
	}
	return s.d.Settings.DNS
}

// override lets what was asked for take the place of the host's choices.
func (s *Service) override(c *resolvConf, r SandboxRequest) {
	search, options := r.DNSSearch, r.DNSOptions
	if len(search) == 0 {
		search = s.d.Settings.DNSSearch
	}
	if len(options) == 0 {
		options = s.d.Settings.DNSOptions
	}
	if len(search) == 1 && search[0] == "." {
		c.search = nil
	} else if len(search) > 0 {
		c.search = search
	}
	if len(options) > 0 {
		embedded := slices.Contains(c.servers, netip.MustParseAddr(resolverAddr))
		c.options = slices.Clone(options)
		if embedded && !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			c.options = append(c.options, "ndots:0")
		}
	}
}

func (c resolvConf) render() []byte {
	out := []byte(resolvHead)
	for _, a := range c.servers {
		out = fmt.Appendf(out, "nameserver %s\n", a)
	}
	if len(c.search) > 0 {
		out = fmt.Appendf(out, "search %s\n", strings.Join(c.search, " "))
	}
	if len(c.options) > 0 {
		out = fmt.Appendf(out, "options %s\n", strings.Join(c.options, " "))
	}
	return out
}

// upstreams are the servers that the embedded resolver asks. Those of the host
// are asked from the host; one on the container's own loopback, from there.
func (s *Service) upstreams(r SandboxRequest) []Upstream {
	asked := s.servers(r)
	list := asked
	if len(list) == 0 {
		c, err := s.hostResolv()
		if err == nil {
			list = c.servers
		}
		if len(list) == 0 {
			list = outsideServers(nil)
		}
	}
	var out []Upstream
	for _, a := range list {
		out = append(out, Upstream{Addr: netip.AddrPortFrom(a, 53), InSandbox: len(asked) > 0 && a.IsLoopback()})
	}
	return out
}

// HostFiles writes hosts and resolv.conf for a container that shares the
// host's network: copies of the host's, with what was asked for.
func (s *Service) HostFiles(_ context.Context, r SandboxRequest) (SandboxInfo, error) {
	extra, err := s.extraHosts(r.ExtraHosts)
	if err != nil {
		return SandboxInfo{}, err
	}
	hosts, err := os.ReadFile(s.d.Settings.HostsFile)
	if errors.Is(err, os.ErrNotExist) {
		hosts = []byte(hostsHead)
	} else if err != nil {
		return SandboxInfo{}, fmt.Errorf("read the host's hosts file: %w", err)
	}
	if len(hosts) > 0 && hosts[len(hosts)-1] != '\n' {
		hosts = append(hosts, '\n')
	}
	for _, h := range extra {
		hosts = fmt.Appendf(hosts, "%s\t%s\n", h.addr, h.name)
	}
	c, err := s.hostResolv()
	if err != nil {
		return SandboxInfo{}, err
	}
	if servers := s.servers(r); len(servers) > 0 {
		c.servers = servers
	}
	s.override(&c, r)
	if err := errors.Join(put(hostsPath(r.Dir), hosts), put(resolvPath(r.Dir), c.render())); err != nil {
		return SandboxInfo{}, err
	}
	info := SandboxInfo{
		Endpoints: map[string]*mobynet.EndpointSettings{}, Ports: mobynet.PortMap{},
		HostsPath: hostsPath(r.Dir), ResolvConfPath: resolvPath(r.Dir),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, want := range r.Endpoints {
		n, err := s.find(name)
		if err != nil {
			return SandboxInfo{}, err
		}
		set := &mobynet.EndpointSettings{}
		if want != nil {
			set = want.Copy()
		}
		set.NetworkID = n.rec.ID
		info.Endpoints[n.rec.Name] = set
	}
	return info, nil
}
