package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/internal/testkit"
)

// web starts a container that answers its name over HTTP on port 80.
func web(d *testkit.Daemon, name string, args ...string) {
	d.Image("nettool")
	up(d, append(append([]string{"--name", name}, args...), "nettool", "nettool", "serve", ":80", name)...)
}

// probe starts a container to ask from.
func probe(d *testkit.Daemon, name string, args ...string) {
	d.Image("nettool")
	up(d, append(append([]string{"--name", name}, args...), "nettool", "sleep", "600")...)
}

// get polls url from inside a container until it answers.
func get(d *testkit.Daemon, from, url, want string) {
	d.Eventually(settle, from+" fetches "+url, func() (bool, string) {
		r := d.DockerResult("exec", from, "nettool", "get", url)
		return strings.TrimSpace(r.Out) == want, r.String()
	})
}

func lookup(d *testkit.Daemon, from, name string) testkit.Result {
	return d.DockerResult("exec", from, "nettool", "lookup", name)
}

func TestNetworkNamesAliasesRoundRobin(t *testing.T) {
	d := daemon(t)
	d.Docker("network", "create", "front")
	web(d, "one", "--network", "front", "--network-alias", "pool")
	web(d, "two", "--network", "front", "--network-alias", "pool")
	probe(d, "probe", "--network", "front")
	get(d, "probe", "http://one/", "one")
	get(d, "probe", "http://two/", "two")
	id := format(d, "one", "{{.Id}}")
	get(d, "probe", "http://"+id[:12]+"/", "one")
	equal(t, "resolver", d.Docker("exec", "probe", "grep", "^nameserver", "/etc/resolv.conf"), "nameserver 127.0.0.11")
	out := d.Docker("exec", "probe", "nettool", "lookup", "pool")
	for _, name := range []string{"one", "two"} {
		contains(t, "alias", out, format(d, name, "{{.NetworkSettings.Networks.front.IPAddress}}"))
	}
	seen := map[string]bool{}
	d.Eventually(settle, "both answer", func() (bool, string) {
		seen[d.Docker("exec", "probe", "nettool", "get", "http://pool/")] = true
		return seen["one"] && seen["two"], fmt.Sprint(seen)
	})
	contains(t, "reverse", d.Docker("exec", "probe", "nettool", "reverse", format(d, "one", "{{.NetworkSettings.Networks.front.IPAddress}}")), "one.front")
	if r := lookup(d, "probe", "nobody.invalid"); r.Code == 0 {
		t.Errorf("unknown name resolves: %s", r)
	}
	// A name goes with its container.
	d.Docker("rm", "-f", "two")
	d.Eventually(settle, "two is forgotten", func() (bool, string) {
		r := lookup(d, "probe", "two")
		return r.Code != 0, r.String()
	})
	d.Docker("rename", "one", "uno")
	get(d, "probe", "http://uno/", "one")
}

func TestNetworksAreIsolated(t *testing.T) {
	d := daemon(t)
	d.Docker("network", "create", "net-a")
	d.Docker("network", "create", "net-b")
	web(d, "inb", "--network", "net-b")
	web(d, "inbridge")
	probe(d, "ina", "--network", "net-a")
	for _, name := range []string{"inb", "inbridge"} {
		ip := format(d, name, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
		r := d.DockerResult("exec", "ina", "nettool", "get", "http://"+ip+"/")
		if r.Code == 0 {
			t.Errorf("%s is reached from another network: %s", name, r)
		}
		if r := lookup(d, "ina", name); r.Code == 0 {
			t.Errorf("%s is known in another network: %s", name, r)
		}
	}
	d.Docker("network", "connect", "--alias", "visitor", "net-b", "ina")
	get(d, "ina", "http://inb/", "inb")
	contains(t, "alias", d.Docker("exec", "inb", "nettool", "lookup", "visitor"), format(d, "ina", `{{(index .NetworkSettings.Networks "net-b").IPAddress}}`))
	d.Docker("network", "disconnect", "net-b", "ina")
	if r := d.DockerResult("exec", "ina", "nettool", "get", "http://inb/"); r.Code == 0 {
		t.Errorf("still connected: %s", r)
	}
	equal(t, "interfaces", d.Docker("exec", "ina", "sh", "-c", "ls /sys/class/net | grep -c eth"), "1")
	d.DockerFails("is not connected to network net-b", "network", "disconnect", "net-b", "ina")
	d.DockerFails("already exists in network net-a", "network", "connect", "net-a", "ina")
}

func TestNetworkFixedAddressesAndIPAM(t *testing.T) {
	notOnTwin(t, "20.10 took the MAC address elsewhere")
	d := daemon(t)
	d.Docker("network", "create", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.128/25", "--gateway", "10.77.0.1", "--aux-address", "router=10.77.0.129", "--label", "x=y", "fixed")
	equal(t, "inspect", format(d, "fixed", `{{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}} {{.Driver}} {{.Scope}} {{index .Labels "x"}}`), "10.77.0.0/24 10.77.0.1 bridge local y")
	up(d, "--name", "fix", "--network", "fixed", "--ip", "10.77.0.5", "--mac-address", "02:42:0a:4d:00:63", "busybox", "sleep", "600")
	equal(t, "address", d.Docker("exec", "fix", "sh", "-c", "ip -o -4 addr show eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address; ip route | head -1"), "10.77.0.5/24\n02:42:0a:4d:00:63\ndefault via 10.77.0.1 dev eth0 ")
	probe(d, "dyn", "--network", "fixed")
	ip := net.ParseIP(format(d, "dyn", "{{.NetworkSettings.Networks.fixed.IPAddress}}")).To4()
	if ip == nil || ip[3] < 128 || ip[3] == 129 {
		t.Errorf("dynamic address %v is not of the range", ip)
	}
	r := d.DockerResult("run", "--rm", "--network", "fixed", "--ip", "10.77.0.5", "busybox", "true")
	if r.Code == 0 || !strings.Contains(r.Err, "Address already in use") {
		t.Errorf("taken address: %s", r)
	}
	d.DockerFails("", "run", "--rm", "--network", "fixed", "--ip", "10.78.0.5", "busybox", "true")
	d.DockerFails("", "run", "--rm", "--ip", "172.17.0.9", "busybox", "true") // only on user networks
	d.DockerFails("ool overlaps with other one on this address space", "network", "create", "--subnet", "10.77.0.0/25", "overlap")
	d.Docker("restart", "-t", "0", "fix")
	equal(t, "kept over restart", format(d, "fix", "{{.NetworkSettings.Networks.fixed.IPAddress}}"), "10.77.0.5")
	contains(t, "containers of the network", format(d, "fixed", "{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}}"), "fix 10.77.0.5/24;")
}

func TestNetworkCreateAndConnectAreChecked(t *testing.T) {
	notOnTwin(t, "newer wording, newer checks")
	d := daemon(t)
	d.Docker("network", "create", "--ipv6", "--subnet", "fd00:88::/64", "--subnet", "10.88.0.0/24", "both")
	equal(t, "IPv4 first", format(d, "both", "{{range .IPAM.Config}}{{.Subnet}} {{end}}"), "10.88.0.0/24 fd00:88::/64 ")
	for body, want := range map[string]string{
		`{"Name":"optnull"}`:                              "null",
		`{"Name":"optnull2","IPAM":{"Driver":"default"}}`: "null",
		`{"Name":"optnone","IPAM":{"Options":{}}}`:        "{}",
	} {
		if code, out := d.API(http.MethodPost, "/networks/create", body); code != http.StatusCreated {
			t.Errorf("%s: %d %s", body, code, out)
		}
		equal(t, "IPAM options of "+body, format(d, strings.Split(body, `"`)[3], "{{json .IPAM.Options}}"), want)
	}
	d.Docker("network", "create", "auto")
	d.DockerFails("no configured subnet contains IP address 10.88.9.9", "run", "--rm", "--network", "auto", "--ip", "10.88.9.9", "busybox", "true")
	d.Docker("network", "create", "odd@name#$")
	d.Docker("network", "rm", "odd@name#$")
	d.DockerFails("invalid IPv6 address: ::ffff:10.88.0.9", "run", "--rm", "--network", "both", "--ip6", "::ffff:10.88.0.9", "busybox", "true")
	for _, mode := range []string{"none", "host", "bridge"} {
		d.DockerFails("user-specified IP address is supported on user-defined networks only", "run", "--rm", "--network", mode, "--ip", "10.88.0.9", "busybox", "true")
	}
	up(d, "--name", "member", "--network", "both", "busybox", "sleep", "600")
	for _, predefined := range []string{"none", "host", "bridge"} {
		d.DockerFails("network-scoped aliases are only supported for user-defined networks", "network", "connect", "--alias", "x", predefined, "member")
	}
	// A network removed under a stopped container is taken out by force.
	d.Docker("stop", "-t", "0", "member")
	d.Docker("network", "rm", "both")
	d.DockerFails("network both not found", "network", "disconnect", "both", "member")
	d.Docker("network", "disconnect", "-f", "both", "member")
	equal(t, "forgotten", format(d, "member", "{{json .NetworkSettings.Networks}}"), "{}")
}

func TestNetworkInternalAndIPv6(t *testing.T) {
	d := daemon(t)
	d.Docker("network", "create", "--internal", "closed")
	web(d, "inner", "--network", "closed")
	probe(d, "probe", "--network", "closed")
	get(d, "probe", "http://inner/", "inner")
	if engine != testkit.Dockerd { // 20.10 gave a default route that led nowhere
		equal(t, "no way out", d.Docker("exec", "probe", "sh", "-c", "ip route | grep -c default || true"), "0")
	}
	d.Docker("network", "create", "--ipv6", "--subnet", "fd00:77::/64", "six")
	web(d, "v6", "--network", "six")
	probe(d, "probe6", "--network", "six")
	addr := format(d, "v6", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}")
	if !strings.HasPrefix(addr, "fd00:77::") {
		t.Fatalf("IPv6 address %q", addr)
	}
	get(d, "probe6", "http://["+addr+"]/", "v6")
	contains(t, "AAAA", d.Docker("exec", "probe6", "nettool", "lookup", "v6"), addr)
}

func TestNoDefaultNetwork(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "says it in other words")
	d := own(t, testkit.Options{Args: []string{"--bridge=none"}})
	equal(t, "networks", d.Docker("network", "ls", "--format", "{{.Name}}"), "host\nnone")
	d.DockerFails("network bridge not found", "run", "--rm", "busybox", "true")
	equal(t, "none", d.Docker("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"), "lo")
	d.Docker("network", "create", "own")
	contains(t, "own network", d.Docker("run", "--rm", "--network", "own", "busybox", "ip", "addr", "show", "eth0"), "inet ")
	if out := d.Exec("ip", "-o", "link", "show", "type", "bridge"); strings.Count(out, "\n") > 1 || strings.Contains(out, " none:") {
		t.Errorf("bridges: %s", out)
	}
}

func TestDefaultNetworkWithIPv6(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "takes other addresses there")
	d := own(t, testkit.Options{Args: []string{"--ipv6", "--fixed-cidr-v6", "fd00:77::/64"}})
	contains(t, "subnets", d.Docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "bridge"), "fd00:77::/64")
	contains(t, "address", d.Docker("run", "--rm", "busybox", "ip", "-6", "addr", "show", "dev", "eth0"), "inet6 fd00:77::")
}

func TestNetworkHostNoneContainer(t *testing.T) {
	d := daemon(t)
	contains(t, "host", d.Docker("run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net"), "lo")
	d.Exec("ip", "link", "add", "seen0", "type", "bridge")
	t.Cleanup(func() { d.Exec("ip", "link", "del", "seen0") })
	contains(t, "host's links", d.Docker("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/dev"), "seen0")
	web(d, "owner", "--hostname", "sharedname")
	equal(t, "container", d.Docker("run", "--rm", "--network", "container:owner", "nettool", "sh", "-c", "nettool get http://127.0.0.1/; hostname"), "owner\nsharedname")
	d.DockerFails("conflicting options", "run", "--rm", "--network", "container:owner", "-p", "80", "busybox", "true")
	d.DockerFails("conflicting options", "run", "--rm", "--network", "container:owner", "--hostname", "x", "busybox", "true")
	equal(t, "none", d.Docker("run", "--rm", "--network", "none", "busybox", "sh", "-c", "tail -n +3 /proc/net/dev | grep -vc lo: || true"), "0")
	d.DockerFails("No such container: nobody", "run", "--rm", "--network", "container:nobody", "busybox", "true")
}

func TestPublishedPorts(t *testing.T) {
	d := daemon(t)
	// The namespace's way to the world: an address beside loopback.
	d.Exec("ip", "link", "add", "out0", "type", "bridge")
	d.Exec("ip", "addr", "add", "10.200.0.1/24", "dev", "out0")
	d.Exec("ip", "link", "set", "out0", "up")
	t.Cleanup(func() { d.Exec("ip", "link", "del", "out0") })
	web(d, "pub", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "9000-9002:7000-7002", "-p", "5353:53/udp", "-p", "80")
	fetch := func(addr string) (string, error) {
		resp, err := d.HTTP().Get("http://" + addr + "/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)), err
	}
	random := d.Docker("port", "pub", "80")
	_, port, err := net.SplitHostPort(strings.Fields(random)[len(strings.Fields(random))-1])
	if err != nil {
		t.Fatalf("%q: %v", random, err)
	}
	for _, addr := range []string{"127.0.0.1:8080", "10.200.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "127.0.0.1:" + port} {
		d.Eventually(settle, addr+" answers", func() (bool, string) {
			got, err := fetch(addr)
			return got == "pub", fmt.Sprint(got, err)
		})
	}
	if got, err := fetch("10.200.0.1:8081"); err == nil {
		t.Errorf("published on 127.0.0.1 only, but answers %q elsewhere", got)
	}
	// Hairpin: another container, and the container itself, by the host's address.
	probe(d, "probe")
	get(d, "probe", "http://10.200.0.1:8080/", "pub")
	get(d, "pub", "http://10.200.0.1:8080/", "pub")
	// A range maps one to one.
	equal(t, "range", d.Docker("port", "pub", "7001/tcp")[:12], "0.0.0.0:9001")
	d.DockerFails("port is already allocated", "run", "--rm", "-p", "8080:80", "busybox", "true")
	d.DockerFails("port is already allocated", "run", "--rm", "-p", "9001:80", "busybox", "true")
	equal(t, "the failed ones are gone", d.Docker("ps", "-aq", "--filter", "status=running", "--filter", "ancestor=busybox", "--filter", "name=^/[^p]"), "")
	d.Docker("rm", "-f", "pub")
	if got, err := fetch("127.0.0.1:8080"); err == nil {
		t.Errorf("answers %q after removal", got)
	}
	web(d, "pub2", "-p", "8080:80")
	d.Eventually(settle, "free again", func() (bool, string) {
		got, err := fetch("127.0.0.1:8080")
		return got == "pub2", fmt.Sprint(got, err)
	})
}

func TestPublishedPortTakenByAnotherProgram(t *testing.T) {
	d := daemon(t)
	d.Listen("tcp", "0.0.0.0:8085")
	d.DockerFails("address already in use", "run", "--name", "late", "-p", "8085:80", "busybox", "true")
	equal(t, "created, not started", format(d, "late", "{{.State.Status}}"), "created")
}

func TestLinkLocalAddresses(t *testing.T) {
	d := daemon(t)
	d.Docker("network", "create", "ll")
	web(d, "near", "--network", "ll", "--link-local-ip", "169.254.7.7")
	probe(d, "asker", "--network", "bridge")
	d.Docker("network", "connect", "--link-local-ip", "169.254.8.8", "ll", "asker")
	get(d, "asker", "http://169.254.7.7/", "near")
	contains(t, "inspect", format(d, "near", "{{json .NetworkSettings.Networks.ll.IPAMConfig}}"), "169.254.7.7")
	if engine != testkit.Dockerd {
		d.DockerFails("invalid link-local IP address: 10.1.1.1", "run", "--rm", "--network", "ll", "--link-local-ip", "10.1.1.1", "busybox", "true")
	}
	// And they are there again after a restart.
	d.Docker("restart", "-t", "0", "near")
	get(d, "asker", "http://169.254.7.7/", "near")
}

// Ports of a container in internal networks only are published once it is in another.
func TestPublishedPortsFollowAConnect(t *testing.T) {
	notOnTwin(t, "20.10 publishes them with the daemon's proxy all the same")
	d := daemon(t)
	d.Docker("network", "create", "--internal", "closed")
	d.Docker("network", "create", "open")
	web(d, "moved", "--network", "closed", "-p", "8086:80")
	fetch := func() string {
		r, err := d.HTTP().Get("http://127.0.0.1:8086/")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return fmt.Sprint(string(b), err)
	}
	contains(t, "internal", fetch(), "refused")
	d.Docker("network", "connect", "open", "moved")
	contains(t, "connected", fetch(), "moved")
	d.Docker("network", "disconnect", "open", "moved")
	if got := fetch(); strings.Contains(got, "moved") {
		t.Errorf("disconnected: %s", got)
	}
}

func TestPublishedUDP(t *testing.T) {
	d := daemon(t)
	d.Image("nettool")
	up(d, "--name", "udp", "-p", "5354:5354/udp", "nettool", "nettool", "udpecho", ":5354")
	d.Eventually(settle, "echo over UDP", func() (bool, string) {
		c, err := d.Dial("udp", "127.0.0.1:5354")
		if err != nil {
			return false, err.Error()
		}
		defer c.Close()
		if _, err := fmt.Fprintln(c, "ping"); err != nil {
			return false, err.Error()
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return false, err.Error()
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		return line == "ping\n", fmt.Sprint(line, err)
	})
}

func TestPublishAllAndExpose(t *testing.T) {
	d := daemon(t)
	web(d, "all", "-P", "--expose", "80", "--expose", "81-82/tcp")
	equal(t, "three ports", fmt.Sprint(len(strings.Split(format(d, "all", "{{range $p, $b := .NetworkSettings.Ports}}{{$p}} {{(index $b 0).HostPort}};{{end}}"), ";"))-1), "3")
}

func TestNetworkRemovePruneAndNames(t *testing.T) {
	d := daemon(t)
	id := d.Docker("network", "create", "netx")
	d.DockerFails("network with name netx already exists", "network", "create", "netx")
	up(d, "--name", "user", "--network", "netx", "busybox", "sleep", "600")
	code, body := d.API(http.MethodDelete, "/networks/netx", nil)
	if code != http.StatusForbidden && code != http.StatusConflict {
		t.Errorf("remove in use: %d %s", code, body)
	}
	contains(t, "message", string(body), "has active endpoints")
	d.Docker("network", "create", "unused")
	equal(t, "prune", d.Docker("network", "prune", "-f"), "Deleted Networks:\nunused")
	d.DockerFails("bridge is a pre-defined network and cannot be removed", "network", "rm", "bridge")
	d.DockerFails("network nosuch not found", "network", "rm", "nosuch")
	d.DockerFails("network nosuch not found", "run", "--rm", "--network", "nosuch", "busybox", "true")
	d.DockerFails("", "network", "create", "-d", "nosuchdriver", "nd")
	names := strings.Fields(d.Docker("network", "ls", "--format", "{{.Name}}"))
	slices.Sort(names)
	equal(t, "list", strings.Join(names, " "), "bridge host netx none")
	equal(t, "by filter", d.Docker("network", "ls", "-q", "--no-trunc", "--filter", "name=netx", "--filter", "driver=bridge", "--filter", "type=custom"), id)
	d.Docker("rm", "-f", "user")
	d.Docker("network", "rm", id)
}

func TestDNSForwardsOutside(t *testing.T) {
	d := daemon(t)
	// An upstream server on the namespace's loopback, as a host with a local resolver has.
	srv := upstreamDNS(t, d, "10.200.1.1:53", "outside.example.", "192.0.2.44")
	d.Docker("network", "create", "dnsnet")
	probe(d, "asker", "--network", "dnsnet", "--dns", srv)
	d.Eventually(settle, "forwarded", func() (bool, string) {
		r := lookup(d, "asker", "outside.example")
		return strings.Contains(r.Out, "192.0.2.44"), r.String()
	})
}

func TestForeignRulesAreUntouched(t *testing.T) {
	notOnTwin(t, "docker writes into shared chains")
	d := daemon(t)
	d.Exec("nft", "add table inet mine; add chain inet mine c { type filter hook forward priority 10; policy accept; }; add rule inet mine c tcp dport 9999 drop")
	t.Cleanup(func() { d.Exec("nft", "delete table inet mine") })
	before := d.Exec("nft", "list", "table", "inet", "mine")
	web(d, "pub", "-p", "8088:80")
	d.Docker("network", "create", "nn")
	d.KillAndStart()
	d.Docker("rm", "-f", "pub")
	equal(t, "table", d.Exec("nft", "list", "table", "inet", "mine"), before)
}

// A firewall that reloads flushes everybody's rules.
func TestFlushedRulesComeBack(t *testing.T) {
	notOnTwin(t, "docker's rules stay away until it is restarted")
	d := daemon(t)
	d.Exec("ip", "link", "add", "out1", "type", "bridge")
	d.Exec("ip", "addr", "add", "10.201.0.1/24", "dev", "out1")
	d.Exec("ip", "link", "set", "out1", "up")
	t.Cleanup(func() { d.Exec("ip", "link", "del", "out1") })
	d.Docker("network", "create", "flushed")
	web(d, "kept", "--network", "flushed", "-p", "8089:80")
	probe(d, "asker")
	get(d, "asker", "http://10.201.0.1:8089/", "kept")
	addr := format(d, "kept", "{{.NetworkSettings.Networks.flushed.IPAddress}}")
	table := strings.TrimSpace(strings.TrimPrefix(d.Exec("nft", "list", "tables", "inet"), "table "))
	for _, deed := range []string{"flush ruleset", "delete table " + table} {
		d.Exec("nft", deed)
		get(d, "asker", "http://10.201.0.1:8089/", "kept")
		d.Eventually(settle, "networks are apart after "+deed, func() (bool, string) {
			r := d.DockerResult("exec", "asker", "nettool", "get", "http://"+addr+"/")
			return r.Code != 0, r.String()
		})
	}
}

// Containers are kept apart on the default network, but for what they link to,
// and ports are published without a process in between.
func TestICCOffLinksAndNoProxy(t *testing.T) {
	t.Parallel()
	d := own(t, testkit.Options{Config: map[string]any{"icc": false, "userland-proxy": false}})
	web(d, "db", "--expose", "80", "-p", "8090:80")
	probe(d, "stranger")
	probe(d, "app", "--link", "db:store")
	addr := format(d, "db", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	closed := func(from, url string) {
		t.Helper()
		if r := d.DockerResult("exec", from, "nettool", "get", url); r.Code == 0 {
			t.Errorf("%s reaches %s: %s", from, url, r)
		}
	}
	get(d, "app", "http://store/", "db")
	closed("stranger", "http://"+addr+"/")
	if engine != testkit.Dockerd { // which with icc off keeps neighbours from published ports too
		gw := format(d, "db", "{{.NetworkSettings.Networks.bridge.Gateway}}")
		get(d, "stranger", "http://"+gw+":8090/", "db")
	}
	d.Eventually(settle, "the port answers on the host", func() (bool, string) {
		resp, err := d.HTTP().Get("http://127.0.0.1:8090/")
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	if resp, err := d.HTTP().Get("http://[::1]:8090/"); err == nil {
		resp.Body.Close()
		t.Error("something carries what rules cannot")
	}
	// The link follows a restart, and its end.
	d.Docker("restart", "-t", "0", "db")
	get(d, "app", "http://store/", "db")
	closed("stranger", "http://"+format(d, "db", "{{.NetworkSettings.Networks.bridge.IPAddress}}")+"/")
	if engine != testkit.Dockerd { // which forgets its rules with its live-restore off
		d.KillAndStart()
		get(d, "app", "http://store/", "db")
	}
	d.Docker("rm", "--link", "/app/store")
	if engine == testkit.Dockerd {
		return // 20.10 leaves the rule until the container ends
	}
	closed("app", "http://"+format(d, "db", "{{.NetworkSettings.Networks.bridge.IPAddress}}")+"/")
}

// Containers as neighbours on the host's wire, by what docker's flags say.
func TestMacvlanNetwork(t *testing.T) {
	notOnTwin(t, "20.10 names a gateway of its own")
	d := daemon(t)
	// The wire: a pair of links, the far end in a container that is the router there.
	d.Exec("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
	t.Cleanup(func() { d.Exec("ip", "link", "del", "wire0") })
	for _, l := range []string{"wire0", "wire1"} {
		d.Exec("ip", "link", "set", l, "up")
	}
	d.Docker("network", "create", "-d", "macvlan", "-o", "parent=wire0", "--subnet", "10.205.0.0/24", "--ip-range", "10.205.0.128/25",
		"--gateway", "10.205.0.2", "--aux-address", "printer=10.205.0.129", "--ipv6", "--subnet", "fd00:205::/64", "wire")
	d.Docker("network", "create", "-d", "macvlan", "-o", "parent=wire1", "--subnet", "10.205.0.0/24", "far")
	equal(t, "inspect", format(d, "wire", `{{.Driver}} {{.Scope}} {{index .Options "parent"}} {{(index .IPAM.Config 0).IPRange}} {{index (index .IPAM.Config 0).AuxiliaryAddresses "printer"}}`),
		"macvlan local wire0 10.205.0.128/25 10.205.0.129")
	web(d, "router", "--network", "far", "--ip", "10.205.0.2", "--privileged")
	web(d, "on", "--network", "wire", "--network-alias", "wired")
	web(d, "fixed", "--network", "name=wire,ip=10.205.0.5,ip6=fd00:205::5,mac-address=02:42:0a:cd:00:99")
	equal(t, "first of the range", format(d, "on", "{{.NetworkSettings.Networks.wire.IPAddress}}"), "10.205.0.128")
	equal(t, "inside", d.Docker("exec", "fixed", "sh", "-c", "cat /sys/class/net/eth0/address; ip -o -6 addr show eth0 scope global | awk '{print $4}'; ip route | head -1"),
		"02:42:0a:cd:00:99\nfd00:205::5/64\ndefault via 10.205.0.2 dev eth0 ")
	get(d, "fixed", "http://wired/", "on")
	get(d, "on", "http://[fd00:205::5]/", "fixed")
	get(d, "on", "http://10.205.0.2/", "router")
	get(d, "router", "http://10.205.0.5/", "fixed")
	d.DockerFails("has active endpoints", "network", "rm", "wire")
	d.Docker("network", "disconnect", "wire", "on")
	if r := d.DockerResult("exec", "router", "nettool", "get", "http://10.205.0.128/"); r.Code == 0 {
		t.Errorf("answers after the disconnect: %s", r)
	}
	d.Docker("network", "connect", "--alias", "again", "wire", "on")
	get(d, "fixed", "http://again/", "on")
	d.Docker("restart", "-t", "0", "fixed")
	get(d, "router", "http://10.205.0.5/", "fixed")
	d.KillAndStart()
	get(d, "router", "http://10.205.0.5/", "fixed")
	get(d, "fixed", "http://again/", "on")
	d.DockerFails("IPAM driver mine is not supported by this engine", "network", "create", "--ipam-driver", "mine", "n1")
	d.DockerFails("requested macvlan mode 'loud' is not valid", "network", "create", "-d", "macvlan", "-o", "macvlan_mode=loud", "n1")
	d.Docker("rm", "-f", "router", "on", "fixed")
	d.Docker("network", "rm", "wire", "far")
}

// The way out is by the network that has the highest priority, and --internal
// ones have none.
func TestGatewayPriorityAndInternal(t *testing.T) {
	notOnTwin(t, "20.10 connects one network at a time, without priorities")
	d := daemon(t)
	d.Docker("network", "create", "--subnet", "10.206.1.0/24", "aaa")
	d.Docker("network", "create", "--subnet", "10.206.2.0/24", "bbb")
	d.Docker("network", "create", "--subnet", "10.206.3.0/24", "--internal", "inner")
	up(d, "--name", "multi", "--network", "name=aaa", "--network", "name=bbb,gw-priority=1", "--network", "name=inner,gw-priority=9", "busybox", "sleep", "600")
	way := func() string {
		return d.Docker("exec", "multi", "sh", "-c", "ip route | grep ^default | cut -d' ' -f3")
	}
	equal(t, "highest that leads out", way(), "10.206.2.1")
	equal(t, "inspect", format(d, "multi", "{{.NetworkSettings.Networks.bbb.GwPriority}}"), "1")
	d.Docker("network", "disconnect", "bbb", "multi")
	equal(t, "the next one", way(), "10.206.1.1")
	d.Docker("network", "connect", "--gw-priority", "5", "bbb", "multi")
	equal(t, "back", way(), "10.206.2.1")
	d.Docker("network", "disconnect", "aaa", "multi")
	d.Docker("network", "disconnect", "bbb", "multi")
	equal(t, "internal only", way(), "")
}

// Rules need no daemon: what is published answers while it is away, also by
// 127.0.0.1, also where it is published on that alone.
func TestPublishedPortsAnswerWithoutTheDaemon(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "docker's proxies go with it")
	d := own(t, testkit.Options{})
	d.Exec("ip", "addr", "add", "10.207.0.1/32", "dev", "lo")
	web(d, "pub", "-p", "8080:80", "-p", "127.0.0.1:8081:80")
	d.Docker("network", "create", "--ipv6", "six")
	web(d, "pub6", "--network", "six", "-p", "8082:80")
	addrs := []string{"127.0.0.1:8080", "127.0.0.1:8081", "10.207.0.1:8080", "127.0.0.1:8082", "[" + format(d, "pub6", "{{.NetworkSettings.Networks.six.IPv6Gateway}}") + "]:8082"}
	answer := func(when string) {
		t.Helper()
		for _, addr := range addrs {
			d.Eventually(settle, addr+" answers "+when, func() (bool, string) {
				resp, err := d.HTTP().Get("http://" + addr + "/")
				if err != nil {
					return false, err.Error()
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				return strings.HasPrefix(string(b), "pub"), fmt.Sprint(string(b), err)
			})
		}
	}
	answer("first")
	d.Kill()
	answer("while it is dead")
	d.Start()
	answer("with the next one")
}

// A network of IPv6 alone: addresses, names, the way out and published ports.
func TestNetworkOfIPv6Alone(t *testing.T) {
	notOnTwin(t, "20.10 has no such networks")
	d := daemon(t)
	d.Docker("network", "create", "--ipv4=false", "--ipv6", "--subnet", "fd00:208::/64", "--ip-range", "fd00:208::100/120", "--gateway", "fd00:208::9", "only6")
	web(d, "web6", "--network", "only6", "--network-alias", "www", "-p", "8208:80")
	web(d, "fixed6", "--network", "only6", "--ip6", "fd00:208::77")
	equal(t, "addresses", format(d, "web6", "{{with .NetworkSettings.Networks.only6}}{{.IPAddress}} {{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}"), " fd00:208::100 fd00:208::9")
	equal(t, "inside", d.Docker("exec", "web6", "sh", "-c", "ip -4 addr show eth0 | grep -c inet; ip -6 route | grep ^default | cut -d' ' -f3"), "0\nfd00:208::9")
	get(d, "fixed6", "http://www/", "web6")
	get(d, "web6", "http://[fd00:208::77]/", "fixed6")
	contains(t, "lookup", d.Docker("exec", "fixed6", "nettool", "lookup", "www"), "fd00:208::100")
	for _, addr := range []string{"127.0.0.1:8208", "[::1]:8208", "[fd00:208::9]:8208"} {
		d.Eventually(settle, addr+" answers", func() (bool, string) {
			resp, err := d.HTTP().Get("http://" + addr + "/")
			if err != nil {
				return false, err.Error()
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return strings.TrimSpace(string(b)) == "web6", fmt.Sprint(string(b), err)
		})
	}
	d.DockerFails("Address already in use", "run", "--rm", "--network", "only6", "--ip6", "fd00:208::77", "busybox", "true")
	d.DockerFails("no configured subnet contains IP address 10.0.0.1", "run", "--rm", "--network", "only6", "--ip", "10.0.0.1", "busybox", "true")
	d.KillAndStart()
	get(d, "fixed6", "http://www/", "web6")
	d.Docker("network", "disconnect", "only6", "web6")
	if r := lookup(d, "fixed6", "www"); r.Code == 0 {
		t.Errorf("the alias is stale: %s", r)
	}
	d.Docker("network", "connect", "--ip6", "fd00:208::88", "only6", "web6")
	equal(t, "asked for", format(d, "web6", "{{.NetworkSettings.Networks.only6.GlobalIPv6Address}}"), "fd00:208::88")
	get(d, "fixed6", "http://web6/", "web6")
}
