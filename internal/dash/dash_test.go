package dash

import (
	"bufio"
	"context"
	"errors"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/clock"
)

// engine is a Backend with fixed answers.
type engine struct {
	storage Storage
	plan    []api.PruneItem
	inUse   string // a Ref that is refused when it is to go
	err     error
	asked   []api.PruneRequest
	changed chan struct{}
	history []Point
	top     []api.StorageGrowth
	union   Union
}

func (e *engine) Storage(context.Context) (Storage, error) { return e.storage, e.err }

func (e *engine) Prune(_ context.Context, r api.PruneRequest) (api.PruneReport, error) {
	e.asked = append(e.asked, r)
	out := api.PruneReport{DryRun: r.DryRun}
	for _, i := range e.plan {
		if len(r.Only) > 0 && !slices.Contains(r.Only, i.Ref()) {
			continue
		}
		i.Removed = !r.DryRun && i.Ref() != e.inUse
		if i.Removed || r.DryRun {
			out.Frees += i.Frees
		}
		out.Items = append(out.Items, i)
	}
	return out, e.err
}

func (e *engine) History(context.Context) ([]Point, error) { return e.history, e.err }

func (e *engine) Top(context.Context, time.Duration) ([]api.StorageGrowth, error) {
	return e.top, e.err
}

func (e *engine) Union(_ context.Context, id string) (Union, error) {
	if id != e.union.ID {
		return Union{}, errdefs.ErrNotFound
	}
	return e.union, nil
}

func (e *engine) Changes(context.Context) <-chan struct{} { return e.changed }

func serve(t *testing.T, e *engine) string {
	t.Helper()
	d, err := New(e, clock.System{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	return srv.URL
}

func read(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text.String()
}

func example() *engine {
	return &engine{
		storage: Storage{
			Root: "/var/lib/holdfast", Total: 1000e9, Free: 400e9,
			Images: []Image{
				{ID: "sha256:aaaaaaaaaaaaaaaa", Names: []string{"shop:1"}, Used: true, Parts: map[string]int64{"layer sha256:1111111111111111": 80e6, "layer sha256:2222222222222222": 20e6}},
				{ID: "sha256:bbbbbbbbbbbbbbbb", Names: []string{"blog:1"}, Parts: map[string]int64{"layer sha256:1111111111111111": 80e6, "layer sha256:3333333333333333": 10e6}},
			},
			Containers: []Thing{{ID: "c1", Name: "web", Bytes: 5e6, InUse: true, Aged: true}},
			Volumes:    []Thing{{ID: "data", Name: "data<b>", Bytes: 50e6}, {ID: "new", Name: "new", Bytes: -1}},
			Snapshots:  []Thing{{ID: "data@monday", Name: "data@monday", Bytes: 3e6}},
			Trash:      []Thing{{ID: "0a", Name: "gone", Bytes: 2e6}},
			Cache:      7e6,
		},
		history: []Point{
			{At: time.Unix(1e9, 0), Bytes: map[string]int64{Layers: 100e6, Volumes: 60e6}},
			{At: time.Unix(1e9+3600, 0), Bytes: map[string]int64{Layers: 110e6, Volumes: 50e6, Cache: 7e6}},
		},
		union: Union{ID: "c1", Name: "web<b>", Image: "shop:1", Layers: []UnionLayer{
			{Title: "what the container wrote", Bytes: 5e6, Writable: true, Files: fakeLayer{"/etc": "d", "/etc/conf": "f"}},
			{Title: "COPY . /", Bytes: 80e6, Files: fakeLayer{"/etc": "d", "/etc/conf": "f", "/etc/old": "f"}},
		}},
		top: []api.StorageGrowth{{Kind: "volume", Name: "data", Bytes: 50e6, Day: new(int64(1500e3))}},
		plan: []api.PruneItem{
			{Kind: api.PruneContainers, ID: "c2", Name: "old", Frees: 4096, Why: "it has ended"},
			{Kind: api.PruneImages, ID: "sha256:bbbbbbbbbbbbbbbb", Name: "blog:1", Frees: 10e6, Why: "no container uses it"},
			{Kind: api.PruneCache, ID: "x1", Name: "a/b", Frees: 7e6, Why: "no build uses it"},
		},
	}
}

func TestPageSaysWhatIsThere(t *testing.T) {
	e := example()
	at := serve(t, e)
	resp, err := http.Get(at + "/")
	code, page := read(t, resp, err)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, page)
	}
	for _, want := range []string{
		"layer 111111111111 of blog:1, shop:1", "2 images", // drawn once, of both
		"177MB</b> in use by Holdfast", "400GB</b> free of 1TB",
		"volume data&lt;b&gt;: 50MB, used by nothing that runs", "not measured yet",
		"in use, may have grown since it was measured",
		"snapshot data@monday: 3MB", "removed volume gone: 2MB",
		`<path class="cache"`, "up to 167MB", "<td>−10MB</td>", `<a href="container/c1">web</a>`, "volume data</td><td>50MB</td><td>–</td><td>&#43;1.5MB</td><td>–</td>",
		html.EscapeString("blog:1"), "no container uses it",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(page, "layer 111111111111 of"); n != 1 {
		t.Errorf("the shared layer is drawn %d times", n)
	}
	// What can be made again is chosen, what cannot is not.
	for _, l := range strings.Split(page, "<input ")[1:] {
		l, _, _ = strings.Cut(l, ">")
		if chosen := strings.Contains(l, "checked"); chosen != strings.Contains(l, "build cache/") {
			t.Errorf("%s", l)
		}
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("CSP %q", csp)
	}
}

func TestPruneTakesWhatWasChosen(t *testing.T) {
	e := example()
	e.inUse = e.plan[1].Ref()
	at := serve(t, e)
	resp, err := http.PostForm(at+"/prune", url.Values{"item": {e.plan[1].Ref(), e.plan[2].Ref(), "volume/gone/gone"}})
	code, page := read(t, resp, err)
	if code != http.StatusOK || !strings.Contains(page, "Removed 1, which freed 7MB.") {
		t.Fatalf("%d %s", code, page)
	}
	for _, want := range []string{"image blog:1 stays", "volume gone stays"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if r := e.asked[0]; r.DryRun || len(r.Only) != 3 {
		t.Errorf("asked for %+v", r)
	}
	// Nothing chosen is nothing removed, not everything.
	e.asked = nil
	resp, err = http.PostForm(at+"/prune", url.Values{})
	if code, page := read(t, resp, err); code != http.StatusOK || !strings.Contains(page, "Removed 0") {
		t.Errorf("%d %s", code, page)
	}
	for _, r := range e.asked {
		if !r.DryRun {
			t.Errorf("removed by an empty form: %+v", r)
		}
	}
	resp, err = http.PostForm(at+"/prune", url.Values{"item": {strings.Repeat("x", maxForm)}})
	if code, _ := read(t, resp, err); code != http.StatusBadRequest {
		t.Errorf("an endless form: %d", code)
	}
}

func TestPageSaysWhyItCannotBeMade(t *testing.T) {
	e := example()
	e.err = errors.New("the disk is on fire")
	resp, err := http.Get(serve(t, e) + "/")
	if code, page := read(t, resp, err); code != http.StatusInternalServerError || !strings.Contains(page, "the disk is on fire") {
		t.Errorf("%d %s", code, page)
	}
}

func TestChangesAreTold(t *testing.T) {
	e := example()
	e.changed = make(chan struct{}, 1)
	resp, err := http.Get(serve(t, e) + "/changes")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	e.changed <- struct{}{}
	for in.Scan() {
		if in.Text() == "event: changed" {
			close(e.changed)
			break
		}
	}
	for in.Scan() {
	}
	if in.Err() != nil {
		t.Error(in.Err())
	}
}

func TestLayersOfAContainer(t *testing.T) {
	at := serve(t, example())
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(at + path)
		return read(t, resp, err)
	}
	code, page := get("/container/c1")
	if upper, lower := strings.Index(page, "what the container wrote"), strings.Index(page, "COPY . /"); code != http.StatusOK || upper < 0 || lower < upper || !strings.Contains(page, "web&lt;b&gt;") {
		t.Errorf("%d %s", code, page)
	}
	if _, page = get("/container/c1?path=/etc/conf"); !strings.Contains(page, "has /etc/conf, a file of 1B: this is what the container sees") || !strings.Contains(page, "has /etc/conf, a file, which layer 1 hides") {
		t.Errorf("%s", page)
	}
	if _, page = get("/container/c1?path=%3Cb%3E"); !strings.Contains(page, "No layer has &lt;b&gt;") {
		t.Errorf("%s", page)
	}
	if code, _ = get("/container/none"); code != http.StatusNotFound {
		t.Errorf("%d", code)
	}
}

func TestGrowthIsDrawn(t *testing.T) {
	at := func(min int, layers, volumes int64) Point {
		return Point{At: time.Unix(int64(min)*60, 0), Bytes: map[string]int64{Layers: layers, Volumes: volumes}}
	}
	for _, few := range [][]Point{nil, {at(0, 1, 1)}, {at(0, 1, 1), at(0, 1, 1)}, {at(0, 0, 0), at(9, 0, 0)}} {
		if c := drawGrowth(few); c != nil {
			t.Errorf("%v is drawn: %+v", few, c)
		}
	}
	c := drawGrowth([]Point{at(0, 100, 0), at(30, 100, 50), at(60, 100, 100)})
	if c == nil || c.Top != 200 || len(c.Bands) != 2 {
		t.Fatalf("%+v", c)
	}
	// Volumes lie on images, and the time is in proportion.
	if want := "M0.0 110.0L500.0 55.0L1000.0 0.0L1000.0 110.0L500.0 110.0L0.0 110.0Z"; c.Bands[1].Path != want {
		t.Errorf("%s, want %s", c.Bands[1].Path, want)
	}
	if c.Rows[1] != (chartRow{"Volumes", 0, 100, "+100B"}) {
		t.Errorf("%+v", c.Rows)
	}
}
