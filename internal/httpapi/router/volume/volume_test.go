package volume

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"holdfast.dev/holdfast/internal/base/clock"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi"
	"holdfast.dev/holdfast/internal/httpapi/route"
	domain "holdfast.dev/holdfast/internal/volume"
)

var _ Backend = (*domain.Service)(nil)

type fake struct{ calls []string }

func (f *fake) log(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) Create(_ context.Context, o domain.CreateOptions) (volume.Volume, error) {
	f.log("create %s %s %v %v", o.Name, o.Driver, o.Options, o.Labels)
	return volume.Volume{Name: o.Name}, nil
}

func (f *fake) Inspect(_ context.Context, name string) (volume.Volume, error) {
	if name != "data" {
		return volume.Volume{}, fault.New(errdefs.ErrNotFound, "get %s: no such volume", name)
	}
	return volume.Volume{Name: name}, nil
}

func (f *fake) List(_ context.Context, filters map[string][]string) ([]volume.Volume, error) {
	f.log("list %v", filters)
	return []volume.Volume{}, nil
}

func (f *fake) Remove(_ context.Context, name string, force bool) error {
	f.log("remove %s %v", name, force)
	return nil
}

func (f *fake) Prune(_ context.Context, filters map[string][]string) (volume.PruneReport, error) {
	f.log("prune %v", filters)
	return volume.PruneReport{VolumesDeleted: []string{"x"}, SpaceReclaimed: 5}, nil
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		status             int
		want, call         string
	}{
		{"GET", "/volumes", "", 200, `{"Volumes":[],"Warnings":null}`, "list map[]"},
		{"GET", `/volumes?filters={"label":{"a=b":true}}`, "", 200, `"Volumes":[]`, "list map[label:[a=b]]"},
		{"GET", "/volumes?filters=x", "", 400, "error reading volume filters: invalid filter", ""},
		{"GET", "/volumes/data", "", 200, `"Name":"data"`, ""},
		{"GET", "/v1.44/volumes/a/b", "", 404, `{"message":"get a/b: no such volume"}`, ""},
		{"POST", "/volumes/create", `{"Name":"n","Driver":"d","DriverOpts":{"o":"p"},"Labels":{"l":"m"}}`, 201, `"Name":"n"`, "create n d map[o:p] map[l:m]"},
		{"POST", "/volumes/create", "", 201, `"Name":""`, "create   map[] map[]"},
		{"POST", "/volumes/create", `{"Name":`, 400, "invalid JSON", ""},
		{"POST", "/volumes/create", `{"ClusterVolumeSpec":{}}`, 503, "This node is not a swarm manager", ""},
		{"PUT", "/volumes/x", `{}`, 503, "volume update only valid for cluster volumes", ""},
		{"DELETE", "/volumes/x?force=1", "", 204, "", "remove x true"},
		{"DELETE", "/volumes/x", "", 204, "", "remove x false"},
		{"POST", "/volumes/prune", "", 200, `{"VolumesDeleted":["x"],"SpaceReclaimed":5}`, "prune map[]"},
		{"POST", "/v1.41/volumes/prune", "", 200, "", "prune map[all:[true]]"},
	} {
		f := &fake{}
		s := httpapi.New(httpapi.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Routers: []route.Router{New(f, part("inactive"))}})
		r := httptest.NewRequest(c.method, strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D").Replace(c.path), strings.NewReader(c.body))
		if c.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		body, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != c.status || !strings.Contains(string(body), c.want) || strings.Join(f.calls, ";") != c.call {
			t.Errorf("%s %s: %d %s, calls %q", c.method, c.path, w.Code, body, f.calls)
		}
	}
}

// part is a node's part in a swarm.
type part string

func (p part) Status() string { return string(p) }

func TestClusterVolumesOnAManager(t *testing.T) {
	s := httpapi.New(httpapi.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Routers: []route.Router{New(&fake{}, part("active/manager"))}})
	r := httptest.NewRequest("POST", "/volumes/create", strings.NewReader(`{"ClusterVolumeSpec":{}}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != 501 || !strings.Contains(w.Body.String(), "cluster volumes are not supported") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
