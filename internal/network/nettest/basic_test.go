package nettest

import (
	"os"
	"strings"
	"testing"

	mobynet "github.com/moby/moby/api/types/network"
)

func publish(list ...string) mobynet.PortMap {
	out := mobynet.PortMap{}
	for _, v := range list {
		host, port, ok := strings.Cut(v, ":")
		if !ok {
			host, port = "", v
		}
		p := mobynet.MustParsePort(port)
		out[p] = append(out[p], mobynet.PortBinding{HostPort: host})
	}
	return out
}

func TestDefaultBridge(t *testing.T) {
	w := newWorld(t)
	o := newOutside(t, w)
	r := w.request("web", "bridge")
	r.Ports = publish("8080:80/tcp")
	web := w.join(r)
	listen(t, web.info.NetNS, ":80", "web")
	other := w.join(w.request("other", "bridge"))

	listen(t, o.path, ":9", "outside")
	if seen := reaches(t, web.info.NetNS, o.addr.String()+":9", "outside"); seen != o.host.String() {
		t.Errorf("outside sees %s, want the host's address %s", seen, o.host)
	}
	reaches(t, "", web.addr("bridge").String()+":80", "web")
	reaches(t, other.info.NetNS, web.addr("bridge").String()+":80", "web")
	if seen := reaches(t, o.path, o.host.String()+":8080", "web"); seen != o.addr.String() {
		t.Errorf("web sees %s, want the client's own address %s", seen, o.addr)
	}
	reaches(t, "", "127.0.0.1:8080", "web")
	reaches(t, "", "[::1]:8080", "web")
	reaches(t, "", o.host.String()+":8080", "web")
	reaches(t, other.info.NetNS, o.host.String()+":8080", "web") // a neighbour, through the host
	reaches(t, web.info.NetNS, o.host.String()+":8080", "web")   // itself, through the host

	hosts, err := os.ReadFile(web.info.HostsPath)
	must(t, err)
	if want := web.addr("bridge").String() + "\t" + web.id[:12] + "\n"; !strings.Contains(string(hosts), want) {
		t.Errorf("hosts lacks %q:\n%s", want, hosts)
	}
	resolv, err := os.ReadFile(web.info.ResolvConfPath)
	must(t, err)
	if !strings.Contains(string(resolv), "nameserver 192.0.2.53\nsearch example.test\n") {
		t.Errorf("resolv.conf is not the host's:\n%s", resolv)
	}
	must(t, w.svc.Leave(t.Context(), web.id))
	notReached(t, "", "127.0.0.1:8080")
	must(t, w.svc.Leave(t.Context(), web.id))
}
