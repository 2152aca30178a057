package nettest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/network"
	"holdfast.dev/holdfast/internal/network/dns"
	"holdfast.dev/holdfast/internal/network/forward"
	"holdfast.dev/holdfast/internal/network/link"
	"holdfast.dev/holdfast/internal/network/nft"
	"holdfast.dev/holdfast/internal/network/ns"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}

// memRecords is a Records in memory that outlives a Service.
type memRecords struct {
	mu sync.Mutex
	m  map[string]*network.Record
}

func (r *memRecords) Put(id string, rec *network.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := *rec
	r.m[id] = &c
	return nil
}

func (r *memRecords) Delete(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, id)
	return nil
}

func (r *memRecords) All() ([]*network.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*network.Record
	for _, v := range r.m {
		c := *v
		out = append(out, &c)
	}
	return out, nil
}

type memEvents struct {
	mu   sync.Mutex
	list []events.Message
}

func (e *memEvents) Publish(m events.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, m)
}

func (e *memEvents) all() []events.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

// hastyClock runs timers twenty times as fast.
type hastyClock struct{ clock.System }

func (c hastyClock) NewTimer(d time.Duration) clock.Timer {
	return hastyTimer{c.System.NewTimer(d / 20)}
}

type hastyTimer struct{ clock.Timer }

func (t hastyTimer) Reset(d time.Duration) bool { return t.Timer.Reset(d / 20) }

// patientClock has no long timers: what must happen happens because of news.
type patientClock struct{ clock.System }

func (c patientClock) NewTimer(d time.Duration) clock.Timer {
	t := patientTimer{c.System.NewTimer(time.Hour)}
	t.Reset(d)
	return t
}

type patientTimer struct{ clock.Timer }

func (t patientTimer) Reset(d time.Duration) bool {
	if d >= time.Second {
		d = time.Hour
	}
	return t.Timer.Reset(d)
}

// world is one daemon's worth of network state, with the daemon itself
// replaceable.
type world struct {
	t       testing.TB
	dir     string
	records *memRecords
	events  *memEvents
	set     network.Settings
	spare   int
	clock   clock.Clock

	svc *network.Service
	fw  *nft.Firewall
	run func() // ends the service
}

func newWorld(t testing.TB, edit ...func(*network.Settings)) *world {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	w := &world{
		t: t, dir: dir, spare: 2, clock: hastyClock{}, records: &memRecords{m: map[string]*network.Record{}}, events: &memEvents{},
		set: network.Settings{
			Instance: "t" + newID()[:6], BridgeName: "hft0", ICC: true, IPMasq: true, IPForward: true, UserlandProxy: true,
			ResolvConf: filepath.Join(dir, "resolv.conf"), HostsFile: filepath.Join(dir, "etc-hosts"),
		},
	}
	for _, e := range edit {
		e(&w.set)
	}
	must(t, os.WriteFile(w.set.ResolvConf, []byte("nameserver 192.0.2.53\nsearch example.test\n"), 0o644))
	must(t, os.WriteFile(w.set.HostsFile, []byte("127.0.0.1 localhost\n"), 0o644))
	up(t, "lo")
	w.start()
	t.Cleanup(w.clean)
	return w
}

func up(t testing.TB, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
}

// start makes a new daemon over the same state.
func (w *world) start() {
	w.t.Helper()
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	lk, err := link.New(link.Config{Dir: filepath.Join(w.dir, "netns"), Instance: w.set.Instance, Spare: w.spare, Prepare: nft.PrepareSandbox, Log: log})
	must(w.t, err)
	w.fw, err = nft.New(w.set.Instance)
	must(w.t, err)
	w.svc, err = network.New(network.Deps{
		Clock: w.clock, Log: log, Random: rand.Reader, Records: w.records, Events: w.events,
		Link: lk, Firewall: w.fw, Resolver: dns.New(log), Forwarder: forward.New(forward.Config{Log: log, Off: !w.set.UserlandProxy}),
		Settings: w.set,
	})
	must(w.t, err)
	must(w.t, w.svc.Start(w.t.Context()))
	svc, fw := w.svc, w.fw
	w.run = sync.OnceFunc(func() {
		if err := svc.Close(); err != nil {
			w.t.Error(err)
		}
		if err := fw.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// kill ends the daemon and leaves the kernel's state, as kill -9 would.
func (w *world) kill() { w.run() }

func (w *world) clean() {
	ctx := context.Background()
	w.run()
	w.records.m = map[string]*network.Record{} // an empty daemon sweeps all
	w.start()
	must(w.t, w.svc.Sweep(ctx, nil))
	must(w.t, w.fw.Clear(ctx))
	w.run()
	if br, err := netlink.LinkByName(w.set.BridgeName); err == nil {
		must(w.t, netlink.LinkDel(br))
	}
	links, err := netlink.LinkList()
	must(w.t, err)
	for _, l := range links {
		if n := l.Attrs().Name; n == w.set.BridgeName || strings.HasPrefix(n, network.HostEndPrefix(w.set.Instance)) || strings.HasPrefix(n, "br-") {
			w.t.Errorf("left behind: %s %s", l.Type(), l.Attrs().Name)
		}
	}
	left, err := os.ReadDir(filepath.Join(w.dir, "netns"))
	must(w.t, err)
	for _, l := range left {
		w.t.Errorf("left behind: namespace %s", l.Name())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// box is a joined container.
type box struct {
	w    *world
	id   string
	req  network.SandboxRequest
	info network.SandboxInfo
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// request is a container on the networks.
func (w *world) request(name string, nets ...string) network.SandboxRequest {
	dir, err := os.MkdirTemp(w.dir, "c")
	must(w.t, err)
	r := network.SandboxRequest{Container: newID(), Name: name, Dir: dir, Endpoints: map[string]*mobynet.EndpointSettings{}}
	r.Hostname = r.Container[:12]
	for _, n := range nets {
		r.Endpoints[n] = &mobynet.EndpointSettings{}
	}
	return r
}

func (w *world) join(r network.SandboxRequest) *box {
	w.t.Helper()
	info, err := w.svc.Join(w.t.Context(), r)
	must(w.t, err)
	return &box{w: w, id: r.Container, req: r, info: info}
}

func (w *world) create(name string, edit ...func(*mobynet.CreateRequest)) {
	w.t.Helper()
	req := mobynet.CreateRequest{Name: name}
	for _, e := range edit {
		e(&req)
	}
	_, err := w.svc.Create(w.t.Context(), req)
	must(w.t, err)
}

func (b *box) addr(net string) netip.Addr { return b.info.Endpoints[net].IPAddress }

// hostPort is the port that p is published on.
func (b *box) hostPort(p string) string {
	b.w.t.Helper()
	list := b.info.Ports[mobynet.MustParsePort(p)]
	if len(list) == 0 {
		b.w.t.Fatalf("%s is not published: %v", p, b.info.Ports)
	}
	return list[0].HostPort
}

// listen serves TCP inside the namespace: each client reads who and the
// address the server sees it under, then gets back what it sends.
func listen(t testing.TB, nsPath, addr, who string) {
	t.Helper()
	var l net.Listener
	must(t, inNS(nsPath, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s %s\n", who, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// listenUDP answers every datagram with who.
func listenUDP(t testing.TB, nsPath, addr, who string) {
	t.Helper()
	var c *net.UDPConn
	a, err := net.ResolveUDPAddr("udp", addr)
	must(t, err)
	must(t, inNS(nsPath, func() (err error) {
		c, err = net.ListenUDP("udp", a)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDP([]byte(who), from)
		}
	}()
}

func inNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return ns.Do(path, f)
}

const shortWait = 700 * time.Millisecond

// longWait is for what must answer, on a machine however busy.
const longWait = 10 * time.Second

// dial connects from the namespace ("" is the host) and returns the greeting.
func dial(nsPath, addr string) (string, error) { return dialFor(nsPath, addr, shortWait) }

func dialFor(nsPath, addr string, limit time.Duration) (string, error) {
	var c net.Conn
	err := inNS(nsPath, func() (err error) {
		c, err = net.DialTimeout("tcp", addr, limit)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(max(limit, 2*time.Second))); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	if buf[n-1] == '\n' {
		n--
	}
	return string(buf[:n]), nil
}

func dialUDP(nsPath, addr string) (string, error) {
	var c net.Conn
	err := inNS(nsPath, func() (err error) {
		c, err = net.Dial("udp", addr)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// reaches checks that addr answers as who to a client in the namespace.
func reaches(t testing.TB, nsPath, addr, who string) string {
	t.Helper()
	got, err := dialFor(nsPath, addr, longWait)
	if err != nil {
		t.Errorf("%s does not answer: %v", addr, err)
		return ""
	}
	var name, seen string
	if _, err := fmt.Sscan(got, &name, &seen); err != nil || name != who {
		t.Errorf("%s answered %q (%v), want the name %q", addr, got, err, who)
	}
	return seen
}

func notReached(t testing.TB, nsPath, addr string) {
	t.Helper()
	if got, err := dial(nsPath, addr); err == nil {
		t.Errorf("%s answers %q, but must not be reached", addr, got)
	}
}

// outside is another machine: a namespace behind a veth pair with a route to
// the host only.
type outside struct {
	path string
	host netip.Addr // the host's address towards it
	addr netip.Addr
}

func newOutside(t testing.TB, w *world) outside {
	t.Helper()
	o := outside{path: filepath.Join(w.dir, "outside"), host: netip.MustParseAddr("203.0.113.1"), addr: netip.MustParseAddr("203.0.113.2")}
	must(t, os.WriteFile(o.path, nil, 0o644))
	must(t, ns.New(func() error { return syscall.Mount(ns.Self, o.path, "", syscall.MS_BIND, "") }))
	f, err := os.Open(o.path)
	must(t, err)
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "out-host"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "out-peer", PeerNamespace: netlink.NsFd(f.Fd())}))
	set := func(name, cidr string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}
	must(t, set("out-host", o.host.String()+"/24"))
	must(t, ns.Do(o.path, func() error { return set("out-peer", o.addr.String()+"/24") }))
	// A default route, as a host with an uplink has one.
	must(t, netlink.RouteAdd(&netlink.Route{Gw: o.addr.AsSlice()}))
	t.Cleanup(func() {
		l, err := netlink.LinkByName("out-host")
		must(t, err)
		must(t, netlink.LinkDel(l))
		must(t, syscall.Unmount(o.path, syscall.MNT_DETACH))
	})
	return o
}
