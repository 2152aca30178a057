package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/cluster/mesh"
	"holdfast.dev/holdfast/internal/stateful"
)

// idle is an executor that must not be used.
type idle struct {
	exec.Executor
	purged int
}

func (*idle) Hold()                                            {}
func (*idle) Stand(string, string, stateful.Part)              {}
func (*idle) Locals(context.Context) ([]stateful.Local, error) { return nil, nil }
func (*idle) Sweep(context.Context) error                      { return nil }
func (e *idle) Purge(context.Context) error {
	e.purged++
	return nil
}

// apart is a mesh of a node that is in no swarm.
type apart struct{}

func (apart) Begin(mesh.Self) {}
func (apart) End(bool)        {}

func service(t *testing.T) (*Service, *idle) {
	t.Helper()
	e, dir := &idle{}, t.TempDir()
	return New(Deps{
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Dir: filepath.Join(dir, "swarm"), RunDir: filepath.Join(dir, "run"),
		Hostname: "h", Executor: e, Mesh: apart{}, MachineTime: time.Now, OwnLink: func(string) bool { return false },
	}), e
}

func TestInNoSwarm(t *testing.T) {
	s, _ := service(t)
	ctx := t.Context()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.d.Dir); !os.IsNotExist(err) {
		t.Errorf("a node in no swarm has files of one: %v", err)
	}
	if got := s.Info(ctx); got.LocalNodeState != swarm.LocalNodeStateInactive {
		t.Errorf("state %s", got.LocalNodeState)
	}
	for name, f := range map[string]func() error{
		"inspect":  func() error { _, err := s.Inspect(ctx); return err },
		"nodes":    func() error { _, err := s.Nodes(ctx, nil); return err },
		"services": func() error { _, err := s.Services(ctx, nil, true); return err },
		"create":   func() error { _, err := s.CreateService(ctx, swarm.ServiceSpec{}, ""); return err },
		"secret":   func() error { _, err := s.CreateSecret(ctx, swarm.SecretSpec{}); return err },
		"config":   func() error { return s.RemoveConfig(ctx, "x") },
		"key":      func() error { _, err := s.UnlockKey(ctx); return err },
		"unlock":   func() error { return s.Unlock(ctx, "x") },
	} {
		if err := f(); !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "This node is not a swarm manager.") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Leave(ctx, true); !errdefs.IsUnavailable(err) || err.Error() != "This node is not part of a swarm" {
		t.Errorf("leave: %v", err)
	}
}

// What a crash leaves: a join without its result, and a leave without its end.
func TestStartSettlesWhatWasBegun(t *testing.T) {
	s, e := service(t)
	if err := os.MkdirAll(s.nodeDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.d.Dir); !os.IsNotExist(err) || e.purged != 0 {
		t.Errorf("half a join stays: %v", err)
	}

	if err := os.MkdirAll(s.nodeDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.save(settings{AdvertiseAddr: "10.0.0.1:2377", Leaving: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.d.Dir); !os.IsNotExist(err) || e.purged != 1 || s.member() != nil {
		t.Errorf("half a leave stays: %v, purged %d times", err, e.purged)
	}
}

func TestJoinSaysWhatIsWrong(t *testing.T) {
	s, _ := service(t)
	for want, req := range map[string]swarm.JoinRequest{
		"at least 1 RemoteAddr is required to join": {JoinToken: "SWMTKN-1-x-y"},
		"invalid join token":                        {RemoteAddrs: []string{"127.0.0.1"}, JoinToken: "open sesame"},
		"connection refused":                        {RemoteAddrs: []string{"127.0.0.1:1"}, JoinToken: "SWMTKN-1-x-y"},
		"invalid remote address":                    {RemoteAddrs: []string{"127.0.0.1:99999"}, JoinToken: "SWMTKN-1-x-y"},
	} {
		err := s.Join(t.Context(), req)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if _, err := os.Stat(s.d.Dir); !os.IsNotExist(err) {
			t.Errorf("%s: files stay: %v", want, err)
		}
	}
}

func nicOf(name string, addrs ...string) nic {
	n := nic{name: name}
	for _, a := range addrs {
		n.addrs = append(n.addrs, netip.MustParseAddr(a))
	}
	return n
}

func TestAddresses(t *testing.T) {
	one := []nic{nicOf("lo", "127.0.0.1", "::1"), nicOf("eth0", "10.0.0.5", "fe80::1")}
	two := append(one[:2:2], nicOf("eth1", "10.1.0.5"))
	six := []nic{nicOf("lo", "127.0.0.1"), nicOf("eth0", "2001:db8::5", "fe80::1")}
	for _, c := range []struct {
		listen, advertise string
		fallback          string
		nics              []nic
		wantListen, want  string
		fails             string
	}{
		{nics: one, wantListen: "0.0.0.0:2377", want: "10.0.0.5:2377"},
		{listen: "0.0.0.0:2377", nics: six, wantListen: "0.0.0.0:2377", want: "[2001:db8::5]:2377"},
		{listen: "0.0.0.0:4000", nics: one, wantListen: "0.0.0.0:4000", want: "10.0.0.5:4000"},
		{listen: "eth0", nics: one, wantListen: "10.0.0.5:2377", want: "10.0.0.5:2377"},
		{listen: "10.0.0.5", nics: two, wantListen: "10.0.0.5:2377", want: "10.0.0.5:2377"},
		{advertise: "eth1:5000", nics: two, wantListen: "0.0.0.0:2377", want: "10.1.0.5:5000"},
		{advertise: "192.0.2.1", nics: two, wantListen: "0.0.0.0:2377", want: "192.0.2.1:2377"},
		{advertise: "2001:db8::7", nics: two, wantListen: "0.0.0.0:2377", want: "[2001:db8::7]:2377"},
		{fallback: "10.1.0.5", nics: two, wantListen: "0.0.0.0:2377", want: "10.1.0.5:2377"},
		{nics: two, fails: "this system has multiple addresses on different interfaces (10.0.0.5 on eth0 and 10.1.0.5 on eth1) - specify one with --advertise-addr"},
		{nics: []nic{nicOf("lo", "127.0.0.1")}, fails: "could not find the system's IP address"},
		{nics: []nic{nicOf("e", "10.0.0.1", "10.0.0.2")}, fails: "multiple addresses on interface e (10.0.0.1 and 10.0.0.2)"},
		{listen: "example.org:1", nics: one, fails: "listen address must be an IP address or network interface"},
		{listen: "0.0.0.0:0", nics: one, fails: "the port must be between 1 and 65535"},
		{advertise: "0.0.0.0", nics: one, fails: "advertise address must be a non-zero IP address"},
		{advertise: "nowhere:1", nics: one, fails: "advertise address must be a non-zero IP address"},
	} {
		var fallback netip.Addr
		if c.fallback != "" {
			fallback = netip.MustParseAddr(c.fallback)
		}
		l, err := listenAddr(c.listen, c.nics)
		a := ""
		if err == nil {
			a, err = advertiseAddr(c.advertise, l, fallback, c.nics)
		}
		switch {
		case c.fails != "":
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: %v", c, err)
			}
		case err != nil || l != c.wantListen || a != c.want:
			t.Errorf("%+v: listen %s, advertise %s, %v", c, l, a, err)
		}
	}
}

func TestLeavingTellsWhatIsLost(t *testing.T) {
	for _, c := range []struct {
		reachable, managers int
		self                bool
		want                string
	}{
		{1, 1, true, "Removing the last manager erases all current state of the swarm."},
		{3, 3, true, "leaves 2 managers out of 3. Use"},
		{2, 3, true, "leaves 1 managers out of 3. Without a Raft quorum"},
		{2, 3, false, "leaves 2 managers out of 3. Use"},
		{2, 2, true, "Without a Raft quorum"},
	} {
		if err := decideLeave(c.reachable, c.managers, c.self); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestNetworksThatDoNotGoTogether(t *testing.T) {
	own := func(name string) *api.Network {
		return &api.Network{Spec: api.NetworkSpec{Annotations: api.Annotations{Name: name, Labels: map[string]string{networkallocator.PredefinedLabel: "true"}}}}
	}
	swarms := &api.Network{Spec: api.NetworkSpec{Annotations: api.Annotations{Name: "shop"}}}
	ingress := &api.EndpointSpec{Ports: []*api.PortConfig{{TargetPort: 80, PublishMode: api.PublishModeIngress}}}
	host := &api.EndpointSpec{Ports: []*api.PortConfig{{TargetPort: 80, PublishMode: api.PublishModeHost}}}
	for _, c := range []struct {
		nets []*api.Network
		e    *api.EndpointSpec
		want string
	}{
		{nil, ingress, ""},
		{[]*api.Network{swarms, swarms}, ingress, ""},
		{[]*api.Network{own("bridge")}, host, ""},
		{[]*api.Network{own("host")}, nil, ""},
		{[]*api.Network{swarms, own("bridge")}, nil, "network bridge, which is each node's own, and on another one"},
		{[]*api.Network{own("host")}, ingress, "port 80 published in ingress mode by a service on network host"},
	} {
		err := goTogether(c.nets, c.e)
		if (c.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v %v: %v, want %q", c.nets, c.e, err, c.want)
		}
	}
}

func TestNetworksThatAreNotServedAreNamed(t *testing.T) {
	yes := true
	for want, r := range map[string]network.CreateRequest{
		"option encrypted of the driver overlay": {Options: map[string]string{"encrypted": ""}},
		"IPv6 (--ipv6) on an overlay network":    {EnableIPv6: &yes},
		"ConfigOnly":                             {ConfigOnly: true},
		"option com.docker.network.bridge.name":  {Options: map[string]string{"com.docker.network.bridge.name": "b"}},
		"IPAM driver other":                      {IPAM: &network.IPAM{Driver: "other"}},
		"IPv6 subnet fd00::/64":                  {IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("fd00::/64")}}}},
	} {
		if err := refuseNetwork(r); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for _, r := range []network.CreateRequest{
		{},
		{Options: map[string]string{"encrypted": "false", "com.docker.network.driver.mtu": "1400", "mine": "x"}},
		{IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.5.0.0/16")}, {Subnet: netip.MustParsePrefix("10.6.0.0/16")}}}},
	} {
		if err := refuseNetwork(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestWhatIsNotServedIsNamed(t *testing.T) {
	for want, change := range map[string]func(*swarm.ServiceSpec){
		`log driver "syslog"`: func(s *swarm.ServiceSpec) { s.TaskTemplate.LogDriver = &swarm.Driver{Name: "syslog"} },
		"CredentialSpec": func(s *swarm.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Privileges = &swarm.Privileges{CredentialSpec: &swarm.CredentialSpec{}}
		},
		"mount /v of a cluster volume": func(s *swarm.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeCluster, Target: "/v"}}
		},
		"config c for the runtime": func(s *swarm.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Configs = []*swarm.ConfigReference{{ConfigName: "c", Runtime: &swarm.ConfigReferenceRuntimeTarget{}}}
		},
	} {
		s := swarm.ServiceSpec{TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "busybox"}}}
		if err := refuse(s); err != nil {
			t.Fatalf("a plain service is refused: %v", err)
		}
		change(&s)
		err := refuse(s)
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
