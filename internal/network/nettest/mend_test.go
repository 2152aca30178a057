package nettest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"

	"holdfast.dev/holdfast/internal/network"
)

// until waits for a condition, however busy the machine is.
func until(t testing.TB, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		done, now := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %s", what, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// mending runs the service's loop; what it does it does because it was told.
func mending(t *testing.T, w *world) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	svc := w.svc
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func patient(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.kill()
	w.clock = patientClock{}
	w.start()
	return w
}

// Somebody takes our rules away, or some of them: they are back without anybody
// looking from time to time, and the published port answers again.
func TestFlushedRulesAreMended(t *testing.T) {
	w := patient(t)
	must(t, w.svc.Sweep(t.Context(), nil))
	r := w.request("web", "bridge")
	r.Ports = publish("8080:80/tcp", "8053:53/udp")
	web := w.join(r)
	listen(t, web.info.NetNS, ":80", "web")
	listenUDP(t, web.info.NetNS, ":53", "web")
	neighbour := w.join(w.request("neighbour", "bridge"))
	w.create("red")
	stranger := w.join(w.request("stranger", "red"))
	listen(t, stranger.info.NetNS, ":80", "stranger")
	o := newOutside(t, w)
	mending(t, w)
	c, err := nftables.New()
	must(t, err)
	other := &nftables.Table{Name: "somebody-else", Family: nftables.TableFamilyIPv4}
	ours := &nftables.Table{Name: "holdfast-" + w.set.Instance, Family: nftables.TableFamilyINet}
	t.Cleanup(func() {
		c.AddTable(other)
		c.DelTable(other)
		must(t, c.Flush())
	})
	for name, deed := range map[string]func(){
		"flush ruleset": func() {
			c.FlushRuleset()
			c.AddTable(other)
		},
		"delete table": func() { c.DelTable(ours) },
		"flush table":  func() { c.FlushTable(ours) },
		"flush chain":  func() { c.FlushChain(&nftables.Chain{Name: "forward", Table: ours}) },
		"flush map": func() {
			c.FlushSet(&nftables.Set{Name: "ports4", Table: ours})
		},
	} {
		t.Run(name, func(t *testing.T) {
			deed()
			must(t, c.Flush())
			until(t, "rules are back", func() (bool, string) {
				got, err := dial(o.path, o.host.String()+":8080")
				return err == nil && got == "web "+o.addr.String(), fmt.Sprintf("%q, %v", got, err)
			})
			until(t, "UDP is back, with the client's own address", func() (bool, string) {
				got, err := dialUDP(o.path, o.host.String()+":8053")
				return err == nil && got == "web", fmt.Sprintf("%q, %v", got, err)
			})
			reaches(t, "", "127.0.0.1:8080", "web")
			until(t, "networks are apart again", func() (bool, string) {
				got, err := dial(neighbour.info.NetNS, stranger.addr("red").String()+":80")
				return err != nil, fmt.Sprintf("%q", got)
			})
			until(t, "the way out is back", func() (bool, string) {
				got, err := dial(neighbour.info.NetNS, o.host.String()+":8080")
				return err == nil, fmt.Sprintf("%q, %v", got, err)
			})
		})
	}
	// Edits go on working where nobody noticed the flush yet, too.
	c.FlushRuleset()
	c.AddTable(other)
	must(t, c.Flush())
	must(t, w.svc.Leave(t.Context(), web.id))
	tables, err := c.ListTables()
	must(t, err)
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == "somebody-else" }) {
		t.Error("another's table is gone")
	}
}

// What the daemon does itself, and what others do with tables of theirs, is no
// reason to look.
func TestWatchTellsOfOthersDeedsOnly(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	news, err := w.fw.Watch(ctx)
	must(t, err)
	c, err := nftables.New()
	must(t, err)
	other := c.AddTable(&nftables.Table{Name: "somebody-else", Family: nftables.TableFamilyINet})
	must(t, c.Flush())
	w.create("red")
	rule := []network.PortRule{{Proto: "tcp", Host: netip.MustParseAddrPort("0.0.0.0:8080"), Target: netip.MustParseAddrPort("172.17.0.2:80")}}
	must(t, w.fw.AddPorts(ctx, rule))
	must(t, w.fw.RemovePorts(ctx, rule))
	c.DelTable(other)
	must(t, c.Flush())
	// News comes in order: had there been some, it would be here before this.
	mark, err := nftables.New()
	must(t, err)
	second, err := w.fw.Watch(ctx)
	must(t, err)
	mark.FlushTable(&nftables.Table{Name: "holdfast-" + w.set.Instance, Family: nftables.TableFamilyINet})
	early := len(news)
	must(t, mark.Flush())
	for _, ch := range []<-chan struct{}{news, second} {
		select {
		case _, ok := <-ch:
			if !ok {
				t.Fatal("the watch ended")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a flush of our table is no news")
		}
	}
	if early != 0 {
		t.Error("own changes, or those of other tables, were told")
	}
	stop()
	for range news { //nolint:revive // until it is closed
	}
}
