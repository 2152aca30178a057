package system

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/event"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

type fakeBackend struct{ asked DiskUsageOptions }

func (*fakeBackend) Info(context.Context) (system.Info, error) {
	return system.Info{
		ID: "x", Containerd: &system.ContainerdInfo{Address: "a"}, FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
		Runtimes:   map[string]system.RuntimeWithStatus{"runc": {Status: map[string]string{"a": "b"}}},
		RuncCommit: system.Commit{ID: "r1"},
	}, nil
}

func (*fakeBackend) Version(context.Context) (system.VersionResponse, error) {
	return system.VersionResponse{Version: "1"}, nil
}

func (b *fakeBackend) DiskUsage(_ context.Context, o DiskUsageOptions) (system.DiskUsage, error) {
	b.asked = o
	var du system.DiskUsage
	if o.Images {
		du.ImageUsage = &image.DiskUsage{TotalSize: 7, Items: []image.Summary{{ID: "i", Size: 7}}}
	}
	if o.Containers {
		du.ContainerUsage = &container.DiskUsage{}
	}
	if o.Volumes {
		du.VolumeUsage = &volume.DiskUsage{TotalCount: 1, Items: []volume.Volume{{Name: "v"}}}
	}
	return du, nil
}

func (*fakeBackend) SwarmStatus() string { return "active/worker" }

func (*fakeBackend) Auth(_ context.Context, c registry.AuthConfig) (string, error) {
	if c.Password != "right" {
		return "", fault.New(errdefs.ErrUnauthenticated, "incorrect username or password")
	}
	return "token", nil
}

func start(t *testing.T) (*httptest.Server, *event.Bus, *fakeBackend) {
	t.Helper()
	bus, b := event.NewBus(clock.System{}), &fakeBackend{}
	api := httpapi.New(httpapi.Options{
		Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Version: "1",
		Routers: []route.Router{New(b, bus, clock.System{})},
	})
	s := httptest.NewServer(api.Handler())
	t.Cleanup(s.Close)
	return s, bus, b
}

func call(t *testing.T, s *httptest.Server, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestPing(t *testing.T) {
	s, _, _ := start(t)
	for _, m := range []string{"GET", "HEAD"} {
		resp, body := call(t, s, m, "/_ping", "")
		if resp.StatusCode != 200 || (m == "GET") != (body == "OK") {
			t.Errorf("%s: %d %q", m, resp.StatusCode, body)
		}
		for k, v := range map[string]string{
			"Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false", "Builder-Version": "2", "Swarm": "active/worker",
			"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Content-Type": "text/plain; charset=utf-8",
		} {
			if got := resp.Header.Get(k); got != v {
				t.Errorf("%s: %s is %q", m, k, got)
			}
		}
	}
	c, err := client.New(client.WithHost("tcp://" + strings.TrimPrefix(s.URL, "http://")))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || p.APIVersion != "1.56" || c.ClientVersion() != "1.56" {
		t.Errorf("moby client: %+v, %v", p, err)
	}
}

func TestInfoByVersion(t *testing.T) {
	s, _, _ := start(t)
	for path, want := range map[string]map[string]bool{
		"/info":       {"Containerd": true, "FirewallBackend": true, "BridgeNfIptables": false},
		"/v1.44/info": {"Containerd": false, "FirewallBackend": false, "BridgeNfIptables": true},
	} {
		_, body := call(t, s, "GET", path, "")
		var m map[string]any
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatal(err)
		}
		for k, there := range want {
			if _, ok := m[k]; ok != there {
				t.Errorf("%s: %s there: %v", path, k, ok)
			}
		}
	}
	if _, body := call(t, s, "GET", "/v1.43/info", ""); !strings.Contains(body, `"RuncCommit":{"Expected":"r1","ID":"r1"}`) || strings.Contains(body, `"status"`) {
		t.Errorf("1.43: %s", body)
	}
}

func TestDiskUsageByVersion(t *testing.T) {
	s, _, b := start(t)
	for _, c := range []struct {
		path      string
		asked     DiskUsageOptions
		has, lack []string
	}{
		{"/v1.43/system/df", DiskUsageOptions{true, true, true, true}, []string{`"LayersSize":7`, `"VirtualSize":7`, `"Containers":[]`, `"Volumes":[{`}, []string{"ImageUsage", "BuildCache"}},
		{"/v1.51/system/df?type=volume&type=container", DiskUsageOptions{Containers: true, Volumes: true}, []string{`"Containers":[]`}, []string{"Images", "VirtualSize"}},
		{"/system/df?type=image", DiskUsageOptions{Images: true}, []string{`"ImageUsage":{`, `"Images":[`}, []string{"Volumes"}},
		{"/system/df?verbose=1", DiskUsageOptions{true, true, true, true}, []string{`"ImageUsage":{`, `"VolumeUsage":{`}, []string{`"Images":[`}},
	} {
		resp, body := call(t, s, "GET", c.path, "")
		if resp.StatusCode != 200 || b.asked != c.asked {
			t.Errorf("%s: %d, asked %+v", c.path, resp.StatusCode, b.asked)
		}
		for _, w := range c.has {
			if !strings.Contains(body, w) {
				t.Errorf("%s: no %s in %s", c.path, w, body)
			}
		}
		for _, w := range c.lack {
			if strings.Contains(body, w) {
				t.Errorf("%s: %s in %s", c.path, w, body)
			}
		}
	}
	if resp, body := call(t, s, "GET", "/system/df?type=dust", ""); resp.StatusCode != 400 || !strings.Contains(body, "unknown object type: dust") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

func TestAuth(t *testing.T) {
	s, _, _ := start(t)
	if resp, body := call(t, s, "POST", "/auth", `{"username":"u","password":"right"}`); resp.StatusCode != 200 || body != `{"IdentityToken":"token","Status":"Login Succeeded"}`+"\n" {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if resp, _ := call(t, s, "POST", "/auth", `{"username":"u","password":"wrong"}`); resp.StatusCode != 401 {
		t.Errorf("got %d", resp.StatusCode)
	}
	if resp, _ := call(t, s, "POST", "/auth", `{`); resp.StatusCode != 400 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestAbsentParts(t *testing.T) {
	s, _, _ := start(t)
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{} {
		resp, body := call(t, s, c.method, c.path, "")
		if resp.StatusCode != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
	}
}

func message(id string) events.Message {
	return events.Message{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: id, Attributes: map[string]string{"image": "busybox:latest", "name": "web"}}}
}

func TestEventsOfThePast(t *testing.T) {
	s, bus, _ := start(t)
	for sec, id := range []string{"a", "b", "c"} {
		m := message(id)
		m.TimeNano = time.Unix(int64(1000+sec), 0).UnixNano()
		bus.Publish(m)
	}
	for query, want := range map[string]string{
		"until=1002":                                                  "a b c",
		"since=1001&until=1002":                                       "b c",
		"since=1000.5&until=1001.000000000":                           "b",
		"until=1002&filters={\"image\":[\"x\"]}":                      "",
		"until=1002&filters={\"container\":{\"b\":true,\"we\":true}}": "a b c",
		"until=1002&filters={\"container\":{\"b\":true}}":             "b",
		// Further away than nanoseconds can say.
		"since=-99999999999&until=1002":         "a b c",
		"since=-99999999999&until=-99999999998": "",
	} {
		resp, body := call(t, s, "GET", "/events?"+strings.ReplaceAll(query, `"`, "%22"), "")
		var got []string
		for dec := json.NewDecoder(strings.NewReader(body)); dec.More(); {
			var m events.Message
			if err := dec.Decode(&m); err != nil {
				t.Fatal(err)
			}
			got = append(got, m.Actor.ID)
		}
		if resp.StatusCode != 200 || strings.Join(got, " ") != want || resp.Header.Get("Content-Type") != "application/jsonl" {
			t.Errorf("%s: %d %v %s", query, resp.StatusCode, got, resp.Header.Get("Content-Type"))
		}
	}
	resp, body := call(t, s, "GET", "/v1.51/events?until=1000", "")
	if resp.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(body, `{"status":"start","id":"a","from":"busybox:latest","Type":"container",`) || strings.Count(body, "\n") != 1 {
		t.Errorf("legacy: %s", body)
	}
	for query, want := range map[string]string{
		"since=x":           `invalid value for 'since': invalid timestamp \"x\"`,
		"until=1.x":         "invalid value for 'until'",
		"since=10&until=5":  "`since` time (10) cannot be after `until` time (5)",
		"filters=%7Bbroken": "invalid filter",
	} {
		if resp, body := call(t, s, "GET", "/events?"+query, ""); resp.StatusCode != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, resp.StatusCode, body)
		}
	}
}

func TestTimesBeyondNanoseconds(t *testing.T) {
	for _, c := range []struct {
		sec  int64
		want int64
	}{{99999999999, math.MaxInt64}, {-99999999999, math.MinInt64}, {5, 5e9}, {-5, -5e9}, {math.MaxInt64, math.MaxInt64}} {
		if got := nano(time.Unix(c.sec, 0)); got != c.want {
			t.Errorf("%d s: %d, want %d", c.sec, got, c.want)
		}
	}
}

func TestLiveEvents(t *testing.T) {
	s, bus, _ := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/events?filters=%7B%22event%22%3A%5B%22exec_create%22%5D%7D", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req) // the header comes before any event
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	bus.Publish(message("not this"))
	m := message("this")
	m.Action = "exec_create: sh -c x"
	bus.Publish(m)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"exec_create: sh -c x"`) {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestEventFilters(t *testing.T) {
	m := message("0123abc")
	img := events.Message{Type: events.ImageEventType, Action: events.ActionPull, Actor: events.Actor{ID: "sha256:x", Attributes: map[string]string{"name": "debian:12", "k": "v"}}, Scope: "local"}
	for _, c := range []struct {
		m       events.Message
		filters map[string][]string
		want    bool
	}{
		{m, nil, true},
		{m, map[string][]string{"container": {"0123"}}, true},
		{m, map[string][]string{"container": {"web"}}, true},
		{m, map[string][]string{"container": {"db"}}, false},
		{m, map[string][]string{"image": {"busybox"}}, true},
		{m, map[string][]string{"image": {"busybox:latest"}}, true},
		{m, map[string][]string{"type": {"image"}}, false},
		{m, map[string][]string{"event": {"start", "die"}}, true},
		{m, map[string][]string{"event": {"sta"}}, false},
		{img, map[string][]string{"image": {"debian"}, "scope": {"local"}}, true},
		{img, map[string][]string{"scope": {"swarm"}}, false},
		{img, map[string][]string{"label": {"k=v"}}, true},
		{img, map[string][]string{"label": {"k=w"}}, false},
		{img, map[string][]string{"daemon": {"host"}}, false},
	} {
		if got := matcher(c.filters)(c.m); got != c.want {
			t.Errorf("%v on %s: %v", c.filters, c.m.Type, got)
		}
	}
}
