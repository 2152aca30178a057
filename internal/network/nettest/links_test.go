package nettest

import (
	"fmt"
	"strings"
	"testing"

	mobynet "github.com/moby/moby/api/types/network"

	"holdfast.dev/holdfast/internal/network"
)

// Where the default network keeps containers apart a link opens what the other
// exposes, to the one that links, and to nobody else.
func TestLinksOpenPorts(t *testing.T) {
	w := newWorld(t, func(s *network.Settings) { s.ICC, s.IPv6 = false, true })
	r := w.request("db", "bridge")
	r.Exposed = mobynet.PortSet{mobynet.MustParsePort("80/tcp"): {}, mobynet.MustParsePort("53/udp"): {}}
	dbReq := r
	db := w.join(r)
	serve := func(b *box) {
		listen(t, b.info.NetNS, ":80", "db")
		listen(t, b.info.NetNS, ":81", "db")
		listenUDP(t, b.info.NetNS, ":53", "db")
	}
	serve(db)
	r = w.request("app", "bridge")
	r.Links = []string{db.id}
	app := w.join(r)
	listen(t, app.info.NetNS, ":80", "app")
	other := w.join(w.request("other", "bridge"))
	open := func() {
		t.Helper()
		for _, a := range []string{db.addr("bridge").String(), "[" + db.info.Endpoints["bridge"].GlobalIPv6Address.String() + "]"} {
			reaches(t, app.info.NetNS, a+":80", "db")
			if got, err := dialUDP(app.info.NetNS, a+":53"); err != nil || got != "db" {
				t.Errorf("udp %s: %q, %v", a, got, err)
			}
			notReached(t, other.info.NetNS, a+":80")
		}
		notReached(t, app.info.NetNS, db.addr("bridge").String()+":81")
		notReached(t, db.info.NetNS, app.addr("bridge").String()+":80")
	}
	open()
	// The other end goes, somebody takes its address, and it comes back elsewhere.
	must(t, w.svc.Leave(t.Context(), db.id))
	squatter := w.join(w.request("squatter", "bridge"))
	listen(t, squatter.info.NetNS, ":80", "squatter")
	notReached(t, app.info.NetNS, squatter.addr("bridge").String()+":80")
	db = w.join(dbReq)
	if db.addr("bridge") == squatter.addr("bridge") {
		t.Fatal("the address was free")
	}
	serve(db)
	open()
	// A daemon that was killed knows it still.
	w.kill()
	w.start()
	for _, b := range []*box{db, app, other, squatter} {
		must(t, w.svc.Restore(t.Context(), b.req, b.info))
	}
	must(t, w.svc.Sweep(t.Context(), []string{db.id, app.id, other.id, squatter.id}))
	open()
	must(t, w.svc.Relink(t.Context(), app.id, nil))
	notReached(t, app.info.NetNS, db.addr("bridge").String()+":80")
	must(t, w.svc.Relink(t.Context(), app.id, []string{squatter.id, db.id}))
	open()
	must(t, w.svc.Leave(t.Context(), app.id))
	heir := w.join(w.request("heir", "bridge"))
	if heir.addr("bridge") != app.addr("bridge") {
		t.Fatalf("%s is not the address just freed", heir.addr("bridge"))
	}
	notReached(t, heir.info.NetNS, db.addr("bridge").String()+":80")
}

// In a user's own network links are names, whatever the network lets pass.
func TestLinksOpenNothingElsewhere(t *testing.T) {
	w := newWorld(t)
	w.create("quiet", func(r *mobynet.CreateRequest) {
		r.Options = map[string]string{"com.docker.network.bridge.enable_icc": "false"}
	})
	r := w.request("db", "quiet")
	r.Exposed = mobynet.PortSet{mobynet.MustParsePort("80/tcp"): {}}
	db := w.join(r)
	listen(t, db.info.NetNS, ":80", "db")
	r = w.request("app", "quiet")
	r.Links = []string{db.id}
	app := w.join(r)
	notReached(t, app.info.NetNS, db.addr("quiet").String()+":80")
}

// Many published ports of one request: ranges map one to one, and what asks for
// any port gets a free one.
func TestPortRanges(t *testing.T) {
	w := newWorld(t)
	r := w.request("a", "bridge")
	r.Ports = publish("8000:80/tcp", "8001:81/tcp", "8002-8004:90/tcp", "91/tcp", "91/udp")
	a := w.join(r)
	r = w.request("b", "bridge")
	r.Ports = publish("8000-8010:80/tcp", "8000-8010:81/tcp")
	b := w.join(r)
	for _, c := range []struct {
		b          *box
		port, want string
	}{{a, "80/tcp", "8000"}, {a, "81/tcp", "8001"}, {a, "90/tcp", "8002"}, {b, "80/tcp", "8003"}, {b, "81/tcp", "8004"}} {
		if got := c.b.hostPort(c.port); got != c.want {
			t.Errorf("%s of %s is on %s, want %s", c.port, c.b.req.Name, got, c.want)
		}
		port, _, _ := strings.Cut(c.port, "/")
		who := c.b.req.Name + port
		listen(t, c.b.info.NetNS, ":"+port, who)
		reaches(t, "", "127.0.0.1:"+c.want, who)
	}
	var tcp, udp int
	if _, err := fmt.Sscan(a.hostPort("91/tcp"), &tcp); err != nil || tcp < 32768 {
		t.Errorf("any port: %d, %v", tcp, err)
	}
	if _, err := fmt.Sscan(a.hostPort("91/udp"), &udp); err != nil || udp < 32768 {
		t.Errorf("any port: %d, %v", udp, err)
	}
	// A range that is used up says so.
	r = w.request("c", "bridge")
	r.Ports = publish("8000-8001:80/tcp")
	if _, err := w.svc.Join(t.Context(), r); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("used-up range: %v", err)
	}
}
